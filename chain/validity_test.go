package chain_test

import (
	"context"
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
)

// corruption is one fault in a good block, and what must come of it.
type corruption struct {
	name   string
	of     *link
	change func(b *chain.Block)
	kind   error // an InvalidError's kind, or a reason why it is not judged
	step   int   // training step at which it must show
	forget bool  // the id must not be remembered
}

// trainingKinds are the faults that only training shows.
var trainingKinds = []error{chain.ErrEarlyRoot, chain.ErrTrainedRoot, chain.ErrLogitsDigest, chain.ErrLossAfter, chain.ErrDiverged}

func TestValidity(t *testing.T) {
	w := newWorld(t, nil)
	parents := w.chainOf(w.genesis(), 3, how{})
	parent := parents[2]
	up, keep := w.mine(parent, how{want: advancing}), w.mine(parent, how{want: keeping})
	base := up.base
	roots := func(b *chain.Block) { b.EarlyRoot = chain.EarlyRoot(b.EarlyRoots) }
	loss := func(x uint32) func(*chain.Block) { return func(b *chain.Block) { b.LossAfter = x } }
	before := func(x uint32) func(*chain.Block) { return func(b *chain.Block) { b.LossBefore = x } }
	nan := math.Float32bits(float32(math.NaN()))

	cases := []corruption{
		{"version 2", up, func(b *chain.Block) { b.Version = 2 }, chain.ErrVersion, 0, true},
		{"version 0", up, func(b *chain.Block) { b.Version = 0 }, chain.ErrMalformed, 0, true},
		{"network", up, func(b *chain.Block) { flip(&b.Network) }, chain.ErrNetwork, 0, false},
		{"height 0", up, func(b *chain.Block) { b.Height = 0 }, chain.ErrOtherGenesis, 0, false},
		{"height too great", up, func(b *chain.Block) { b.Height++ }, chain.ErrHeight, 0, false},
		{"height too small", up, func(b *chain.Block) { b.Height-- }, chain.ErrHeight, 0, false},
		{"parent not known", up, func(b *chain.Block) { flip(&b.Parent) }, chain.ErrOrphan, 0, true},
		{"parent another block", up, func(b *chain.Block) { b.Parent = parents[1].id() }, chain.ErrHeight, 0, false},
		{"time of the parent", up, func(b *chain.Block) { b.Time = parent.state.Time }, chain.ErrTime, 0, false},
		{"time before the parent's", up, func(b *chain.Block) { b.Time = 1 }, chain.ErrTime, 0, false},
		{"difficulty too great", up, func(b *chain.Block) { b.Difficulty.Lo++ }, chain.ErrDifficulty, 0, false},
		{"difficulty too small", up, func(b *chain.Block) { b.Difficulty.Lo-- }, chain.ErrDifficulty, 0, false},
		{"difficulty huge", up, func(b *chain.Block) { b.Difficulty.Hi = 1 << 63 }, chain.ErrDifficulty, 0, false},
		{"difficulty zero", up, func(b *chain.Block) { b.Difficulty = chain.Uint128{} }, chain.ErrDifficulty, 0, false},
		{"next task", up, func(b *chain.Block) { b.Task = w.TaskID(1) }, chain.ErrTask, 0, false},
		{"tx root", up, func(b *chain.Block) { flip(&b.TxRoot) }, chain.ErrTxRoot, 0, true},
		{"transactions in the body", up, func(b *chain.Block) { b.Transactions = [][]byte{{1}} }, chain.ErrTxRoot, 0, true},
		{"transactions", up, func(b *chain.Block) {
			b.Transactions = [][]byte{{1}}
			b.TxRoot = chain.TxRoot(b.Transactions)
			w.grindNonce(b, base, true)
		}, chain.ErrTransaction, 0, false},
		{"too many transactions", up, func(b *chain.Block) {
			b.Transactions = make([][]byte, 3)
			b.TxRoot = chain.TxRoot(b.Transactions)
		}, chain.ErrTooLarge, 0, true},
		{"too many bytes", up, func(b *chain.Block) {
			b.Transactions = [][]byte{make([]byte, int(w.MaxBlockBytes)-up.block.Size()-3)}
			b.TxRoot = chain.TxRoot(b.Transactions)
		}, chain.ErrTooLarge, 0, true},
		{"ledger root", up, func(b *chain.Block) { w.grind(b, base, &b.LedgerRoot, true) }, chain.ErrLedgerRoot, 0, false},
		{"ledger root after the reward", up, func(b *chain.Block) {
			b.LedgerRoot = up.ledger.Root()
			w.grindNonce(b, base, true)
		}, chain.ErrLedgerRoot, 0, false},
		{"nonce", up, func(b *chain.Block) { w.grindNonce(b, base, false) }, chain.ErrTicket, 0, false},
		{"nonce with a winning ticket", up, func(b *chain.Block) { w.grindNonce(b, base, true) }, chain.ErrEarlyRoot, 1, false},
		{"payout", up, func(b *chain.Block) {
			for chain.Wins(b.Ticket(), w.Target(base, b.Difficulty)) {
				b.Payout[0]++
			}
		}, chain.ErrTicket, 0, false},
		{"payout of another miner", up, func(b *chain.Block) {
			b.Payout = chain.Address{66}
			w.grindNonce(b, base, true)
		}, chain.ErrEarlyRoot, 1, false},
		{"early root in the header", up, func(b *chain.Block) { flip(&b.EarlyRoot) }, chain.ErrEarlyRoots, 0, true},
		{"early root in the body", up, func(b *chain.Block) { flip(&b.EarlyRoots[2]) }, chain.ErrEarlyRoots, 0, true},
		{"early root missing in the body", up, func(b *chain.Block) { b.EarlyRoots = b.EarlyRoots[1:] }, chain.ErrEarlyRoots, 0, true},
		{"no early roots", up, func(b *chain.Block) { b.EarlyRoots = nil; roots(b) }, chain.ErrEarlyRoots, 0, true},
		{"early root too few", up, func(b *chain.Block) { b.EarlyRoots = b.EarlyRoots[:5]; roots(b) }, chain.ErrEarlyRoots, 0, true},
		{"early root too many", up, func(b *chain.Block) {
			b.EarlyRoots = append(b.EarlyRoots, b.TrainedRoot)
			roots(b)
		}, chain.ErrEarlyRoots, 0, true},
		{"trained root", keep, func(b *chain.Block) { w.grind(b, base, &b.TrainedRoot, false) }, chain.ErrTicket, 0, false},
		{"trained root with a winning ticket", keep, func(b *chain.Block) { w.grind(b, base, &b.TrainedRoot, true) }, chain.ErrTrainedRoot, 64, false},
		{"trained root that advances", up, func(b *chain.Block) {
			w.grind(b, base, &b.TrainedRoot, true)
			b.StateRoot = b.TrainedRoot
		}, chain.ErrTrainedRoot, 64, false},
		{"logits digest", up, func(b *chain.Block) { w.grind(b, base, &b.LogitsDigest, false) }, chain.ErrTicket, 0, false},
		{"logits digest with a winning ticket", up, func(b *chain.Block) { w.grind(b, base, &b.LogitsDigest, true) }, chain.ErrLogitsDigest, 64, false},
		{"state root", up, func(b *chain.Block) { flip(&b.StateRoot) }, chain.ErrStateRoot, 0, false},
		{"keeps though the loss fell", up, func(b *chain.Block) { b.StateRoot = base.Root }, chain.ErrStateRoot, 0, false},
		{"advances though the loss did not fall", keep, func(b *chain.Block) { b.StateRoot = b.TrainedRoot }, chain.ErrStateRoot, 0, false},
		{"loss before off by a bit", up, func(b *chain.Block) { b.LossBefore++ }, chain.ErrLossBefore, 0, false},
		{"loss before of zero", keep, before(0), chain.ErrLossBefore, 0, false},
		{"loss before NaN", up, before(nan), chain.ErrLossValue, 0, false},
		{"loss before infinite", up, before(bits(math.Inf(1))), chain.ErrLossValue, 0, false},
		{"loss before -0", up, before(1 << 31), chain.ErrLossValue, 0, false},
		{"loss after NaN", up, loss(nan), chain.ErrLossValue, 0, false},
		{"loss after another NaN", up, loss(0x7f800001), chain.ErrLossValue, 0, false},
		{"loss after infinite", keep, loss(bits(math.Inf(1))), chain.ErrLossValue, 0, false},
		{"loss after -infinite", up, loss(bits(math.Inf(-1))), chain.ErrLossValue, 0, false},
		{"loss after -0", up, loss(1 << 31), chain.ErrLossValue, 0, false},
		{"loss after negative", up, loss(bits(-1)), chain.ErrLossValue, 0, false},
		{"loss after a bit less", up, loss(up.block.LossAfter - 1), chain.ErrLossAfter, 64, false},
		{"loss after of zero", up, loss(0), chain.ErrLossAfter, 64, false},
		{"loss after a bit more", keep, loss(keep.block.LossAfter + 1), chain.ErrLossAfter, 64, false},
		{"loss after that advances", keep, func(b *chain.Block) {
			b.LossAfter, b.StateRoot = b.LossBefore-1, b.TrainedRoot
		}, chain.ErrLossAfter, 64, false},
		{"loss after that keeps", up, func(b *chain.Block) {
			b.LossAfter, b.StateRoot = b.LossBefore, base.Root
		}, chain.ErrLossAfter, 64, false},
	}
	for i := range up.block.EarlyRoots {
		cases = append(cases, corruption{"early root", up, func(b *chain.Block) { flip(&b.EarlyRoots[i]); roots(b) }, chain.ErrEarlyRoot, 1 << i, false})
	}

	produced := map[error]bool{chain.ErrInvalidParent: false, chain.ErrDiverged: false}
	alone := map[string]bool{} // fields of the header that one case changes by itself
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := clone(c.of.block)
			c.change(b)
			names, got := leaves(reflect.ValueOf(&b.Header).Elem(), "")
			_, was := leaves(reflect.ValueOf(&c.of.block.Header).Elem(), "")
			var changed []string
			for i := range got {
				if !got[i].Equal(was[i]) {
					changed = append(changed, names[i])
				}
			}
			if len(changed) == 1 {
				alone[changed[0]] = true
			}
			n := newNode(w)
			n.add(parents...)
			checkRefused(t, n, b, c)
			produced[c.kind] = true
			n.at(parent)
			n.add(c.of) // the good block is accepted afterwards
			n.at(c.of)
		})
	}
	for _, c := range []struct {
		name   string
		change func(*chain.Block)
		kind   error
		forget bool // the child: the verdict on its parent may lapse
	}{
		{"parent invalid", func(b *chain.Block) { b.LossBefore++ }, chain.ErrLossBefore, false},
		{"parent invalid by training", func(b *chain.Block) { b.LossAfter-- }, chain.ErrLossAfter, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := clone(up.block)
			c.change(bad)
			child := w.mine(&link{block: bad, state: w.forged(parent, bad).state, ledger: up.ledger, model: up.model}, how{}).block
			n := newNode(w)
			n.add(parents...)
			if _, err := n.try(bad); !errors.Is(err, c.kind) {
				t.Fatal(err)
			}
			checkRefused(t, n, child, corruption{kind: chain.ErrInvalidParent, forget: c.forget})
			produced[chain.ErrInvalidParent] = true
			n.at(parent)
		})
	}
	t.Run("diverges", func(t *testing.T) {
		testDiverged(t)
		produced[chain.ErrDiverged] = true
	})

	for name, text := range constants(t, "errors.go", "Err") {
		if !produced[chain.Kind(text)] {
			t.Errorf("no case gives %s", name)
		}
	}
	names, _ := leaves(reflect.ValueOf(&up.block.Header).Elem(), "")
	for _, name := range names {
		if !alone[name] {
			t.Errorf("no case changes %s alone", name)
		}
	}
}

