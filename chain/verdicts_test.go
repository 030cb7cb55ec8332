package chain_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

// addAt adds a block when the local clock is ms after the time that the block names.
func (n *node) addAt(b *chain.Block, ms uint64) (chain.Added, error) {
	return n.Add(context.Background(), b, b.Time+ms, n.Arrive(""))
}

// TestVerdictLapses: a machine that computes wrongly once refuses a good block for an hour, and then takes it and what
// stands on it.
func TestVerdictLapses(t *testing.T) {
	w := newWorld(t, nil)
	ls := w.chainOf(w.genesis(), 3, how{})
	n := newNode(w)
	n.add(ls[0])
	n.trainer.wrong = true
	if _, err := n.try(ls[1].block); chain.VerdictOf(err) != chain.Invalid {
		t.Fatalf("error is %v", err)
	}
	n.trainer.wrong = false
	trained := n.trainer.trains.Load()
	for _, ms := range []uint64{0, chain.VerdictLasts - 1} {
		if _, err := n.addAt(ls[1].block, ms); chain.VerdictOf(err) != chain.Invalid {
			t.Errorf("after %d ms: %v", ms, err)
		}
		if _, err := n.Precheck(ls[1].block, ls[1].block.Time+ms); chain.VerdictOf(err) != chain.Invalid {
			t.Errorf("Precheck after %d ms: %v", ms, err)
		}
		if _, err := n.Add(context.Background(), ls[2].block, ls[1].block.Time+ms, n.Arrive("")); !errors.Is(err, chain.ErrInvalidParent) {
			t.Errorf("its child after %d ms: %v", ms, err)
		}
	}
	if n.trainer.trains.Load() != trained {
		t.Error("it was run again within the hour")
	}
	if known, err := n.Precheck(ls[1].block, ls[1].block.Time+chain.VerdictLasts); known || err != nil {
		t.Errorf("Precheck after an hour: %v, %v", known, err)
	}
	if a, err := n.addAt(ls[1].block, chain.VerdictLasts); err != nil || a.Executed != 1 {
		t.Fatalf("after an hour: %+v, %v", a, err)
	}
	n.add(ls[2])
	n.at(ls[2])
	// Nothing of it is kept over a restart.
	n = newNode(w)
	n.add(ls[0])
	n.trainer.wrong = true
	if _, err := n.try(ls[1].block); chain.VerdictOf(err) != chain.Invalid {
		t.Fatalf("error is %v", err)
	}
	n = open(w, n.store, chain.DefaultModelLimits)
	n.add(ls[1:]...)
	n.at(ls[2])
}

// TestForgedAgain: a forged block that is sent over and over costs its verifier a run after an hour, two more hours,
// four, and so on up to a day; altered copies of it cost no more; and what the header proves is never looked at again.
func TestForgedAgain(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	n := newNode(w)
	forged := clone(l.block)
	forged.LossAfter++
	const hour = chain.VerdictLasts
	var runs []uint64 // hours at which it was run
	for h := uint64(0); h <= 100; h++ {
		before := n.trainer.trains.Load()
		for range 2 {
			if _, err := n.addAt(forged, h*hour); !errors.Is(err, chain.ErrLossAfter) {
				t.Fatalf("after %d hours: %v", h, err)
			}
		}
		for range n.trainer.trains.Load() - before {
			runs = append(runs, h)
		}
	}
	want := []uint64{0, 1, 3, 7, 15, 31, 55, 79}
	if len(runs) != len(want) {
		t.Fatalf("it was run after %v hours, want %v", runs, want)
	}
	for i := range want {
		if runs[i] != want[i] {
			t.Fatalf("it was run after %v hours, want %v", runs, want)
		}
	}
	n = newNode(w)
	for _, at := range []uint64{0, hour} {
		before := n.trainer.trains.Load()
		for i := range uint32(5) {
			sibling := clone(l.block)
			sibling.LossAfter += i + 1
			if _, err := n.addAt(sibling, at); !errors.Is(err, chain.ErrLossAfter) {
				t.Fatal(err)
			}
		}
		if got := n.trainer.trains.Load() - before; got != 1 {
			t.Errorf("after %d ms five altered blocks of a claim cost %d runs", at, got)
		}
	}
	proved := clone(l.block)
	proved.LossBefore++
	for _, at := range []uint64{0, chain.VerdictMost * 10} {
		if _, err := n.addAt(proved, at); !errors.Is(err, chain.ErrLossBefore) {
			t.Error(err)
		}
		if _, err := n.store.Invalid(proved.Header.ID()); err != nil {
			t.Errorf("it is not remembered for good: %v", err)
		}
	}
}

// TestVerdictsAreBounded: the memory of what training has shown holds the newest.
func TestVerdictsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	n := newNode(w)
	const more = 10
	var ids []chain.Hash
	for i := range uint32(chain.MaxVerdicts + more) {
		b := clone(l.block)
		b.LossAfter -= i + 1
		if _, err := n.try(b); !errors.Is(err, chain.ErrLossAfter) {
			t.Fatal(err)
		}
		ids = append(ids, b.Header.ID())
	}
	for i, id := range ids {
		if n.HasVerdict(id) != (i >= more) {
			t.Fatalf("verdict %d: %v", i, n.HasVerdict(id))
		}
	}
	if n.trainer.trains.Load() != 1 {
		t.Errorf("%d runs", n.trainer.trains.Load())
	}
	n.add(l)
	n.at(l)
}

// TestStartOfTaskTwice: a loss at the start of a task that comes out differently the second time is this machine's fault.
func TestStartOfTaskTwice(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.MaxTaskBlocks = 1 })
	ls := w.chainOf(w.genesis(), 2, how{})
	n := newNode(w)
	n.add(ls[0])
	n.trainer.wrongLoss = true
	_, err := n.try(ls[1].block)
	if err == nil || chain.VerdictOf(err) != chain.Unverified || n.remembered(ls[1].block) {
		t.Errorf("error is %v", err)
	}
	n.trainer.wrongLoss = false
	n.add(ls[1])
	n.at(ls[1])
}

// missing is a store that counts the callers which do not find the start of task 1.
type missing struct {
	chain.Store
	count atomic.Int64
	all   chan struct{} // closed when all have looked
}

const callers = 4

func (s *missing) TaskStart(task uint32) (chain.TaskStart, error) {
	start, err := s.Store.TaskStart(task)
	if task == 1 && s.count.Add(1) == callers {
		close(s.all)
	}
	return start, err
}

// evaluating is a trainer that counts evaluations, none of which ends before wait is closed.
type evaluating struct {
	*trainer
	count atomic.Int64
	wait  chan struct{}
}

func (e *evaluating) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	<-e.wait
	e.count.Add(1)
	return e.trainer.Evaluate(ctx, template, s, split)
}

// TestStartOfTaskOnce: where several want the start of a task at once, it is worked out once, by two evaluations.
func TestStartOfTaskOnce(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.MaxTaskBlocks = 1 })
	n := newNode(w)
	n.add(w.mine(w.genesis(), how{}))
	s := &missing{Store: n.store, all: make(chan struct{})}
	e := &evaluating{trainer: w.trainer, wait: s.all}
	m, err := chain.OpenManager(context.Background(), w.Network, s, e, chain.DefaultModelLimits)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if job, err := m.NewJob(context.Background(), 0); err != nil || job.Base.TaskNumber != 1 {
				t.Errorf("%+v, %v", job, err)
			}
		})
	}
	all.Wait()
	if got := e.count.Load(); got != 2 {
		t.Errorf("%d evaluations", got)
	}
}
