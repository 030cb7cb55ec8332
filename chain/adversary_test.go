package chain_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
)

// The catalogue of attacks on the rules: each is done for real against an honest node, and what it cost both sides is
// counted in training steps, ticket hashes and bytes, never in time. What the network adds to it is in package node,
// selfish mining in selfish_test.go.

// arena is what all attacks begin from.
type arena struct {
	*world
	honest []*link // the victim's chain, from height 1
	next   *link   // an honest block on the last of them that the victim has not seen
	own    [2]ownBlock
}

// ownBlock is a block that the adversary mined by all rules beside next, with the steps it took.
type ownBlock struct {
	block *chain.Block
	steps int64
}

// Indices into arena.own.
const (
	advances = iota
	keeps
)

var (
	arenaOnce sync.Once
	theArena  arena
)

// newArena mines what all attacks begin from, once.
func newArena(t *testing.T) *arena {
	t.Helper()
	arenaOnce.Do(func() {
		// It learns slowly, so that blocks that advance are as easily found as those that keep.
		w := newWorld(t, func(s *chain.Spec) { s.Templates[0].Model.Optimizer.LearningRate = 0.15 })
		a := arena{world: w, honest: w.chainOf(w.genesis(), 3, how{})}
		tip := a.honest[2]
		a.next = w.mine(tip, how{want: advancing})
		for i, want := range []func(*chain.Header) bool{advancing, keeping} {
			before := w.trainer.steps.Load()
			l := w.mine(tip, how{nonce: uint64(i + 1), want: want})
			a.own[i] = ownBlock{l.block, w.trainer.steps.Load() - before}
		}
		theArena = a
	})
	if theArena.world == nil {
		t.Fatal("the chain to attack could not be mined")
	}
	a := theArena
	a.world = &world{t, a.Network, newTrainer(a.Network)}
	return &a
}

// adversary makes blocks on the victim's tip with a trainer of its own.
type adversary struct {
	*world
	*arena
	victim *node
	parent *link // the victim's tip
	base   chain.Base
	hashes int   // tickets that it computed
	before int64 // steps of the victim before the attack
}

// adversary sets up a victim, which knows what most of the chain's blocks trained, and somebody who attacks it.
func (a *arena) adversary(t *testing.T) *adversary {
	t.Helper()
	w := &world{t, a.Network, newTrainer(a.Network)}
	v := newNode(w)
	for _, l := range a.honest {
		if !l.block.Advances() {
			continue // the state that it trained is not kept: it is run
		}
		v.Remember(l.block.Claim.ID(), &chain.Execution{
			Steps: 64, EarlyRoots: l.block.EarlyRoots, Complete: true,
			LogitsDigest: l.block.LogitsDigest, TrainedRoot: l.block.TrainedRoot, LossAfter: l.block.LossAfter,
		}, l.model)
	}
	v.add(a.honest...)
	parent := a.honest[len(a.honest)-1]
	return &adversary{world: w, arena: a, victim: v, parent: parent, base: a.next.base, before: v.trainer.steps.Load()}
}

func (a *adversary) steps() int64       { return a.trainer.steps.Load() }
func (a *adversary) victimSteps() int64 { return a.victim.trainer.steps.Load() - a.before }
func (a *adversary) trialSteps() int    { return int(a.Templates[a.base.Template].TrialSteps) }

// claim is a claim on the victim's tip, one interval after it, that nobody else uses.
func (a *adversary) claim() chain.Claim {
	c := a.NextClaim(a.parent.state, a.base, a.parent.ledger, a.parent.state.Time+a.Interval)
	c.Payout = chain.Address{0xad}
	return c
}

// train trains as the trial says. The roots are those after steps 1, 2, 4, ... up to and with its last.
func (a *adversary) train(trial nn.Trial, start *nn.State) (got *nn.Trained, roots []chain.Hash) {
	a.t.Helper()
	trial.EarlyRoots = true
	got, err := a.trainer.Train(context.Background(), a.base.Template, start, trial)
	if err != nil {
		a.t.Fatal(err)
	}
	roots = got.EarlyRoots
	if n := trial.Steps; n < a.trialSteps() && n&(n-1) == 0 {
		roots = append(roots, got.Root)
	}
	return got, roots
}

// block makes a block of a claim; early roots that are missing are invented.
func (a *adversary) block(c chain.Claim, x chain.Execution) *chain.Block {
	for i := len(x.EarlyRoots); i < chain.EarlyRootCount(uint32(a.trialSteps())); i++ {
		x.EarlyRoots = append(x.EarlyRoots, chain.Hash{0xbd, byte(i)})
	}
	return chain.NewBlock(c, a.base, &x)
}

// seal makes a block consistent with itself again: its roots, and the state root by the advance-or-keep rule.
func (a *adversary) seal(b *chain.Block) *chain.Block {
	b.EarlyRoot, b.StateRoot = chain.EarlyRoot(b.EarlyRoots), a.base.Root
	if b.Advances() {
		b.StateRoot = b.TrainedRoot
	}
	return b
}

