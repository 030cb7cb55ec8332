package chain_test

import (
	"context"
	"errors"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
)

// simnet trains the tasks of the built-in network for tests on the fastest engine of this machine.
type simnet struct {
	t testing.TB
	*chain.Network
	data   *dataset.Data
	engine nn.Engine
	trains int
}

func newSimnet(t testing.TB) *simnet {
	n, err := specfile.Load("simnet")
	if err != nil {
		t.Fatal(err)
	}
	e, err := nn.NewEngine(n.Templates[0].Net, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	d := n.Templates[0].Data
	return &simnet{t: t, Network: n, data: dataset.Synthetic(d.Seed, int(d.Count)), engine: e}
}

func (s *simnet) samples(r chain.Range) nn.Samples { return s.data.Samples(int(r.From), int(r.To)) }

func (s *simnet) Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	s.trains++
	return s.engine.Train(ctx, start, s.samples(s.Templates[template].Data.Train), t)
}

func (s *simnet) Evaluate(ctx context.Context, template int, st *nn.State, split chain.Split) (float32, int, error) {
	d := s.Templates[template].Data
	return s.engine.Evaluate(ctx, st, s.samples([]chain.Range{d.Train, d.Evaluation, d.Test}[split]))
}

// mine mines a block on the manager's best chain, one interval after its parent.
func (s *simnet) mine(m *chain.Manager, payout byte) *chain.Block {
	s.t.Helper()
	ctx := context.Background()
	best, _ := m.Best()
	job, err := m.NewJob(ctx, best.Time+s.Interval)
	if err != nil {
		s.t.Fatal(err)
	}
	c := job.Claim
	c.Payout = chain.Address{payout}
	for ; ; c.Nonce++ {
		trial := s.Trial(job.Base.Template, c.ID())
		trial.EarlyRoots = true
		got, err := s.Train(ctx, job.Base.Template, job.Start, trial)
		if err != nil {
			s.t.Fatal(err)
		}
		if !chain.Wins(chain.Ticket(c.ID(), got.Root, got.LogitsDigest), job.Target) {
			continue
		}
		loss, _, err := s.Evaluate(ctx, job.Base.Template, got.State, chain.EvaluationSplit)
		if err != nil {
			s.t.Fatal(err)
		}
		x := &chain.Execution{
			Steps: trial.Steps, EarlyRoots: got.EarlyRoots, Complete: true,
			LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: math.Float32bits(loss),
		}
		m.Remember(c.ID(), x, got.State)
		return chain.NewBlock(c, job.Base, x)
	}
}

