package gpu

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/nn/nntest"
)

var drawnCases = flag.Int("drawn", 30, "number of drawn cases on which the engine is compared with the plain one")

// interpretedWork bounds a drawn trial, in multiply-adds: the interpreter is slow, and tiles that are mostly empty cost
// as much as full ones.
const interpretedWork = 1 << 18

// newTestEngine makes an engine on the machine that this build tests: the interpreter, or with the tag cuda the device,
// real or fake, that the driver has. order is the interpreter's; the fake driver has one for all, named by its environment.
func newTestEngine(t testing.TB, net *nn.Net, order ptx.Order, trials int) *engine {
	t.Helper()
	e, err := newEngine(net, &counted{machine: testMachine(t, order)}, "test", trials, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// counted counts the launches that are asked for.
type counted struct {
	machine
	launches int
}

func (c *counted) Launch(kernel string, grid, block [3]int, args ...uint64) error {
	c.launches++
	return c.machine.Launch(kernel, grid, block, args...)
}

func launches(e *engine) int { return e.m.(marked).machine.(*counted).launches }

func TestKnownAnswer(t *testing.T) {
	for name, order := range map[string]ptx.Order{"forward": ptx.Forward, "backward": ptx.Backward, "shuffled": ptx.Shuffled(7)} {
		if err := nn.KnownAnswer(func(net *nn.Net) (nn.Engine, error) { return newEngine(net, testMachine(t, order), "test", 1, 0) }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The engine ends like the plain one, to the bit and to the error, on drawn models, states and data.
func TestDrawn(t *testing.T) {
	orders := []ptx.Order{ptx.Forward, ptx.Backward, ptx.Shuffled(1)}
	for seed := range *drawnCases {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := nntest.Seeded(uint64(seed), interpretedWork)
			e := newTestEngine(t, c.Net, orders[seed%len(orders)], 1+seed%3)
			if seed%2 == 1 {
				c.Poison(e)
			}
			if difference := c.Run(nn.NewPlain(c.Net)).Compare(c.Run(e)); difference != "" {
				t.Errorf("%s\nmodel %+v\n%d samples, %d steps", difference, c.Net.Model, c.Data.Len(), c.Steps)
			}
		})
	}
}

func seeds(run string) func(uint32) [32]byte {
	return func(step uint32) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "%s %d", run, step)) }
}

