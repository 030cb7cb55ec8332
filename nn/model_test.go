package nn

import (
	"errors"
	"runtime"
	"strings"
	"testing"
)

func TestConvShapes(t *testing.T) {
	for _, c := range []struct {
		name             string
		in               Shape
		rows, cols       int
		stride           int
		padding          Padding
		want             Shape // with 5 units
		padTop, padLeft  int
		mulAddsPerSample int64
	}{
		{"valid", Shape{28, 28, 1}, 3, 3, 1, Valid, Shape{26, 26, 5}, 0, 0, 26 * 26 * 5 * 9},
		{"valid, whole input", Shape{4, 6, 3}, 4, 6, 1, Valid, Shape{1, 1, 5}, 0, 0, 5 * 24 * 3},
		{"valid, stride leaves a rest", Shape{10, 11, 2}, 4, 3, 3, Valid, Shape{3, 3, 5}, 0, 0, 9 * 5 * 12 * 2},
		{"valid, stride 2", Shape{7, 8, 1}, 3, 3, 2, Valid, Shape{3, 3, 5}, 0, 0, 9 * 5 * 9},
		{"same", Shape{28, 28, 1}, 3, 3, 1, Same, Shape{28, 28, 5}, 1, 1, 28 * 28 * 5 * 9},
		{"same, even kernel pads less before", Shape{5, 5, 1}, 2, 4, 1, Same, Shape{5, 5, 5}, 0, 1, 25 * 5 * 8},
		{"same, stride 2, even input", Shape{28, 8, 1}, 3, 3, 2, Same, Shape{14, 4, 5}, 0, 0, 56 * 5 * 9},
		{"same, stride 2, odd input", Shape{7, 9, 4}, 5, 3, 2, Same, Shape{4, 5, 5}, 2, 1, 20 * 5 * 15 * 4},
		{"same, stride 3", Shape{10, 9, 1}, 3, 3, 3, Same, Shape{4, 3, 5}, 1, 0, 12 * 5 * 9},
		{"same, kernel beyond the input", Shape{1, 2, 1}, 7, 7, 1, Same, Shape{1, 2, 5}, 3, 3, 2 * 5 * 49},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := Model{
				Input: c.in,
				Layers: []Layer{
					{Kind: Conv2D, Units: 5, KernelRows: c.rows, KernelCols: c.cols, Stride: c.stride, Padding: c.padding},
					{Kind: Flatten},
					{Kind: Dense, Units: 2},
				},
				Loss: SoftmaxCrossEntropy, Optimizer: testSGD, Batch: 1,
			}
			l := build(t, m).Layers[0]
			if l.Out != c.want || l.PadTop != c.padTop || l.PadLeft != c.padLeft || l.MulAdds() != c.mulAddsPerSample {
				t.Errorf("output %v, padding %d and %d, %d multiply-adds; want %v, %d and %d, %d",
					l.Out, l.PadTop, l.PadLeft, l.MulAdds(), c.want, c.padTop, c.padLeft, c.mulAddsPerSample)
			}
		})
	}
}

func TestDefaultModel(t *testing.T) {
	n := build(t, DefaultModel())
	shapes := []Shape{{26, 26, 32}, {13, 13, 32}, {1, 1, 5408}, {1, 1, 128}, {1, 1, 10}}
	for i, want := range shapes {
		if got := n.Layers[i].Out; got != want {
			t.Errorf("layer %d gives %v, want %v", i, got, want)
		}
	}
	const conv, dense1, dense2 = 9*32 + 32, 5408*128 + 128, 128*10 + 10
	if n.Params != conv+dense1+dense2 || conv+dense1+dense2 != 693_962 {
		t.Errorf("%d parameters", n.Params)
	}
	for i, want := range map[int][2]int{0: {0, 288}, 3: {conv, conv + 5408*128}, 4: {conv + dense1, conv + dense1 + 1280}} {
		if l := n.Layers[i]; l.WeightsAt != want[0] || l.BiasAt != want[1] {
			t.Errorf("layer %d: weights at %d, bias at %d, want %v", i, l.WeightsAt, l.BiasAt, want)
		}
	}
	const convWork, dense1Work, dense2Work = 26 * 26 * 32 * 9, 5408 * 128, 128 * 10
	if n.ForwardMulAdds != convWork+dense1Work+dense2Work || n.TrainMulAdds != 2*convWork+3*dense1Work+3*dense2Work {
		t.Errorf("%d multiply-adds forward, %d in training", n.ForwardMulAdds, n.TrainMulAdds)
	}
	if n.Outputs != 10 || n.FirstWeights != 0 || n.StateSize() != 12*693_962+16 {
		t.Errorf("outputs %d, first weights %d, state of %d bytes", n.Outputs, n.FirstWeights, n.StateSize())
	}
}