// grindUntil changes a block until its ticket wins, and seals it. Each ticket is a hash.
func (a *adversary) grindUntil(b *chain.Block, change func()) *chain.Block {
	target := a.Target(a.base, b.Difficulty)
	for a.hashes++; !chain.Wins(b.Ticket(), target); a.hashes++ {
		change()
	}
	return a.seal(b)
}

func (a *adversary) grindNonce(b *chain.Block) *chain.Block {
	return a.grindUntil(b, func() { b.Nonce++ })
}

func (a *adversary) grindTrainedRoot(b *chain.Block) *chain.Block {
	return a.grindUntil(b, func() {
		binary.LittleEndian.PutUint64(b.TrainedRoot[:], binary.LittleEndian.Uint64(b.TrainedRoot[:])+1)
	})
}

// stopAfter trains k steps and invents the rest, with a loss that advances.
func (a *adversary) stopAfter(c chain.Claim, k int) *chain.Block {
	x := chain.Execution{LossAfter: a.base.Loss - 1}
	if k > 0 {
		trial := a.Trial(a.base.Template, c.ID())
		trial.Steps = k
		_, x.EarlyRoots = a.train(trial, a.parent.model)
	}
	return a.grindTrainedRoot(a.block(c, x))
}

// mineWith mines a winning block of which only the batches, or where it starts, are not as they should be.
func (a *adversary) mineWith(start *nn.State, seed func(right [32]byte, s uint32) [32]byte) *chain.Block {
	c := a.claim()
	for ; ; c.Nonce++ {
		trial := a.Trial(a.base.Template, c.ID())
		right := trial.BatchSeed
		trial.BatchSeed = func(s uint32) [32]byte { return seed(right(s), s) }
		got, roots := a.train(trial, start)
		b := a.block(c, chain.Execution{EarlyRoots: roots, LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: a.base.Loss - 1})
		a.hashes++
		if chain.Wins(b.Ticket(), a.Target(a.base, c.Difficulty)) {
			return a.seal(b)
		}
	}
}

func rightSeed(right [32]byte, _ uint32) [32]byte { return right }

// real is a block that the adversary mined by all rules.
func (a *adversary) real(which int) *chain.Block {
	a.trainer.steps.Add(a.own[which].steps)
	return clone(a.own[which].block)
}

// report logs what an attack cost.
func (a *adversary) report(name string, err error, b *chain.Block) {
	a.t.Helper()
	refused, at := "accepted", 0
	var fault *chain.InvalidError
	switch {
	case errors.As(err, &fault):
		refused, at = string(fault.Kind), fault.Step
	case err != nil:
		for _, reason := range []error{chain.ErrOrphan, chain.ErrFuture, chain.ErrSideFull} {
			if errors.Is(err, reason) {
				err = reason
			}
		}
		refused = err.Error()
	}
	size := 0
	if b != nil {
		size = b.Size()
	}
	a.t.Logf("adversary=%q attacker_steps=%d victim_steps=%d refused=%q at=%d attacker_hashes=%d bytes=%d",
		name, a.steps(), a.victimSteps(), refused, at, a.hashes, size)
}

// withinBound holds the victim's work against what the protocol promises of one forged block: twice the training that
// was really done and one step.
func (a *adversary) withinBound() {
	a.t.Helper()
	if v, most := a.victimSteps(), 2*a.steps()+1; v > most {
		a.t.Errorf("the victim trained %d steps, at most %d are promised", v, most)
	}
}

// bounded holds what the victim keeps in memory against the limits.
func (a *adversary) bounded() {
	a.t.Helper()
	pending, executed, verdicts := a.victim.Held()
	a.t.Logf("held: %d of at most %d pending blocks, %d of %d executions, %d of %d verdicts",
		pending, chain.MaxSide, executed, chain.MaxExecuted, verdicts, chain.MaxVerdicts)
	if pending > chain.MaxSide || executed > chain.MaxExecuted || verdicts > chain.MaxVerdicts {
		a.t.Error("more is held than the limits allow")
	}
}

// refuses gives the victim a block, which must be refused for the kind at the step, cost just that many steps, and leave
// the victim as it was.
func (a *adversary) refuses(name string, b *chain.Block, kind chain.Kind, step int) {
	a.t.Helper()
	_, err := a.victim.try(b)
	a.report(name, err, b)
	var fault *chain.InvalidError
	if !errors.As(err, &fault) || fault.Kind != kind || fault.Step != step || chain.VerdictOf(err) != chain.Invalid {
		a.t.Fatalf("error is %v, want %q at step %d", err, kind, step)
	}
	if got := a.victimSteps(); got != int64(step) {
		a.t.Errorf("it cost the victim %d steps, found at step %d", got, step)
	}
	a.withinBound()
	a.victim.at(a.parent)
}

