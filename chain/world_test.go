package chain_test

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

const genesisTime = 1_700_000_000_000

// testSpec is a network of tiny models: 4x4 images of four classes.
func testSpec() chain.Spec {
	model := func(rate float32) nn.Model {
		return nn.Model{
			Input:     nn.Shape{Rows: 4, Cols: 4, Channels: 1},
			Layers:    []nn.Layer{{Kind: nn.Flatten}, {Kind: nn.Dense, Units: 4}},
			Loss:      nn.SoftmaxCrossEntropy,
			Optimizer: nn.Optimizer{Kind: nn.SGD, LearningRate: rate, Momentum: 0.5},
			Batch:     16,
		}
	}
	return chain.Spec{
		Name:             "test",
		GenesisTime:      genesisTime,
		Interval:         60_000,
		HalfLife:         1_260_000,
		MaxFuture:        60_000,
		MaxBlockBytes:    4096,
		MaxBlockTxs:      2,
		MaxTaskBlocks:    1000,
		PlateauBlocks:    64,
		VerifyRate:       1_000_000,
		FinalityDepth:    20,
		SnapshotInterval: 4,
		InitialReward:    1000,
		HalvingInterval:  100,
		Allocation:       []chain.Allocation{{Address: chain.Address{1}, Balance: 500}, {Address: chain.Address{2}, Balance: 7}},
		DataSets: []chain.DataSet{{
			Name: "squares", Kind: chain.Synthetic, Seed: 5, Count: 256,
			Images: chain.File{Root: chain.Hash{1}, Length: 4112}, Labels: chain.File{Root: chain.Hash{2}, Length: 264},
			Train: chain.Range{From: 0, To: 128}, Evaluation: chain.Range{From: 128, To: 192}, Test: chain.Range{From: 192, To: 256},
		}},
		Templates: []chain.Template{
			{Name: "one", Data: "squares", TrialSteps: 64, Model: model(0.3)},
			{Name: "two", Data: "squares", TrialSteps: 100, Model: model(0.4)},
		},
	}
}

// build changes the test spec and checks it.
func build(t testing.TB, change func(*chain.Spec)) *chain.Network {
	t.Helper()
	s := testSpec()
	if change != nil {
		change(&s)
	}
	n, err := s.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// squares are images with one bright quarter, the class, under noise; some labels are wrong, so that the loss cannot
// fall for ever.
func squares(n int, seed byte) nn.Samples {
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	s := nn.Samples{Size: 16}
	for range n {
		class := r.IntN(4)
		for p := range 16 {
			v := r.IntN(128)
			if 2*(p/8)+p%4/2 == class {
				v += 100
			}
			s.Pixels = append(s.Pixels, byte(v))
		}
		if r.IntN(5) == 0 {
			class = r.IntN(4)
		}
		s.Labels = append(s.Labels, byte(class))
	}
	return s
}

// trainer is a chain.Trainer over the plain engine. It counts what it does; before and onStep, if set, may fail a trial.
type trainer struct {
	net    *chain.Network
	data   [3]nn.Samples
	trains atomic.Int64
	steps  atomic.Int64
	before func() error
	onStep func(step int) error
	memo   map[[32]byte]memo // if set, no claim is trained twice

	wrong     bool // its trials end in another state than they should
	wrongLoss bool // every other evaluation gives another loss
	evals     int
}

// memo is what a claim's trial gave, by the seed of its first batch.
type memo struct {
	trained nn.Trained
	roots   []chain.Hash
}

func newTrainer(n *chain.Network) *trainer {
	return &trainer{net: n, data: [3]nn.Samples{squares(128, 1), squares(64, 2), squares(64, 3)}}
}

func (r *trainer) Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	r.trains.Add(1)
	if r.before != nil {
		if err := r.before(); err != nil {
			return nil, err
		}
	}
	if r.memo != nil {
		return r.remembered(ctx, template, start, t)
	}
	onStep := t.OnStep
	t.OnStep = func(step int) error {
		r.steps.Add(1)
		for _, f := range []func(int) error{onStep, r.onStep} {
			if f != nil {
				if err := f(step); err != nil {
					return err
				}
			}
		}
		return nil
	}
	got, err := nn.NewPlain(r.net.Templates[template].Net).Train(ctx, start, r.data[chain.TrainSplit], t)
	if err == nil && r.wrong {
		got.Root[0] ^= 1
	}
	return got, err
}

