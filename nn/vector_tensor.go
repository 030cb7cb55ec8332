package nn

import "github.com/descentnet/minerd/nn/kernel"

// tensor is the input of a layer for all samples of a batch, in order (sample, row, column, channel). Around the
// values of each sample lie the zeros that the layer pads with; they are never written.
type tensor struct {
	shape  Shape
	data   []float32
	sample int // values from one sample to the next, the padding counted
	row    int // values from one row to the next
	start  int // index of the first value of sample 0
}

// newTensor makes the input of layer l (nil: the output of the last layer) for n samples.
func newTensor(n int, shape Shape, l *NetLayer) *tensor {
	rows, cols, top, left := shape.Rows, shape.Cols, 0, 0
	if l != nil && l.Kind == Conv2D {
		top, left = l.PadTop, l.PadLeft
		rows = max(rows+top, (l.Out.Rows-1)*l.Stride+l.KernelRows)
		cols = max(cols+left, (l.Out.Cols-1)*l.Stride+l.KernelCols)
	}
	t := &tensor{shape: shape, row: cols * shape.Channels}
	t.sample = rows * t.row
	t.start = top*t.row + left*shape.Channels
	t.data = make([]float32, n*t.sample)
	return t
}

// unflatten is the same memory seen as the input of a flatten layer, of which t is the output.
func (t *tensor) unflatten(shape Shape) *tensor {
	return &tensor{shape: shape, data: t.data, sample: t.sample, row: shape.Cols * shape.Channels, start: t.start}
}

// of is sample b with its padding.
func (t *tensor) of(b int) []float32 { return t.data[b*t.sample : (b+1)*t.sample] }

// at is row y of sample b, without padding.
func (t *tensor) at(b, y int) []float32 {
	i := b*t.sample + t.start + y*t.row
	return t.data[i : i+t.shape.Cols*t.shape.Channels]
}

// matrix has a sample in each row; the shape must be flat.
func (t *tensor) matrix() kernel.Rows { return kernel.Rows{Data: t.data[t.start:], Stride: t.sample} }

// gradients are those of the loss by a tensor, without padding: of the whole batch; or, between two layers that
// work sample by sample, of the sample that each worker is at.
type gradients struct {
	data      []float32
	size      int // values of one sample
	perWorker bool
}

// of is the gradient by sample b, which the worker is at.
func (g *gradients) of(worker, b int) []float32 {
	i := b
	if g.perWorker {
		i = worker
	}
	return g.data[i*g.size : (i+1)*g.size]
}