// TestAdversaryForgedBlocks: blocks that break one rule each.
func TestAdversaryForgedBlocks(t *testing.T) {
	arena := newArena(t)
	type attack struct {
		name string
		make func(a *adversary) *chain.Block
		kind chain.Kind
		step int
	}
	var attacks []attack
	add := func(name string, kind chain.Kind, step int, make func(a *adversary) *chain.Block) {
		attacks = append(attacks, attack{name, make, kind, step})
	}

	// Skipped training: found at the first power of two above what was really done.
	for _, k := range []int{0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 47, 63} {
		kind, step := chain.ErrEarlyRoot, 1
		for step <= k {
			step *= 2
		}
		if step == 64 {
			kind = chain.ErrTrainedRoot
		}
		add(fmt.Sprintf("training stopped after %d steps", k), kind, step, func(a *adversary) *chain.Block {
			return a.stopAfter(a.claim(), k)
		})
	}
	// All work done, and one thing of it misstated.
	for i := range 6 {
		add(fmt.Sprintf("early root after step %d forged", 1<<i), chain.ErrEarlyRoot, 1<<i, func(a *adversary) *chain.Block {
			b := a.real(keeps)
			flip(&b.EarlyRoots[i])
			return a.seal(b)
		})
	}
	add("trained root forged", chain.ErrTrainedRoot, 64, func(a *adversary) *chain.Block {
		b := a.real(advances)
		flip(&b.TrainedRoot)
		return a.grindTrainedRoot(b)
	})
	add("logits digest forged", chain.ErrLogitsDigest, 64, func(a *adversary) *chain.Block {
		b := a.real(advances)
		flip(&b.LogitsDigest)
		return a.grindUntil(b, func() { b.LogitsDigest[0]++ })
	})
	add("loss after stated a bit too low", chain.ErrLossAfter, 64, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.LossAfter--
		return b
	})
	add("keeping block stated to advance", chain.ErrLossAfter, 64, func(a *adversary) *chain.Block {
		b := a.real(keeps)
		b.LossAfter = b.LossBefore - 1
		return a.seal(b)
	})
	add("advancing block stated to keep", chain.ErrLossAfter, 64, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.LossAfter = b.LossBefore
		return a.seal(b)
	})
	add("loss before stated a bit too high", chain.ErrLossBefore, 0, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.LossBefore++
		return a.seal(b)
	})
	add("model advanced without a lower loss", chain.ErrStateRoot, 0, func(a *adversary) *chain.Block {
		b := a.real(keeps)
		b.StateRoot = b.TrainedRoot
		return b
	})

	// Another miner's work under one's own name.
	stolen := func() *chain.Block {
		b := clone(arena.next.block)
		b.Payout = chain.Address{0xad}
		return b
	}
	add("another's block with another payout", chain.ErrTicket, 0, func(a *adversary) *chain.Block {
		b := stolen()
		for chain.Wins(b.Ticket(), a.Target(a.base, b.Difficulty)) {
			b.Payout[19]++
		}
		return b
	})
	add("another's block with another payout, nonce ground", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		return a.grindNonce(stolen())
	})

	// One training for many claims.
	trained := func(a *adversary) *chain.Block {
		c := a.claim()
		got, roots := a.train(a.Trial(a.base.Template, c.ID()), a.parent.model)
		b := a.block(c, chain.Execution{EarlyRoots: roots, LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: a.base.Loss - 1})
		for b.Nonce++; chain.Wins(b.Ticket(), a.Target(a.base, b.Difficulty)); b.Nonce++ {
		}
		return b
	}
	add("nonce ground after training", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block { return a.grindNonce(trained(a)) })
	add("time ground after training", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		b := trained(a)
		return a.grindUntil(b, func() { b.Time++ })
	})
	add("payout ground after training", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		b := trained(a)
		return a.grindUntil(b, func() { b.Payout[18]++ })
	})

	// Chosen batches, and a chosen model to begin with.
	for _, c := range []struct {
		from uint32 // first step whose batch is chosen
		kind chain.Kind
		step int
	}{{0, chain.ErrEarlyRoot, 1}, {4, chain.ErrEarlyRoot, 8}, {20, chain.ErrEarlyRoot, 32}, {40, chain.ErrTrainedRoot, 64}} {
		add(fmt.Sprintf("batches chosen from step %d on", c.from), c.kind, c.step, func(a *adversary) *chain.Block {
			return a.mineWith(a.parent.model, func(right [32]byte, s uint32) [32]byte {
				if s >= c.from {
					return [32]byte{1}
				}
				return right
			})
		})
	}
	add("trained from the state of an older block", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		return a.mineWith(a.ModelInit(0), rightSeed)
	})

	// Old blocks and those of others.
	moved := func(a *adversary, b *chain.Block) *chain.Block {
		b = clone(b)
		c := a.claim()
		c.Payout, c.Nonce = b.Payout, b.Nonce
		b.Claim, b.LossBefore, b.LossAfter = c, a.base.Loss, a.base.Loss-1
		return b
	}
	add("old block, height alone changed", chain.ErrHeight, 0, func(a *adversary) *chain.Block {
		b := clone(a.honest[1].block)
		b.Height = a.parent.state.Height + 1
		return b
	})
	add("old block on the tip, nonce ground", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		return a.grindNonce(moved(a, a.honest[1].block))
	})
	other := newWorld(t, func(s *chain.Spec) { s.Name = "other" })
	foreign := other.mine(other.genesis(), how{}).block
	add("block of another network", chain.ErrNetwork, 0, func(*adversary) *chain.Block { return clone(foreign) })
	add("block of another network under this one's id, nonce ground", chain.ErrEarlyRoot, 1, func(a *adversary) *chain.Block {
		return a.grindNonce(moved(a, foreign))
	})
	add("another genesis", chain.ErrOtherGenesis, 0, func(a *adversary) *chain.Block {
		b := clone(a.genesis().block)
		b.Time++
		return b
	})

	// Times and difficulties. The ticket wins by what the block says of itself.
	claimed := func(a *adversary, change func(*chain.Claim)) *chain.Block {
		c := a.claim()
		change(&c)
		return a.grindTrainedRoot(a.block(c, chain.Execution{LossAfter: a.base.Loss - 1}))
	}
	add("time of the parent", chain.ErrTime, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) { c.Time = a.parent.state.Time })
	})
	add("time a day before the parent's", chain.ErrTime, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) { c.Time = a.parent.state.Time - 86_400_000 })
	})
	add("difficulty halved", chain.ErrDifficulty, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) { c.Difficulty.Lo /= 2 })
	})
	add("difficulty higher by one", chain.ErrDifficulty, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) { c.Difficulty.Lo++ })
	})
	add("difficulty a thousand times higher", chain.ErrDifficulty, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) { c.Difficulty.Lo *= 1000 })
	})

	// What no block may hold.
	add("a transaction", chain.ErrTransaction, 0, func(a *adversary) *chain.Block {
		b := a.block(a.claim(), chain.Execution{LossAfter: a.base.Loss - 1})
		b.Transactions = [][]byte{{1}}
		b.TxRoot = chain.TxRoot(b.Transactions)
		return a.grindTrainedRoot(b)
	})
	add("a ledger that pays the adversary", chain.ErrLedgerRoot, 0, func(a *adversary) *chain.Block {
		return claimed(a, func(c *chain.Claim) {
			c.LedgerRoot = a.parent.ledger.Set(c.Payout, chain.Account{Balance: 1 << 40}).Root()
		})
	})
	add("early roots too many", chain.ErrEarlyRoots, 0, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.EarlyRoots = append(b.EarlyRoots, b.TrainedRoot)
		return a.seal(b)
	})
	add("too many bytes", chain.ErrTooLarge, 0, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.EarlyRoots = make([]chain.Hash, int(a.MaxBlockBytes)/32)
		return a.seal(b)
	})
	add("loss that is no number", chain.ErrLossValue, 0, func(a *adversary) *chain.Block {
		b := a.real(advances)
		b.LossAfter = math.Float32bits(float32(math.NaN()))
		return b
	})

	for _, c := range attacks {
		t.Run(c.name, func(t *testing.T) {
			a := arena.adversary(t)
			a.refuses(c.name, c.make(a), c.kind, c.step)
			a.victim.add(arena.next) // and the honest block is as good as ever
			a.victim.at(arena.next)
		})
	}
}

