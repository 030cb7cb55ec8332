package nn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/descentnet/minerd/nn/kernel"
)

// eachVector runs a test on every vector engine of this machine with 1, 2 and 3 threads.
func eachVector(t *testing.T, net *Net, test func(t *testing.T, e Engine)) {
	t.Helper()
	if kernel.Best() == nil {
		t.Skip("this machine has no instruction set that kernels are written for")
	}
	for _, isa := range kernel.All() {
		for threads := 1; threads <= 3; threads++ {
			t.Run(fmt.Sprintf("%s/%d", isa.Name(), threads), func(t *testing.T) {
				e, err := NewVector(net, isa, threads)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				test(t, e)
			})
		}
	}
}

// testLikePlain holds the vector engines to the plain one: trials and evaluations, to the bit.
func testLikePlain(t *testing.T, m Model, steps int) {
	t.Helper()
	net := build(t, m)
	data := drawSamples(net, "vector", 50)
	start := initState(net, "vector")
	trial := Trial{Steps: steps, BatchSeed: batchSeeds("vector"), EarlyRoots: true}
	plain := NewPlain(net)
	want := train(t, plain, start, data, trial)
	loss, correct, err := plain.Evaluate(context.Background(), want.State, data)
	if err != nil {
		t.Fatal(err)
	}
	eachVector(t, net, func(t *testing.T, e Engine) {
		for range 2 { // again, on memory that was used
			got := train(t, e, start, data, trial)
			if !sameBits(got.State.all, want.State.all) {
				for i := range net.Layers {
					gw, gb := net.Layers[i].weights(got.State.First)
					ww, wb := net.Layers[i].weights(want.State.First)
					t.Logf("layer %d: weights same: %v, biases same: %v", i, sameBits(gw, ww), sameBits(gb, wb))
				}
				t.Fatal("trained to another state")
			}
			if got.Root != want.Root || got.LogitsDigest != want.LogitsDigest || !sameBits(got.BatchLosses, want.BatchLosses) {
				t.Fatal("other root, logits or losses")
			}
			if fmt.Sprint(got.EarlyRoots) != fmt.Sprint(want.EarlyRoots) {
				t.Fatal("other early roots")
			}
			l, c, err := e.Evaluate(context.Background(), want.State, data)
			if err != nil {
				t.Fatal(err)
			}
			if bitsOf(l) != bitsOf(loss) || c != correct {
				t.Fatalf("loss %g with %d correct, want %g with %d", l, c, loss, correct)
			}
		}
	})
}

func TestVectorLayers(t *testing.T) {
	for _, m := range layerModels() {
		t.Run(m.name, func(t *testing.T) { testLikePlain(t, m.model, 5) })
	}
}

// Random models, so that layers meet in every order.
func TestVectorRandomModels(t *testing.T) {
	models := 60
	if testing.Short() {
		models = 10
	}
	for i := range models {
		r := rand.New(rand.NewPCG(3, uint64(i)))
		m := randomModel(r)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Logf("%+v", m)
			testLikePlain(t, m, 3)
		})
	}
}

// randomModel draws layers until they fit together.
func randomModel(r *rand.Rand) Model {
	side := func() int { return 1 + r.IntN(12) }
	for {
		m := Model{
			Input:     Shape{side(), side(), 1 + r.IntN(3)},
			Loss:      []LossKind{SoftmaxCrossEntropy, MeanSquaredError}[r.IntN(2)],
			Optimizer: []Optimizer{testAdam, testSGD}[r.IntN(2)],
			Batch:     1 + r.IntN(12),
		}
		for range 1 + r.IntN(6) {
			activation := Activation(r.IntN(2))
			switch r.IntN(5) {
			case 0, 1:
				m.Layers = append(m.Layers, Layer{Kind: Conv2D, Units: 1 + r.IntN(40), KernelRows: 1 + r.IntN(4), KernelCols: 1 + r.IntN(4),
					Stride: 1 + r.IntN(2), Padding: Padding(r.IntN(2)), Activation: activation})
			case 2:
				m.Layers = append(m.Layers, Layer{Kind: MaxPool2D, KernelRows: 1 + r.IntN(3), KernelCols: 1 + r.IntN(3)})
			case 3:
				m.Layers = append(m.Layers, Layer{Kind: Flatten})
			case 4:
				m.Layers = append(m.Layers, Layer{Kind: Dense, Units: 1 + r.IntN(70), Activation: activation})
			}
		}
		m.Layers = append(m.Layers, Layer{Kind: Flatten}, Layer{Kind: Dense, Units: 2 + r.IntN(9)})
		if net, err := m.Build(); err == nil && len(m.Layers) > 2 && net.TrainMulAdds < 1<<18 {
			return m
		}
	}
}

// The default model once, as it has the sizes that work is shared by.
func TestVectorDefaultModel(t *testing.T) {
	if testing.Short() {
		t.Skip("the plain engine takes a while for the default model; runs without -short")
	}
	testLikePlain(t, DefaultModel(), 3)
}

