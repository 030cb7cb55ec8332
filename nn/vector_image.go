package nn

import "github.com/descentnet/minerd/nn/kernel"

// imageLayer is a layer of the vector engine that works on one sample at a time, while it is in the cache: the pixels,
// a convolution, a pooling.
type imageLayer interface {
	// forward makes the output of sample b.
	forward(worker, b int)
	// backward takes the gradient by the output of sample b to the weights' and the input's.
	backward(worker, b int)
}

// imageStage is a run of image layers. Samples are shared among the workers; each goes through the whole run.
type imageStage struct {
	e      *vector
	layers []imageLayer
	convs  []*vectorConv

	// Where samples go in order, one after another, they add their gradients to the sum. Where a wave of samples is
	// shared among the workers, it leaves its block results in memory, and these are then added in order.
	wave         int  // samples of a wave
	inOrder      bool // the whole batch is one wave, of one worker
	waveStart    int
	updates      []convUpdate
	backFrom     int // the layers before it need no gradient
	forwardPart  func(worker, item int)
	backwardPart func(worker, item int)
	updatePart   func(worker, item int)
}

// convUpdate is a range of a convolution's weights and biases, small enough to be shared among workers.
type convUpdate struct {
	c      *vectorConv
	lo, hi int
}

// updateRange is the length of a convUpdate.
const updateRange = 4096

// waveMemory bounds the block results of a wave, in values: 256 MiB. Where not even two samples fit, sharing is given
// up.
var waveMemory = 1 << 26

// finish ends the construction, when all layers are known.
func (s *imageStage) finish() {
	perSample := 1
	for _, c := range s.convs {
		perSample += c.blocks() * len(c.gradient)
		for lo := 0; lo < len(c.gradient); lo += updateRange {
			s.updates = append(s.updates, convUpdate{c, lo, min(lo+updateRange, len(c.gradient))})
		}
	}
	n := s.e.net.Model.Batch
	s.wave = min(n, waveMemory/perSample)
	if s.inOrder = s.e.threads == 1 || s.wave < 2; s.inOrder {
		s.wave = n
	} else {
		for _, c := range s.convs {
			c.blockResults = make([]float32, s.wave*c.blocks()*len(c.gradient))
		}
	}
	s.forwardPart, s.backwardPart, s.updatePart = s.forwardSample, s.backwardSample, s.updateItem
}

func (s *imageStage) forward() { s.e.workers.each(s.e.n, 1, s.forwardPart) }

func (s *imageStage) forwardSample(worker, b int) {
	for _, l := range s.layers {
		l.forward(worker, b)
	}
}

func (s *imageStage) backward() {
	if s.backFrom == len(s.layers) {
		return
	}
	for _, c := range s.convs {
		c.transposeWeights()
	}
	for s.waveStart = 0; s.waveStart < s.e.n; s.waveStart += s.wave {
		samples, chunk := min(s.wave, s.e.n-s.waveStart), 1
		if s.inOrder {
			chunk = samples
		}
		s.e.workers.each(samples, chunk, s.backwardPart)
		s.e.workers.each(len(s.updates), 1, s.updatePart)
	}
}

func (s *imageStage) backwardSample(worker, item int) {
	for i := len(s.layers) - 1; i >= s.backFrom; i-- {
		s.layers[i].backward(worker, s.waveStart+item)
	}
}

// updateItem adds the wave's block results in order of (sample, block) and, after the last wave, takes the step.
func (s *imageStage) updateItem(_, item int) {
	u := s.updates[item]
	g := u.c.gradient[u.lo:u.hi]
	end := min(s.waveStart+s.wave, s.e.n)
	if !s.inOrder {
		size := len(u.c.gradient)
		for i := range (end - s.waveStart) * u.c.blocks() {
			part := u.c.blockResults[i*size+u.lo : i*size+u.hi]
			if i == 0 && s.waveStart == 0 {
				copy(g, part)
			} else {
				s.e.isa.Add(g, part)
			}
		}
	}
	if end == s.e.n {
		s.e.update(u.c.l.WeightsAt+u.lo, g)
	}
}

