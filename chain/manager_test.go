package chain_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
)

// quick makes the difficulty double with every block that comes at once.
func quick(s *chain.Spec) { s.HalfLife = s.Interval }

// mineNext mines as a miner does: a job, trials until a ticket wins, a second run whose result the manager gets.
func (n *node) mineNext(now uint64) *chain.Block {
	n.t.Helper()
	ctx := context.Background()
	job, err := n.NewJob(ctx, now)
	if err != nil {
		n.t.Fatal(err)
	}
	c := job.Claim
	c.Payout = chain.Address{1}
	for ; ; c.Nonce++ {
		got, err := n.trainer.Train(ctx, job.Base.Template, job.Start, n.Network().Trial(job.Base.Template, c.ID()))
		if err != nil {
			n.t.Fatal(err)
		}
		if !chain.Wins(chain.Ticket(c.ID(), got.Root, got.LogitsDigest), job.Target) {
			continue
		}
		x, model := n.rerun(job, c)
		n.Remember(c.ID(), x, model)
		return chain.NewBlock(c, job.Base, x)
	}
}

func (n *node) rerun(job *chain.Job, c chain.Claim) (*chain.Execution, *nn.State) {
	n.t.Helper()
	ctx := context.Background()
	trial := n.Network().Trial(job.Base.Template, c.ID())
	trial.EarlyRoots = true
	got, err := n.trainer.Train(ctx, job.Base.Template, job.Start, trial)
	if err != nil {
		n.t.Fatal(err)
	}
	loss, _, err := n.trainer.Evaluate(ctx, job.Base.Template, got.State, chain.EvaluationSplit)
	if err != nil {
		n.t.Fatal(err)
	}
	return &chain.Execution{
		EarlyRoots: got.EarlyRoots, Complete: true, LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: math.Float32bits(loss),
	}, got.State
}

func TestGrowAndRestart(t *testing.T) {
	w := newWorld(t, nil)
	n := newNode(w)
	n.at(w.genesis())
	now := uint64(genesisTime)
	paid := uint64(500)
	for i := range uint64(6) {
		if i == 3 {
			n = open(w, n.store, chain.DefaultModelLimits) // restart
		}
		was, changed := n.Best()
		now += w.Interval
		b := n.mineNext(now)
		trained := n.trainer.trains.Load()
		a, err := n.try(b)
		if err != nil || a.Executed != 0 || a.Side || a.Known || a.Reverted != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
		if n.trainer.trains.Load() != trained {
			t.Error("the miner's own block was run once more")
		}
		if a.State.Height != i+1 || a.State.ID != b.Header.ID() || b.Parent != was.ID || b.Time != now {
			t.Errorf("added %+v", a.State)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the new tip")
		}
		paid += w.Reward(b.Height, b.Advances())
		if got := n.Ledger().Account(chain.Address{1}).Balance; got != paid {
			t.Errorf("balance is %d, want %d", got, paid)
		}
		if a, err := n.try(b); err != nil || !a.Known {
			t.Errorf("the same block again: %+v, %v", a, err)
		}
		if known, err := n.Precheck(b, now); !known || err != nil {
			t.Errorf("Precheck of the same block: %v, %v", known, err)
		}
	}
	// A clock behind the parent's time gives the parent's time + 1.
	job, err := n.NewJob(context.Background(), 5)
	if err != nil || job.Claim.Time != now+1 {
		t.Errorf("time is %d, %v", job.Claim.Time, err)
	}
	// Another node that gets the blocks comes to the same state.
	other := newNode(w)
	for h := uint64(1); h <= 6; h++ {
		id, err := n.store.BlockID(h)
		if err != nil {
			t.Fatal(err)
		}
		v, err := n.store.Verified(id)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := other.try(v.Block); err != nil || a.Executed != 1 {
			t.Fatalf("height %d: %+v, %v", h, a, err)
		}
	}
	mine, _ := n.Best()
	theirs, _ := other.Best()
	if mine != theirs || n.Ledger().Root() != other.Ledger().Root() {
		t.Errorf("states differ: %+v, %+v", mine, theirs)
	}
}

