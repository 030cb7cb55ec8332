package gpu

import (
	"math"

	"github.com/descentnet/minerd/gpu/kernels"
	"github.com/descentnet/minerd/nn"
)

// launcher asks for the kernels of one step after another. It keeps the first error and does nothing from then on.
type launcher struct {
	e      *engine
	trials int // side by side
	steps  int // of the trials: how data are laid out
	offset int // of the step, after the engine's base
	data   *loadedData
	err    error
}

// trainSteps asks for n training steps from step first on.
func (e *engine) trainSteps(d *loadedData, trials, steps, first, n int) error {
	if err := e.m.Fill(e.base, uint32(first), 1); err != nil {
		return err
	}
	enqueue := func() error {
		l := launcher{e: e, trials: trials, steps: steps, data: d}
		for l.offset = range n {
			l.train()
		}
		return l.err
	}
	if n != graphSteps {
		return enqueue()
	}
	key := graphKey{trials, steps, d.pixels}
	g := e.graphs[key]
	if g == nil {
		if len(e.graphs) == maxGraphs {
			if err := e.dropGraphs(); err != nil {
				return err
			}
		}
		var err error
		if g, err = e.m.Record(enqueue); err != nil {
			return err
		}
		e.graphs[key] = g
	}
	return e.m.Replay(g)
}

// launch asks for a kernel; grid and block are as package kernels gives them.
func (l *launcher) launch(kernel string, grid, block [3]int, args ...uint64) {
	if l.err == nil {
		l.err = l.e.m.Launch(kernel, grid, block, args...)
	}
}

// train is one step: forward, loss, and from the last layer to the first with weights the gradients and the update.
func (l *launcher) train() {
	p := l.e.plan
	l.forward()
	g, dx := p.gradient[0], p.gradient[1]
	l.loss(l.e.at(g))
	for i := len(p.ops) - 1; i >= 0; i-- {
		o := &p.ops[i]
		first := o.NetLayer == &l.e.net.Layers[l.e.net.FirstWeights]
		if !first { // before the weights change
			l.inputGradient(o, i, g, dx)
		}
		switch o.Kind {
		case nn.Conv2D:
			l.updateConv(o, g)
		case nn.Dense:
			l.updateDense(o, g)
		}
		if first {
			break // nothing uses the gradient of its input
		}
		g, dx = dx, g
	}
}

// forward makes the activations of the batch.
func (l *launcher) forward() {
	p := l.e.plan
	batch, input := l.e.net.Model.Batch, l.e.net.Model.Input.Size()
	grid, block := kernels.Gather(batch, input, l.trials)
	l.launch("gather", grid, block, l.at(p.ops[0].in), l.stride(), uint64(l.data.pixels), uint64(l.e.index.at), uint64(l.e.base),
		uint64(l.offset), uint64(l.steps), uint64(batch), uint64(input))
	for i := range p.ops {
		o := &p.ops[i]
		switch o.Kind {
		case nn.Conv2D:
			l.convForward(o)
		case nn.MaxPool2D:
			grid, block := kernels.PoolForward(batch, o.Out.Rows, o.Out.Cols, o.Out.Channels, l.trials)
			l.launch("pool_forward", grid, block, append([]uint64{l.at(o.out), l.at(o.code), l.at(o.in), l.stride(), uint64(batch)}, poolShape(o)...)...)
		case nn.Dense:
			inputs, blocks := o.In.Size(), blockCount(o.In.Size())
			grid, block := kernels.DenseForward(batch, inputs, o.Units, l.trials)
			l.launch("dense_forward", grid, block, l.at(p.scratch), l.at(o.in), l.at(p.state+o.WeightsAt), l.stride(), uint64(batch), uint64(inputs), uint64(o.Units))
			if i == len(p.ops)-1 {
				break // loss does the rest
			}
			grid, block = kernels.DenseFinish(batch, o.Units, l.trials)
			l.launch("dense_finish", grid, block, l.at(o.out), l.at(p.scratch), l.at(p.state+o.BiasAt), l.stride(), uint64(batch), uint64(o.Units), uint64(blocks), oneIf(o.Activation == nn.ReLU))
		}
	}
}