// pixelInput turns the bytes of a sample into the net's input.
type pixelInput struct {
	e  *vector
	to *tensor
}

func (p *pixelInput) forward(_, b int) {
	data := &p.e.data
	i := p.e.index[b]
	pixels := data.Pixels[i*data.Size : (i+1)*data.Size]
	if p.to.sample == len(pixels) { // no padding
		p.e.isa.Pixels(p.to.of(b), pixels)
		return
	}
	row := len(pixels) / p.to.shape.Rows
	for y := range p.to.shape.Rows {
		p.e.isa.Pixels(p.to.at(b, y), pixels[y*row:(y+1)*row])
	}
}

// backward has nothing to do: no gradient is computed for the input of the first layer.
func (p *pixelInput) backward(_, _ int) {}

// vectorConv is a convolution, with the max pooling that follows it if there is one. No patches are copied: a fold's
// terms are found by their offsets in the padded input.
type vectorConv struct {
	e    *vector
	s    *imageStage
	l    *NetLayer
	in   *tensor
	out  *tensor    // output of the convolution, or of the pooling
	gout *gradients // by out
	gin  *gradients // by in; nil if nobody needs it

	patch     kernel.Offsets // terms of an output: (kernel row, kernel column, input channel) in the padded input
	positions kernel.Offsets // terms of a weight's gradient: output positions in the padded input

	pool *vectorPool // nil: none
	band int         // output rows, of the pooling if there is one, that are made at a time
	// z is, for each worker, the convolution under a band of pooling windows, before bias and ReLU.
	z [][]float32
	// dz is, for each worker, the gradient by the convolution's output. What no pooling window covers is never
	// written and stays +0.
	dz [][]float32

	gradient     []float32 // by the weights and the biases, in the order of the parameters
	blockResults []float32 // [sample of the wave][block][gradient], where samples are shared

	// For the gradient by the input: wide is dz, for each worker, with Stride-1 zeros between positions and a
	// kernel's margin of zeros around, of wideCols columns; taps are the terms in it, and weightsT the weights as
	// (kernel row, kernel column, output channel, input channel).
	wide     [][]float32
	wideCols int
	taps     kernel.Offsets
	weightsT []float32
}

func (e *vector) newConv(s *imageStage, l *NetLayer, in, out *tensor, gin, gout *gradients, pool *vectorPool) *vectorConv {
	c := &vectorConv{e: e, s: s, l: l, in: in, out: out, gin: gin, gout: gout, pool: pool}
	channels := l.In.Channels
	c.patch = kernel.NewOffsets(l.KernelRows*l.KernelCols*channels, func(k int) int {
		return k/(l.KernelCols*channels)*in.row + k%(l.KernelCols*channels)
	})
	c.positions = kernel.NewOffsets(l.Out.Rows*l.Out.Cols, func(p int) int {
		return p/l.Out.Cols*l.Stride*in.row + p%l.Out.Cols*l.Stride*channels
	})
	c.gradient = make([]float32, l.BiasAt+l.Units-l.WeightsAt)
	window := 1
	if pool != nil {
		window = pool.l.KernelRows
	}
	c.band = max(bandValues/(window*l.Out.Cols*l.Units), 1)
	for range e.threads {
		if pool != nil {
			c.z = append(c.z, make([]float32, c.band*window*l.Out.Cols*l.Units))
			c.dz = append(c.dz, make([]float32, l.Out.Size()))
		}
	}
	if gin == nil {
		return c
	}
	wideRows := l.In.Rows + l.PadTop + l.KernelRows - 1
	c.wideCols = l.In.Cols + l.PadLeft + l.KernelCols - 1
	for range e.threads {
		c.wide = append(c.wide, make([]float32, wideRows*c.wideCols*l.Units))
	}
	c.taps = kernel.NewOffsets(l.KernelRows*l.KernelCols*l.Units, func(k int) int {
		r, s, o := k/l.Units/l.KernelCols, k/l.Units%l.KernelCols, k%l.Units
		return ((l.KernelRows-1-r)*c.wideCols+l.KernelCols-1-s)*l.Units + o
	})
	c.weightsT = make([]float32, l.BiasAt-l.WeightsAt)
	return c
}