// TestAdversaryGroundFlood: one training under thousands of nonces. Each block costs its verifier one step, and the
// adversary the hashes of a winning ticket.
func TestAdversaryGroundFlood(t *testing.T) {
	arena := newArena(t)
	a := arena.adversary(t)
	const blocks = chain.MaxVerdicts + 100
	b := a.block(a.claim(), chain.Execution{LossAfter: a.base.Loss - 1})
	got, roots := a.train(a.Trial(a.base.Template, b.Claim.ID()), a.parent.model)
	b.EarlyRoots, b.TrainedRoot, b.LogitsDigest = roots, got.Root, got.LogitsDigest
	var last error
	for range blocks {
		b = clone(b)
		b.Nonce++
		a.grindNonce(b)
		if _, last = a.victim.try(b); !errors.Is(last, chain.ErrEarlyRoot) {
			t.Fatal(last)
		}
	}
	a.report(fmt.Sprintf("%d nonces for one training", blocks), last, b)
	if got := a.victimSteps(); got != blocks {
		t.Errorf("%d steps, want one for each block", got)
	}
	if a.hashes < 4*blocks { // on average 8: the floor of the difficulty
		t.Errorf("the adversary computed %d tickets", a.hashes)
	}
	a.bounded()
	a.victim.at(a.parent)
	a.victim.add(arena.next)
	a.victim.at(arena.next)
}

// TestAdversaryReplay: the same block again, and again from another peer, costs nothing.
func TestAdversaryReplay(t *testing.T) {
	arena := newArena(t)
	a := arena.adversary(t)
	for _, l := range arena.honest {
		for range 10 {
			if added, err := a.victim.try(clone(l.block)); err != nil || !added.Known {
				t.Fatalf("%+v, %v", added, err)
			}
			if known, err := a.victim.Precheck(l.block, l.block.Time); err != nil || !known {
				t.Fatalf("Precheck: %v, %v", known, err)
			}
		}
	}
	a.report("blocks of the chain again", nil, arena.next.block)
	if a.victimSteps() != 0 {
		t.Errorf("%d steps", a.victimSteps())
	}
	a.victim.at(a.parent)
}

