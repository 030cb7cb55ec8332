package gpu

import (
	"context"
	"slices"
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
	"github.com/descentnet/minerd/nn"
)

// listed notes the names of the kernels that are asked for and runs none.
type listed struct {
	machine
	kernels []string
}

func (l *listed) Launch(kernel string, _, _ [3]int, _ ...uint64) error {
	l.kernels = append(l.kernels, kernel)
	return nil
}

func conv(units int) nn.Layer {
	return nn.Layer{Kind: nn.Conv2D, Units: units, KernelRows: 3, KernelCols: 3, Stride: 1, Activation: nn.ReLU}
}

func pool(rows, cols int) nn.Layer {
	return nn.Layer{Kind: nn.MaxPool2D, KernelRows: rows, KernelCols: cols}
}

func model(t *testing.T, in nn.Shape, layers ...nn.Layer) *nn.Net {
	t.Helper()
	net, err := nn.Model{Input: in, Layers: layers, Loss: nn.SoftmaxCrossEntropy, Optimizer: adam, Batch: 3}.Build()
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// Which kernels a step takes, and that a trial's memory has no room for what lies between a convolution and its pooling.
func TestPlan(t *testing.T) {
	standard, err := nn.DefaultModel().Build()
	if err != nil {
		t.Fatal(err)
	}
	dense := nn.Layer{Kind: nn.Dense, Units: 4}
	flatten := nn.Layer{Kind: nn.Flatten}
	for _, c := range []struct {
		what    string
		net     *nn.Net
		kernels []string
	}{
		{"the default model", standard, []string{
			"gather", "conv_pool_forward", "dense_forward", "dense_finish", "dense_forward", "dense_loss",
			"dense_input_gradient", "dense_update_adam", "dense_input_gradient", "dense_update_adam", "conv_pool_weight_gradient", "conv_update_adam",
		}},
		{"a pooling first, one behind another, a convolution without", model(t, nn.Shape{Rows: 40, Cols: 40, Channels: 1},
			pool(2, 2), conv(2), pool(2, 2), pool(2, 2), conv(4), pool(2, 2)), []string{
			"gather", "pool_forward", "conv_pool_forward", "pool_forward", "conv_pool_forward", "loss",
			"conv_pool_input_gradient", "conv_pool_weight_gradient", "conv_update_adam", "pool_input_gradient", "conv_pool_weight_gradient", "conv_update_adam",
		}},
		{"something between convolution and pooling", model(t, nn.Shape{Rows: 8, Cols: 8, Channels: 1}, conv(2), flatten, pool(1, 1), dense), []string{
			"gather", "conv_forward", "pool_forward", "dense_forward", "dense_loss",
			"dense_input_gradient", "dense_update_adam", "pool_input_gradient", "conv_weight_gradient", "conv_update_adam",
		}},
		{"a large window", model(t, nn.Shape{Rows: 14, Cols: 14, Channels: 1}, conv(2), pool(12, 12), flatten, dense), []string{
			"gather", "conv_forward", "pool_forward", "dense_forward", "dense_loss",
			"dense_input_gradient", "dense_update_adam", "pool_input_gradient", "conv_weight_gradient", "conv_update_adam",
		}},
	} {
		m := &listed{}
		e := &engine{net: c.net, m: m, plan: newPlan(c.net, 1)}
		l := launcher{e: e, trials: 1, steps: 1, data: &loadedData{}}
		if l.train(); l.err != nil {
			t.Fatal(l.err)
		}
		if !slices.Equal(m.kernels, c.kernels) {
			t.Errorf("%s: a step takes\n%v, want\n%v", c.what, m.kernels, c.kernels)
		}
	}

	// Output and two gradients as large as the pooling's output, codes of a quarter, and what is small.
	pooled := standard.Layers[1].Out.Size() * standard.Model.Batch
	if rest := newPlan(standard, 1).stride - standard.StateSize()/4; rest < 3*pooled || rest > 5*pooled {
		t.Errorf("a trial has %d words beside its state, which is not 3 to 5 times %d", rest, pooled)
	}
}

// Convolutions with poolings behind them end as in the plain engine: one on the other, windows that do not divide, the
// largest window that is made with a convolution, and one that is too large for it.
func TestPooledConvolutions(t *testing.T) {
	flatten, dense := nn.Layer{Kind: nn.Flatten}, nn.Layer{Kind: nn.Dense, Units: 3}
	linear, wide := conv(5), conv(4)
	linear.Activation = nn.Linear
	wide.KernelRows, wide.KernelCols, wide.Stride, wide.Padding = 3, 4, 2, nn.Same
	for i, net := range []*nn.Net{
		model(t, nn.Shape{Rows: 16, Cols: 15, Channels: 2}, conv(4), pool(2, 2), linear, pool(2, 2), flatten, dense),
		model(t, nn.Shape{Rows: 16, Cols: 15, Channels: 1}, linear, pool(1, 2), wide, pool(3, 2), flatten, dense),
		model(t, nn.Shape{Rows: 20, Cols: 20, Channels: 1}, wide, pool(2, 2), conv(9), pool(1, 2), pool(2, 1), flatten, dense),
		model(t, nn.Shape{Rows: 10, Cols: 19, Channels: 1}, conv(3), pool(8, 16)),
		model(t, nn.Shape{Rows: 14, Cols: 15, Channels: 1}, conv(3), pool(12, 12)),
	} {
		size := net.Model.Input.Size()
		data := nn.Samples{Labels: []byte{0, 1, 2, 1, 0}, Size: size}
		for at := 0; len(data.Pixels) < len(data.Labels)*size; at++ {
			h := seeds("pixels")(uint32(at))
			data.Pixels = append(data.Pixels, h[:]...)
		}
		data.Pixels = data.Pixels[:len(data.Labels)*size]
		trial := nn.Trial{Steps: 2, BatchSeed: seeds("pooled")}
		start := net.Init([32]byte{2})
		want, err := nn.NewPlain(net).Train(context.Background(), start, data, trial)
		if err != nil {
			t.Fatal(err)
		}
		got, err := newTestEngine(t, net, ptx.Backward, 1).Train(context.Background(), start, data, trial)
		if err != nil || got.Root != want.Root || got.LogitsDigest != want.LogitsDigest {
			t.Errorf("model %d: another end than in the plain engine (%v)", i, err)
		}
	}
}
