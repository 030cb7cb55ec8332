package nn

import (
	"errors"
	"fmt"
)

// Shape is the size of one sample's activation, laid out (row, column, channel) with the channel fastest. A flat
// vector of n values is 1 x 1 x n.
type Shape struct{ Rows, Cols, Channels int }

// Size is the number of values.
func (s Shape) Size() int { return s.Rows * s.Cols * s.Channels }

// Flat says whether the shape is a vector.
func (s Shape) Flat() bool { return s.Rows == 1 && s.Cols == 1 }

func (s Shape) String() string { return fmt.Sprintf("%dx%dx%d", s.Rows, s.Cols, s.Channels) }

// LayerKind is the operation of a layer. The numbers are consensus.
type LayerKind uint8

// The layers that a model is built of.
const (
	Conv2D    LayerKind = 1
	MaxPool2D LayerKind = 2
	Flatten   LayerKind = 3
	Dense     LayerKind = 4
)

func (k LayerKind) String() string {
	return nameOf(k, map[LayerKind]string{Conv2D: "conv2d", MaxPool2D: "maxpool2d", Flatten: "flatten", Dense: "dense"})
}

// Padding of a convolution. The numbers are consensus.
type Padding uint8

// Valid convolutions use only whole patches; Same ones pad with +0 to ceil(input/stride) outputs.
const (
	Valid Padding = 0
	Same  Padding = 1
)

func (p Padding) String() string { return nameOf(p, map[Padding]string{Valid: "valid", Same: "same"}) }

// Activation of a convolution or dense layer. The numbers are consensus.
type Activation uint8

// Linear leaves the value, ReLU is x > 0 ? x : +0.
const (
	Linear Activation = 0
	ReLU   Activation = 1
)

func (a Activation) String() string {
	return nameOf(a, map[Activation]string{Linear: "none", ReLU: "relu"})
}

// LossKind is what training brings down. The numbers are consensus.
type LossKind uint8

// Softmax cross-entropy takes the last layer as logits; mean squared error compares it with the one-hot label.
const (
	SoftmaxCrossEntropy LossKind = 1
	MeanSquaredError    LossKind = 2
)

func (l LossKind) String() string {
	return nameOf(l, map[LossKind]string{SoftmaxCrossEntropy: "softmax_cross_entropy", MeanSquaredError: "mean_squared_error"})
}

// OptimizerKind is the update rule. The numbers are consensus.
type OptimizerKind uint8

// Adam as Keras writes it, and SGD with momentum.
const (
	Adam OptimizerKind = 1
	SGD  OptimizerKind = 2
)

func (o OptimizerKind) String() string {
	return nameOf(o, map[OptimizerKind]string{Adam: "adam", SGD: "sgd"})
}

func nameOf[T ~uint8](v T, names map[T]string) string {
	if s, ok := names[v]; ok {
		return s
	}
	return fmt.Sprintf("unknown(%d)", uint8(v))
}

// Optimizer with its constants; those of the other kind are zero.
type Optimizer struct {
	Kind                  OptimizerKind
	LearningRate          float32
	Beta1, Beta2, Epsilon float32 // Adam
	Momentum              float32 // SGD
}

// Layer describes one layer; fields that do not belong to its kind are zero.
type Layer struct {
	Kind                   LayerKind
	Units                  int // Conv2D: output channels; Dense: outputs
	KernelRows, KernelCols int // Conv2D: kernel; MaxPool2D: window
	Stride                 int // Conv2D
	Padding                Padding
	Activation             Activation
}

// Model is a network to be trained, as data.
type Model struct {
	Input     Shape
	Layers    []Layer
	Loss      LossKind
	Optimizer Optimizer
	Batch     int // samples per step
}

// DefaultModel is the Keras CNN for 28x28 digits: 693,962 parameters.
func DefaultModel() Model {
	return Model{
		Input: Shape{28, 28, 1},
		Layers: []Layer{
			{Kind: Conv2D, Units: 32, KernelRows: 3, KernelCols: 3, Stride: 1, Activation: ReLU},
			{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2},
			{Kind: Flatten},
			{Kind: Dense, Units: 128, Activation: ReLU},
			{Kind: Dense, Units: 10},
		},
		Loss:      SoftmaxCrossEntropy,
		Optimizer: Optimizer{Kind: Adam, LearningRate: 0.001, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7},
		Batch:     32,
	}
}

// Limits of a model. They bound memory before any is allocated and keep every size far from overflow.
const (
	MaxParams      = 1 << 24 // 192 MiB of parameters and Adam's moments
	MaxActivations = 1 << 24 // values of one sample's layer
	MaxBatchValues = 1 << 27 // values of all layers for a batch: 512 MiB, and as much again for gradients
	MaxLayers      = 64
	MaxKernel      = 7
	MaxBatch       = 4096
	maxSide        = 1 << 16
)