// TestAdversaryFuture: a block from the future is not judged, not remembered and not trained, and is good when its time
// has come; what else is wrong with it shows then.
func TestAdversaryFuture(t *testing.T) {
	arena := newArena(t)
	a := arena.adversary(t)
	good := a.mine(a.parent, how{after: 10 * a.Interval})
	forged := a.stopAfter(a.claim(), 0)
	forged.Time += 9 * a.Interval
	a.grindTrainedRoot(forged)
	var err error
	for _, b := range []*chain.Block{good.block, forged} {
		for _, early := range []uint64{a.MaxFuture + 1, 5 * a.Interval} {
			_, err = a.victim.Add(context.Background(), b, b.Time-early, a.victim.Arrive("peer"))
			if !errors.Is(err, chain.ErrFuture) || chain.VerdictOf(err) != chain.Unverified || a.victim.remembered(b) {
				t.Fatalf("%d ms early: %v", early, err)
			}
		}
	}
	a.report("block from the future", err, good.block)
	if pending, _, _ := a.victim.Held(); a.victimSteps() != 0 || pending != 0 {
		t.Errorf("%d steps, %d pending blocks", a.victimSteps(), pending)
	}
	if _, err := a.victim.try(forged); !errors.Is(err, chain.ErrEarlyRoot) {
		t.Errorf("the forged one in time: %v", err)
	}
	a.victim.add(good)
	a.victim.at(good)
	a.report("block from the future, when its time has come", nil, good.block)
}

// TestAdversaryEquivocation: many outcomes of one claim.
func TestAdversaryEquivocation(t *testing.T) {
	arena := newArena(t)
	t.Run("altered copies of a true block", func(t *testing.T) {
		a := arena.adversary(t)
		l := a.mine(a.parent, how{})
		var err error
		var b *chain.Block
		const copies = 50
		for i := range uint32(copies) {
			b = clone(l.block)
			b.LossAfter -= i + 1
			if _, err = a.victim.try(a.seal(b)); !errors.Is(err, chain.ErrLossAfter) {
				t.Fatalf("copy %d: %v", i, err)
			}
		}
		a.report(fmt.Sprintf("%d altered copies of one block", copies), err, b)
		if added, err := a.victim.try(l.block); err != nil || added.Executed != 0 {
			t.Errorf("the true block behind them: %+v, %v", added, err)
		}
		if a.victimSteps() != 64 {
			t.Errorf("%d steps, want those of one trial", a.victimSteps())
		}
		a.withinBound()
		a.victim.at(l)
	})
	t.Run("altered copy of a block that was accepted", func(t *testing.T) {
		a := arena.adversary(t)
		a.victim.add(arena.next)
		a.before = a.victim.trainer.steps.Load()
		b := clone(arena.next.block)
		b.LossAfter--
		_, err := a.victim.try(b)
		a.report("altered copy of the tip", err, b)
		if !errors.Is(err, chain.ErrLossAfter) || a.victimSteps() != 0 {
			t.Errorf("%v, %d steps", err, a.victimSteps())
		}
		a.victim.at(arena.next)
	})
	t.Run("two true blocks of one miner", func(t *testing.T) {
		a := arena.adversary(t)
		first, second := a.mine(a.parent, how{}), a.mine(a.parent, how{nonce: 1})
		a.victim.add(first)
		added, err := a.victim.try(second.block)
		a.report("two true blocks at one height", err, second.block)
		if err != nil || !added.Side || a.victimSteps() != 64 {
			t.Errorf("%+v, %v, %d steps", added, err, a.victimSteps())
		}
		a.victim.at(first)
	})
	t.Run("a lie one early root later each", func(t *testing.T) {
		// One training of half a trial pays for a block that is found out at each power of two. Every block is within the
		// bound; all blocks of a claim together are within twice of it.
		a := arena.adversary(t)
		c := a.claim()
		trial := a.Trial(a.base.Template, c.ID())
		trial.Steps = 32
		_, roots := a.train(trial, a.parent.model)
		var err error
		var b *chain.Block
		for n := range len(roots) + 1 {
			at := int64(1) << n
			before := a.victimSteps()
			b = a.grindTrainedRoot(a.block(c, chain.Execution{EarlyRoots: slices.Clone(roots[:n]), LossAfter: a.base.Loss - 1}))
			_, err = a.victim.try(b)
			if chain.VerdictOf(err) != chain.Invalid || a.victimSteps()-before != at {
				t.Fatalf("%v, %d steps, want %d", err, a.victimSteps()-before, at)
			}
			for range 3 { // the same lie about the same claim is free
				b = clone(b)
				b.TrainedRoot[31]++
				if _, err = a.victim.try(a.grindTrainedRoot(b)); chain.VerdictOf(err) != chain.Invalid || a.victimSteps()-before != at {
					t.Fatalf("again: %v, %d steps, want %d", err, a.victimSteps()-before, at)
				}
			}
		}
		a.report("one claim, found out later each time", err, b)
		if v, most := a.victimSteps(), 4*a.steps(); v >= most {
			t.Errorf("%d steps, want less than %d", v, most)
		}
		a.victim.add(arena.next)
		a.victim.at(arena.next)
	})
}