// Layers before the first with weights cost nothing, and the first with weights needs no gradient of its input.
func TestTrainMulAddsAfterPool(t *testing.T) {
	m := Model{
		Input:  Shape{4, 4, 1},
		Layers: []Layer{{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2}, {Kind: Flatten}, {Kind: Dense, Units: 3}, {Kind: Dense, Units: 2}},
		Loss:   MeanSquaredError, Optimizer: testSGD, Batch: 1,
	}
	n := build(t, m)
	if n.FirstWeights != 2 || n.ForwardMulAdds != 12+6 || n.TrainMulAdds != 2*12+3*6 {
		t.Errorf("first weights %d, %d and %d multiply-adds", n.FirstWeights, n.ForwardMulAdds, n.TrainMulAdds)
	}
}

func TestBadModels(t *testing.T) {
	conv := func(change func(l *Layer)) func(m *Model) { return func(m *Model) { change(&m.Layers[0]) } }
	pool := func(change func(l *Layer)) func(m *Model) { return func(m *Model) { change(&m.Layers[1]) } }
	flat := func(change func(l *Layer)) func(m *Model) { return func(m *Model) { change(&m.Layers[2]) } }
	dense := func(change func(l *Layer)) func(m *Model) { return func(m *Model) { change(&m.Layers[3]) } }
	optimizer := func(o Optimizer) func(m *Model) { return func(m *Model) { m.Optimizer = o } }
	const huge = int(^uint(0) >> 1)
	for _, c := range []struct {
		name   string
		change func(m *Model)
		names  string // what the message must name
	}{
		{"no rows", func(m *Model) { m.Input.Rows = 0 }, "input"},
		{"negative columns", func(m *Model) { m.Input.Cols = -28 }, "input"},
		{"no channels", func(m *Model) { m.Input.Channels = 0 }, "input"},
		{"huge input", func(m *Model) { m.Input = Shape{huge, huge, huge} }, "input"},
		{"sides that multiply to 2^48", func(m *Model) { m.Input = Shape{1 << 16, 1 << 16, 1 << 16} }, "input"},
		{"one value too many", func(m *Model) { m.Input = Shape{1 << 12, 1 << 12, 2} }, "input"},
		{"no layers", func(m *Model) { m.Layers = nil }, "0 layers"},
		{"65 layers", func(m *Model) { m.Layers = make([]Layer, 65) }, "65 layers"},
		{"batch of none", func(m *Model) { m.Batch = 0 }, "batch of 0"},
		{"negative batch", func(m *Model) { m.Batch = -1 }, "batch of -1"},
		{"huge batch", func(m *Model) { m.Batch = MaxBatch + 1 }, "batch of 4097"},
		{"no loss", func(m *Model) { m.Loss = 0 }, "loss unknown(0)"},
		{"unknown loss", func(m *Model) { m.Loss = 3 }, "loss unknown(3)"},

		{"no optimizer", optimizer(Optimizer{}), "optimizer unknown(0)"},
		{"unknown optimizer", optimizer(Optimizer{Kind: 3, LearningRate: 1}), "optimizer unknown(3)"},
		{"adam with momentum", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Momentum: 0.9}), "adam has no momentum"},
		{"adam with momentum -0", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Momentum: minus0}), "adam has no momentum"},
		{"adam, learning rate 0", optimizer(Optimizer{Kind: Adam, Epsilon: 0.5}), "learning_rate"},
		{"adam, learning rate NaN", optimizer(Optimizer{Kind: Adam, LearningRate: nan, Epsilon: 0.5}), "learning_rate"},
		{"adam, learning rate infinite", optimizer(Optimizer{Kind: Adam, LearningRate: inf, Epsilon: 0.5}), "learning_rate"},
		{"adam, beta1 1", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Beta1: 1}), "beta1"},
		{"adam, beta1 -0", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Beta1: minus0}), "beta1"},
		{"adam, beta2 negative", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Beta2: -0.5}), "beta2"},
		{"adam, beta2 NaN", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: 0.5, Beta2: nan}), "beta2"},
		{"adam, epsilon 0", optimizer(Optimizer{Kind: Adam, LearningRate: 1}), "epsilon"},
		{"adam, epsilon subnormal", optimizer(Optimizer{Kind: Adam, LearningRate: 1, Epsilon: tiniest}), "epsilon"},
		{"sgd, learning rate negative", optimizer(Optimizer{Kind: SGD, LearningRate: -1}), "learning_rate"},
		{"sgd, learning rate 1024", optimizer(Optimizer{Kind: SGD, LearningRate: 1024}), "learning_rate"},
		{"sgd, momentum 1", optimizer(Optimizer{Kind: SGD, LearningRate: 1, Momentum: 1}), "momentum"},
		{"sgd, momentum -0", optimizer(Optimizer{Kind: SGD, LearningRate: 1, Momentum: minus0}), "momentum"},
		{"sgd with beta1", optimizer(Optimizer{Kind: SGD, LearningRate: 1, Beta1: 0.9}), "sgd has no beta1"},
		{"sgd with beta2 NaN", optimizer(Optimizer{Kind: SGD, LearningRate: 1, Beta2: nan}), "sgd has no beta1"},
		{"sgd with epsilon -0", optimizer(Optimizer{Kind: SGD, LearningRate: 1, Epsilon: minus0}), "sgd has no beta1"},

		{"conv, no kernel", conv(func(l *Layer) { l.KernelRows = 0 }), "layer 0 (conv2d): kernel 0x3"},
		{"conv, negative kernel", conv(func(l *Layer) { l.KernelCols = -1 }), "layer 0 (conv2d): kernel 3x-1"},
		{"conv, kernel of 8", conv(func(l *Layer) { l.KernelCols = 8 }), "layer 0 (conv2d): kernel 3x8"},
		{"conv, huge kernel", conv(func(l *Layer) { l.KernelRows = huge }), "layer 0 (conv2d): kernel"},
		{"conv, stride 0", conv(func(l *Layer) { l.Stride = 0 }), "layer 0 (conv2d): stride 0"},
		{"conv, stride past the kernel", conv(func(l *Layer) { l.Stride = 4 }), "layer 0 (conv2d): stride 4"},
		{"conv, stride past one side", conv(func(l *Layer) { l.KernelCols, l.Stride = 2, 3 }), "layer 0 (conv2d): stride 3"},
		{"conv, no units", conv(func(l *Layer) { l.Units = 0 }), "layer 0 (conv2d): shape"},
		{"conv, negative units", conv(func(l *Layer) { l.Units = -5 }), "layer 0 (conv2d): shape"},
		{"conv, huge units", conv(func(l *Layer) { l.Units = huge }), "layer 0 (conv2d): shape"},
		{"conv, output too large", conv(func(l *Layer) { l.Units = 30_000 }), "layer 0 (conv2d): shape"},
		{"conv, unknown padding", conv(func(l *Layer) { l.Padding = 2 }), "layer 0 (conv2d): padding unknown(2)"},
		{"conv, unknown activation", conv(func(l *Layer) { l.Activation = 2 }), "layer 0 (conv2d): padding valid, activation unknown(2)"},
		{"conv, kernel past its input", func(m *Model) { m.Input.Rows = 2 }, "layer 0 (conv2d): kernel 3x3 is larger"},

		{"pool, no window", pool(func(l *Layer) { l.KernelRows = 0 }), "layer 1 (maxpool2d): kernel 0x2"},
		{"pool, window past its input", pool(func(l *Layer) { l.KernelCols = 27 }), "layer 1 (maxpool2d): window 2x27"},
		{"pool, huge window", pool(func(l *Layer) { l.KernelCols = huge }), "layer 1 (maxpool2d): kernel"},
		{"pool with stride", pool(func(l *Layer) { l.Stride = 2 }), "layer 1 (maxpool2d): settings"},
		{"pool with units", pool(func(l *Layer) { l.Units = 32 }), "layer 1 (maxpool2d): settings"},
		{"pool with activation", pool(func(l *Layer) { l.Activation = ReLU }), "layer 1 (maxpool2d): settings"},
		{"flatten with units", flat(func(l *Layer) { l.Units = 1 }), "layer 2 (flatten): settings"},
		{"values of a batch", func(m *Model) { m.Input, m.Batch = Shape{512, 512, 1}, 64 }, "layer 0 (conv2d): a batch has more than"},
		{"dense with kernel", dense(func(l *Layer) { l.KernelRows = 1 }), "layer 3 (dense): settings"},
		{"dense with padding", dense(func(l *Layer) { l.Padding = Same }), "layer 3 (dense): settings"},
		{"dense, no units", dense(func(l *Layer) { l.Units = 0 }), "layer 3 (dense): shape"},
		{"dense, unknown activation", dense(func(l *Layer) { l.Activation = 9 }), "layer 3 (dense): padding valid, activation unknown(9)"},
		{"dense, huge units", dense(func(l *Layer) { l.Units = huge }), "layer 3 (dense): shape"},
		{"dense, too many parameters", dense(func(l *Layer) { l.Units = 4000 }), "layer 3 (dense): more than 16777216 parameters"},
		{"dense not flat", func(m *Model) { m.Layers[2] = Layer{Kind: Dense, Units: 2} }, "layer 2 (dense): its input 13x13x32"},
		{"no kind", func(m *Model) { m.Layers[4] = Layer{} }, "layer 4 (unknown(0))"},
		{"unknown kind", func(m *Model) { m.Layers[4].Kind = 5 }, "layer 4 (unknown(5))"},

		{"no weights", func(m *Model) { m.Input, m.Layers = Shape{1, 1, 10}, []Layer{{Kind: Flatten}} }, "no layer has weights"},
		{"one class", func(m *Model) { m.Layers[4].Units = 1 }, "the last layer gives 1x1x1"},
		{"257 classes", func(m *Model) { m.Layers[4].Units = 257 }, "the last layer gives 1x1x257"},
		{"last layer not flat", func(m *Model) { m.Layers = m.Layers[:2] }, "the last layer gives 13x13x32"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := DefaultModel()
			c.change(&m)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			n, err := m.Build()
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrModel) || n != nil {
				t.Fatalf("net %v, error %v", n, err)
			}
			if !strings.Contains(err.Error(), c.names) {
				t.Errorf("%q does not name %q", err, c.names)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 1<<16 {
				t.Errorf("allocated %d bytes to refuse it", got)
			}
		})
	}
}