// blocks is the number of blocks that the positions of one sample are cut into.
func (c *vectorConv) blocks() int { return (c.positions.Len() + FoldBlock - 1) / FoldBlock }

// bandValues is how many outputs a convolution makes before bias, ReLU and pooling are applied to them: they should
// stay in the first cache, and kernels should not be called for too little.
const bandValues = 4096

func (c *vectorConv) forward(worker, b int) {
	_, bias := c.l.weights(c.e.state.Params)
	units, relu, row := c.l.Units, c.l.Activation == ReLU, c.l.Out.Cols*c.l.Units
	if c.pool == nil {
		for y := 0; y < c.l.Out.Rows; y += c.band {
			n := min(c.band, c.l.Out.Rows-y)
			c.forwardRows(b, y, n, c.out.of(b)[c.out.start+y*c.out.row:], c.out.row)
			for i := range n {
				rows := kernel.Rows{Data: c.out.at(b, y+i), Stride: units}
				c.e.isa.AddBias(c.l.Out.Cols, units, rows, rows, bias, relu)
			}
		}
		return
	}
	z, window := c.z[worker], c.pool.l.KernelRows
	for y := 0; y < c.pool.l.Out.Rows; y += c.band {
		n := min(c.band, c.pool.l.Out.Rows-y)
		c.forwardRows(b, y*window, n*window, z, row)
		for i := range n {
			c.pool.forwardRow(b, y+i, z[i*window*row:], bias, relu)
		}
	}
}

// forwardRows folds the patches of n output rows from y on, [column][Units] each, which are so many values apart.
func (c *vectorConv) forwardRows(b, y, n int, to []float32, apart int) {
	w, _ := c.l.weights(c.e.state.Params)
	step := c.l.Stride * c.in.row
	x := kernel.Rows{Data: c.in.of(b)[y*step:], Stride: c.l.Stride * c.l.In.Channels}
	c.e.isa.FoldGroups(kernel.Groups{N: n, A: step, C: apart}, c.l.Out.Cols, c.l.Units, x, c.patch,
		kernel.Rows{Data: w, Stride: c.l.Units}, kernel.Rows{Data: to, Stride: c.l.Units})
}

func (c *vectorConv) backward(worker, b int) {
	dz := c.gout.of(worker, b)
	switch {
	case c.pool != nil:
		g := dz
		dz = c.dz[worker]
		c.pool.gradient(b, g, dz)
	case c.l.Activation == ReLU:
		row := c.l.Out.Cols * c.l.Units
		for y := range c.l.Out.Rows {
			c.e.isa.ReLUGradient(dz[y*row:(y+1)*row], c.out.at(b, y))
		}
	}
	c.weightGradient(b, dz)
	if c.gin != nil {
		c.inputGradient(worker, dz, c.gin.of(worker, b))
	}
}

// weightGradient folds over the positions of sample b, block by block.
func (c *vectorConv) weightGradient(b int, dz []float32) {
	size, units := len(c.gradient), c.l.Units
	rowTaps := c.l.KernelCols * c.l.In.Channels // taps of one kernel row lie side by side in the input
	for block := range c.blocks() {
		to, add := c.gradient, b > 0 || block > 0
		if !c.s.inOrder {
			to, add = c.blockResults[((b-c.s.waveStart)*c.blocks()+block)*size:][:size], false
		}
		lo := block * FoldBlock
		hi := min(lo+FoldBlock, c.positions.Len())
		g := kernel.Rows{Data: dz[lo*units:], Stride: units}
		x := kernel.Rows{Data: c.in.of(b), Stride: 1}
		rows := kernel.Groups{N: c.l.KernelRows, A: c.in.row, C: rowTaps * units}
		c.e.isa.FoldBlock(rows, rowTaps, units, x, c.positions.Cut(lo, hi), g, kernel.Rows{Data: to, Stride: units}, add)
		c.e.isa.SumBlock(hi-lo, units, g, to[size-units:], add)
	}
}