// convForward makes a convolution's output, pooled if a pooling is made with it.
func (l *launcher) convForward(o *op) {
	p := l.e.plan
	batch, in, params := l.e.net.Model.Batch, l.at(o.in), l.at(p.state+o.WeightsAt)
	shape := append(append([]uint64{l.stride(), uint64(batch)}, convShape(o)...), oneIf(o.Activation == nn.ReLU))
	if o.pool == nil {
		grid, block := kernels.ConvForward(batch, o.Out.Rows, o.Out.Cols, o.Units, l.trials)
		l.launch("conv_forward", grid, block, append([]uint64{l.at(o.out), in, params}, shape...)...)
		return
	}
	out := o.pool.Out
	grid, block := kernels.ConvPoolForward(batch, out.Rows, out.Cols, o.pool.KernelRows*o.pool.KernelCols, o.Units, l.trials)
	l.launch("conv_pool_forward", grid, block, append(append([]uint64{l.at(o.out), l.at(o.code), in, params}, shape...), windows(o)...)...)
}

// loss makes the losses, keeps the logits, and makes the gradient by them at the address g, unless that is 0. It also
// finishes the output of a last layer that is dense.
func (l *launcher) loss(g uint64) {
	p := l.e.plan
	last := &p.ops[len(p.ops)-1]
	m := &l.e.net.Model
	outputs := l.e.net.Outputs
	scale := 1 / float32(m.Batch)
	if m.Loss == nn.MeanSquaredError {
		scale = 1 / float32(outputs*m.Batch)
	}
	to := []uint64{g, l.at(p.losses), l.at(p.logits), l.stride()}
	from := []uint64{uint64(l.data.labels), uint64(l.e.index.at), uint64(l.e.base), uint64(l.offset), uint64(l.steps), uint64(m.Batch), uint64(outputs),
		uint64(m.Loss), oneIf(last.relu), uint64(math.Float32bits(scale))}
	grid, block := kernels.Loss(m.Batch, l.trials)
	if last.Kind == nn.Dense {
		to = append([]uint64{l.at(p.scratch), l.at(p.state + last.BiasAt)}, to...)
		to = append(to, uint64(blockCount(last.In.Size())))
		l.launch("dense_loss", grid, block, append(to, from...)...)
		return
	}
	l.launch("loss", grid, block, append(append([]uint64{l.at(last.out)}, to...), from...)...)
}

// inputGradient takes the gradient g by the output of op i to dx by its input, through the ReLU of the op before. A
// pooling's gradient went through the ReLU below it already: where a winner is not > 0, the pooling's output is not.
func (l *launcher) inputGradient(o *op, i, g, dx int) {
	p := l.e.plan
	batch := l.e.net.Model.Batch
	mask := uint64(0)
	if i > 0 && p.ops[i-1].relu && o.Kind != nn.MaxPool2D {
		mask = l.at(o.in)
	}
	switch o.Kind {
	case nn.Conv2D:
		grid, block := kernels.ConvInputGradient(batch, o.In.Rows, o.In.Cols, o.In.Channels, l.trials)
		shape := append([]uint64{l.at(p.state + o.WeightsAt), mask, l.stride(), uint64(batch)}, convShape(o)...)
		l.launchPooled(o, "input_gradient", grid, block, []uint64{l.at(dx), l.at(g)}, shape)
	case nn.MaxPool2D:
		grid, block := kernels.PoolInputGradient(batch, o.In.Rows, o.In.Cols, o.In.Channels, l.trials)
		l.launch("pool_input_gradient", grid, block, append([]uint64{l.at(dx), l.at(g), l.at(o.code), mask, l.stride(), uint64(batch)}, poolShape(o)...)...)
	case nn.Dense:
		grid, block := kernels.DenseInputGradient(batch, o.In.Size(), l.trials)
		l.launch("dense_input_gradient", grid, block, l.at(dx), l.at(g), l.at(p.state+o.WeightsAt), mask, l.stride(), uint64(batch), uint64(o.In.Size()), uint64(o.Units))
	}
}