// TestAdversaryMangledBody: good headers with wrong bodies cost nothing and do not keep the true block out.
func TestAdversaryMangledBody(t *testing.T) {
	arena := newArena(t)
	a := arena.adversary(t)
	for _, c := range []struct {
		name   string
		mangle func(*chain.Block)
	}{
		{"early root changed", func(b *chain.Block) { flip(&b.EarlyRoots[5]) }},
		{"early roots swapped", func(b *chain.Block) { slices.Reverse(b.EarlyRoots) }},
		{"early roots left out", func(b *chain.Block) { b.EarlyRoots = nil }},
		{"transaction added", func(b *chain.Block) { b.Transactions = [][]byte{{1, 2}} }},
		{"empty transaction", func(b *chain.Block) { b.Transactions = [][]byte{{}} }},
		{"many transactions", func(b *chain.Block) { b.Transactions = make([][]byte, 1000) }},
		{"body beyond the limits", func(b *chain.Block) { b.Transactions = [][]byte{make([]byte, 50_000)} }},
	} {
		b := clone(arena.next.block)
		c.mangle(b)
		_, err := a.victim.try(b)
		a.report("mangled body: "+c.name, err, b)
		if chain.VerdictOf(err) != chain.Invalid || a.victim.remembered(b) || b.Header.ID() != arena.next.id() {
			t.Errorf("%s: %v, remembered %v", c.name, err, a.victim.remembered(b))
		}
	}
	if a.victimSteps() != 0 {
		t.Errorf("%d steps", a.victimSteps())
	}
	if added := a.victim.add(arena.next); added.Executed != 1 {
		t.Errorf("%+v", added)
	}
	a.victim.at(arena.next)
}

// TestAdversaryEncodings: no two byte strings are one block, and lengths that are lies cost no memory.
func TestAdversaryEncodings(t *testing.T) {
	arena := newArena(t)
	a := arena.adversary(t)
	good := arena.next.block.Bytes()
	id := arena.next.id()
	var variants, malformed, sameID int
	look := func(in []byte) {
		t.Helper()
		variants++
		b, err := chain.ParseBlock(in)
		if err != nil {
			if !errors.Is(err, chain.ErrMalformed) {
				t.Fatalf("error is %v", err)
			}
			malformed++
			return
		}
		if !bytes.Equal(b.Bytes(), in) {
			t.Fatalf("%d bytes are read as a block that is written in another way", len(in))
		}
		if b.Header.ID() != id {
			return
		}
		sameID++
		if _, err := a.victim.try(b); chain.VerdictOf(err) != chain.Invalid || a.victim.remembered(b) {
			t.Fatalf("another body under the id: %v, remembered %v", err, a.victim.remembered(b))
		}
	}
	for i := range good {
		for _, x := range []byte{1, 0x80, 0xff} {
			v := slices.Clone(good)
			v[i] ^= x
			look(v)
		}
		look(slices.Delete(slices.Clone(good), i, i+1))
		look(slices.Insert(slices.Clone(good), i, good[i]))
		look(good[:i])
	}
	for _, tail := range [][]byte{{0}, {0, 0, 0, 0}, make([]byte, 32), good[:chain.HeaderSize], good, make([]byte, chain.MaxBlockBytes)} {
		look(slices.Concat(good, tail))
	}
	// Counts and lengths up to 4 Gi, with nothing behind them.
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []uint32{7, 1 << 16, 1 << 28, math.MaxUint32} {
		look(slices.Concat(good[:chain.HeaderSize], u32(n), good[chain.HeaderSize+4:]))
		look(slices.Concat(good[:len(good)-4], u32(n)))
		look(slices.Concat(good[:len(good)-4], u32(1), u32(n)))
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("overlong lengths took %d bytes", got)
	}
	t.Logf("adversary=%q attacker_steps=0 victim_steps=%d refused=%q at=0 variants=%d malformed=%d other_body=%d other_header=%d bytes=%d",
		"re-encoded and overlong blocks", a.victimSteps(), chain.ErrMalformed, variants, malformed, sameID, variants-malformed-sameID, len(good))
	if malformed == 0 || sameID == 0 || a.victimSteps() != 0 {
		t.Errorf("%d malformed, %d with the same header, %d steps", malformed, sameID, a.victimSteps())
	}
	a.victim.add(arena.next)
	a.victim.at(arena.next)
}