// twoForks are five blocks at leisure and three in haste, on the same two blocks: the three have more work.
func twoForks(w *world) (base, slow, fast []*link) {
	base = w.chainOf(w.genesis(), 2, how{})
	slow = w.chainOf(base[1], 5, how{})
	fast = w.chainOf(base[1], 3, how{after: 1})
	return base, slow, fast
}

func TestReorgByWork(t *testing.T) {
	w := newWorld(t, quick)
	base, slow, fast := twoForks(w)
	n := newNode(w)
	n.add(base...)
	n.add(slow...)
	n.at(slow[4])
	before := n.trainer.trains.Load()
	for _, l := range fast[:2] {
		if a := n.add(l); !a.Side || a.Executed != 0 {
			t.Errorf("side block: %+v", a)
		}
		n.at(slow[4])
	}
	if n.trainer.trains.Load() != before {
		t.Error("a side branch with less work was executed")
	}
	_, changed := n.Best()
	a := n.add(fast[2])
	if a.Reverted != 5 || a.Executed != 3 || a.Side || n.trainer.trains.Load() != before+3 {
		t.Errorf("%+v, %d trials", a, n.trainer.trains.Load()-before)
	}
	<-changed
	n.at(fast[2])
	for _, l := range slice(base, slow, fast) {
		n.hasModel(l) // the old branch's too
		if a := n.add(l); !a.Known {
			t.Errorf("height %d is not known: %+v", l.block.Height, a)
		}
	}
	n.at(fast[2])
	// And back: blocks on the old branch bring it in again, without running what was verified.
	long := w.chainOf(slow[4], 2, how{after: 1})
	before = n.trainer.trains.Load()
	if a := n.add(long[0]); !a.Side {
		t.Errorf("%+v", a)
	}
	if a := n.add(long[1]); a.Reverted != 3 || a.Executed != 2 || n.trainer.trains.Load() != before+2 {
		t.Errorf("%+v", a)
	}
	n.at(long[1])
	open(w, n.store, chain.DefaultModelLimits).at(long[1])
}

func slice(links ...[]*link) []*link { return slices.Concat(links...) }