func (c *vectorConv) transposeWeights() {
	if c.gin == nil {
		return
	}
	w, _ := c.l.weights(c.e.state.Params)
	in, units := c.l.In.Channels, c.l.Units
	for at := 0; at < len(w); at += in * units {
		c.e.isa.Transpose(in, units, kernel.Rows{Data: c.weightsT[at:], Stride: in}, kernel.Rows{Data: w[at:], Stride: units})
	}
}

// inputGradient folds, for each input position, over (kernel row, kernel column, output channel).
func (c *vectorConv) inputGradient(worker int, dz, dx []float32) {
	l, wide, units := c.l, c.wide[worker], c.l.Units
	for p := range c.positions.Len() {
		row, col := p/l.Out.Cols*l.Stride+l.KernelRows-1, p%l.Out.Cols*l.Stride+l.KernelCols-1
		copy(wide[(row*c.wideCols+col)*units:][:units], dz[p*units:])
	}
	channels := l.In.Channels
	band := max(bandValues/(l.In.Cols*channels), 1)
	for y := 0; y < l.In.Rows; y += band {
		g := kernel.Rows{Data: wide[((y+l.PadTop)*c.wideCols+l.PadLeft)*units:], Stride: units}
		to := kernel.Rows{Data: dx[y*l.In.Cols*channels:], Stride: channels}
		rows := kernel.Groups{N: min(band, l.In.Rows-y), A: c.wideCols * units, C: l.In.Cols * channels}
		c.e.isa.FoldGroups(rows, l.In.Cols, channels, g, c.taps, kernel.Rows{Data: c.weightsT, Stride: channels}, to)
	}
}

// vectorPool is a max pooling, by itself or as a part of the convolution before it.
type vectorPool struct {
	e      *vector
	l      *NetLayer
	in     *tensor // nil in a convolution
	out    *tensor
	gout   *gradients
	gin    *gradients     // nil in a convolution
	window kernel.Offsets // elements of a window in the input
	noBias []float32
	code   []int32 // which element won, in the order of the outputs
}

// newPool makes a pooling of which input rows are so many values apart.
func (e *vector) newPool(l *NetLayer, out *tensor, row int) *vectorPool {
	return &vectorPool{
		e: e, l: l, out: out,
		window: kernel.NewOffsets(l.KernelRows*l.KernelCols, func(i int) int {
			return i/l.KernelCols*row + i%l.KernelCols*l.In.Channels
		}),
		noBias: kernel.NoBias(l.In.Channels),
		code:   make([]int32, e.capacity*l.Out.Size()),
	}
}

func (p *vectorPool) forward(_, b int) {
	for y := range p.l.Out.Rows {
		p.forwardRow(b, y, p.in.of(b)[p.in.start+y*p.l.KernelRows*p.in.row:], p.noBias, false)
	}
}

// forwardRow makes output row y from the input rows of its windows, to which bias and ReLU are applied first.
func (p *vectorPool) forwardRow(b, y int, x, bias []float32, relu bool) {
	cols, channels := p.l.Out.Cols, p.l.Out.Channels
	p.e.isa.MaxPool(cols, channels, x, p.l.KernelCols*channels, p.window, bias, relu, p.out.at(b, y), p.codes(b, y))
}

func (p *vectorPool) codes(b, y int) []int32 {
	row := p.l.Out.Cols * p.l.Out.Channels
	return p.code[b*p.l.Out.Size()+y*row:][:row]
}

func (p *vectorPool) backward(worker, b int) {
	p.gradient(b, p.gout.of(worker, b), p.gin.of(worker, b))
}

// gradient takes g, by the output of sample b, to dx, by its input, of which what no window covers is left alone: it
// is +0 from the start.
func (p *vectorPool) gradient(b int, g, dx []float32) {
	cols, channels := p.l.Out.Cols, p.l.Out.Channels
	for y := range p.l.Out.Rows {
		at := y * p.l.KernelRows * p.l.In.Cols * channels
		p.e.isa.MaxPoolGradient(cols, channels, g[y*cols*channels:], p.codes(b, y), dx[at:], p.l.KernelCols*channels, p.window)
	}
}
