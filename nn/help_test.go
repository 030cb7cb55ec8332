package nn

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// seedOf is a seed that names what it is for.
func seedOf(purpose string) (seed [32]byte) {
	copy(seed[:], purpose)
	return seed
}

func build(t testing.TB, m Model) *Net {
	t.Helper()
	n, err := m.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// drawSamples draws n images and labels for the net. Three pixels of four are 0, as in images of digits, so that
// zero terms, dead units and equal neighbours in pools are met.
func drawSamples(net *Net, seed string, n int) Samples {
	r := rand.NewChaCha8(seedOf(seed))
	s := Samples{Size: net.Model.Input.Size()}
	for range n * s.Size {
		x := r.Uint64()
		if x>>62 != 0 {
			x = 0
		}
		s.Pixels = append(s.Pixels, byte(x))
	}
	for range n {
		s.Labels = append(s.Labels, byte(r.Uint64()%uint64(net.Outputs)))
	}
	return s
}

// batchSeeds gives one seed per step of a named run.
func batchSeeds(run string) func(uint32) [32]byte {
	return func(step uint32) [32]byte {
		seed := seedOf(run)
		binary.LittleEndian.PutUint32(seed[28:], step)
		return seed
	}
}

// initState is the net's initial state with biases that are not zero, so that they are seen to be used.
func initState(net *Net, seed string) *State {
	s := net.Init(seedOf(seed))
	r := rand.New(rand.NewChaCha8(seedOf(seed + " biases")))
	for i := range net.Layers {
		_, bias := net.Layers[i].weights(s.Params)
		for j := range bias {
			bias[j] = r.Float32() - 0.5
		}
	}
	return s
}

func train(t testing.TB, e Engine, start *State, data Samples, tr Trial) *Trained {
	t.Helper()
	r, err := e.Train(context.Background(), start, data, tr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// gradient gets the gradient of the batch's mean loss out of any engine: one step of SGD without momentum and with
// rate 1 leaves u = -g. The net must have been built from gradientModel.
func gradient(t testing.TB, e Engine, start *State, data Samples, batch func(uint32) [32]byte) []float32 {
	t.Helper()
	r := train(t, e, start, data, Trial{Steps: 1, BatchSeed: batch})
	g := make([]float32, len(r.State.First))
	for i, u := range r.State.First {
		g[i] = -u
	}
	return g
}

// gradientModel is m with the optimizer that shows its gradients.
func gradientModel(m Model) Model {
	m.Optimizer = Optimizer{Kind: SGD, LearningRate: 1}
	return m
}

var (
	testAdam = Optimizer{Kind: Adam, LearningRate: 0.01, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7}
	testSGD  = Optimizer{Kind: SGD, LearningRate: 0.05, Momentum: 0.9}
)

type namedModel struct {
	name  string
	model Model
}

// layerModels are small models that together meet every kind of layer with its paddings, strides, channels, sizes
// that do not divide, both losses, both activations, and sums longer than a fold's block.
func layerModels() []namedModel {
	conv := func(units, rows, cols, stride int, p Padding, a Activation) Layer {
		return Layer{Kind: Conv2D, Units: units, KernelRows: rows, KernelCols: cols, Stride: stride, Padding: p, Activation: a}
	}
	pool := func(rows, cols int) Layer { return Layer{Kind: MaxPool2D, KernelRows: rows, KernelCols: cols} }
	dense := func(units int, a Activation) Layer { return Layer{Kind: Dense, Units: units, Activation: a} }
	flat := Layer{Kind: Flatten}
	of := func(in Shape, loss LossKind, o Optimizer, batch int, layers ...Layer) Model {
		return Model{Input: in, Layers: layers, Loss: loss, Optimizer: o, Batch: batch}
	}
	return []namedModel{
		{"dense", of(Shape{1, 1, 9}, SoftmaxCrossEntropy, testAdam, 5, dense(4, Linear))},
		{"dense over 256 inputs and samples", of(Shape{1, 1, 300}, SoftmaxCrossEntropy, testAdam, 260, dense(3, ReLU), dense(4, Linear))},
		{"dense over 256 outputs", of(Shape{1, 1, 5}, MeanSquaredError, testSGD, 3, dense(4, Linear), dense(270, ReLU), dense(3, Linear))},
		{"mean squared error, ReLU at the end", of(Shape{2, 3, 1}, MeanSquaredError, testSGD, 7, flat, dense(6, ReLU), dense(3, ReLU))},
		{"conv valid", of(Shape{7, 6, 1}, SoftmaxCrossEntropy, testAdam, 4, conv(3, 3, 2, 1, Valid, ReLU), flat, dense(3, Linear))},
		{"conv same, even kernel", of(Shape{5, 6, 2}, SoftmaxCrossEntropy, testSGD, 4,
			conv(3, 2, 4, 1, Same, Linear), conv(4, 4, 2, 1, Same, ReLU), flat, dense(3, Linear))},
		{"conv same, stride 2", of(Shape{9, 8, 3}, SoftmaxCrossEntropy, testAdam, 3,
			conv(4, 3, 3, 2, Same, ReLU), conv(5, 3, 3, 2, Same, Linear), flat, dense(4, Linear))},
		{"conv valid, stride 3, rest unused", of(Shape{14, 13, 2}, MeanSquaredError, testAdam, 3,
			conv(3, 2, 2, 1, Valid, Linear), conv(4, 3, 4, 3, Valid, ReLU), flat, dense(3, Linear))},
		{"conv over 256 positions and taps", of(Shape{19, 18, 6}, SoftmaxCrossEntropy, testAdam, 2,
			conv(6, 1, 1, 1, Valid, ReLU), conv(6, 7, 7, 1, Same, Linear), pool(5, 4), flat, dense(3, Linear))},
		{"kernel larger than its input", of(Shape{2, 3, 2}, SoftmaxCrossEntropy, testSGD, 4,
			conv(3, 3, 3, 1, Same, Linear), conv(3, 7, 5, 2, Same, ReLU), flat, dense(2, Linear))},
		{"pools that do not divide", of(Shape{11, 13, 1}, SoftmaxCrossEntropy, testAdam, 4,
			conv(4, 2, 2, 1, Valid, ReLU), pool(3, 2), conv(3, 2, 2, 1, Same, Linear), pool(2, 4), flat, dense(3, Linear))},
		{"no weights first", of(Shape{8, 9, 2}, MeanSquaredError, testSGD, 4,
			pool(2, 2), conv(3, 3, 3, 1, Same, ReLU), pool(1, 2), flat, dense(3, Linear))},
		{"conv to the end", of(Shape{5, 5, 2}, SoftmaxCrossEntropy, testAdam, 4,
			conv(4, 3, 3, 2, Valid, ReLU), conv(3, 2, 2, 1, Valid, Linear))},
	}
}

func bitsOf(x float32) uint32 { return math.Float32bits(x) }

// sameBits says whether all values are equal as bits.
func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if bitsOf(a[i]) != bitsOf(b[i]) {
			return false
		}
	}
	return true
}

var (
	inf     = float32(math.Inf(1))
	nan     = float32(math.NaN())
	minus0  = float32(math.Copysign(0, -1))
	tiniest = math.Float32frombits(1)
)
