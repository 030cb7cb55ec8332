package main

import (
	"fmt"
	"strings"

	"github.com/descentnet/minerd/nn"
)

// benchModel is a model under the name that flags and tables use.
type benchModel struct {
	name string
	net  *nn.Net
}

// models lists what can be measured: the default task, a deep stack of convolutions, small convolutions of awkward
// sizes, and dense layers alone.
func models() []benchModel {
	conv := func(side, units int, p nn.Padding) nn.Layer {
		return nn.Layer{Kind: nn.Conv2D, Units: units, KernelRows: side, KernelCols: side, Stride: 1, Padding: p, Activation: nn.ReLU}
	}
	dense := func(units int) nn.Layer { return nn.Layer{Kind: nn.Dense, Units: units, Activation: nn.ReLU} }
	pool := nn.Layer{Kind: nn.MaxPool2D, KernelRows: 2, KernelCols: 2}
	flatten := nn.Layer{Kind: nn.Flatten}
	logits := nn.Layer{Kind: nn.Dense, Units: 10}

	standard := nn.DefaultModel()
	with := func(in nn.Shape, batch int, layers ...nn.Layer) nn.Model {
		return nn.Model{Input: in, Layers: layers, Loss: standard.Loss, Optimizer: standard.Optimizer, Batch: batch}
	}
	var list []benchModel
	for _, m := range []struct {
		name  string
		model nn.Model
	}{
		{"default", standard},
		{"vgg", with(nn.Shape{Rows: 32, Cols: 32, Channels: 3}, 64,
			conv(3, 32, nn.Same), conv(3, 32, nn.Same), pool, conv(3, 64, nn.Same), conv(3, 64, nn.Same), pool,
			flatten, dense(256), logits)},
		{"lenet5", with(standard.Input, 32,
			conv(5, 6, nn.Same), pool, conv(5, 16, nn.Valid), pool, flatten, dense(120), dense(84), logits)},
		{"mlp", with(standard.Input, 32, flatten, dense(512), dense(512), logits)},
	} {
		net, err := m.model.Build()
		if err != nil {
			panic(fmt.Sprintf("model %s: %v", m.name, err))
		}
		list = append(list, benchModel{m.name, net})
	}
	return list
}

// chooseModels reads a comma-separated list of names; an empty one means all.
func chooseModels(names string) ([]benchModel, error) {
	all := models()
	if names == "" {
		return all, nil
	}
	var chosen []benchModel
next:
	for name := range strings.SplitSeq(names, ",") {
		for _, m := range all {
			if m.name == name {
				chosen = append(chosen, m)
				continue next
			}
		}
		var known []string
		for _, m := range all {
			known = append(known, m.name)
		}
		return nil, fmt.Errorf("no model %q; there are %s", name, strings.Join(known, ", "))
	}
	return chosen, nil
}

// stepFlops counts the floating-point operations of a training step's products, two for each multiply-add. The rest
// (biases, pooling, loss) is left out; the optimizer is counted in time, not in operations.
func stepFlops(n *nn.Net) float64 { return 2 * float64(n.Model.Batch) * float64(n.TrainMulAdds) }

// imageFlops counts those of evaluating one image.
func imageFlops(n *nn.Net) float64 { return 2 * float64(n.ForwardMulAdds) }