// small is a model with a convolution and a pooling whose step costs the interpreter little.
func small(t testing.TB, o nn.Optimizer) (*nn.Net, nn.Samples) {
	t.Helper()
	net, err := nn.Model{
		Input: nn.Shape{Rows: 6, Cols: 6, Channels: 1},
		Layers: []nn.Layer{
			{Kind: nn.Conv2D, Units: 4, KernelRows: 3, KernelCols: 3, Stride: 1, Activation: nn.ReLU}, {Kind: nn.MaxPool2D, KernelRows: 2, KernelCols: 2},
			{Kind: nn.Flatten}, {Kind: nn.Dense, Units: 3},
		},
		Loss: nn.SoftmaxCrossEntropy, Optimizer: o, Batch: 4,
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	data := nn.Samples{Size: 36}
	for i := range 50 {
		h := seeds("data")(uint32(i))
		data.Pixels = append(append(data.Pixels, h[:]...), h[:4]...)
		data.Labels = append(data.Labels, h[5]%3)
	}
	return net, data
}

var adam = nn.Optimizer{Kind: nn.Adam, LearningRate: 0.01, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7}

// Trials that run side by side end as each does alone, also where they are longer than a graph and not a multiple of it.
func TestTrainMany(t *testing.T) {
	net, data := small(t, adam)
	start := net.Init([32]byte{1})
	plain := nn.NewPlain(net)
	e := newTestEngine(t, net, ptx.Forward, 5)
	for _, c := range []struct{ trials, steps int }{{5, 3}, {3, 2*graphSteps + 1}, {5, graphSteps}, {1, 2*graphSteps + 1}, {2, 1}} {
		trials := make([]nn.Trial, c.trials)
		for i := range trials {
			trials[i] = nn.Trial{Steps: c.steps, BatchSeed: seeds(fmt.Sprint(c.steps, i))}
		}
		var seen []int
		trials[0].OnStep = func(step int) error { seen = append(seen, step); return nil }
		got, err := e.TrainMany(context.Background(), start, data, trials)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != c.trials || len(seen) != c.steps || seen[c.steps-1] != c.steps-1 {
			t.Errorf("%d trials of %d steps: %d outcomes, told of steps %v", c.trials, c.steps, len(got), seen)
		}
		for i := range trials {
			want, err := plain.Train(context.Background(), start, data, nn.Trial{Steps: c.steps, BatchSeed: trials[i].BatchSeed})
			if err != nil {
				t.Fatal(err)
			}
			if want := (nn.Outcome{Root: want.Root, LogitsDigest: want.LogitsDigest}); got[i] != want {
				t.Errorf("trial %d of %d with %d steps: %v, want %v", i, c.trials, c.steps, got[i], want)
			}
		}
	}
}

// One trial that diverges says so; those beside it are as good as ever.
func TestOneOfManyDiverges(t *testing.T) {
	net, data := small(t, adam)
	// Logits overflow for the one image that is not black, which some trials meet.
	clear(data.Pixels[data.Size:])
	start := net.Init([32]byte{1})
	for i := range start.Params {
		start.Params[i] *= 1e38
	}
	plain := nn.NewPlain(net)
	var trials []nn.Trial
	for i := range 4 {
		trials = append(trials, nn.Trial{Steps: 5, BatchSeed: seeds(fmt.Sprint("diverge", i))})
	}
	diverged := 0
	got, err := newTestEngine(t, net, ptx.Forward, len(trials)).TrainMany(context.Background(), start, data, trials)
	if err != nil {
		t.Fatal(err)
	}
	for i, trial := range trials {
		want, err := plain.Train(context.Background(), start, data, trial)
		if err != nil {
			diverged++
			if !errors.Is(got[i].Err, nn.ErrNotFinite) {
				t.Errorf("trial %d: %v, want %v", i, got[i], err)
			}
			continue
		}
		if want := (nn.Outcome{Root: want.Root, LogitsDigest: want.LogitsDigest}); got[i] != want {
			t.Errorf("trial %d: %v, want %v", i, got[i], want)
		}
	}
	if diverged == 0 || diverged == len(trials) {
		t.Errorf("%d of %d trials diverged: some should", diverged, len(trials))
	}
}

var errStop = errors.New("stop")

// A trial can be stopped at a root, at a step and by its context, and the engine is as good as new afterwards.
func TestStop(t *testing.T) {
	net, data := small(t, adam)
	start := net.Init([32]byte{1})
	e := newTestEngine(t, net, ptx.Forward, 1)
	trial := nn.Trial{Steps: 40, BatchSeed: seeds("stop"), EarlyRoots: true}

	atRoot := trial
	var at []int
	atRoot.OnRoot = func(step int, _ nn.Hash) error {
		at = append(at, step)
		if step == 4 {
			return errStop
		}
		return nil
	}
	before := launches(e)
	if _, err := e.Train(context.Background(), start, data, atRoot); !errors.Is(err, errStop) || errors.Is(err, nn.ErrDevice) || fmt.Sprint(at) != "[1 2 4]" {
		t.Errorf("stopped at roots %v with %v", at, err)
	}
	early := launches(e) - before

	atStep := trial
	atStep.EarlyRoots = false
	atStep.OnStep = func(step int) error {
		if step == 20 {
			return errStop
		}
		return nil
	}
	if _, err := e.Train(context.Background(), start, data, atStep); !errors.Is(err, errStop) {
		t.Errorf("stopped at a step with %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := e.Train(ctx, start, data, trial); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is done: %v", err)
	}
	if _, _, err := e.Evaluate(ctx, start, data); !errors.Is(err, context.Canceled) {
		t.Errorf("evaluation with a context that is done: %v", err)
	}

	before = launches(e)
	got, err := e.Train(context.Background(), start, data, trial)
	if err != nil {
		t.Fatal(err)
	}
	want, err := nn.NewPlain(net).Train(context.Background(), start, data, trial)
	if err != nil {
		t.Fatal(err)
	}
	if got.Root != want.Root || got.LogitsDigest != want.LogitsDigest || fmt.Sprint(got.EarlyRoots) != fmt.Sprint(want.EarlyRoots) {
		t.Error("after it was stopped the engine gives other bits")
	}
	if all := launches(e) - before; early > all/5 {
		t.Errorf("a trial of 40 steps that was stopped after 4 took %d launches of %d", early, all)
	}
}

// What does not fit together is refused before anything is spent.
func TestTrainErrors(t *testing.T) {
	net, data := small(t, adam)
	start := net.Init([32]byte{1})
	e := newTestEngine(t, net, ptx.Forward, 2)
	one := nn.Trial{Steps: 1, BatchSeed: seeds("one")}
	two := nn.Trial{Steps: 2, BatchSeed: seeds("two")}
	for _, trials := range [][]nn.Trial{nil, {one, one, one}, {one, two}} {
		if _, err := e.TrainMany(context.Background(), start, data, trials); err == nil || errors.Is(err, nn.ErrDevice) {
			t.Errorf("%d trials: %v", len(trials), err)
		}
	}
	short := data
	short.Pixels = short.Pixels[1:]
	if _, err := e.Train(context.Background(), start, short, one); err == nil || errors.Is(err, nn.ErrDevice) {
		t.Errorf("samples that are too short: %v", err)
	}
	if n := launches(e); n != 0 {
		t.Errorf("%d launches", n)
	}
}

// Data sets stay on the device, the oldest makes room, and the same memory with other labels is another data set.
func TestDataSetsOnTheDevice(t *testing.T) {
	net, data := small(t, adam)
	start := net.Init([32]byte{1})
	e := newTestEngine(t, net, ptx.Forward, 2)
	plain := nn.NewPlain(net)
	part := func(lo, hi int) nn.Samples {
		return nn.Samples{Pixels: data.Pixels[lo*data.Size : hi*data.Size], Labels: data.Labels[lo:hi], Size: data.Size}
	}
	other := part(0, 20)
	other.Labels = make([]byte, 20)
	sets := []nn.Samples{part(0, 20), part(0, 30), part(10, 50), other, part(0, 20), part(3, 7)}
	for i, s := range sets {
		wantLoss, wantCorrect, err := plain.Evaluate(context.Background(), start, s)
		if err != nil {
			t.Fatal(err)
		}
		loss, correct, err := e.Evaluate(context.Background(), start, s)
		if err != nil || loss != wantLoss || correct != wantCorrect {
			t.Errorf("data set %d: loss %v, %d correct (%v); want %v, %d", i, loss, correct, err, wantLoss, wantCorrect)
		}
		if len(e.data) > maxDataSets {
			t.Errorf("%d data sets are on the device", len(e.data))
		}
		trial := nn.Trial{Steps: graphSteps, BatchSeed: seeds("data")}
		want, err := plain.Train(context.Background(), start, s, trial)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Train(context.Background(), start, s, trial); err != nil || got.Root != want.Root {
			t.Errorf("data set %d: training gave another root (%v)", i, err)
		}
	}
}

// Without room on the device there is an error that says so, not a crash.
func TestNoRoomForTrials(t *testing.T) {
	net, data := small(t, adam)
	m := newInterpreter(t, ptx.Forward)
	e, err := newEngine(net, m, "interpreted", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	trial := nn.Trial{Steps: 4096, BatchSeed: seeds("long")} // their logits alone are 192 KiB, and so on
	m.memory.Limit = m.memory.Used() + 100<<10
	_, err = e.Train(context.Background(), net.Init([32]byte{}), data, trial)
	if !errors.Is(err, ErrOutOfMemory) || !errors.Is(err, nn.ErrDevice) || !strings.Contains(err.Error(), "1 trials of 4096 steps") {
		t.Errorf("%v", err)
	}
}

// The width that an engine finds lies within the device's memory, and it trains as wide as that.
func TestTune(t *testing.T) {
	net, data := small(t, adam)
	e := newTestEngine(t, net, ptx.Forward, 0)
	w := e.Width()
	if w < 1 || w > 256 {
		t.Fatalf("%d trials at once", w)
	}
	trials := make([]nn.Trial, w)
	for i := range trials {
		trials[i] = nn.Trial{Steps: 1, BatchSeed: seeds(fmt.Sprint(i))}
	}
	if _, err := e.TrainMany(context.Background(), net.Init([32]byte{}), data, trials); err != nil {
		t.Error(err)
	}
}