func TestTies(t *testing.T) {
	w := newWorld(t, nil)
	g := w.genesis()
	a, b := w.mine(g, how{}), w.mine(g, how{nonce: 1})
	ctx := context.Background()
	for _, second := range []bool{false, true} {
		n := newNode(w)
		first, later := n.Arrive(""), n.Arrive("")
		add := func(l *link, arrival chain.Arrival) chain.Added {
			t.Helper()
			got, err := n.Add(ctx, l.block, l.block.Time, arrival)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if second { // a came first but is verified second
			add(b, later)
			n.at(b)
			if got := add(a, first); got.Reverted != 1 || got.Executed != 1 {
				t.Errorf("%+v", got)
			}
		} else {
			add(a, first)
			if got := add(b, later); !got.Side || got.Executed != 0 {
				t.Errorf("%+v", got)
			}
		}
		n.at(a)
		// More work decides, whatever came first.
		c := w.mine(b, how{})
		add(c, n.Arrive(""))
		n.at(c)
	}
}

// hooked is a store that calls after when it has kept a verified block.
type hooked struct {
	*store.Memory
	after func(chain.Verified)
}

func (h *hooked) PutVerified(v chain.Verified) error {
	err := h.Memory.PutVerified(v)
	h.after(v)
	return err
}

// TestOvertaken: between the verification of a block and its adoption another call makes another block the tip.
func TestOvertaken(t *testing.T) {
	w := newWorld(t, quick)
	g := w.genesis()
	base := w.chainOf(g, 2, how{})
	slow, fast := w.chainOf(base[1], 2, how{}), w.chainOf(base[1], 2, how{after: 1})
	for _, c := range []struct {
		name  string
		known []*link // before
		a, b  *link
	}{
		{"came first", nil, base[0], w.mine(g, how{nonce: 1})},
		{"more work", slice(base, slow[:1], fast[:1]), fast[1], slow[1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &hooked{Memory: store.NewMemory(), after: func(chain.Verified) {}}
			m, err := chain.OpenManager(context.Background(), w.Network, s, newTrainer(w.Network), chain.DefaultModelLimits)
			if err != nil {
				t.Fatal(err)
			}
			add := func(l *link) chain.Added {
				a, err := m.Add(context.Background(), l.block, l.block.Time, m.Arrive(""))
				if err != nil {
					t.Error(err)
				}
				return a
			}
			for _, l := range c.known {
				add(l)
			}
			overtaken := false
			s.after = func(v chain.Verified) {
				if v.State.ID == c.a.id() {
					add(c.b)
					best, _ := m.Best()
					overtaken = best == c.b.state
				}
			}
			a := add(c.a)
			if best, _ := m.Best(); !overtaken || best != c.a.state || a.Known || a.Side {
				t.Errorf("overtaken %v, best is height %d, %v, %+v", overtaken, best.Height, best.ID, a)
			}
		})
	}
}

func TestOrphanAndFuture(t *testing.T) {
	w := newWorld(t, nil)
	ls := w.chainOf(w.genesis(), 2, how{})
	n := newNode(w)
	refuse := func(b *chain.Block, now uint64, want error) {
		t.Helper()
		if _, err := n.Precheck(b, now); !errors.Is(err, want) {
			t.Errorf("Precheck: %v, want %v", err, want)
		}
		_, err := n.Add(context.Background(), b, now, n.Arrive(""))
		if !errors.Is(err, want) || chain.VerdictOf(err) != chain.Unverified || n.remembered(b) {
			t.Errorf("Add: %v, want %v", err, want)
		}
		if n.trainer.trains.Load() != 0 {
			t.Error("it was executed")
		}
	}
	refuse(ls[1].block, ls[1].block.Time, chain.ErrOrphan)
	refuse(ls[0].block, ls[0].block.Time-w.MaxFuture-1, chain.ErrFuture)
	if _, err := n.Add(context.Background(), ls[0].block, ls[0].block.Time-w.MaxFuture, n.Arrive("")); err != nil {
		t.Errorf("as far ahead as is allowed: %v", err)
	}
	n.add(ls[1])
	n.at(ls[1])
}

func TestInvalidInTheMiddle(t *testing.T) {
	w := newWorld(t, quick)
	base, slow, fast := twoForks(w)
	bad := clone(fast[1].block)
	if bad.LossAfter++; bad.Advances() != fast[1].block.Advances() {
		bad.LossAfter -= 2
	}
	mid := w.forged(fast[0], bad)
	mid.model = fast[1].model
	top := w.mine(mid, how{after: 1})
	beside := w.mine(mid, how{after: 2})
	n := newNode(w)
	n.add(base...)
	n.add(slow...)
	n.add(fast[0], mid)
	_, err := n.try(top.block)
	if !errors.Is(err, chain.ErrInvalidParent) || chain.VerdictOf(err) != chain.Invalid {
		t.Fatalf("error is %v", err)
	}
	n.at(slow[4])
	// The verdict on the bad block may lapse; then its child must not be held up.
	if !n.remembered(bad) || n.remembered(top.block) || n.remembered(fast[0].block) {
		t.Errorf("remembered: bad %v, its child %v, its parent %v", n.remembered(bad), n.remembered(top.block), n.remembered(fast[0].block))
	}
	before := n.trainer.trains.Load()
	for kind, b := range map[chain.Kind]*chain.Block{chain.ErrLossAfter: bad, chain.ErrInvalidParent: beside.block} {
		if _, err := n.try(b); !errors.Is(err, kind) {
			t.Errorf("%v, want %v", err, kind)
		}
	}
	if n.trainer.trains.Load() != before {
		t.Error("what is known to be invalid was executed")
	}
	// The true blocks are as good as ever.
	n.add(fast[1], fast[2])
	n.at(fast[2])
}

func TestFinality(t *testing.T) {
	change := func(s *chain.Spec) { quick(s); s.FinalityDepth = 3 }
	w := newWorld(t, change)
	base := w.chainOf(w.genesis(), 2, how{})
	slow := w.chainOf(base[1], 4, how{})
	fast := w.chainOf(base[1], 4, how{after: 1}) // work of about 1, 2, 4 and 8 against 1, 1, 1 and 1
	begin := func(old []*link) *node {
		n := newNode(w)
		n.add(base...)
		n.add(old...)
		n.add(fast[:2]...)
		return n
	}
	t.Run("deep, less than twice the work", func(t *testing.T) {
		n := begin(slow)
		for range 2 {
			_, err := n.try(fast[2].block)
			if !errors.Is(err, chain.ErrFinality) || chain.VerdictOf(err) != chain.Unverified || n.remembered(fast[2].block) {
				t.Fatalf("error is %v", err)
			}
		}
		n.at(slow[3])
		n.add(fast[3]) // twice the work
		n.at(fast[3])
	})
	t.Run("syncing", func(t *testing.T) {
		n := begin(slow)
		n.SetSyncing(true)
		n.add(fast[2])
		n.at(fast[2])
	})
	t.Run("claimed work does not count", func(t *testing.T) {
		n := begin(slow)
		if _, err := n.try(fast[2].block); !errors.Is(err, chain.ErrFinality) {
			t.Fatalf("error is %v", err)
		}
		bad := clone(fast[3].block)
		bad.LossAfter++
		a, err := n.try(bad)
		if !errors.Is(err, chain.ErrLossAfter) || len(a.Verified) != 3 || a.Reverted != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
		n.at(slow[3])
		// Nor does a restart count, wherever a crash left the chain: the blocks below the forged one are verified now.
		n = open(w, n.store, chain.DefaultModelLimits)
		n.at(slow[3])
		v, err := n.store.Verified(slow[3].id())
		if err != nil {
			t.Fatal(err)
		}
		if err := n.store.Disconnect(v, slow[2].state); err != nil {
			t.Fatal(err)
		}
		n = open(w, n.store, chain.DefaultModelLimits)
		n.at(slow[3])
		n.add(fast[3]) // twice the work
		n.at(fast[3])
	})
	t.Run("not deep", func(t *testing.T) {
		some := w.chainOf(base[1], 3, how{after: 20_000}) // work of about 1, 1.6 and 2.5
		n := begin(slow[:3])
		n.add(some...)
		n.at(some[2])
	})
}

// deleteModels leaves the store without any model state.
func (n *node) deleteModels() {
	n.t.Helper()
	list, err := n.store.Models()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, m := range list {
		if err := n.store.DeleteModel(m.Root); err != nil {
			n.t.Fatal(err)
		}
	}
}

func TestModelTrainedAgain(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.MaxTaskBlocks = 4 })
	ls := w.chainOf(w.genesis(), 7, how{})
	n := newNode(w)
	n.add(ls...)
	n.deleteModels()
	n = open(w, n.store, chain.DefaultModelLimits)
	var advanced int64 // of the task in force at the tip
	for _, l := range ls[4:] {
		if l.state.Advanced {
			advanced++
		}
	}
	n.hasModel(ls[6])
	if got := n.trainer.trains.Load(); got != advanced || got == 0 {
		t.Errorf("%d trials were run again, the task has %d advancing blocks", got, advanced)
	}
	// It was saved: a restart finds it.
	n = open(w, n.store, chain.DefaultModelLimits)
	n.hasModel(ls[6])
	if n.trainer.trains.Load() != 0 {
		t.Error("the state was not saved")
	}
	for _, l := range ls {
		n.hasModel(l)
	}
	// The chain grows on from nothing but blocks.
	n.deleteModels()
	n = open(w, n.store, chain.DefaultModelLimits)
	next := w.mine(ls[6], how{})
	n.add(next)
	n.at(next)
}

