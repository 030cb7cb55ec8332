package nn

import "github.com/descentnet/minerd/nn/kernel"

// vectorDense is a dense layer of the vector engine: products of the whole batch.
type vectorDense struct {
	e    *vector
	l    *NetLayer
	in   *tensor    // inputs, one sample in each row
	out  *tensor    // outputs
	gout *gradients // by the outputs
	gin  *gradients // by the inputs; nil if nobody needs it

	inputs  kernel.Offsets // terms of a fold over the inputs
	outputs kernel.Offsets // over the outputs
	samples kernel.Offsets // over the batch, for one input
	small   bool           // not worth sharing

	forwardPart        func(worker, item int)
	colParts, rowParts int // forward parts: panels of columns, and of samples

	rows         int       // inputs whose weights are updated at a time
	goutT        []float32 // gradient by the outputs, transposed: [Units][batch]
	biasGradient []float32
	scratch      []denseScratch // of each worker
	backwardPart func(worker, item int)
	backwardEnd  func(worker int)
}

// denseScratch holds what one worker makes of some rows of the weights: their gradients, which are used up while they
// are in the cache, and the gradients by their inputs.
type denseScratch struct {
	weights, before []float32       // [rows][Units]; before: of the rows before these
	inputs          []float32       // [rows][batch]
	step            kernel.AdamStep // on the rows before these
}

func (e *vector) newDense(l *NetLayer, in, out *tensor, gin, gout *gradients) *vectorDense {
	n, k, units := e.net.Model.Batch, l.In.Size(), l.Units
	d := &vectorDense{
		e: e, l: l, in: in, out: out, gin: gin, gout: gout,
		inputs:       kernel.Strided(k, 1),
		outputs:      kernel.Strided(units, 1),
		samples:      kernel.Strided(n, in.sample),
		small:        n*k*units < smallWork,
		rows:         panelRows(units),
		goutT:        make([]float32, units*n),
		biasGradient: make([]float32, units),
	}
	for range e.threads {
		d.scratch = append(d.scratch, denseScratch{
			weights: make([]float32, d.rows*units), before: make([]float32, d.rows*units), inputs: make([]float32, d.rows*n),
		})
	}
	d.forwardPart, d.backwardPart = d.forwardItem, d.backwardItem
	d.backwardEnd = func(worker int) { e.finish(&d.scratch[worker].step) }
	return d
}

// smallWork is the number of multiply-adds below which starting other workers costs more than it saves: about two
// microseconds of one core.
const smallWork = 1 << 17

// panelRows is how many rows of weights are updated at a time: enough for long runs of the kernels, but their gradients
// should stay in the second cache. 24 rows are whole tiles of every instruction set, and of a transposition.
func panelRows(units int) int {
	if units > 1024 {
		return 24
	}
	return 48
}

func (d *vectorDense) forward() {
	// Each part takes two vectors of columns, and where that gives too few parts, not all of the samples.
	d.colParts, d.rowParts = 1, 1
	if d.e.threads > 1 && !d.small {
		width := 2 * d.e.isa.Lanes()
		d.colParts = (d.l.Units + width - 1) / width
		for d.colParts*d.rowParts < 2*d.e.threads && d.e.n/(d.rowParts+1) >= 8 {
			d.rowParts++
		}
	}
	d.e.workers.each(d.colParts*d.rowParts, 1, d.forwardPart)
}

func (d *vectorDense) forwardItem(_, item int) {
	width := (d.l.Units + d.colParts - 1) / d.colParts
	if d.colParts > 1 {
		width = 2 * d.e.isa.Lanes()
	}
	col, part := item%d.colParts*width, item/d.colParts
	cols := min(width, d.l.Units-col)
	b, end := d.e.n*part/d.rowParts, d.e.n*(part+1)/d.rowParts
	w, bias := d.l.weights(d.e.state.Params)
	y := d.out.matrix().At(b, col)
	d.e.isa.Fold(end-b, cols, d.in.matrix().At(b, 0), d.inputs, kernel.Rows{Data: w[col:], Stride: d.l.Units}, y)
	d.e.isa.AddBias(end-b, cols, y, y, bias[col:], d.l.Activation == ReLU)
}

func (d *vectorDense) backward() {
	n, units := d.e.n, d.l.Units
	if d.l.Activation == ReLU {
		for b := range n {
			d.e.isa.ReLUGradient(d.gout.of(0, b), d.out.at(b, 0))
		}
	}
	g := kernel.Rows{Data: d.gout.data, Stride: units}
	d.e.isa.Transpose(n, units, kernel.Rows{Data: d.goutT, Stride: n}, g)
	parts := (d.l.In.Size() + d.rows - 1) / d.rows
	chunk := max(parts/(32*d.e.threads), 1)
	if d.small {
		chunk = parts
	}
	d.e.workers.eachThen(parts, chunk, d.backwardPart, d.backwardEnd)
	d.e.isa.Sum(n, units, g, d.biasGradient)
	d.e.update(d.l.BiasAt, d.biasGradient)
}

// backwardItem works on the weights of a few inputs: the gradients by these inputs, then those by the weights, while
// the weights are in the cache. A step of Adam waits for the worker's next item and is done beside its products.
func (d *vectorDense) backwardItem(worker, item int) {
	n, k, units := d.e.n, d.l.In.Size(), d.l.Units
	first := item * d.rows
	rows := min(d.rows, k-first)
	s := &d.scratch[worker]
	d.prefetch(first+rows, min(first+2*d.rows, k))
	if d.gin != nil {
		w, _ := d.l.weights(d.e.state.Params)
		t := kernel.Rows{Data: s.inputs, Stride: n}
		d.e.isa.FoldAdam(rows, n, kernel.Rows{Data: w[first*units:], Stride: units}, d.outputs, kernel.Rows{Data: d.goutT, Stride: n}, t, &s.step)
		d.e.isa.Transpose(rows, n, kernel.Rows{Data: d.gin.data[first:], Stride: k}, t)
	}
	x := kernel.Rows{Data: d.in.data[d.in.start+first:], Stride: 1}
	d.e.isa.FoldAdam(rows, units, x, d.samples, kernel.Rows{Data: d.gout.data, Stride: units}, kernel.Rows{Data: s.weights, Stride: units}, &s.step)
	d.e.finish(&s.step)
	s.step = d.e.updateLater(d.l.WeightsAt+first*units, s.weights[:rows*units])
	s.weights, s.before = s.before, s.weights
}

// prefetch asks for what the work on the weights of inputs lo to hi-1 will meet in rows far apart. Parameters lie side
// by side, and the processor sees them coming.
func (d *vectorDense) prefetch(lo, hi int) {
	rows := hi - lo
	if rows <= 0 {
		return
	}
	d.e.isa.Prefetch(kernel.Rows{Data: d.in.data[d.in.start+lo:], Stride: d.in.sample}, d.e.n, rows)
	if d.gin != nil {
		d.e.isa.Prefetch(kernel.Rows{Data: d.gin.data[lo:], Stride: d.gin.size}, d.e.n, rows)
	}
}
