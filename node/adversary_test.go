package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"go.uber.org/goleak"
)

// The attacks that need many peers or the network itself; those on the rules are in package chain.

// counting is an engine that counts training steps.
type counting struct {
	nn.Engine
	steps *atomic.Int64
}

func (c counting) Train(ctx context.Context, start *nn.State, data nn.Samples, t nn.Trial) (*nn.Trained, error) {
	onStep := t.OnStep
	t.OnStep = func(step int) error {
		c.steps.Add(1)
		if onStep != nil {
			return onStep(step)
		}
		return nil
	}
	return c.Engine.Train(ctx, start, data, t)
}

// victimNode is a node without a network that counts its steps.
func victimNode(t *testing.T) (*Node, *atomic.Int64) {
	steps := new(atomic.Int64)
	n := quickNode(t, Device{Name: "counting", Engine: func(net *nn.Net) (nn.Engine, error) {
		e, err := nn.NewEngine(net, 1)
		return counting{e, steps}, err
	}})
	return n, steps
}

// forgeOn makes a child of the manager's tip that no step was trained for; nonce makes them differ.
func forgeOn(t *testing.T, m *chain.Manager, nonce uint64) *chain.Block {
	t.Helper()
	tip, _ := m.Best()
	job, err := m.NewJob(context.Background(), tip.Time+m.Network().Interval)
	if err != nil {
		t.Fatal(err)
	}
	c := job.Claim
	c.Payout, c.Nonce = chain.Address{0xad}, nonce
	x := &chain.Execution{LossAfter: job.Base.Loss - 1}
	for i := range chain.EarlyRootCount(m.Network().Templates[job.Base.Template].TrialSteps) {
		x.EarlyRoots = append(x.EarlyRoots, chain.Hash{0xbd, byte(i)})
	}
	for i := 0; !chain.Wins(chain.Ticket(c.ID(), x.TrainedRoot, x.LogitsDigest), job.Target); i++ {
		x.TrainedRoot[i%32]++
	}
	return chain.NewBlock(c, job.Base, x)
}

// settleAll judges all that waits, as run does.
func settleAll(v *verifier) {
	for {
		q, ok := v.next()
		if !ok {
			return
		}
		v.settle(context.Background(), q)
	}
}

// TestAdversaryManyIdentities: forged blocks of many peers fill the queue. That holds up an honest block for a training
// step each, and every identity that sent one is blamed.
func TestAdversaryManyIdentities(t *testing.T) {
	miner := quickNode(t)
	defer miner.Close()
	honest := mine(t, miner, 2, 1)
	for _, c := range []struct {
		name                string
		identities, each    int
		queued, found, cost int  // blocks that find room, identities found out, steps of the victim
		shutOut             bool // an honest block finds no room
	}{
		{"one identity, many forged blocks", 1, 40, maxQueuedPerPeer, 1, 1, false},
		{"four identities fill the queue", 4, 40, maxQueued, 4, 4, false},
		{"a hundred identities of as many ranges, one forged block each", 100, 1, maxQueued, maxQueued, maxQueued, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, steps := victimNode(t)
			defer n.Close()
			v := n.verifier
			blamed := map[source]int{}
			v.blame = func(from source, err error) {
				if !errors.Is(err, chain.ErrEarlyRoot) {
					t.Errorf("%s is blamed for %v", from, err)
				}
				blamed[from]++
			}
			nonce, queued := uint64(0), 0
			for range c.each {
				for i := range c.identities {
					nonce++
					err := v.offer(source(fmt.Sprint("identity ", i)), forgeOn(t, n.manager, nonce<<32))
					switch {
					case err == nil:
						queued++
					case !errors.Is(err, errQueueFull):
						t.Fatal(err)
					}
				}
			}
			if queued != c.queued || len(v.queue) != c.queued {
				t.Errorf("%d blocks were queued, %d wait, want %d", queued, len(v.queue), c.queued)
			}
			offered := v.offer("honest", honest[0].block)
			if errors.Is(offered, errQueueFull) != c.shutOut || !c.shutOut && offered != nil {
				t.Errorf("the honest block: %v", offered)
			}
			before := steps.Load()
			settleAll(v)
			if offered != nil { // it comes again, by gossip or by sync
				if err := v.offer("honest", honest[0].block); err != nil {
					t.Fatal(err)
				}
				settleAll(v)
			}
			cost := int(steps.Load()-before) - int(n.cfg.Network.Templates[0].TrialSteps) // without the honest block's
			t.Logf("adversary=%q attacker_steps=0 victim_steps=%d refused=%q at=1 offered=%d queued=%d identities_found=%d",
				c.name, cost, chain.ErrEarlyRoot, nonce, queued, len(blamed))
			if cost != c.cost || len(blamed) != c.found || blamed["honest"] > 0 {
				t.Errorf("it cost %d steps, want %d; blamed are %v", cost, c.cost, blamed)
			}
			if tip, _ := n.manager.Best(); tip.ID != honest[0].block.Header.ID() {
				t.Errorf("the tip is at height %d", tip.Height)
			}
		})
	}
}