// checkRefused adds a bad block, twice.
func checkRefused(t *testing.T, n *node, b *chain.Block, c corruption) {
	t.Helper()
	var kind chain.Kind
	isKind := errors.As(c.kind, &kind)
	verdict := chain.Invalid
	if !isKind || errors.Is(c.kind, chain.ErrVersion) {
		verdict = chain.Unverified
	}
	_, err := n.Precheck(b, b.Time)
	if slices.Contains(trainingKinds, c.kind) {
		if err != nil {
			t.Errorf("Precheck: %v", err)
		}
	} else if !errors.Is(err, c.kind) || chain.VerdictOf(err) != verdict {
		t.Errorf("Precheck: %v, want %q", err, c.kind)
	}
	for range 2 {
		_, err := n.try(b)
		if !errors.Is(err, c.kind) || chain.VerdictOf(err) != verdict {
			t.Fatalf("error is %v, want %q", err, c.kind)
		}
		var fault *chain.InvalidError
		if errors.As(err, &fault) {
			if fault.Step != c.step {
				t.Errorf("step is %d, want %d", fault.Step, c.step)
			}
			if fault.Remember() == c.forget {
				t.Errorf("Remember() is %v", fault.Remember())
			}
		} else if isKind {
			t.Errorf("%v is no InvalidError", err)
		}
		if n.remembered(b) == c.forget {
			t.Errorf("remembered: %v, want %v", !c.forget, c.forget)
		}
	}
}

