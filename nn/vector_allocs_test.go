package nn

import (
	"fmt"
	"testing"

	"github.com/descentnet/minerd/nn/kernel"
)

// A longer trial allocates no more than a short one: nothing is allocated per step, once the engine is warm. The stacks
// are those that TestVectorStepsWithoutAllocating does not have: several convolutions with and without padding and
// pooling, several dense layers, several input channels.
func TestTrainWithoutAllocatingPerStep(t *testing.T) {
	conv := func(units, kernel int, p Padding) Layer {
		return Layer{Kind: Conv2D, Units: units, KernelRows: kernel, KernelCols: kernel, Stride: 1, Padding: p, Activation: ReLU}
	}
	pool := Layer{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2}
	dense := func(units int, a Activation) Layer { return Layer{Kind: Dense, Units: units, Activation: a} }
	flat := Layer{Kind: Flatten}
	for _, m := range []namedModel{
		{"lenet", Model{Input: Shape{28, 28, 1}, Optimizer: testSGD, Layers: []Layer{
			conv(6, 5, Same), pool, conv(16, 5, Valid), pool, flat, dense(120, ReLU), dense(84, ReLU), dense(10, Linear)}}},
		{"vgg", Model{Input: Shape{16, 16, 3}, Optimizer: testAdam, Layers: []Layer{
			conv(32, 3, Same), conv(32, 3, Same), pool, conv(64, 3, Same), conv(64, 3, Same), pool, flat, dense(64, ReLU), dense(10, Linear)}}},
	} {
		m.model.Loss, m.model.Batch = SoftmaxCrossEntropy, 4
		net := build(t, m.model)
		data := drawSamples(net, "allocations", 20)
		start := net.Init(seedOf("allocations"))
		for _, isa := range kernel.All() {
			for threads := 1; threads <= 2; threads++ {
				t.Run(fmt.Sprintf("%s/%s/%d", m.name, isa.Name(), threads), func(t *testing.T) {
					e, err := NewVector(net, isa, threads)
					if err != nil {
						t.Fatal(err)
					}
					defer e.Close()
					allocations := func(steps int) float64 {
						return testing.AllocsPerRun(3, func() {
							train(t, e, start, data, Trial{Steps: steps, BatchSeed: batchSeeds("allocations")})
						})
					}
					long, short := allocations(22), allocations(2)
					if long-short >= 20 { // fewer are the runtime's own: a pool that was emptied, say
						t.Errorf("%g allocations in 22 steps, %g in 2", long, short)
					}
				})
			}
		}
	}
}