// TestAdversaryFloods: whatever comes in whatever number, memory is bounded and the chain grows on.
func TestAdversaryFloods(t *testing.T) {
	arena := newArena(t)
	const more = 100
	check := func(t *testing.T, a *adversary, name string, n int, err error, b *chain.Block) {
		t.Helper()
		a.report(fmt.Sprintf("%d %s", n, name), err, b)
		a.bounded()
		a.victim.at(a.parent)
		a.victim.add(arena.next)
		a.victim.at(arena.next)
	}
	t.Run("orphans", func(t *testing.T) {
		a := arena.adversary(t)
		const n = 2000
		var err error
		b := a.block(a.claim(), chain.Execution{LossAfter: a.base.Loss - 1})
		for i := range uint64(n) {
			b = clone(b)
			binary.LittleEndian.PutUint64(b.Parent[:], i)
			if _, err = a.victim.try(b); !errors.Is(err, chain.ErrOrphan) || a.victim.remembered(b) {
				t.Fatal(err)
			}
		}
		if pending, executed, verdicts := a.victim.Held(); pending+executed+verdicts != 3 { // the executions of the honest chain
			t.Errorf("kept: %d pending, %d executions, %d verdicts", pending, executed, verdicts)
		}
		check(t, a, "orphans", n, err, b)
		if a.victimSteps() != 64 { // those of the honest block
			t.Errorf("%d steps", a.victimSteps())
		}
	})
	t.Run("side blocks of many senders", func(t *testing.T) {
		a := arena.adversary(t)
		const n = chain.MaxSide + more
		side := a.honest[2]
		a.base = side.base
		b := clone(side.block)
		var kept int
		for i := range n {
			b = clone(b)
			b.Nonce++
			a.grindNonce(b)
			added, err := a.victim.Add(context.Background(), b, b.Time, a.victim.Arrive(fmt.Sprint("sybil", i%500)))
			switch {
			case err == nil && added.Side:
				kept++
			case !errors.Is(err, chain.ErrSideFull):
				t.Fatalf("%+v, %v", added, err)
			}
		}
		if kept < chain.MaxSide || a.victimSteps() != 0 {
			t.Errorf("%d were kept, %d steps", kept, a.victimSteps())
		}
		check(t, a, "forged side blocks", n, chain.ErrSideFull, b)
	})
	t.Run("headers that are wrong at sight", func(t *testing.T) {
		a := arena.adversary(t)
		const n = store.MaxInvalid + more
		var ids []chain.Hash
		b := clone(arena.next.block)
		flip(&b.Network)
		var err error
		for range n {
			b = clone(b)
			b.Nonce++
			if _, err = a.victim.try(b); !errors.Is(err, chain.ErrNetwork) {
				t.Fatal(err)
			}
			ids = append(ids, b.Header.ID())
		}
		remembered := 0
		for _, id := range ids {
			if _, err := a.victim.store.Invalid(id); err == nil {
				remembered++
			}
		}
		t.Logf("remembered: %d of at most %d ids", remembered, store.MaxInvalid)
		if remembered > store.MaxInvalid {
			t.Errorf("%d ids are remembered", remembered)
		}
		check(t, a, "headers of another network", n, err, b)
	})
}

// TestAdversaryForgedBranch: a branch of forged headers that claims more work than the best chain is given up at its first
// step, with all that stands on it.
func TestAdversaryForgedBranch(t *testing.T) {
	w := newWorld(t, quick)
	honest := w.chainOf(w.genesis(), 3, how{})
	arena := &arena{world: w, honest: honest, next: w.mine(honest[2], how{})}
	a := arena.adversary(t)
	fork := honest[0]
	l := fork
	var last error
	n := 0
	for ; last == nil; n++ {
		if n > 100 {
			t.Fatal("the branch never claims more work")
		}
		base, err := a.Base(l.state, a.start)
		if err != nil {
			t.Fatal(err)
		}
		a.base = base
		c := a.NextClaim(l.state, base, l.ledger, l.state.Time+1)
		l = a.forged(l, a.grindTrainedRoot(a.block(c, chain.Execution{LossAfter: base.Loss - 1})))
		_, last = a.victim.try(l.block)
	}
	a.report(fmt.Sprintf("branch of %d forged headers", n), last, l.block)
	if !errors.Is(last, chain.ErrInvalidParent) || a.victimSteps() != 1 {
		t.Errorf("%v, %d steps", last, a.victimSteps())
	}
	if pending, _, _ := a.victim.Held(); pending != 0 {
		t.Errorf("%d of its blocks are kept", pending)
	}
	a.withinBound()
	a.victim.at(a.parent)
	a.victim.add(arena.next)
	a.victim.at(arena.next)
}

// reading is a store that counts the blocks that are read.
type reading struct {
	*store.Memory
	blocks atomic.Int64
}

func (r *reading) Verified(id chain.Hash) (chain.Verified, error) {
	r.blocks.Add(1)
	return r.Memory.Verified(id)
}