// testDiverged forges a block on a model whose training runs out of binary32's range.
func testDiverged(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) {
		for i := range s.Templates {
			s.Templates[i].Model.Loss = nn.MeanSquaredError
			s.Templates[i].Model.Optimizer.LearningRate = 1000
		}
	})
	g := w.genesis()
	base, err := w.Base(g.state, w.start)
	if err != nil {
		t.Fatal(err)
	}
	claim := w.NextClaim(g.state, base, g.ledger, 0)
	var roots []chain.Hash
	trial := w.Trial(0, claim.ID())
	trial.EarlyRoots = true
	trial.OnRoot = func(_ int, root chain.Hash) error {
		roots = append(roots, root)
		return nil
	}
	if _, err := w.trainer.Train(context.Background(), 0, g.model, trial); !errors.Is(err, nn.ErrNotFinite) {
		t.Fatalf("training ended with %v", err)
	}
	for len(roots) < 6 {
		roots = append(roots, chain.Hash{})
	}
	b := chain.NewBlock(claim, base, &chain.Execution{EarlyRoots: roots, LossAfter: base.Loss})
	w.grind(b, base, &b.TrainedRoot, true)
	n := newNode(w)
	checkRefused(t, n, b, corruption{kind: chain.ErrDiverged})
	// No block of this claim is valid, and that is remembered: its siblings are not run.
	sibling := clone(b)
	w.grind(sibling, base, &sibling.TrainedRoot, true)
	if _, err := n.try(sibling); !errors.Is(err, chain.ErrDiverged) || n.trainer.trains.Load() != 1 {
		t.Errorf("sibling: %v, %d trials", err, n.trainer.trains.Load())
	}
	n.at(g)
}