// ErrModel is the kind of all errors of Build; the message names the layer.
var ErrModel = errors.New("bad model")

// NetLayer is a layer with its shapes and its place among the parameters.
type NetLayer struct {
	Layer
	In, Out         Shape
	PadTop, PadLeft int // rows and columns of +0 before the input of a Same convolution
	// Weights are Params[WeightsAt:BiasAt], in order (kernel row, kernel column, input channel, output channel) or
	// (input, output); the Units biases follow at BiasAt. Both are 0 where HasWeights is false.
	WeightsAt, BiasAt int
}

// HasWeights says whether the layer has parameters.
func (l *NetLayer) HasWeights() bool { return l.Kind == Conv2D || l.Kind == Dense }

// MulAdds is the number of multiply-accumulates of one sample's forward pass, padded taps counted.
func (l *NetLayer) MulAdds() int64 {
	switch l.Kind {
	case Conv2D:
		return int64(l.Out.Size()) * int64(l.KernelRows*l.KernelCols) * int64(l.In.Channels)
	case Dense:
		return int64(l.In.Size()) * int64(l.Units)
	}
	return 0
}

// Net is a Model whose shapes were checked and worked out.
type Net struct {
	Model   Model
	Layers  []NetLayer
	Params  int // number of parameters
	Outputs int // values of the last layer: the classes
	// FirstWeights is the index of the first layer with weights; no gradient goes further down.
	FirstWeights int
	// ForwardMulAdds and TrainMulAdds are multiply-accumulates per sample: of the forward pass, and of a training
	// step, which does each layer's work three times but that of the first layer with weights, twice.
	ForwardMulAdds, TrainMulAdds int64
}

// Build checks the model's shapes and constants. Its errors are ErrModel and name the layer.
func (m Model) Build() (*Net, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModel, err)
	}
	n := &Net{Model: m}
	n.Model.Layers = append([]Layer(nil), m.Layers...)
	in := m.Input
	values := int64(in.Size())
	factor := int64(2)
	for i, l := range m.Layers {
		b, err := buildLayer(l, in)
		if err != nil {
			return nil, fmt.Errorf("%w: layer %d (%v): %w", ErrModel, i, l.Kind, err)
		}
		if b.HasWeights() {
			perUnit := in.Size()
			if l.Kind == Conv2D {
				perUnit = l.KernelRows * l.KernelCols * in.Channels
			}
			if perUnit > MaxParams || int64(perUnit+1)*int64(l.Units) > int64(MaxParams-n.Params) {
				return nil, fmt.Errorf("%w: layer %d (%v): more than %d parameters in all", ErrModel, i, l.Kind, MaxParams)
			}
			b.WeightsAt = n.Params
			b.BiasAt = n.Params + perUnit*l.Units
			n.Params = b.BiasAt + l.Units
			n.ForwardMulAdds += b.MulAdds()
			n.TrainMulAdds += factor * b.MulAdds()
			if factor == 2 {
				n.FirstWeights = i
				factor = 3
			}
		}
		if values += int64(b.Out.Size()); values*int64(m.Batch) > MaxBatchValues {
			return nil, fmt.Errorf("%w: layer %d (%v): a batch has more than %d values up to here", ErrModel, i, l.Kind, MaxBatchValues)
		}
		n.Layers = append(n.Layers, b)
		in = b.Out
	}
	if n.Params == 0 {
		return nil, fmt.Errorf("%w: no layer has weights", ErrModel)
	}
	if !in.Flat() || in.Channels < 2 || in.Channels > 256 {
		return nil, fmt.Errorf("%w: the last layer gives %v, needed is a flat vector of 2 to 256 classes", ErrModel, in)
	}
	n.Outputs = in.Channels
	return n, nil
}

func (m Model) check() error {
	if err := checkShape(m.Input); err != nil {
		return fmt.Errorf("input: %w", err)
	}
	if len(m.Layers) == 0 || len(m.Layers) > MaxLayers {
		return fmt.Errorf("%d layers, allowed are 1 to %d", len(m.Layers), MaxLayers)
	}
	if m.Batch < 1 || m.Batch > MaxBatch {
		return fmt.Errorf("batch of %d samples, allowed are 1 to %d", m.Batch, MaxBatch)
	}
	if m.Loss != SoftmaxCrossEntropy && m.Loss != MeanSquaredError {
		return fmt.Errorf("loss %v", m.Loss)
	}
	return m.Optimizer.check()
}