func (s *simnet) open(st chain.Store) *chain.Manager {
	s.t.Helper()
	m, err := chain.OpenManager(context.Background(), s.Network, st, s, chain.DefaultModelLimits)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// grow mines n blocks.
func (s *simnet) grow(m *chain.Manager, n int, payout byte) (blocks []*chain.Block) {
	s.t.Helper()
	for range n {
		b := s.mine(m, payout)
		if _, err := m.Add(context.Background(), b, b.Time, m.Arrive("")); err != nil {
			s.t.Fatal(err)
		}
		blocks = append(blocks, b)
	}
	return blocks
}

// watched is a store that measures the live heap at some of its operations, and the number of model states.
type watched struct {
	chain.Store
	t          testing.TB
	on         bool
	count      int
	heap       uint64 // most bytes
	models     int
	verified   int // blocks verified while watching
	unverified int // of the new branch when the first block of the old one was taken off
	total      int
	left       time.Time // when the old branch was left
}

func (w *watched) look() {
	if !w.on {
		return
	}
	if w.count++; w.count%50 != 0 {
		return
	}
	w.heap = max(w.heap, liveHeap())
	m, err := w.Models()
	if err != nil {
		w.t.Error(err)
	}
	w.models = max(w.models, len(m))
}

func (w *watched) PutVerified(v chain.Verified) error {
	w.look()
	w.verified++
	return w.Store.PutVerified(v)
}

func (w *watched) Connect(v chain.Verified) error { w.look(); return w.Store.Connect(v) }

func (w *watched) Disconnect(v chain.Verified, parent chain.State) error {
	w.look()
	w.unverified = max(w.unverified, w.total-w.verified)
	if w.left.IsZero() {
		w.left = time.Now()
	}
	return w.Store.Disconnect(v, parent)
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestLongReorg changes from a branch of 500 blocks of the simnet to one of 501, on disk. Memory stays bounded, and the
// old branch is left only when all of the new one is verified.
func TestLongReorg(t *testing.T) {
	if testing.Short() {
		t.Skip("mines a thousand blocks; run without -short")
	}
	const length = 500
	s := newSimnet(t)
	other := s.open(store.NewMemory())
	long := s.grow(other, length+1, 2)
	dir := t.TempDir()
	disk, err := store.Open(dir, store.Options{Network: s.ID, NetworkName: s.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	w := &watched{Store: disk, t: t, total: length + 1}
	m := s.open(w)
	s.grow(m, length, 1)
	oldTip, _ := m.Best()
	before := liveHeap()
	w.on = true
	w.verified = 0
	trained := s.trains

	// A chain that is too deep to replace is not even run.
	s.FinalityDepth = length - 1
	for _, b := range long[:length] {
		if a, err := m.Add(context.Background(), b, b.Time, m.Arrive("peer")); err != nil || !a.Side {
			t.Fatalf("height %d: %+v, %v", b.Height, a, err)
		}
	}
	last := long[length]
	if _, err := m.Add(context.Background(), last, last.Time, m.Arrive("peer")); !errors.Is(err, chain.ErrFinality) || s.trains != trained {
		t.Fatalf("deeper than the finality depth: %v, %d trials were run", err, s.trains-trained)
	}
	if best, _ := m.Best(); best != oldTip {
		t.Fatal("the old branch was left")
	}

	s.FinalityDepth = length
	began := time.Now()
	a, err := m.Add(context.Background(), last, last.Time, m.Arrive("peer"))
	if err != nil || a.Reverted != length || a.Executed != length+1 {
		t.Fatalf("reverted %d, executed %d, %v", a.Reverted, a.Executed, err)
	}
	took, moved := time.Since(began), time.Since(w.left)
	want, _ := other.Best()
	if best, _ := m.Best(); best != want || m.Ledger().Root() != other.Ledger().Root() {
		t.Errorf("the tip is at height %d with another state than the other node's", best.Height)
	}
	if model, err := m.Model(context.Background(), want.ID); err != nil {
		t.Error(err)
	} else if root, err := model.Root(1); err != nil || root != want.ModelRoot {
		t.Errorf("model root is %v, %v", root, err)
	}
	if w.unverified != 0 {
		t.Errorf("the old branch was left with %d blocks of the new one not verified", w.unverified)
	}
	size := len(s.ModelInit(0).Bytes())
	t.Logf("%d blocks back, %d forward: %v with the measuring, of it %v for %d transactions on disk; live heap %.1f MiB before, %.1f MiB at most; at most %d model states of %d bytes on disk",
		a.Reverted, a.Executed, took.Round(time.Millisecond), moved.Round(time.Millisecond), a.Reverted+a.Executed, float64(before)/(1<<20), float64(w.heap)/(1<<20), w.models, size)
	// 501 blocks of a kilobyte with their states and ledgers, and Badger's memtables of 16 MiB.
	if most := uint64(48 << 20); w.heap > before+most {
		t.Errorf("the live heap grew by %d MiB", (w.heap-before)>>20)
	}
	// The newest, snapshots of both branches, and the one that is trained from.
	if most := chain.DefaultModelLimits.Recent + 2*length/int(s.SnapshotInterval) + 2; w.models > most {
		t.Errorf("%d model states were kept, allowed are %d", w.models, most)
	}

	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	r, err := store.Check(context.Background(), dir, store.CheckOptions{Network: s.Network, Trainer: s, Fault: func(f store.Fault) { t.Error(f) }})
	if err != nil || r.Tip != want || r.Blocks != 2*length+2 || r.LedgerRoot != other.Ledger().Root() {
		t.Errorf("fsck: %+v, %v", r, err)
	}
	t.Logf("fsck of %d blocks: %v", r.Blocks, time.Since(began).Round(time.Millisecond))
}