// TestAdversaryDeepSideBlocks: a forged block beside the chain costs the same few reads however deep its parent is, and
// trains nothing. The ledger after the parent, for which the blocks down to it are read, is found when the branch is
// executed, once.
func TestAdversaryDeepSideBlocks(t *testing.T) {
	const length = 300
	f := newField(t)
	s := &reading{Memory: store.NewMemory()}
	m := f.managerOn(s)
	for i := range length {
		f.make(f.links[i], i+1)
		m.arrive(i + 1)
	}
	tip := m.tip()
	for _, depth := range []int{1, 10, 100, 299} {
		b := clone(f.links[tip-depth+1].block)
		base, err := f.net.Base(f.links[tip-depth].state, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, Network: f.net}
		w.grindNonce(b, base, true)
		before := s.blocks.Load()
		added, err := m.Add(context.Background(), b, b.Time, m.Arrive("peer"))
		reads := s.blocks.Load() - before
		t.Logf("adversary=%q attacker_steps=0 victim_steps=0 refused=%q at=0 depth=%d block_reads=%d bytes=%d",
			"forged block beside the chain", "kept aside", depth, reads, b.Size())
		if err != nil || !added.Side || added.Executed != 0 {
			t.Errorf("%+v, %v", added, err)
		}
		if most := int64(2); reads > most {
			t.Errorf("%d blocks deep: %d blocks were read, allowed are %d", depth, reads, most)
		}
		if m.tip() != tip {
			t.Error("the tip has changed")
		}
	}
	// A branch with more work and a forged ledger in its first block is given up whole.
	const depth = 100
	forged := clone(f.links[tip-depth+1].block)
	forged.LedgerRoot[0] ^= 1
	base, err := f.net.Base(f.links[tip-depth].state, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, Network: f.net}
	w.grindNonce(forged, base, true)
	l := w.forged(f.links[tip-depth], forged)
	ids := []chain.Hash{l.id()}
	for err == nil {
		before := s.blocks.Load()
		_, err = m.Add(context.Background(), l.block, l.block.Time, m.Arrive("peer"))
		reads := s.blocks.Load() - before
		switch {
		case err == nil && reads > 2:
			t.Errorf("height %d: %d blocks were read", l.state.Height, reads)
		case err != nil:
			t.Logf("adversary=%q attacker_steps=0 victim_steps=0 refused=%q at=0 depth=%d block_reads=%d bytes=%d",
				"branch on a forged ledger", err, depth, reads, l.block.Size())
			if !errors.Is(err, chain.ErrInvalidParent) || reads > 5*depth || m.tip() != tip || len(ids) != depth+1 {
				t.Errorf("%v, %d blocks were read, the tip is %d, after %d blocks", err, reads, m.tip(), len(ids))
			}
			if _, err := s.Invalid(ids[0]); err != nil {
				t.Errorf("the forged block is not remembered: %v", err)
			}
		default:
			f.make(l, len(f.links))
			l = f.links[len(f.links)-1]
			ids = append(ids, l.id())
		}
	}
	if pending, _, _ := m.Held(); pending != 4 { // those above
		t.Errorf("%d blocks are kept", pending)
	}
}

// TestAdversaryOldFork: a forged branch on a block whose model state is not kept any more. Its first block is found out at
// its first step, but to run that the victim must train again the advancing blocks since the last state that it keeps. So
// here, and only here, a forgery that took no training costs more than a step: up to the trials of a snapshot interval,
// once for each block that is forked from.
func TestAdversaryOldFork(t *testing.T) {
	const forkHeight = 5
	w := newWorld(t, func(s *chain.Spec) {
		quick(s)
		s.SnapshotInterval = forkHeight + 1
		s.Templates[0].Model.Optimizer.LearningRate = 0.02
	})
	honest := w.chainOf(w.genesis(), 10, how{want: advancing})
	v := open(w, store.NewMemory(), chain.ModelLimits{Recent: 1})
	v.add(honest...)
	a := &adversary{
		world: &world{t, w.Network, newTrainer(w.Network)}, victim: v, parent: honest[len(honest)-1],
		before: v.trainer.steps.Load(),
	}
	branch := func(first uint64) (n int, last *chain.Block, err error) {
		l := honest[forkHeight-1]
		for ; err == nil && n < 100; n++ {
			base, berr := a.Base(l.state, a.start)
			if berr != nil {
				t.Fatal(berr)
			}
			a.base = base
			c := a.NextClaim(l.state, base, l.ledger, l.state.Time+first+uint64(n))
			l = a.forged(l, a.grindTrainedRoot(a.block(c, chain.Execution{LossAfter: base.Loss - 1})))
			_, err = a.victim.try(l.block)
		}
		return n, l.block, err
	}
	n, b, err := branch(1)
	a.report(fmt.Sprintf("branch of %d forged headers on an old block", n), err, b)
	again := int64(a.trialSteps()) * forkHeight // all since genesis, which is the last state kept
	if !errors.Is(err, chain.ErrInvalidParent) || a.victimSteps() != again+1 {
		t.Errorf("%v, %d steps, want %d", err, a.victimSteps(), again+1)
	}
	// Another one on the same block finds the state.
	if n, b, err = branch(50); !errors.Is(err, chain.ErrInvalidParent) || a.victimSteps() != again+2 {
		t.Errorf("the second: %v, %d steps, want %d", err, a.victimSteps(), again+2)
	}
	a.report(fmt.Sprintf("second branch of %d forged headers on it", n), err, b)
	a.victim.at(a.parent)
}