func TestModelLimits(t *testing.T) {
	m := Model{
		Input: Shape{1, 1, 1<<16 - 1}, Layers: []Layer{{Kind: Dense, Units: 256}},
		Loss: SoftmaxCrossEntropy, Optimizer: testAdam, Batch: 1024,
	}
	if n := build(t, m); n.Params != MaxParams {
		t.Errorf("%d parameters, want %d", n.Params, MaxParams)
	}
	m.Layers = append(m.Layers, Layer{Kind: Dense, Units: 2})
	if _, err := m.Build(); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), "layer 1 (dense)") {
		t.Errorf("one layer more: %v", err)
	}
}

// A net keeps its own copy of the layers.
func TestNetOwnsModel(t *testing.T) {
	m := DefaultModel()
	n := build(t, m)
	m.Layers[0].Units = 1
	if n.Model.Layers[0].Units != 32 || n.Layers[0].Units != 32 {
		t.Error("changing the model changed the net")
	}
}

func TestCheckSamples(t *testing.T) {
	n := build(t, layerModels()[0].model) // 9 inputs, 4 outputs
	good := Samples{Pixels: make([]byte, 18), Labels: []byte{0, 3}, Size: 9}
	if err := n.CheckSamples(good); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]Samples{
		"none":           {Size: 9},
		"other size":     {Pixels: make([]byte, 18), Labels: []byte{0, 3}, Size: 8},
		"too few pixels": {Pixels: make([]byte, 17), Labels: []byte{0, 3}, Size: 9},
		"spare pixels":   {Pixels: make([]byte, 19), Labels: []byte{0, 3}, Size: 9},
		"label 4":        {Pixels: make([]byte, 18), Labels: []byte{0, 4}, Size: 9},
	} {
		if err := n.CheckSamples(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
