package miner

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// tiny is the smallest network that a miner can work for.
func tiny(t *testing.T) *chain.Network {
	t.Helper()
	n, err := chain.Spec{
		Name: "tiny", GenesisTime: 1, Interval: 1000, HalfLife: 21000, MaxFuture: 1000, MaxBlockBytes: 61440, MaxTaskBlocks: 100,
		PlateauBlocks: 64, VerifyRate: 1e9, FinalityDepth: 100, SnapshotInterval: 10, InitialReward: 10, HalvingInterval: 1000,
		DataSets: []chain.DataSet{{
			Name: "data", Kind: chain.IDX, Count: 60, Train: chain.Range{From: 0, To: 40},
			Evaluation: chain.Range{From: 40, To: 50}, Test: chain.Range{From: 50, To: 60},
		}},
		Templates: []chain.Template{{Name: "tiny", Data: "data", TrialSteps: 64, Model: nn.Model{
			Input: nn.Shape{Rows: 1, Cols: 1, Channels: 4}, Layers: []nn.Layer{{Kind: nn.Dense, Units: 2}},
			Loss: nn.SoftmaxCrossEntropy, Batch: 16, Optimizer: nn.Optimizer{Kind: nn.SGD, LearningRate: 0.01, Momentum: 0.5},
		}}},
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// trainer trains on data of its own.
type trainer struct {
	engine nn.Engine
	data   nn.Samples
	width  int // trials at once
}

func newTrainer(n *chain.Network) trainer {
	d := nn.Samples{Size: 4}
	for i := range 60 {
		y := byte(i % 2)
		d.Pixels = append(d.Pixels, byte(i), 200*y, byte(i*i), 100)
		d.Labels = append(d.Labels, y)
	}
	return trainer{engine: nn.NewPlain(n.Templates[0].Net), data: d}
}

func (t trainer) Train(ctx context.Context, _ int, start *nn.State, trial nn.Trial) (*nn.Trained, error) {
	return t.engine.Train(ctx, start, t.data, trial)
}

func (t trainer) Width(int) (int, error) { return max(t.width, 1), nil }

func (t trainer) TrainMany(ctx context.Context, template int, start *nn.State, trials []nn.Trial) ([]nn.Outcome, error) {
	outcomes := make([]nn.Outcome, len(trials))
	for i, trial := range trials {
		r, err := t.Train(ctx, template, start, trial)
		if err != nil && !errors.Is(err, nn.ErrNotFinite) {
			return nil, err
		}
		if err != nil {
			outcomes[i].Err = err
			continue
		}
		outcomes[i] = nn.Outcome{Root: r.Root, LogitsDigest: r.LogitsDigest}
	}
	return outcomes, nil
}

func (t trainer) Evaluate(ctx context.Context, _ int, s *nn.State, _ chain.Split) (float32, int, error) {
	return t.engine.Evaluate(ctx, s, t.data)
}

// world is a chain for the miner, with hooks.
type world struct {
	*chain.Manager
	submit    func(*chain.Block) error
	standBack func(context.Context) error
	ready     atomic.Int32
}

func newWorld(t *testing.T, n *chain.Network, tr chain.Trainer) *world {
	t.Helper()
	m, err := chain.OpenManager(context.Background(), n, store.NewMemory(), tr, chain.DefaultModelLimits)
	if err != nil {
		t.Fatal(err)
	}
	return &world{Manager: m}
}

func (w *world) Ready(ctx context.Context) error { w.ready.Add(1); return ctx.Err() }

func (w *world) StandBack(ctx context.Context) error {
	if w.standBack != nil {
		return w.standBack(ctx)
	}
	return ctx.Err()
}

func (w *world) Submit(ctx context.Context, b *chain.Block, x *chain.Execution, trained *nn.State) (bool, error) {
	w.Remember(b.Claim.ID(), x, trained)
	added, err := w.Add(ctx, b, b.Time, w.Arrive(""))
	if err == nil && w.submit != nil {
		err = w.submit(b)
	}
	return !added.Side, err
}

func (w *world) Behind() bool { return false }

var errEnough = errors.New("enough")

func (w *world) miner(n *chain.Network, tr Trainer, log *zap.Logger) *Miner {
	return New(Config{
		Network: n, Chain: w, Trainer: tr, Payout: chain.Address{7}, Nonce: 100, ReportEvery: time.Hour, Log: log,
		Now: func() time.Time { return time.UnixMilli(5) },
	})
}

// A miner's blocks are valid without anything being run again, and its counts agree with the chain.
func TestMine(t *testing.T) {
	for _, width := range []int{1, 3} {
		t.Run(fmt.Sprint("trials at once: ", width), func(t *testing.T) { testMine(t, width) })
	}
}

func testMine(t *testing.T, width int) {
	defer goleak.VerifyNone(t)
	n := tiny(t)
	tr := newTrainer(n)
	tr.width = width
	w := newWorld(t, n, tr)
	var advancing, keeping uint64
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.submit = func(b *chain.Block) error {
		if b.Payout != (chain.Address{7}) {
			t.Errorf("block %d pays %v", b.Height, b.Payout)
		}
		if b.Advances() {
			advancing++
		} else {
			keeping++
		}
		if b.Height == 20 {
			cancel()
		}
		return nil
	}
	m := w.miner(n, tr, zap.NewNop())
	if err := m.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	s := m.Stats()
	tip, _ := w.Best()
	if tip.Height != 20 || s.Wins != 20 || s.Advancing != advancing || s.Keeping != keeping || advancing+keeping != 20 {
		t.Errorf("at height %d, with %d advancing and %d keeping: %+v", tip.Height, advancing, keeping, s)
	}
	if want := (s.Trials + s.Wins) * 64; s.Steps != want { // winning trials are run twice
		t.Errorf("%d steps in %d trials, want %d", s.Steps, s.Trials, want)
	}
	if s.StaleSteps != 0 || s.Faults != 0 || s.Trials%uint64(width) != 0 {
		t.Errorf("%+v", s)
	}
}

// When another block comes first, the work at hand is dropped at the next step and counted.
func TestStale(t *testing.T) {
	n := tiny(t)
	tr := newTrainer(n)
	other := newWorld(t, n, tr)
	var first *chain.Block
	other.submit = func(b *chain.Block) error { first = b; return errEnough }
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	rival := other.miner(n, tr, zap.NewNop())
	other.standBack = func(context.Context) error {
		if first != nil {
			return errEnough
		}
		return nil
	}
	if err := rival.Run(ctx); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}

	w := newWorld(t, n, tr)
	steps := 0
	w.standBack = func(context.Context) error {
		steps++
		switch steps {
		case 30:
			if _, err := w.Add(ctx, first, first.Time, w.Arrive("rival")); err != nil {
				t.Error(err)
			}
		case 40:
			return errEnough // of the next job
		}
		return nil
	}
	m := w.miner(n, tr, zap.NewNop())
	if err := m.Run(ctx); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if s := m.Stats(); s.StaleSteps != 29 || s.Trials != 0 {
		t.Errorf("dropped after 29 steps: %+v", s)
	}
	if w.ready.Load() != 2 {
		t.Errorf("asked %d times whether the node is ready, want once per job", w.ready.Load())
	}
}

// miscomputing gives another result each time.
type miscomputing struct {
	trainer
	runs *int
}

func (m miscomputing) Train(ctx context.Context, template int, start *nn.State, trial nn.Trial) (*nn.Trained, error) {
	r, err := m.trainer.Train(ctx, template, start, trial)
	if err == nil {
		*m.runs++
		r.Root[31] ^= byte(*m.runs)
	}
	return r, err
}

// A machine that computes wrongly publishes nothing and says so.
func TestMiscomputing(t *testing.T) {
	n := tiny(t)
	tr := newTrainer(n)
	w := newWorld(t, n, tr)
	w.submit = func(b *chain.Block) error { t.Errorf("published block %d", b.Height); return nil }
	core, logs := observer.New(zapcore.ErrorLevel)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	runs := 0
	m := w.miner(n, miscomputing{tr, &runs}, zap.New(core))
	w.standBack = func(context.Context) error {
		if m.Stats().Faults == 2 {
			return errEnough
		}
		return nil
	}
	if err := m.Run(ctx); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if logs.Len() != 2 {
		t.Errorf("%d errors logged, want one for each of 2 faults", logs.Len())
	}
}

// misevaluating gives another loss each time.
type misevaluating struct {
	trainer
	runs *int
}

func (m misevaluating) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	loss, correct, err := m.trainer.Evaluate(ctx, template, s, split)
	*m.runs++
	return math.Float32frombits(math.Float32bits(loss) ^ uint32(*m.runs%2)), correct, err
}

// A loss that comes out otherwise the second time is not published either.
func TestMisevaluating(t *testing.T) {
	n := tiny(t)
	tr := newTrainer(n)
	w := newWorld(t, n, tr)
	w.submit = func(b *chain.Block) error { t.Errorf("published block %d", b.Height); return nil }
	core, logs := observer.New(zapcore.ErrorLevel)
	runs := 0
	m := w.miner(n, misevaluating{tr, &runs}, zap.New(core))
	if err := m.Run(context.Background()); !errors.Is(err, ErrFaults) {
		t.Fatal(err)
	}
	if got := logs.FilterMessageSnippet("evaluating the same model twice").Len(); got == 0 || uint64(got) != m.Stats().Faults {
		t.Errorf("%d errors logged for %d faults", got, m.Stats().Faults)
	}
}
