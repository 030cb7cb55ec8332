package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// newPeerID is the id of a peer that has just been made up, which costs nothing.
func newPeerID(t *testing.T) source {
	t.Helper()
	_, public, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := peer.IDFromPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return source(id.String())
}

// TestAdversaryThousandIDs: a thousand ids from one address range get no more of our verification than one, and do not
// keep an honest block waiting.
func TestAdversaryThousandIDs(t *testing.T) {
	miner := quickNode(t)
	defer miner.Close()
	honest := mine(t, miner, 1, 1)
	var cost [2]int64
	for i, ids := range []int{1, 1000} {
		victim := serve(t, nil, nil)
		n := victim.node
		steps := new(atomic.Int64)
		n.checking.Close()
		n.checking.device = Device{Name: "counting", Engine: func(net *nn.Net) (nn.Engine, error) {
			e, err := nn.NewEngine(net, 1)
			return counting{e, steps}, err
		}}
		v := n.verifier
		net := &network{service: victim.Service, chain: peerChain{n.manager, n.store, v, zap.NewNop()}, log: zap.NewNop()}
		v.blame, v.credit = net.Blame, net.Credit
		v.standing = func(from source) standing {
			if from == "honest" {
				return standing{account: "203.0.113.0/24"}
			}
			return net.Standing(from) // of peers that are not connected, the range that all unknown ones share
		}
		at := time.Now()
		v.now = func() time.Time { return at }
		queued := 0
		var from source
		for k := range 1000 {
			if k < ids {
				from = newPeerID(t)
			}
			switch err := v.offer(from, forgeOn(t, n.manager, uint64(k+1)<<32)); {
			case err == nil:
				queued++
			case !errors.Is(err, errQueueFull):
				t.Fatal(err)
			}
		}
		if queued != maxQueuedPerPeer {
			t.Errorf("%d ids: %d forged blocks wait, want %d", ids, queued, maxQueuedPerPeer)
		}
		if err := v.offer("honest", honest[0].block); err != nil {
			t.Errorf("%d ids: the honest block: %v", ids, err)
		}
		q, ok := v.next() // the forged one, which is older
		if !ok || q.from == "honest" {
			t.Fatal("the oldest block is not first")
		}
		v.settle(context.Background(), q)
		settleAll(v)
		cost[i] = steps.Load() - int64(n.cfg.Network.Templates[0].TrialSteps)
		if tip, _ := n.manager.Best(); tip.ID != honest[0].block.Header.ID() {
			t.Errorf("%d ids: the tip is at height %d", ids, tip.Height)
		}
		t.Logf("adversary=%q ids=%d attacker_steps=0 victim_steps=%d refused=%q at=1 offered=1000 queued=%d", "a thousand forged blocks from one range",
			ids, cost[i], chain.ErrEarlyRoot, queued)
		victim.end(t)
	}
	if cost[0] != cost[1] || cost[0] != 1 {
		t.Errorf("one id costs %d steps, a thousand cost %d", cost[0], cost[1])
	}
}