// remembered trains a trial once.
func (r *trainer) remembered(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	got, ok := r.memo[t.BatchSeed(0)]
	if !ok {
		once := t
		once.EarlyRoots = true
		once.OnRoot = func(_ int, root chain.Hash) error {
			got.roots = append(got.roots, root)
			return nil
		}
		trained, err := nn.NewPlain(r.net.Templates[template].Net).Train(ctx, start, r.data[chain.TrainSplit], once)
		if err != nil {
			return nil, err
		}
		got.trained = *trained
		r.memo[t.BatchSeed(0)] = got
	}
	if t.OnRoot != nil {
		for i, root := range got.roots {
			if err := t.OnRoot(1<<i, root); err != nil {
				return nil, err
			}
		}
	}
	trained := got.trained
	return &trained, nil
}

func (r *trainer) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	loss, correct, err := nn.NewPlain(r.net.Templates[template].Net).Evaluate(ctx, s, r.data[split])
	if r.wrongLoss {
		if r.evals++; r.evals%2 == 0 {
			loss++
		}
	}
	return loss, correct, err
}

// world mines blocks on any block, by the rules alone and without a manager.
type world struct {
	t testing.TB
	*chain.Network
	trainer *trainer
}

func newWorld(t testing.TB, change func(*chain.Spec)) *world {
	n := build(t, change)
	return &world{t, n, newTrainer(n)}
}

// link is a block with what is true after it.
type link struct {
	block  *chain.Block
	state  chain.State
	ledger chain.Ledger
	model  *nn.State
	base   chain.Base // that it was trained from
	parent *link
}

func (l *link) id() chain.Hash { return l.state.ID }

func (w *world) start(task uint32) (chain.TaskStart, error) {
	s := w.ModelInit(task)
	root, err := s.Root(1)
	if err != nil {
		return chain.TaskStart{}, err
	}
	loss, _, err := w.trainer.Evaluate(context.Background(), int(task)%len(w.Templates), s, chain.EvaluationSplit)
	return chain.TaskStart{Root: root, Loss: math.Float32bits(loss)}, err
}

func (w *world) genesis() *link {
	w.t.Helper()
	start, err := w.start(0)
	if err != nil {
		w.t.Fatal(err)
	}
	b, s := w.Genesis(start)
	return &link{block: b, state: s, ledger: w.GenesisLedger(), model: w.ModelInit(0)}
}

// how a block is to be mined; the zero value is one interval after its parent.
type how struct {
	after uint64 // milliseconds
	nonce uint64 // to begin with; another one gives another block
	want  func(*chain.Header) bool
	claim func(*chain.Claim)
}

func advancing(h *chain.Header) bool { return h.Advances() }
func keeping(h *chain.Header) bool   { return !h.Advances() }

// mine mines a block on parent.
func (w *world) mine(parent *link, how how) *link {
	w.t.Helper()
	ctx := context.Background()
	base, err := w.Base(parent.state, w.start)
	if err != nil {
		w.t.Fatal(err)
	}
	start := parent.model
	if base.Fresh {
		start = w.ModelInit(base.TaskNumber)
	}
	if how.after == 0 {
		how.after = w.Interval
	}
	c := w.NextClaim(parent.state, base, parent.ledger, parent.state.Time+how.after)
	c.Payout = chain.Address{9, byte(how.after), byte(c.Height)}
	c.Nonce = how.nonce << 32
	if how.claim != nil {
		how.claim(&c)
	}
	for first := c.Nonce; c.Nonce < first+10_000; c.Nonce++ {
		trial := w.Trial(base.Template, c.ID())
		trial.EarlyRoots = true
		got, err := w.trainer.Train(ctx, base.Template, start, trial)
		if err != nil {
			w.t.Fatal(err)
		}
		if !chain.Wins(chain.Ticket(c.ID(), got.Root, got.LogitsDigest), w.Target(base, c.Difficulty)) {
			continue
		}
		loss, _, err := w.trainer.Evaluate(ctx, base.Template, got.State, chain.EvaluationSplit)
		if err != nil {
			w.t.Fatal(err)
		}
		b := chain.NewBlock(c, base, &chain.Execution{
			EarlyRoots: got.EarlyRoots, Complete: true, LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: math.Float32bits(loss),
		})
		model := start
		if b.Advances() {
			model = got.State
		}
		if how.want != nil && !how.want(&b.Header) {
			continue
		}
		s, changes := w.Apply(parent.state, base, parent.ledger, b)
		return &link{b, s, parent.ledger.Apply(changes, true), model, base, parent}
	}
	w.t.Fatalf("no block at height %d in 10,000 trials", c.Height)
	return nil
}

// chainOf mines n blocks on parent and gives them, oldest first.
func (w *world) chainOf(parent *link, n int, how how) []*link {
	w.t.Helper()
	var out []*link
	for range n {
		parent = w.mine(parent, how)
		out = append(out, parent)
	}
	return out
}
