package node

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// mined is a block with what its training gave.
type mined struct {
	block *chain.Block
	x     *chain.Execution
	model func(*chain.Manager) // gives a manager the trained state
}

// quickNode is a node without a network, in memory, whose miner stands still.
func quickNode(t testing.TB, devices ...Device) *Node {
	t.Helper()
	return quickNodeOf(t, simnet(t), devices...)
}

func quickNodeOf(t testing.TB, net *chain.Network, devices ...Device) *Node {
	t.Helper()
	n, err := Open(context.Background(), Config{
		Network: net, Threads: 1, Devices: devices, Models: chain.DefaultModelLimits, Log: zap.NewNop(), Now: time.Now, ReportEvery: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mine mines blocks on the node's best chain, one interval after the other from its tip on, without waiting for the
// clock. payout makes chains differ.
func mine(t testing.TB, n *Node, count int, payout byte) (out []mined) {
	t.Helper()
	ctx := context.Background()
	for range count {
		tip, _ := n.manager.Best()
		job, err := n.manager.NewJob(ctx, tip.Time+n.cfg.Network.Interval)
		if err != nil {
			t.Fatal(err)
		}
		claim := job.Claim
		claim.Payout = chain.Address{payout}
		for ; ; claim.Nonce++ {
			trial := n.cfg.Network.Trial(job.Base.Template, claim.ID())
			trial.EarlyRoots = true
			got, err := n.checking.Train(ctx, job.Base.Template, job.Start, trial)
			if err != nil {
				t.Fatal(err)
			}
			if !chain.Wins(chain.Ticket(claim.ID(), got.Root, got.LogitsDigest), job.Target) {
				continue
			}
			loss, _, err := n.checking.Evaluate(ctx, job.Base.Template, got.State, chain.EvaluationSplit)
			if err != nil {
				t.Fatal(err)
			}
			x := &chain.Execution{
				Steps: trial.Steps, EarlyRoots: got.EarlyRoots, Complete: true,
				LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: math.Float32bits(loss),
			}
			m := mined{chain.NewBlock(claim, job.Base, x), x, func(m *chain.Manager) { m.Remember(claim.ID(), x, got.State) }}
			know(t, n, m)
			out = append(out, m)
			break
		}
	}
	return out
}

// simChain is a chain of the simnet, mined when it is first needed.
func simChain(t testing.TB) []mined {
	t.Helper()
	simChainOnce.Do(func() {
		n := quickNode(t)
		simBlocks = mine(t, n, simLength, 1)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	})
	if len(simBlocks) < simLength {
		t.Fatal("the chain could not be mined")
	}
	return simBlocks
}

const simLength = 200

var (
	simChainOnce sync.Once
	simBlocks    []mined
)

// know gives a node blocks that it need not execute.
func know(t testing.TB, n *Node, blocks ...mined) {
	t.Helper()
	for _, m := range blocks {
		m.model(n.manager)
		if _, err := n.manager.Add(context.Background(), m.block, m.block.Time, n.manager.Arrive("")); err != nil {
			t.Fatalf("block at height %d: %v", m.block.Height, err)
		}
	}
}

// serving is a network side over a node's chain, possibly a hostile one.
type serving struct {
	*p2p.Service
	node *Node
}

// serve opens a node with a chain to the network; hostile, if not nil, changes what the network side sees of it.
func serve(t testing.TB, blocks []mined, hostile func(peerChain) p2p.Chain, bootstrap ...string) *serving {
	t.Helper()
	n := quickNode(t)
	know(t, n, blocks...)
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var c p2p.Chain = peerChain{n.manager, n.store, n.verifier, zap.NewNop()}
	if hostile != nil {
		c = hostile(c.(peerChain))
	}
	s, err := p2p.New(p2p.Config{
		Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: bootstrap,
		Network: n.cfg.Network.ID, NetworkName: n.cfg.Network.Name, Version: "test", Log: zap.NewNop(),
	}, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return &serving{s, n}
}

func (s *serving) addr() string { return s.Addrs()[0].String() }

func (s *serving) end(t testing.TB) {
	t.Helper()
	if err := errors.Join(s.Close(), s.node.Close()); err != nil {
		t.Error(err)
	}
}

// A node that is far behind two others catches up and has their chain, ledger and model.
func TestCatchUp(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	blocks := simChain(t)
	a, b := serve(t, blocks, nil), serve(t, blocks, nil)
	late := start(t, false, a.addr(), b.addr())
	late.reach(t, simLength)
	sameChain(t, late.Node, a.node)
	late.end(t)
	a.end(t)
	b.end(t)
}

// eventually waits for a condition; it fails the test if it does not come true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// sameChain compares tip, ledger and model.
func sameChain(t *testing.T, n, other *Node) {
	t.Helper()
	got, _ := n.Manager().Best()
	want, _ := other.Manager().Best()
	if got != want {
		t.Errorf("the tip is %+v, want %+v", got, want)
	}
	if n.Manager().Ledger().Root() != other.Manager().Ledger().Root() {
		t.Error("the ledgers differ")
	}
	model, err := n.Manager().Model(context.Background(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := model.Root(1); err != nil || root != want.ModelRoot {
		t.Errorf("the model has the root %v (%v), want %v", root, err, want.ModelRoot)
	}
}

// mangling sends right headers with wrong bodies.
type mangling struct {
	peerChain
	sent atomic.Int64
}

func (m *mangling) Block(id chain.Hash) (*chain.Block, error) {
	b, err := m.peerChain.Block(id)
	if err != nil {
		return nil, err
	}
	m.sent.Add(1)
	mangled := *b
	mangled.EarlyRoots = slices.Clone(b.EarlyRoots)
	mangled.EarlyRoots[len(mangled.EarlyRoots)-1][0] ^= 1
	return &mangled, nil
}

// A peer that mangles bodies is left, and the ids whose bodies it has mangled are good when others send them.
func TestMangledBodiesPoisonNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	blocks := simChain(t)[:100]
	var evil *mangling
	bad := serve(t, blocks, func(c peerChain) p2p.Chain {
		evil = &mangling{peerChain: c}
		return evil
	})
	late := start(t, false, bad.addr())
	eventually(t, "the mangler is asked", func() bool { return evil.sent.Load() > 0 })
	good := serve(t, blocks, nil, late.addr())
	late.reach(t, 100)
	sameChain(t, late.Node, good.node)
	for _, m := range blocks {
		if fault, err := late.store.Invalid(m.block.Header.ID()); !errors.Is(err, chain.ErrNotFound) {
			t.Errorf("block at height %d is remembered: %v, %v", m.block.Height, fault, err)
		}
	}
	if slices.ContainsFunc(late.peers.(*network).service.Peers(), func(p p2p.PeerInfo) bool { return p.ID == bad.ID() }) {
		t.Error("the mangler is still a peer")
	}
	late.end(t)
	good.end(t)
	bad.end(t)
}

// forging follows the chain up to a height and goes on with headers that obey all rules that a header can be held to,
// each at the price of a few hashes, for ever.
type forging struct {
	peerChain
	net    *chain.Network
	ledger chain.Ledger
	mu     sync.Mutex
	states map[chain.Hash]chain.State
	blocks map[chain.Hash]*chain.Block
	bodies bool
}

func (f *forging) Status() p2p.Status {
	s := f.peerChain.Status()
	s.Height += 1000
	s.Work = s.Work.Add(chain.Uint128{Hi: 1})
	return s
}

func (f *forging) After(locator []chain.Hash, n int) (out []*chain.Block, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.states[locator[0]]
	if !ok {
		if s, err = f.StateAfter(locator[0]); err != nil {
			return nil, err
		}
	}
	for range n {
		base, err := f.net.Base(s, func(uint32) (chain.TaskStart, error) { return chain.TaskStart{Root: chain.Hash{1}, Loss: 1}, nil })
		if err != nil {
			return nil, err
		}
		c := f.net.NextClaim(s, base, f.ledger, s.Time+f.net.Interval)
		x := &chain.Execution{LossAfter: base.Loss} // it keeps
		for range chain.EarlyRootCount(f.net.Templates[base.Template].TrialSteps) {
			x.EarlyRoots = append(x.EarlyRoots, chain.Hash{1})
		}
		for i := 0; !chain.Wins(chain.Ticket(c.ID(), x.TrainedRoot, x.LogitsDigest), f.net.Target(base, c.Difficulty)); i++ {
			x.TrainedRoot[i%32]++
		}
		b := chain.NewBlock(c, base, x)
		s, _ = f.net.Apply(s, base, f.ledger, b)
		f.states[s.ID], f.blocks[s.ID] = s, b
		out = append(out, b)
	}
	return out, nil
}

func (f *forging) Block(id chain.Hash) (*chain.Block, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b := f.blocks[id]; b != nil && f.bodies {
		return b, nil
	}
	return nil, chain.ErrNotFound
}

// Headers that cost their maker some hashes bring it nothing: with their blocks it is found out at the first training
// step, and without them it is not believed. The node goes on to mine.
func TestForgedHeaders(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	blocks := simChain(t)[:3]
	for name, bodies := range map[string]bool{"with blocks": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			var f *forging
			liar := serve(t, blocks, func(c peerChain) p2p.Chain {
				f = &forging{
					peerChain: c, net: c.manager.Network(), ledger: c.manager.Ledger(), bodies: bodies,
					states: map[chain.Hash]chain.State{}, blocks: map[chain.Hash]*chain.Block{},
				}
				return f
			})
			good := serve(t, blocks, nil)
			victim := start(t, true, good.addr(), liar.addr())
			eventually(t, "the forged headers are asked for", func() bool {
				f.mu.Lock()
				defer f.mu.Unlock()
				return len(f.blocks) > 0
			})
			eventually(t, "the liar is not believed any more", func() bool { return !victim.peers.Behind() })
			if bodies {
				eventually(t, "the liar is dropped", func() bool {
					return !slices.ContainsFunc(victim.peers.(*network).service.Peers(), func(p p2p.PeerInfo) bool { return p.ID == liar.ID() })
				})
			}
			tip, _ := victim.Manager().Best()
			victim.reach(t, tip.Height+3)
			victim.end(t)
			good.end(t)
			liar.end(t)
		})
	}
}

// altering has the chain with another last block, and claims more work than that gives.
type altering struct {
	peerChain
	last *chain.Block
}

func (a *altering) Status() p2p.Status {
	s := a.peerChain.Status()
	s.Tip, s.Work = a.last.Header.ID(), s.Work.Add(chain.U128(1))
	return s
}

func (a *altering) After(locator []chain.Hash, n int) ([]*chain.Block, error) {
	blocks, err := a.peerChain.After(locator, n)
	for i, b := range blocks {
		if b.Height == a.last.Height {
			blocks[i] = a.last
		}
	}
	if len(blocks) == 0 && err == nil { // who asks has our chain: it is told of the branch beside its tip
		blocks = append(blocks, a.last)
	}
	return blocks, err
}

func (a *altering) Block(id chain.Hash) (*chain.Block, error) {
	if id == a.last.Header.ID() {
		return a.last, nil
	}
	return a.peerChain.Block(id)
}

// A peer whose chain is altered in its last block is found out by who has the true one, although it brings no more work
// than that, and the log names the rule.
func TestAlteredBlockIsFoundOut(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	blocks := simChain(t)[:5]
	for kind, alter := range map[chain.Kind]func(*chain.Header){
		chain.ErrLossAfter: func(h *chain.Header) { h.LossAfter ^= 1 },
		chain.ErrStateRoot: func(h *chain.Header) { h.StateRoot[0]++ },
	} {
		t.Run(string(kind), func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			victim := startLogged(t, zap.New(core), false)
			good := serve(t, blocks, nil, victim.addr())
			victim.reach(t, 5)
			last := *blocks[4].block
			alter(&last.Header)
			liar := serve(t, blocks, func(c peerChain) p2p.Chain { return &altering{c, &last} }, victim.addr())
			eventually(t, "the block is refused", func() bool {
				return logs.FilterMessage("block refused").FilterField(zap.String("rule", string(kind))).FilterField(zap.Stringer("block_id", last.Header.ID())).Len() > 0
			})
			eventually(t, "the liar is dropped", func() bool { return victim.peers.Count() == 1 })
			sameChain(t, victim.Node, good.node)
			victim.end(t)
			good.end(t)
			liar.end(t)
		})
	}
}

// CheckHeader takes the headers of a good chain, also where tasks begin that were never seen here, and finds every fault
// that shows without body and model.
func TestCheckHeader(t *testing.T) {
	spec := simnet(t).Spec
	spec.MaxTaskBlocks = 5
	net, err := spec.Build()
	if err != nil {
		t.Fatal(err)
	}
	miner, fresh := quickNodeOf(t, net), quickNodeOf(t, net)
	defer miner.Close()
	defer fresh.Close()
	blocks := mine(t, miner, 12, 1)
	c := peerChain{fresh.manager, fresh.store, fresh.verifier, zap.NewNop()}
	first, _ := fresh.Manager().Best()
	state, err := c.StateAfter(first.ID)
	if err != nil || state != first {
		t.Fatalf("state after genesis: %+v, %v", state, err)
	}
	for _, m := range blocks {
		if state, err = c.CheckHeader("peer", state, &m.block.Header); err != nil {
			t.Fatalf("height %d: %v", m.block.Height, err)
		}
		if want, err := (peerChain{store: miner.store}).StateAfter(state.ID); err != nil || state != want {
			t.Errorf("after height %d it claims %+v, want %+v (%v)", m.block.Height, state, want, err)
		}
		if err := c.CheckBody(m.block); err != nil {
			t.Errorf("body at height %d: %v", m.block.Height, err)
		}
	}
	good := &blocks[0].block.Header
	for kind, change := range map[error]func(*chain.Header){
		chain.ErrVersion:    func(h *chain.Header) { h.Version++ },
		chain.ErrNetwork:    func(h *chain.Header) { h.Network[0]++ },
		chain.ErrLossValue:  func(h *chain.Header) { h.LossAfter = 0x7f800000 },
		chain.ErrHeight:     func(h *chain.Header) { h.Height++ },
		chain.ErrTime:       func(h *chain.Header) { h.Time = first.Time },
		chain.ErrDifficulty: func(h *chain.Header) { h.Difficulty.Lo++ },
		chain.ErrTask:       func(h *chain.Header) { h.Task[0]++ },
		chain.ErrTicket: func(h *chain.Header) {
			base, err := net.Base(first, nil)
			if err != nil {
				t.Fatal(err)
			}
			for chain.Wins(h.Ticket(), net.Target(base, h.Difficulty)) {
				h.Nonce++
			}
		},
		chain.ErrLossBefore: func(h *chain.Header) { h.LossBefore ^= 1 },
		chain.ErrStateRoot:  func(h *chain.Header) { h.StateRoot[0]++ },
	} {
		h := *good
		change(&h)
		if _, err := c.CheckHeader("peer", first, &h); !errors.Is(err, kind) {
			t.Errorf("%v: got %v", kind, err)
		}
	}
	fresh.verifier.now = func() time.Time { return time.UnixMilli(int64(good.Time - net.MaxFuture - 1)) }
	if _, err := c.CheckHeader("peer", first, good); !errors.Is(err, chain.ErrFuture) {
		t.Errorf("from the future: %v", err)
	}
}

// waiting is an engine that trains one claim for as long as it may.
type waiting struct {
	nn.Engine
	claim   [32]byte // seed of the claim's first batch
	started chan struct{}
	ended   func()
}

func (w *waiting) Train(ctx context.Context, start *nn.State, data nn.Samples, trial nn.Trial) (*nn.Trained, error) {
	if trial.BatchSeed(0) != w.claim {
		return w.Engine.Train(ctx, start, data, trial)
	}
	close(w.started)
	<-ctx.Done()
	w.ended()
	return nil, ctx.Err()
}

// The training of a block ends once the best chain has more work than it could give, and not before.
func TestOvertakenVerificationEnds(t *testing.T) {
	a, b := quickNode(t), quickNode(t)
	defer a.Close()
	defer b.Close()
	slow, fast := mine(t, a, 1, 2), mine(t, b, 2, 3)
	e := &waiting{claim: chain.BatchSeed(slow[0].block.Claim.ID(), 0), started: make(chan struct{})}
	n := quickNode(t, Device{Name: "waiting", Engine: func(net *nn.Net) (engine nn.Engine, err error) {
		e.Engine, err = nn.NewEngine(net, 1)
		return e, err
	}})
	defer n.Close()
	height := uint64(0)
	e.ended = func() {
		tip, _ := n.manager.Best()
		height = tip.Height
	}
	verified := make(chan error, 1)
	go func() {
		verified <- n.verifier.verify(context.Background(), slow[0].block, "peer", n.manager.Arrive("peer"))
	}()
	<-e.started
	know(t, n, fast...)
	if err := <-verified; !errors.Is(err, errOvertaken) || chain.VerdictOf(err) != chain.Unverified {
		t.Errorf("got %v, want %v", err, errOvertaken)
	}
	if height != 2 {
		t.Errorf("it ended at height %d, want 2: at equal work it still mattered", height)
	}
	sameChain(t, n, b)
}

// BenchmarkCatchUp measures how fast a node that is 2,000 blocks behind two others catches up, and how fast it executes
// the same blocks without a network. Each node has one thread of its own:
//
//	go test -run - -bench CatchUp -benchtime 1x ./node
func BenchmarkCatchUp(b *testing.B) {
	const count = 2000
	n := quickNode(b)
	defer n.Close()
	blocks := mine(b, n, count, 1)
	b.Run("executing", func(b *testing.B) {
		for range b.N {
			n := quickNode(b)
			for _, m := range blocks {
				if _, err := n.manager.Add(context.Background(), m.block, m.block.Time, n.manager.Arrive("")); err != nil {
					b.Fatal(err)
				}
			}
			if err := n.Close(); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
	b.Run("syncing", func(b *testing.B) {
		x, y := serve(b, blocks, nil), serve(b, blocks, nil)
		defer x.end(b)
		defer y.end(b)
		b.ResetTimer()
		for range b.N {
			late := start(b, false, x.addr(), y.addr())
			late.reach(b, count)
			b.StopTimer()
			late.end(b)
			b.StartTimer()
		}
		b.ReportMetric(float64(count*b.N)/b.Elapsed().Seconds(), "blocks/s")
	})
}