// notFinite is a trainer whose evaluation of trained models gives no number.
type notFinite struct{ *trainer }

func (f notFinite) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	if s.Steps > 0 {
		return 0, 0, nn.ErrNotFinite
	}
	return f.trainer.Evaluate(ctx, template, s, split)
}

func TestEvaluationDiverges(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	m, err := chain.OpenManager(context.Background(), w.Network, store.NewMemory(), notFinite{newTrainer(w.Network)}, chain.DefaultModelLimits)
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Add(context.Background(), l.block, l.block.Time, m.Arrive(""))
	if !errors.Is(err, chain.ErrDiverged) || chain.VerdictOf(err) != chain.Invalid {
		t.Errorf("error is %v", err)
	}
}

// TestMangledSiblings: blocks of one claim with other outcomes cost one execution in all.
func TestMangledSiblings(t *testing.T) {
	w := newWorld(t, nil)
	g := w.genesis()
	l := w.mine(g, how{})
	n := newNode(w)
	for i := range uint32(5) {
		b := clone(l.block)
		b.LossAfter -= i + 1
		if _, err := n.try(b); !errors.Is(err, chain.ErrLossAfter) || !n.remembered(b) {
			t.Fatal(err)
		}
		if got := n.trainer.trains.Load(); got != 1 {
			t.Fatalf("sibling %d: %d trials were run", i, got)
		}
	}
	if a := n.add(l); a.Executed != 0 || n.trainer.trains.Load() != 1 {
		t.Errorf("the true block was executed again: %+v", a)
	}
	n.at(l)
}