// A peer whose blocks have proved good goes before strangers, after blocks on the tip; who has to wait does so.
func TestGoodPeersGoFirst(t *testing.T) {
	n := quickNode(t)
	defer n.Close()
	v := n.verifier
	at := time.Now()
	ready := at.Add(time.Second)
	v.now = func() time.Time { return at }
	v.standing = func(from source) standing {
		s := standing{account: string(from[:1]), good: from[1] == '+'}
		if from[1] == '!' {
			s.ready = ready
		}
		return s
	}
	onTip := forgeOn(t, n.manager, 1)
	put := func(from source, tip bool) {
		t.Helper()
		b := *onTip
		b.Nonce = uint64(len(v.queue)) + 100
		if !tip {
			b.Parent[0]++
		}
		if err := v.enqueue(queued{block: &b, id: b.Header.ID(), from: from, account: v.of(from).account}); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []source{"x!", "a-1", "a-2", "b-1", "c+1"} {
		put(from, false)
	}
	for _, from := range []source{"y!", "a-3", "d-1", "a-4", "e+1", "e+2", "f+1"} {
		put(from, true)
	}
	var got []source
	for {
		q, ok := v.next()
		if !ok {
			break
		}
		got = append(got, q.from)
	}
	want := []source{"e+1", "f+1", "e+2", "a-3", "d-1", "a-4", "c+1", "a-1", "b-1", "a-2"}
	if !slices.Equal(got, want) {
		t.Errorf("order\n%v, want\n%v", got, want)
	}
	at = at.Add(time.Second)
	if q, _ := v.next(); q.from != "y!" {
		t.Errorf("after the wait %q is first", q.from)
	}
}

// A peer is good by the blocks that it was the first to send, and only by those.
func TestCreditForGoodBlocks(t *testing.T) {
	miner := quickNode(t)
	defer miner.Close()
	blocks := mine(t, miner, 3, 1)
	n := quickNode(t)
	defer n.Close()
	v := n.verifier
	credit := map[source]int{}
	v.credit = func(from source) { credit[from]++ }
	v.blame = func(from source, err error) { t.Errorf("%s is blamed: %v", from, err) }
	for _, from := range []source{"first", "second"} {
		if err := v.offer(from, blocks[0].block); err != nil {
			t.Fatal(err)
		}
		settleAll(v)
	}
	if err := v.verify(context.Background(), blocks[1].block, "by request", n.manager.Arrive("")); err != nil {
		t.Fatal(err)
	}
	if len(credit) != 1 || credit["first"] != 1 {
		t.Errorf("credit is %v", credit)
	}
}

// Where the queue is full, who has most gives up its newest.
func TestRoomForOthers(t *testing.T) {
	n := quickNode(t)
	defer n.Close()
	v := n.verifier
	b := forgeOn(t, n.manager, 1)
	put := func(from source) error {
		c := *b
		c.Nonce += uint64(len(v.queue))
		return v.enqueue(queued{block: &c, id: c.Header.ID(), from: from, account: string(from)})
	}
	for i := range maxQueued {
		if err := put(source(fmt.Sprint(i % 4))); err != nil {
			t.Fatal(err)
		}
	}
	b.Nonce = 1 << 40
	taken := 0
	for ; put("late") == nil; taken++ {
		b.Nonce += 1000
	}
	if len(v.queue) != maxQueued || taken != maxQueued/5 {
		t.Errorf("%d wait, the late one has %d of them", len(v.queue), taken)
	}
	b.Parent[0]++ // blocks beside the tip have a quarter of the room
	for taken = 0; taken < maxQueued && put("side") == nil; taken++ {
		b.Nonce += 1000
	}
	if taken != maxSidePerPeer {
		t.Errorf("%d blocks of one peer beside the tip wait, want %d", taken, maxSidePerPeer)
	}
}

func TestShareWindow(t *testing.T) {
	var s timeShare
	now := time.UnixMilli(1_000_000_000)
	const slot = 10 * time.Second
	if !s.spent(now, slot, 0, 0) {
		t.Error("a branch goes before the tip")
	}
	s.add(now, slot, 30*time.Second, 3, false)
	s.add(now, slot, 8*time.Second, 4, true) // and 2 s for the next one are a quarter
	if s.spent(now, slot, 0, 0) {
		t.Error("a quarter is too much")
	}
	if !s.spent(now, slot, 2*time.Second, 1) {
		t.Error("four seconds are not too much")
	}
	s.add(now.Add(slot), slot, time.Second, 0, true)
	if !s.spent(now.Add((shareSlots-1)*slot), slot, 0, 0) {
		t.Error("the window ends early")
	}
	s.add(now.Add((shareSlots+1)*slot), slot, 10*time.Second, 1, false)
	if s.spent(now.Add((shareSlots+1)*slot), slot, 0, 0) {
		t.Error("the window does not end")
	}
}

// ticking is an engine whose training takes virtual time.
type ticking struct {
	nn.Engine
	trained func()
}

func (p ticking) Train(ctx context.Context, start *nn.State, data nn.Samples, t nn.Trial) (*nn.Trained, error) {
	p.trained()
	return p.Engine.Train(ctx, start, data, t)
}

// TestAdversarySideShare: a long branch that overtakes the best chain by its last block, got by request, has a quarter of
// the verification while forged work on the tip waits without end, and all of it afterwards.
func TestAdversarySideShare(t *testing.T) {
	const tipBlocks, sideBlocks = 20, 8
	onTip, beside := quickNode(t), quickNode(t)
	defer onTip.Close()
	defer beside.Close()
	main := mine(t, onTip, sideBlocks-1, 1)
	side := mine(t, beside, sideBlocks, 2)

	var at atomic.Int64 // the virtual clock
	at.Store(time.Now().UnixNano())
	now := func() time.Time { return time.Unix(0, at.Load()) }
	n := quickNode(t, Device{Name: "ticking", Engine: func(net *nn.Net) (nn.Engine, error) {
		e, err := nn.NewEngine(net, 1)
		return ticking{e, func() { at.Add(int64(10 * time.Millisecond)) }}, err
	}})
	defer n.Close()
	know(t, n, main...)
	v := n.verifier
	v.now = now
	v.blame = func(source, error) {}
	var tip, branch, highest time.Duration // highest is what the branch had when work on the tip was waiting last
	v.settled = func(_ *chain.Block, from source, _ chain.Added, took time.Duration, _ error) {
		if from != "side" {
			tip += took
			return
		}
		branch += took
		if !v.tipWaits(now()) {
			return
		}
		highest = branch
		if branch*sideShare > branch+tip {
			t.Errorf("the branch had %v of %v while work on the tip waited", branch, branch+tip)
		}
	}
	// Each forged block is of another range, and so is found out by itself.
	for i := range tipBlocks {
		if err := v.offer(source(fmt.Sprint("forger ", i)), forgeOn(t, n.manager, uint64(i+1)<<32)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		for _, m := range side {
			if err := v.verify(context.Background(), m.block, "side", n.manager.Arrive("side")); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	settleAll(v)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("adversary=%q tip=%v side=%v share=%.3f", "a branch beside the tip while work on the tip waits", tip, highest,
		float64(highest)/float64(highest+tip))
	if best, _ := n.manager.Best(); best.ID != side[sideBlocks-1].block.Header.ID() {
		t.Errorf("the tip is at height %d, want the branch at %d", best.Height, sideBlocks)
	}
}