// launchPooled asks for a kernel of a convolution's gradients: the one of that name, or if a pooling is made with the
// convolution its twin, which reads the pooling's gradient through the winners.
func (l *launcher) launchPooled(o *op, name string, grid, block [3]int, first, rest []uint64) {
	if o.pool == nil {
		l.launch("conv_"+name, grid, block, append(first, rest...)...)
		return
	}
	l.launch("conv_pool_"+name, grid, block, append(append(append(first, l.at(o.code)), rest...), windows(o)...)...)
}

// updateConv makes the gradients by a convolution's parameters, wave of samples by wave, and takes the optimizer's step.
func (l *launcher) updateConv(o *op, g int) {
	p := l.e.plan
	batch, count := l.e.net.Model.Batch, o.count()
	sum, part := p.scratch, p.scratch+count
	for at := 0; at < batch; at += o.wave {
		samples := min(o.wave, batch-at)
		grid, block := kernels.ConvWeightGradient(samples, o.Out.Rows, o.Out.Cols, o.Units, count/o.Units-1, l.trials)
		shape := append([]uint64{l.stride(), uint64(at), uint64(samples)}, convShape(o)...)
		l.launchPooled(o, "weight_gradient", grid, block, []uint64{l.at(part), l.at(o.in), l.at(g)}, shape)
		args := append(l.parameters(o), l.at(sum), l.at(part), l.stride(), uint64(samples*o.blocks), uint64(count), oneIf(at == 0), oneIf(at+samples == batch),
			uint64(l.e.consts.at), uint64(l.e.base), uint64(l.offset))
		grid, block = kernels.ConvUpdate(count, l.trials)
		l.launch("conv_update_"+l.optimizer(), grid, block, args...)
	}
}

// updateDense makes the gradients by a dense layer's parameters and takes the optimizer's step in one.
func (l *launcher) updateDense(o *op, g int) {
	batch, inputs := l.e.net.Model.Batch, o.In.Size()
	args := append(l.parameters(o), l.at(o.in), l.at(g), l.stride(), uint64(batch), uint64(inputs), uint64(o.Units),
		uint64(l.e.consts.at), uint64(l.e.base), uint64(l.offset))
	grid, block := kernels.DenseUpdate(inputs, o.Units, l.trials)
	l.launch("dense_update_"+l.optimizer(), grid, block, args...)
}

func (l *launcher) optimizer() string { return l.e.net.Model.Optimizer.Kind.String() }

// parameters are the addresses of the layer's parameters and of their moments.
func (l *launcher) parameters(o *op) []uint64 {
	n := 3
	if l.e.net.Model.Optimizer.Kind == nn.SGD {
		n = 2
	}
	var at []uint64
	for i := range n {
		at = append(at, l.at(l.e.plan.state+i*l.e.net.Params+o.WeightsAt))
	}
	return at
}

func (l *launcher) at(word int) uint64 { return l.e.at(word) }

func (l *launcher) stride() uint64 { return l.e.stride() }

func oneIf(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// convShape are a convolution's sizes in the order in which the kernels take them.
func convShape(o *op) []uint64 {
	return words(o.In.Rows, o.In.Cols, o.In.Channels, o.Out.Rows, o.Out.Cols, o.Units, o.KernelRows, o.KernelCols, o.Stride, o.PadTop, o.PadLeft)
}

func poolShape(o *op) []uint64 {
	return words(o.In.Rows, o.In.Cols, o.In.Channels, o.Out.Rows, o.Out.Cols, o.KernelRows, o.KernelCols)
}

// windows are the output and the window of the pooling that is made with a convolution.
func windows(o *op) []uint64 {
	return words(o.pool.Out.Rows, o.pool.Out.Cols, o.pool.KernelRows, o.pool.KernelCols)
}

func words(x ...int) []uint64 {
	w := make([]uint64, len(x))
	for i, v := range x {
		w[i] = uint64(v)
	}
	return w
}