// TestMangledBody: who mangles the body of a good block on its way does not keep it out.
func TestMangledBody(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	n := newNode(w)
	for name, mangle := range map[string]func(*chain.Block){
		"early root":    func(b *chain.Block) { flip(&b.EarlyRoots[0]) },
		"early roots":   func(b *chain.Block) { b.EarlyRoots = nil },
		"transaction":   func(b *chain.Block) { b.Transactions = [][]byte{{}} },
		"transactions":  func(b *chain.Block) { b.Transactions = make([][]byte, 100) },
		"many bytes":    func(b *chain.Block) { b.Transactions = [][]byte{make([]byte, 50_000)} },
		"roots swapped": func(b *chain.Block) { slices.Reverse(b.EarlyRoots) },
	} {
		b := clone(l.block)
		mangle(b)
		if b.Header.ID() != l.id() {
			t.Fatalf("%s: the header was changed", name)
		}
		if _, err := n.try(b); chain.VerdictOf(err) != chain.Invalid || n.remembered(b) {
			t.Errorf("%s: %v, remembered %v", name, err, n.remembered(b))
		}
	}
	if n.trainer.trains.Load() != 0 {
		t.Error("a mangled body was executed")
	}
	n.add(l)
	n.at(l)
}

// TestForgeryCost: a forger who trains 16 steps makes a verifier do 32, once.
func TestForgeryCost(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	b := clone(l.block)
	b.EarlyRoots[5] = chain.Hash{1} // after step 32
	b.EarlyRoot = chain.EarlyRoot(b.EarlyRoots)
	w.grind(b, l.base, &b.TrainedRoot, true)
	if b.Advances() {
		b.StateRoot = b.TrainedRoot
	}
	n := newNode(w)
	_, err := n.try(b)
	var fault *chain.InvalidError
	if !errors.As(err, &fault) || fault.Kind != chain.ErrEarlyRoot || fault.Step != 32 {
		t.Fatal(err)
	}
	if steps := n.trainer.steps.Load(); steps != 32 {
		t.Errorf("it cost %d steps", steps)
	}
	b.LossAfter--
	if _, err := n.try(b); !errors.Is(err, chain.ErrEarlyRoot) || n.trainer.trains.Load() != 1 {
		t.Errorf("its sibling was executed: %v", err)
	}
	// What is known in part does not stand in the way of the true block.
	if a := n.add(l); a.Executed != 1 {
		t.Errorf("%+v", a)
	}
	n.at(l)
}

// TestTrainerStops: an error of the trainer within a trial is no fault of the block.
func TestTrainerStops(t *testing.T) {
	w := newWorld(t, nil)
	l := w.mine(w.genesis(), how{})
	n := newNode(w)
	stop := errors.New("stop")
	n.trainer.onStep = func(step int) error {
		if step == 40 {
			return stop
		}
		return nil
	}
	_, err := n.try(l.block)
	if !errors.Is(err, stop) || chain.VerdictOf(err) != chain.Unverified || n.remembered(l.block) {
		t.Fatal(err)
	}
	n.trainer.onStep = nil
	n.add(l)
	n.at(l)
}