// miscomputing is a trainer whose results are wrong.
type miscomputing struct{ *trainer }

func (m miscomputing) Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	got, err := m.trainer.Train(ctx, template, start, t)
	if err == nil {
		got.Root[0] ^= 1
	}
	return got, err
}

// TestWrongMachine: where blocks known to be valid give another model, this machine is at fault and no block.
func TestWrongMachine(t *testing.T) {
	w := newWorld(t, nil)
	first := w.mine(w.genesis(), how{want: advancing})
	second := w.mine(first, how{})
	n := newNode(w)
	n.add(first)
	n.deleteModels()
	m, err := chain.OpenManager(context.Background(), w.Network, n.store, miscomputing{n.trainer}, chain.DefaultModelLimits)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Add(context.Background(), second.block, second.block.Time, m.Arrive(""))
	if err == nil || chain.VerdictOf(err) != chain.Unverified || n.remembered(second.block) {
		t.Errorf("error is %v", err)
	}
}

func TestModelLimits(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.Templates[0].Model.Optimizer.LearningRate = 0.02 })
	ls := w.chainOf(w.genesis(), 15, how{want: advancing}) // snapshots at 4, 8, 12
	size := int64(len(ls[0].model.Bytes()))
	var distinct []chain.Hash // states that blocks made, newest first
	for _, l := range slices.Backward(ls) {
		distinct = append(distinct, l.state.ModelRoot)
	}
	snapshots := map[chain.Hash]bool{}
	for _, h := range []int{4, 8, 12} {
		snapshots[ls[h-1].state.ModelRoot] = true
	}
	for _, c := range []struct {
		name   string
		limits chain.ModelLimits
		recent int // of the newest distinct states that must be there
	}{
		{"all", chain.DefaultModelLimits, len(distinct)},
		{"two recent", chain.ModelLimits{Recent: 2}, 2},
		{"five recent", chain.ModelLimits{Recent: 5}, 5},
		{"none but the tip's", chain.ModelLimits{Recent: 0}, 1},
		{"no room", chain.ModelLimits{Recent: 64, MaxBytes: 1}, 1},
		{"room for five", chain.ModelLimits{Recent: 64, MaxBytes: 5*size + size/2}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := open(w, store.NewMemory(), c.limits)
			n.add(ls...)
			list, err := n.store.Models()
			if err != nil {
				t.Fatal(err)
			}
			must := map[chain.Hash]bool{}
			for _, root := range distinct[:c.recent] {
				must[root] = true
			}
			if c.limits.MaxBytes == 0 {
				for root := range snapshots {
					must[root] = true
				}
			}
			total := int64(0)
			for _, m := range list {
				total += m.Size
				delete(must, m.Root)
				if i := slices.Index(distinct, m.Root); i >= max(c.limits.Recent, 1) && !snapshots[m.Root] {
					t.Errorf("the state made at height %d, %dth newest, was kept", m.Height, i+1)
				}
			}
			if len(must) > 0 {
				t.Errorf("%d states are missing", len(must))
			}
			if most := max(c.limits.MaxBytes, size); c.limits.MaxBytes > 0 && total > most {
				t.Errorf("%d bytes are kept", total)
			}
			for _, i := range []int{0, 9, 14} { // what was deleted is trained again
				n.hasModel(ls[i])
			}
		})
	}
}