// TestAdversaryHeldFlood: orphans and blocks from the future of many peers cost no training and bounded memory, and do not
// keep the chain from growing.
func TestAdversaryHeldFlood(t *testing.T) {
	miner := quickNode(t)
	defer miner.Close()
	honest := mine(t, miner, 2, 1)
	n, steps := victimNode(t)
	defer n.Close()
	v := n.verifier
	v.blame = func(from source, err error) { t.Errorf("%s is blamed: %v", from, err) }
	const identities, each = 100, 20
	forged := forgeOn(t, n.manager, 1)
	for i := range identities {
		from := source(fmt.Sprint("identity ", i))
		for j := range uint64(each) {
			b := *forged
			b.Nonce = uint64(i)<<32 | j
			want := chain.ErrOrphan
			if j%2 == 0 {
				b.Time, want = millis(time.Now())+5*n.cfg.Network.Interval, chain.ErrFuture
			} else {
				b.Parent[0]++
			}
			if err := v.offer(from, &b); !errors.Is(err, want) {
				t.Fatalf("error is %v, want %v", err, want)
			}
		}
	}
	perPeer := map[source]int{}
	for _, q := range v.held {
		perPeer[q.from]++
	}
	t.Logf("adversary=%q attacker_steps=0 victim_steps=%d refused=%q at=0 offered=%d held=%d identities=%d",
		"orphans and blocks from the future", steps.Load(), "held", identities*each, len(v.held), len(perPeer))
	if len(v.held) != maxHeld || len(v.queue) != 0 || steps.Load() != 0 {
		t.Errorf("%d are held, %d wait, %d steps", len(v.held), len(v.queue), steps.Load())
	}
	for from, k := range perPeer {
		if k > maxHeldPerPeer {
			t.Errorf("%s has %d held", from, k)
		}
	}
	// The honest child comes before its parent: it is not held now, but its sender is asked for what comes before.
	if err := v.offer("honest", honest[1].block); !errors.Is(err, chain.ErrOrphan) {
		t.Errorf("error is %v, want %v", err, chain.ErrOrphan)
	}
	for _, m := range honest {
		if err := v.offer("honest", m.block); err != nil {
			t.Fatal(err)
		}
		settleAll(v)
	}
	if tip, _ := n.manager.Best(); tip.ID != honest[1].block.Header.ID() {
		t.Errorf("the tip is at height %d", tip.Height)
	}
	if len(v.held) > maxHeld {
		t.Errorf("%d are held", len(v.held))
	}
}

// TestAdversaryGossip: a forged block that is gossiped gets no further than the node that runs its first step, and its
// sender is left.
func TestAdversaryGossip(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	victim := start(t, false)
	third := start(t, false, victim.addr())
	liar := serve(t, nil, nil, victim.addr())
	peerOf := func(r *running, s interface{ Peers() []p2p.PeerInfo }) func() bool {
		id := r.peers.(*network).service.ID()
		return func() bool { return slices.ContainsFunc(s.Peers(), func(p p2p.PeerInfo) bool { return p.ID == id }) }
	}
	eventually(t, "the liar and the third node know the victim", func() bool {
		return peerOf(victim, liar)() && peerOf(victim, third.peers.(*network).service)()
	})
	now := millis(time.Now())
	var forged []*chain.Block
	judged := func(n *Node) (count int) {
		for _, b := range forged {
			_, err := n.manager.Precheck(b, now)
			if errors.Is(err, chain.ErrEarlyRoot) {
				count++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		return count
	}
	eventually(t, "a forged block is refused", func() bool { // the first may be published too early for the victim to hear of
		forged = append(forged, forgeOn(t, liar.node.manager, uint64(len(forged))<<32))
		if err := liar.Publish(context.Background(), forged[len(forged)-1]); err != nil {
			t.Fatal(err)
		}
		return judged(victim.Node) > 0
	})
	eventually(t, "the liar is left", func() bool {
		return !slices.ContainsFunc(victim.peers.(*network).service.Peers(), func(p p2p.PeerInfo) bool { return p.ID == liar.ID() })
	})
	// An honest block goes all the way afterwards, and the third node has still not heard of a forged one.
	miner := quickNode(t)
	defer miner.Close()
	honest := serve(t, mine(t, miner, 1, 1), nil, victim.addr())
	third.reach(t, 1)
	if n := judged(third.Node); n != 0 {
		t.Errorf("the third node has judged %d forged blocks", n)
	}
	t.Logf("adversary=%q attacker_steps=0 victim_steps=%d refused=%q at=1 published=%d reached_third=%d bytes=%d",
		"forged blocks by gossip", judged(victim.Node), chain.ErrEarlyRoot, len(forged), judged(third.Node), forged[0].Size())
	honest.end(t)
	liar.end(t)
	third.end(t)
	victim.end(t)
}