func (o Optimizer) check() error {
	in := func(name string, x, lo, hi float32) error {
		if !(x >= lo && x < hi) || (x == 0 && isNegative(x)) {
			return fmt.Errorf("optimizer %v: %s = %g, allowed is %g <= %s < %g", o.Kind, name, x, lo, name, hi)
		}
		return nil
	}
	const tiny = 0x1p-60
	switch o.Kind {
	case Adam:
		if !isPlusZero(o.Momentum) {
			return errors.New("optimizer adam has no momentum")
		}
		return errors.Join(in("learning_rate", o.LearningRate, tiny, 1024), in("beta1", o.Beta1, 0, 1), in("beta2", o.Beta2, 0, 1),
			in("epsilon", o.Epsilon, tiny, 1))
	case SGD:
		if !isPlusZero(o.Beta1) || !isPlusZero(o.Beta2) || !isPlusZero(o.Epsilon) {
			return errors.New("optimizer sgd has no beta1, beta2 and epsilon")
		}
		return errors.Join(in("learning_rate", o.LearningRate, tiny, 1024), in("momentum", o.Momentum, 0, 1))
	}
	return fmt.Errorf("optimizer %v", o.Kind)
}

// isPlusZero refuses -0 too: it would be a second form of the same model.
func isPlusZero(x float32) bool { return x == 0 && !isNegative(x) }

func checkShape(s Shape) error {
	if s.Rows < 1 || s.Cols < 1 || s.Channels < 1 {
		return fmt.Errorf("shape %v: each side must be at least 1", s)
	}
	if s.Rows > maxSide || s.Cols > maxSide || s.Channels > MaxActivations || int64(s.Rows)*int64(s.Cols)*int64(s.Channels) > MaxActivations {
		return fmt.Errorf("shape %v: rows and columns may be up to %d, values up to %d", s, maxSide, MaxActivations)
	}
	return nil
}

func buildLayer(l Layer, in Shape) (b NetLayer, err error) {
	b = NetLayer{Layer: l, In: in}
	used := Layer{Kind: l.Kind}
	switch l.Kind {
	case Conv2D:
		used = l
		if err := checkKernel(l, MaxKernel); err != nil {
			return b, err
		}
		if l.Stride < 1 || l.Stride > min(l.KernelRows, l.KernelCols) {
			return b, fmt.Errorf("stride %d, allowed are 1 to the kernel's smaller side", l.Stride)
		}
		if l.Padding == Valid && (l.KernelRows > in.Rows || l.KernelCols > in.Cols) {
			return b, fmt.Errorf("kernel %dx%d is larger than its input %v", l.KernelRows, l.KernelCols, in)
		}
		var rows, cols int
		rows, b.PadTop = convSide(in.Rows, l.KernelRows, l.Stride, l.Padding)
		cols, b.PadLeft = convSide(in.Cols, l.KernelCols, l.Stride, l.Padding)
		b.Out = Shape{rows, cols, l.Units}
	case MaxPool2D:
		used.KernelRows, used.KernelCols = l.KernelRows, l.KernelCols
		if err := checkKernel(l, maxSide); err != nil {
			return b, err
		}
		if l.KernelRows > in.Rows || l.KernelCols > in.Cols {
			return b, fmt.Errorf("window %dx%d is larger than its input %v", l.KernelRows, l.KernelCols, in)
		}
		b.Out = Shape{in.Rows / l.KernelRows, in.Cols / l.KernelCols, in.Channels}
	case Flatten:
		b.Out = Shape{1, 1, in.Size()}
	case Dense:
		used.Units, used.Activation = l.Units, l.Activation
		if !in.Flat() {
			return b, fmt.Errorf("its input %v is not flat: put a flatten layer before it", in)
		}
		b.Out = Shape{1, 1, l.Units}
	default:
		return b, errors.New("no such kind of layer")
	}
	if l != used {
		return b, fmt.Errorf("settings that do not belong to this kind: %+v", l)
	}
	if l.Padding > Same || l.Activation > ReLU {
		return b, fmt.Errorf("padding %v, activation %v", l.Padding, l.Activation)
	}
	return b, checkShape(b.Out)
}

func checkKernel(l Layer, most int) error {
	if l.KernelRows < 1 || l.KernelCols < 1 || l.KernelRows > most || l.KernelCols > most {
		return fmt.Errorf("kernel %dx%d, its sides must be 1 to %d", l.KernelRows, l.KernelCols, most)
	}
	return nil
}

// convSide is the output length and the padding before the input, along one axis.
func convSide(in, kernel, stride int, p Padding) (out, before int) {
	if p == Valid {
		return (in-kernel)/stride + 1, 0
	}
	out = (in + stride - 1) / stride
	return out, max((out-1)*stride+kernel-in, 0) / 2
}