func TestLocalFault(t *testing.T) {
	w := newWorld(t, nil)
	ls := w.chainOf(w.genesis(), 3, how{})
	lost := errors.New("device lost")
	for _, again := range []string{"sent again", "by its child"} {
		t.Run(again, func(t *testing.T) {
			n := newNode(w)
			n.add(ls[0])
			n.trainer.before = func() error { return lost }
			for range 2 {
				_, err := n.try(ls[1].block)
				if !errors.Is(err, lost) || chain.VerdictOf(err) != chain.Unverified || n.remembered(ls[1].block) {
					t.Fatalf("error is %v", err)
				}
			}
			n.trainer.before = nil
			n.at(ls[0])
			if again == "sent again" {
				n.add(ls[1])
				n.at(ls[1])
			} else if a := n.add(ls[2]); a.Executed != 2 {
				t.Errorf("%+v", a)
			} else {
				n.at(ls[2])
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	n := newNode(w)
	ctx, cancel := context.WithCancel(context.Background())
	n.trainer.onStep = func(step int) error {
		if step == 10 {
			cancel()
		}
		return nil
	}
	_, err := n.Add(ctx, l.block, l.block.Time, n.Arrive(""))
	if !errors.Is(err, context.Canceled) || chain.VerdictOf(err) != chain.Unverified || n.remembered(l.block) {
		t.Fatalf("error is %v", err)
	}
	if steps := n.trainer.steps.Load(); steps != 11 {
		t.Errorf("it went on for %d steps", steps)
	}
	n.add(l)
	n.at(l)
}

// TestSideFull: forged side blocks cost a few hashes each; however many come, the best chain grows on.
func TestSideFull(t *testing.T) {
	w := newWorld(t, nil)
	g := w.genesis()
	ls := w.chainOf(g, 2, how{})
	n := newNode(w)
	n.add(ls[0])
	forged := clone(ls[0].block)
	forger := func() (chain.Added, error) {
		forged = clone(forged)
		w.grindNonce(forged, ls[0].base, true)
		return n.Add(context.Background(), forged, forged.Time, n.Arrive("forger"))
	}
	var full int
	for range chain.MaxSide + 10 {
		a, err := forger()
		switch {
		case errors.Is(err, chain.ErrSideFull) && chain.VerdictOf(err) == chain.Unverified:
			full++
		case err != nil || !a.Side:
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if full != 10 {
		t.Errorf("%d blocks were refused", full)
	}
	// Others have room, also for side blocks: the forger's make it.
	for _, from := range []string{"honest", "other", "honest"} {
		beside := w.mine(g, how{nonce: uint64(n.Arrive("").Number)}).block
		if a, err := n.Add(context.Background(), beside, beside.Time, n.Arrive(from)); err != nil || !a.Side {
			t.Errorf("%+v, %v", a, err)
		}
	}
	n.add(ls[1])
	n.at(ls[1])
	if n.trainer.trains.Load() != 2 {
		t.Errorf("%d trials were run", n.trainer.trains.Load())
	}
}

// TestConcurrentAdd has several goroutines add the blocks of three branches, each in an order of its own, until all are
// taken.
func TestConcurrentAdd(t *testing.T) {
	w := newWorld(t, quick)
	base, slow, fast := twoForks(w)
	all := slice(base, slow, fast)
	n := newNode(w)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 0))
			left := slices.Clone(all)
			for len(left) > 0 {
				r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
				left = slices.DeleteFunc(left, func(l *link) bool {
					_, err := n.Add(context.Background(), l.block, l.block.Time, n.Arrive(""))
					if err != nil && !errors.Is(err, chain.ErrOrphan) {
						t.Errorf("height %d: %v", l.block.Height, err)
					}
					return err == nil
				})
				best, _ := n.Best()
				if _, err := n.Model(context.Background(), best.ID); err != nil {
					t.Error(err)
				}
				if _, err := n.NewJob(context.Background(), best.Time); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n.at(fast[2])
}

func TestGenesisIsKnown(t *testing.T) {
	w := newWorld(t, nil)
	n := newNode(w)
	g := w.genesis().block
	if known, err := n.Precheck(g, g.Time); !known || err != nil {
		t.Errorf("Precheck: %v, %v", known, err)
	}
	if a, err := n.try(g); err != nil || !a.Known || n.remembered(g) {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestFollow asks what changed over a reorganization, and finds the fork by a locator.
func TestFollow(t *testing.T) {
	w := newWorld(t, quick)
	g := w.genesis()
	base, slow, fast := twoForks(w)
	n := newNode(w)
	n.add(slice(base, slow)...)
	old, err := n.Locator()
	if err != nil {
		t.Fatal(err)
	}
	if len(old) != 8 || old[0] != slow[4].id() || old[6] != base[0].id() || old[7] != g.id() {
		t.Errorf("locator is %v", old)
	}
	n.add(fast...)
	ids := func(vs []chain.Verified) (out []chain.Hash) {
		for _, v := range vs {
			out = append(out, v.State.ID)
		}
		return out
	}
	of := func(ls ...*link) (out []chain.Hash) {
		for _, l := range ls {
			out = append(out, l.id())
		}
		return out
	}
	for _, c := range []struct {
		since             *link
		reverted, applied []chain.Hash
	}{
		{slow[4], of(slow[4], slow[3], slow[2], slow[1], slow[0]), of(fast...)},
		{base[0], nil, of(base[1], fast[0], fast[1], fast[2])},
		{fast[2], nil, nil},
	} {
		reverted, applied, err := n.Changes(c.since.id())
		if err != nil || !slices.Equal(ids(reverted), c.reverted) || !slices.Equal(ids(applied), c.applied) {
			t.Errorf("since height %d: %v reverted, %v applied, %v", c.since.state.Height, ids(reverted), ids(applied), err)
		}
	}
	if _, _, err := n.Changes(chain.Hash{1}); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("since an unknown block: %v", err)
	}
	for _, c := range []struct {
		locator []chain.Hash
		most    int
		want    []chain.Hash
	}{
		{old, 10, of(fast...)}, // the old tip knows the fork
		{old, 2, of(fast[0], fast[1])},
		{old[len(old)-1:], 1, of(base[0])}, // genesis alone
		{of(fast[2]), 10, nil},
	} {
		blocks, err := n.After(c.locator, c.most)
		var got []chain.Hash
		for _, b := range blocks {
			got = append(got, b.Header.ID())
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("after %v: %v, %v", c.locator, got, err)
		}
	}
	for _, none := range [][]chain.Hash{nil, {{1}, {2}}} {
		if _, err := n.After(none, 10); !errors.Is(err, chain.ErrNotFound) {
			t.Errorf("after %v: %v", none, err)
		}
	}
}

func TestVerdictOf(t *testing.T) {
	for err, want := range map[error]chain.Verdict{
		nil: chain.Valid,
		&chain.InvalidError{Kind: chain.ErrTicket}:  chain.Invalid,
		&chain.InvalidError{Kind: chain.ErrVersion}: chain.Unverified,
		chain.ErrMalformed:                          chain.Invalid,
		chain.ErrOrphan:                             chain.Unverified,
		chain.ErrFuture:                             chain.Unverified,
		chain.ErrFinality:                           chain.Unverified,
		chain.ErrSideFull:                           chain.Unverified,
		chain.ErrNotFound:                           chain.Unverified,
		chain.ErrCorrupt:                            chain.Unverified,
		context.Canceled:                            chain.Unverified,
		nn.ErrNotFinite:                             chain.Unverified,
	} {
		if got := chain.VerdictOf(err); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
	for err, text := range map[*chain.InvalidError]string{
		{Kind: chain.ErrOtherGenesis}:                              "another block at height 0",
		{Kind: chain.ErrTicket, Got: "a"}:                          "ticket does not win: a",
		{Kind: chain.ErrEarlyRoot, Step: 8, Got: "ab", Want: "cd"}: "training differs at an early root after step 8: got ab, want cd",
		{Kind: chain.ErrHeight, Got: "3", Want: "4"}:               "height is not the parent's plus one: got 3, want 4",
	} {
		if err.Error() != text {
			t.Errorf("%q, want %q", err, text)
		}
	}
}