func vectorEngine(t *testing.T, isa *kernel.ISA, threads int) func(*Net) Engine {
	return func(net *Net) Engine {
		e, err := NewVector(net, isa, threads)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
}

func TestVectorContract(t *testing.T) {
	for _, isa := range kernel.All() {
		for threads := 1; threads <= 2; threads++ {
			t.Run(fmt.Sprintf("%s/%d", isa.Name(), threads), func(t *testing.T) {
				newEngine := vectorEngine(t, isa, threads)
				testContract(t, newEngine)
				runGolden(t, newEngine)
			})
		}
	}
}

// Block results of convolutions are kept for as many samples as there is memory for, or for none.
func TestVectorWaves(t *testing.T) {
	before := waveMemory
	defer func() { waveMemory = before }()
	for _, m := range layerModels() {
		if m.name != "conv over 256 positions and taps" && m.name != "pools that do not divide" {
			continue
		}
		for _, waveMemory = range []int{1, 4000, 40000} {
			t.Run(fmt.Sprintf("%s/%d", m.name, waveMemory), func(t *testing.T) {
				m := m.model
				m.Batch = 11
				testLikePlain(t, m, 2)
			})
		}
	}
}

// Infinities of opposite signs from two blocks of a fold make a NaN, which the ReLU turns into +0.
func TestVectorNaNBeforeReLU(t *testing.T) {
	conv := Layer{Kind: Conv2D, Units: 3, KernelRows: 7, KernelCols: 7, Stride: 1, Activation: ReLU}
	m := Model{
		Input:     Shape{10, 10, 6},
		Layers:    []Layer{conv, {Kind: MaxPool2D, KernelRows: 2, KernelCols: 2}, {Kind: Flatten}, {Kind: Dense, Units: 4}},
		Loss:      SoftmaxCrossEntropy,
		Optimizer: testAdam,
		Batch:     3,
	}
	net := build(t, m)
	data := drawSamples(net, "nan", 10)
	for i := range data.Pixels {
		data.Pixels[i] |= 128
	}
	start := initState(net, "nan")
	w, _ := net.Layers[0].weights(start.Params)
	for k := range len(w) / conv.Units {
		w[k*conv.Units] = 0x1.8p127
		if k >= FoldBlock {
			w[k*conv.Units] *= -1
		}
	}
	trial := Trial{Steps: 3, BatchSeed: batchSeeds("nan")}
	want := train(t, NewPlain(net), start, data, trial)
	eachVector(t, net, func(t *testing.T, e Engine) {
		if got := train(t, e, start, data, trial); got.Root != want.Root || got.LogitsDigest != want.LogitsDigest {
			t.Error("other bits")
		}
	})
}

func TestVectorStepsWithoutAllocating(t *testing.T) {
	net := build(t, DefaultModel())
	data := drawSamples(net, "allocations", 100)
	eachVector(t, net, func(t *testing.T, engine Engine) {
		e := engine.(*vector)
		e.state, e.data, e.n = initState(net, "allocations"), data, net.Model.Batch
		e.logits.hashes = make([]Hash, 0, 100) // it grows with the number of steps
		if n := testing.AllocsPerRun(20, func() { e.step() }); n > 0 {
			t.Errorf("%g allocations in a step", n)
		}
	})
}

func TestNewVectorRefuses(t *testing.T) {
	net := build(t, layerModels()[0].model)
	if e, err := NewVector(net, nil, 1); err == nil || e != nil {
		t.Error("an engine without an instruction set")
	}
	if kernel.Best() == nil {
		t.Skip("this machine has no instruction set that kernels are written for")
	}
	if e, err := NewVector(net, kernel.Best(), 0); err == nil || e != nil {
		t.Error("an engine without threads")
	}
}

func TestNewEngine(t *testing.T) {
	e, err := NewEngine(build(t, layerModels()[0].model), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	want := "plain"
	if kernel.Best() != nil {
		want = kernel.Best().Name()
	}
	if e.Name() != want {
		t.Errorf("engine %s, want %s", e.Name(), want)
	}
}

// Each item is done once, and each worker finishes after its own, whether workers find them while they look around or
// are woken up.
func TestWorkers(t *testing.T) {
	for _, spin := range []int{0, spinRounds} {
		for threads := 1; threads <= 4; threads++ {
			t.Run(fmt.Sprintf("%d threads, spin %d", threads, spin), func(t *testing.T) {
				p := newWorkers(threads, spin)
				for items := range 60 {
					for chunk := 1; chunk < 5; chunk++ {
						count := make([]int, items)
						unfinished := make([]int, threads)
						p.eachThen(items, chunk, func(worker, item int) {
							count[item]++
							unfinished[worker]++
						}, func(worker int) { unfinished[worker] = 0 })
						for worker, n := range unfinished {
							if n != 0 {
								t.Fatalf("worker %d did not finish after its %d items", worker, n)
							}
						}
						for i, n := range count {
							if n != 1 {
								t.Fatalf("item %d of %d was done %d times", i, items, n)
							}
						}
					}
				}
				p.close()
				p.close()
			})
		}
	}
}

// A worker that was called and has not come holds nobody up, and a call that comes late does no harm.
func TestWorkersThatStayAway(t *testing.T) {
	p := newWorkers(2, 0)
	w := p.others[0]
	for !w.asleep.CompareAndSwap(true, false) { // now calls do not reach it
		runtime.Gosched()
	}
	for range 3 {
		n := 0
		p.each(10, 1, func(worker, _ int) { n += 1 + 100*worker })
		if n != 10 {
			t.Errorf("sum %d, want the 10 items of worker 0", n)
		}
	}
	w.wake <- struct{}{}
	p.close()
}

// Many steps of the default model, too many for the plain engine: all vector engines end in the same state.
func TestVectorEnginesAgree(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds; runs without -short")
	}
	net := build(t, DefaultModel())
	data := drawSamples(net, "agree", 500)
	start := net.Init(seedOf("agree"))
	var first *Trained
	eachVector(t, net, func(t *testing.T, e Engine) {
		r := train(t, e, start, data, Trial{Steps: 200, BatchSeed: batchSeeds("agree")})
		if first == nil {
			first = r
		}
		if r.Root != first.Root || r.LogitsDigest != first.LogitsDigest {
			t.Error("other bits than the first engine's")
		}
	})
}
