package kernels

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/descentnet/minerd/nn"
)

// cases runs n drawn cases, each a test of its own with a bench of its own seed.
func cases(t *testing.T, n int, test func(t *testing.T, b *bench)) {
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			test(t, newBench(t, seed))
		})
	}
}

// oneOf draws one of the choices.
func (b *bench) oneOf(choices ...int) int { return choices[b.r.IntN(len(choices))] }

// conv draws a convolution and a number of samples.
func (b *bench) conv() (l *nn.NetLayer, batch int) {
	for {
		in := nn.Shape{Rows: 1 + b.r.IntN(9), Cols: 1 + b.r.IntN(9), Channels: b.oneOf(1, 1, 2, 3, 8, 12)}
		rows, cols := b.oneOf(1, 2, 3, 5, 7), b.oneOf(1, 2, 3, 5, 7)
		d := nn.Layer{Kind: nn.Conv2D, Units: b.oneOf(1, 3, 4, 8, 33), KernelRows: rows, KernelCols: cols,
			Stride: 1 + b.r.IntN(min(rows, cols)), Padding: nn.Padding(b.r.IntN(2)), Activation: nn.Activation(b.r.IntN(2))}
		if b.r.IntN(4) == 0 { // more than one block of positions
			in = nn.Shape{Rows: 17 + b.r.IntN(3), Cols: 18 + b.r.IntN(3), Channels: 1}
			d.KernelRows, d.KernelCols, d.Stride = 3, 2, 1
		}
		batch = 1 + b.r.IntN(4)
		tooLarge := d.Padding == nn.Valid && (d.KernelRows > in.Rows || d.KernelCols > in.Cols)
		if tooLarge || in.Size()*batch*d.Units*d.KernelRows*d.KernelCols > 60000 {
			continue
		}
		return layer(b.t, in, d), batch
	}
}

// convInts are the arguments from inRows to padLeft.
func convInts(l *nn.NetLayer) []any {
	return []any{l.In.Rows, l.In.Cols, l.In.Channels, l.Out.Rows, l.Out.Cols, l.Units, l.KernelRows, l.KernelCols, l.Stride,
		l.PadTop, l.PadLeft}
}

func TestConvForward(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		l, batch := b.conv()
		draw := b.values()
		x, p, y := b.array(batch*l.In.Size(), draw), b.array(params(l), draw), b.output(batch*l.Out.Size())
		args := append([]any{y, x, at{p, l.WeightsAt}, strideArg{}, batch}, convInts(l)...)
		args = append(args, l.Activation == nn.ReLU)
		b.run([]call{{"conv_forward", shape(ConvForward(batch, l.Out.Rows, l.Out.Cols, l.Units, b.trials)), args}},
			[]*array{y}, func(trial int, got [][]uint32) error {
				want := make([]float32, batch*l.Out.Size())
				l.Forward(batch, x.of(trial), p.of(trial), want)
				return same("y", got[0], want)
			})
	})
}

// mask draws activations or none.
func (b *bench) mask(n int, draw func() float32) (mask *array, arg any) {
	if b.r.IntN(2) == 0 {
		return nil, nil
	}
	mask = b.array(n, draw)
	return mask, mask
}

func (a *array) mask(g []float32, trial int) []float32 {
	if a == nil {
		return g
	}
	return masked(g, a.of(trial))
}

func TestConvInputGradient(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		l, batch := b.conv()
		draw := b.values()
		g, p, dx := b.array(batch*l.Out.Size(), draw), b.array(params(l), draw), b.output(batch*l.In.Size())
		mask, arg := b.mask(batch*l.In.Size(), draw)
		args := append([]any{dx, g, at{p, l.WeightsAt}, arg, strideArg{}, batch}, convInts(l)...)
		b.run([]call{{"conv_input_gradient", shape(ConvInputGradient(batch, l.In.Rows, l.In.Cols, l.In.Channels, b.trials)), args}},
			[]*array{dx}, func(trial int, got [][]uint32) error {
				want := make([]float32, batch*l.In.Size())
				l.InputGradient(batch, nil, g.of(trial), p.of(trial), want)
				return same("dx", got[0], mask.mask(want, trial))
			})
	})
}

func TestConvWeightGradient(t *testing.T) {
	cases(t, 32, func(t *testing.T, b *bench) {
		l, batch := b.conv()
		draw := b.values()
		x, g := b.array(batch*l.In.Size(), draw), b.array(batch*l.Out.Size(), draw)
		var gradients [][]float32
		for trial := range b.trials {
			gradients = append(gradients, g.of(trial))
		}
		b.convWeightGradient(l, batch, "conv_weight_gradient", x, []any{g}, nil, gradients)
	})
}

// convWeightGradient checks that the parts of a convolution's gradient, added up over waves of samples without an
// update, are the gradient by what the kernel reads from gArgs, which is gradients, trial by trial.
func (b *bench) convWeightGradient(l *nn.NetLayer, batch int, kernel string, x *array, gArgs, last []any, gradients [][]float32) {
	taps := l.KernelRows * l.KernelCols * l.In.Channels
	count := (taps + 1) * l.Units
	blocks := ceil(l.Out.Rows*l.Out.Cols, nn.FoldBlock)
	wave := 1 + b.r.IntN(batch)
	part, sum := b.output(wave*blocks*count), b.output(count)
	base, consts := b.ints([]int{0}), b.floats(make([]float32, 4))
	var calls []call
	for first := 0; first < batch; first += wave {
		samples := min(wave, batch-first)
		args := append(append([]any{part, x}, gArgs...), strideArg{}, first, samples)
		args = append(append(args, convInts(l)...), last...)
		calls = append(calls,
			call{kernel, shape(ConvWeightGradient(samples, l.Out.Rows, l.Out.Cols, l.Units, taps, b.trials)), args},
			call{"conv_update_sgd", shape(ConvUpdate(count, b.trials)),
				[]any{nil, nil, sum, part, strideArg{}, samples * blocks, count, first == 0, false, consts, base, 0}})
	}
	b.run(calls, []*array{sum, part}, func(trial int, got [][]uint32) error {
		want := make([]float32, params(l))
		l.ParamGradient(batch, x.of(trial), gradients[trial], want)
		return same("gradient", got[0], want[l.WeightsAt:])
	})
}

// optimizer draws one with its state, its row of consts at a step, and what its update makes of gradients.
type optimizerCase struct {
	nn.Optimizer
	step, offset int
	consts, base common
	w, m, v      *array
}

func (b *bench) optimizer(count int, draw func() float32) *optimizerCase {
	o := &optimizerCase{Optimizer: nn.Optimizer{Kind: nn.Adam, LearningRate: 0.01, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7}}
	if b.r.IntN(2) == 0 {
		o.Optimizer = nn.Optimizer{Kind: nn.SGD, LearningRate: 0.01, Momentum: 0.9}
	}
	o.step = b.r.IntN(4)
	o.offset = b.r.IntN(o.step + 1)
	var consts []float32
	s := &nn.State{P1: 1, P2: 1}
	for range o.step + 1 {
		if o.Kind == nn.Adam {
			c := o.Adam(s)
			consts = append(consts, c.OneMinusBeta1, c.OneMinusBeta2, c.Alpha, c.Epsilon)
		} else {
			consts = append(consts, o.Momentum, o.LearningRate, 0, 0)
		}
	}
	o.consts, o.base = b.floats(consts), b.ints([]int{o.step - o.offset})
	// Moments near the cut too, and second moments that no gradient could have made.
	moment := func() float32 {
		if b.r.IntN(4) == 0 {
			return draw() * 0x1p-95
		}
		return draw()
	}
	o.w, o.m = b.array(count, draw), b.array(count, moment)
	if o.Kind == nn.Adam {
		o.v = b.array(count, func() float32 { return float32(math.Abs(float64(moment()))) })
	}
	return o
}

// state is the pointers that a kernel takes.
func (o *optimizerCase) state() []any {
	if o.Kind == nn.SGD {
		return []any{o.w, o.m}
	}
	return []any{o.w, o.m, o.v}
}

func (o *optimizerCase) arrays() []*array {
	if o.Kind == nn.SGD {
		return []*array{o.w, o.m}
	}
	return []*array{o.w, o.m, o.v}
}

func (o *optimizerCase) kernel(name string) string { return name + "_" + o.Kind.String() }

func (o *optimizerCase) check(trial int, grads []float32, got [][]uint32) error {
	s := &nn.State{Params: o.w.of(trial), First: o.m.of(trial), P1: 1, P2: 1}
	if o.Kind == nn.Adam {
		s.Second = o.v.of(trial)
		for range o.step {
			o.Adam(s)
		}
	}
	o.Update(s, grads)
	for i, want := range [][]float32{s.Params, s.First, s.Second}[:len(got)] {
		if err := same([]string{"w", "m", "v"}[i], got[i], want); err != nil {
			return err
		}
	}
	return nil
}

func TestConvUpdate(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		draw := b.values()
		count, parts, first := 1+b.r.IntN(400), 1+b.r.IntN(40), b.r.IntN(2) == 0
		o := b.optimizer(count, draw)
		part, sum := b.array(parts*count, draw), b.array(count, draw)
		args := append(o.state(), sum, part, strideArg{}, parts, count, first, true, o.consts, o.base, o.offset)
		b.run([]call{{o.kernel("conv_update"), shape(ConvUpdate(count, b.trials)), args}}, o.arrays(), func(trial int, got [][]uint32) error {
			grads, p := sum.of(trial), part.of(trial)
			for i := range grads {
				for j := range parts {
					if j == 0 && first {
						grads[i] = p[i]
					} else {
						grads[i] += p[j*count+i]
					}
				}
			}
			return o.check(trial, grads, got)
		})
	})
}

// pool draws a pooling and a number of samples.
func (b *bench) pool() (l *nn.NetLayer, batch int) {
	in := nn.Shape{Rows: 1 + b.r.IntN(9), Cols: 1 + b.r.IntN(9), Channels: b.oneOf(1, 3, 4, 6, 8)}
	window := nn.Layer{Kind: nn.MaxPool2D, KernelRows: 1 + b.r.IntN(in.Rows), KernelCols: 1 + b.r.IntN(in.Cols)}
	return layer(b.t, in, window), 1 + b.r.IntN(3)
}

func TestPool(t *testing.T) {
	cases(t, 32, func(t *testing.T, b *bench) {
		l, batch := b.pool()
		draw := b.values()
		x, y, code := b.array(batch*l.In.Size(), b.equals(draw)), b.output(batch*l.Out.Size()), b.output(batch*l.Out.Size())
		g, dx := b.array(batch*l.Out.Size(), draw), b.output(batch*l.In.Size())
		mask, arg := b.mask(batch*l.In.Size(), draw)
		ints := func(args ...any) []any {
			return append(args, strideArg{}, batch, l.In.Rows, l.In.Cols, l.In.Channels, l.Out.Rows, l.Out.Cols, l.KernelRows, l.KernelCols)
		}
		b.run([]call{
			{"pool_forward", shape(PoolForward(batch, l.Out.Rows, l.Out.Cols, l.Out.Channels, b.trials)), ints(y, code, x)},
			{"pool_input_gradient", shape(PoolInputGradient(batch, l.In.Rows, l.In.Cols, l.In.Channels, b.trials)), ints(dx, g, code, arg)},
		}, []*array{y, code, dx}, func(trial int, got [][]uint32) error {
			want, dwant := make([]float32, batch*l.Out.Size()), make([]float32, batch*l.In.Size())
			l.Forward(batch, x.of(trial), nil, want)
			if err := same("y", got[0], want); err != nil {
				return err
			}
			l.InputGradient(batch, x.of(trial), g.of(trial), nil, dwant)
			return same("dx", got[2], mask.mask(dwant, trial))
		})
	})
}

// pooledConv draws a convolution with a pooling right behind it, and a number of samples. Windows need not divide the
// convolution's output; its stride and padding are anything.
func (b *bench) pooledConv() (conv, pool *nn.NetLayer, batch int) {
	for {
		conv, batch = b.conv()
		window := nn.Layer{Kind: nn.MaxPool2D, KernelRows: b.oneOf(1, 2, 2, 2, 3, 4, conv.Out.Rows), KernelCols: b.oneOf(1, 2, 2, 2, 3, 5, conv.Out.Cols)}
		if window.KernelRows <= conv.Out.Rows && window.KernelCols <= conv.Out.Cols && window.KernelRows*window.KernelCols <= MaxPooledWindow {
			return conv, layer(b.t, conv.Out, window), batch
		}
	}
}

// poolInts are the arguments from poolRows to windowCols.
func poolInts(l *nn.NetLayer) []any {
	return []any{l.Out.Rows, l.Out.Cols, l.KernelRows, l.KernelCols}
}

// codes are n winners, a byte each, in words.
func (b *bench) codes(n int) *array {
	return b.output(ceil(n, 4))
}

// equals draws values of which many are equal, also such that differ in the sign of zero alone.
func (b *bench) equals(draw func() float32) func() float32 {
	return func() float32 {
		if x := draw(); b.r.IntN(2) == 0 {
			return x
		}
		return []float32{0, float32(math.Copysign(0, -1)), 1}[b.r.IntN(3)]
	}
}

// winners gives, of each value of the pooling's output, the winner's index in its window.
func winners(l *nn.NetLayer, batch int, x []float32) []byte {
	g, dx := make([]float32, batch*l.Out.Size()), make([]float32, batch*l.In.Size())
	for i := range g {
		g[i] = 1
	}
	l.InputGradient(batch, x, g, nil, dx)
	codes := make([]byte, len(g))
	for i, d := range dx {
		if d == 0 {
			continue
		}
		channel, pixel := i%l.In.Channels, i/l.In.Channels
		col, line := pixel%l.In.Cols, pixel/l.In.Cols
		row, sample := line%l.In.Rows, line/l.In.Rows
		out := ((sample*l.Out.Rows+row/l.KernelRows)*l.Out.Cols+col/l.KernelCols)*l.Out.Channels + channel
		codes[out] = byte(row%l.KernelRows*l.KernelCols + col%l.KernelCols)
	}
	return codes
}

func TestConvPoolForward(t *testing.T) {
	cases(t, 64, func(t *testing.T, b *bench) {
		l, pool, batch := b.pooledConv()
		draw := b.equals(b.values())
		size := batch * pool.Out.Size()
		x, p, y, code := b.array(batch*l.In.Size(), draw), b.array(params(l), draw), b.output(size), b.codes(size)
		args := append([]any{y, code, x, at{p, l.WeightsAt}, strideArg{}, batch}, convInts(l)...)
		args = append(append(args, l.Activation == nn.ReLU), poolInts(pool)...)
		grid := shape(ConvPoolForward(batch, pool.Out.Rows, pool.Out.Cols, pool.KernelRows*pool.KernelCols, l.Units, b.trials))
		b.run([]call{{"conv_pool_forward", grid, args}}, []*array{y, code}, func(trial int, got [][]uint32) error {
			between, want := make([]float32, batch*l.Out.Size()), make([]float32, size)
			l.Forward(batch, x.of(trial), p.of(trial), between)
			pool.Forward(batch, between, nil, want)
			for i, w := range winners(pool, batch, between) {
				if g := byte(got[1][i/4] >> (8 * (i % 4))); g != w {
					return fmt.Errorf("code[%d] = %d, want %d", i, g, w)
				}
			}
			for i := size; i%4 != 0; i++ { // behind the last
				if g := byte(got[1][i/4] >> (8 * (i % 4))); g != byte(code.words[trial][i/4]>>(8*(i%4))) {
					return fmt.Errorf("code[%d] of %d is written", i, size)
				}
			}
			return same("y", got[0], want)
		})
	})
}

// pooledGradient is a gradient by the output of a pooling, its winners, and what they make of it: the gradient by the
// output of the convolution before.
type pooledGradient struct {
	g, code *array
	wide    [][]float32 // per trial
}

func (b *bench) pooledGradient(pool *nn.NetLayer, batch int, draw func() float32) *pooledGradient {
	size := batch * pool.Out.Size()
	p := &pooledGradient{g: b.array(size, draw), code: b.codes(size)}
	values := b.equals(draw)
	for trial := range b.trials {
		x, dx := make([]float32, batch*pool.In.Size()), make([]float32, batch*pool.In.Size())
		for i := range x {
			x[i] = values()
		}
		for i, w := range winners(pool, batch, x) {
			word := &p.code.words[trial][i/4]
			*word = *word&^(0xff<<(8*(i%4))) | uint32(w)<<(8*(i%4))
		}
		pool.InputGradient(batch, x, p.g.of(trial), nil, dx)
		p.wide = append(p.wide, dx)
	}
	return p
}

func TestConvPoolInputGradient(t *testing.T) {
	cases(t, 48, func(t *testing.T, b *bench) {
		l, pool, batch := b.pooledConv()
		draw := b.values()
		g := b.pooledGradient(pool, batch, draw)
		p, dx := b.array(params(l), draw), b.output(batch*l.In.Size())
		mask, arg := b.mask(batch*l.In.Size(), draw)
		args := append([]any{dx, g.g, g.code, at{p, l.WeightsAt}, arg, strideArg{}, batch}, convInts(l)...)
		args = append(args, poolInts(pool)...)
		b.run([]call{{"conv_pool_input_gradient", shape(ConvInputGradient(batch, l.In.Rows, l.In.Cols, l.In.Channels, b.trials)), args}},
			[]*array{dx}, func(trial int, got [][]uint32) error {
				want := make([]float32, batch*l.In.Size())
				l.InputGradient(batch, nil, g.wide[trial], p.of(trial), want)
				return same("dx", got[0], mask.mask(want, trial))
			})
	})
}

func TestConvPoolWeightGradient(t *testing.T) {
	cases(t, 48, func(t *testing.T, b *bench) {
		l, pool, batch := b.pooledConv()
		draw := b.values()
		g := b.pooledGradient(pool, batch, draw)
		x := b.array(batch*l.In.Size(), draw)
		b.convWeightGradient(l, batch, "conv_pool_weight_gradient", x, []any{g.g, g.code}, poolInts(pool), g.wide)
	})
}

// dense draws a dense layer and a number of samples; inputs beyond one and two fold blocks are met.
func (b *bench) dense(most int) (l *nn.NetLayer, batch int) {
	in := nn.Shape{Rows: 1, Cols: 1, Channels: b.oneOf(1, 2, 16, 60, 255, 256, 257, 530)}
	d := nn.Layer{Kind: nn.Dense, Units: b.oneOf(1, 3, 4, 10, 64, 67, 130), Activation: nn.Activation(b.r.IntN(2))}
	batch = 1 + b.r.IntN(most)
	if in.Channels*d.Units*batch > 80000 {
		batch = max(80000/(in.Channels*d.Units), 1)
	}
	return layer(b.t, in, d), batch
}

func TestDenseForward(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		l, batch := b.dense(40)
		draw := b.values()
		inputs, blocks := l.In.Size(), ceil(l.In.Size(), nn.FoldBlock)
		x, p, part, y := b.array(batch*inputs, draw), b.array(params(l), draw), b.output(blocks*batch*l.Units), b.output(batch*l.Units)
		b.run([]call{
			{"dense_forward", shape(DenseForward(batch, inputs, l.Units, b.trials)),
				[]any{part, x, at{p, l.WeightsAt}, strideArg{}, batch, inputs, l.Units}},
			{"dense_finish", shape(DenseFinish(batch, l.Units, b.trials)),
				[]any{y, part, at{p, l.BiasAt}, strideArg{}, batch, l.Units, blocks, l.Activation == nn.ReLU}},
		}, []*array{y, part}, func(trial int, got [][]uint32) error {
			want := make([]float32, batch*l.Units)
			l.Forward(batch, x.of(trial), p.of(trial), want)
			return same("y", got[0], want)
		})
	})
}

func TestDenseInputGradient(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		l, batch := b.dense(40)
		if b.r.IntN(3) == 0 { // more than one block of units
			l, batch = layer(b.t, nn.Shape{Rows: 1, Cols: 1, Channels: 5}, nn.Layer{Kind: nn.Dense, Units: 515}), 7
		}
		draw := b.values()
		inputs := l.In.Size()
		g, p, dx := b.array(batch*l.Units, draw), b.array(params(l), draw), b.output(batch*inputs)
		mask, arg := b.mask(batch*inputs, draw)
		b.run([]call{{"dense_input_gradient", shape(DenseInputGradient(batch, inputs, b.trials)),
			[]any{dx, g, at{p, l.WeightsAt}, arg, strideArg{}, batch, inputs, l.Units}}},
			[]*array{dx}, func(trial int, got [][]uint32) error {
				want := make([]float32, batch*inputs)
				l.InputGradient(batch, nil, g.of(trial), p.of(trial), want)
				return same("dx", got[0], mask.mask(want, trial))
			})
	})
}

func TestDenseUpdate(t *testing.T) {
	cases(t, 24, func(t *testing.T, b *bench) {
		l, batch := b.dense(40)
		if b.r.IntN(4) == 0 { // more than one block of samples
			l, batch = layer(b.t, nn.Shape{Rows: 1, Cols: 1, Channels: 6}, nn.Layer{Kind: nn.Dense, Units: 5}), 257+b.r.IntN(300)
		}
		draw := b.values()
		inputs := l.In.Size()
		o := b.optimizer((inputs+1)*l.Units, draw)
		x, g := b.array(batch*inputs, draw), b.array(batch*l.Units, draw)
		args := append(o.state(), x, g, strideArg{}, batch, inputs, l.Units, o.consts, o.base, o.offset)
		b.run([]call{{o.kernel("dense_update"), shape(DenseUpdate(inputs, l.Units, b.trials)), args}},
			o.arrays(), func(trial int, got [][]uint32) error {
				grads := make([]float32, params(l))
				l.ParamGradient(batch, x.of(trial), g.of(trial), grads)
				return o.check(trial, grads[l.WeightsAt:], got)
			})
	})
}

// A loss by outputs that are there, and by the parts of a last dense layer.
func TestLoss(t *testing.T) {
	cases(t, 48, func(t *testing.T, b *bench) {
		outputs, batch, steps := b.oneOf(2, 3, 10, 33, 256), 1+b.r.IntN(6), 1+b.r.IntN(3)
		offset := b.r.IntN(steps)
		step := offset + b.r.IntN(steps-offset)
		kind, relu, dense := nn.LossKind(1+b.r.IntN(2)), b.r.IntN(2) == 0, b.r.IntN(2) == 0
		draw := b.values()
		wide := func() float32 { // so that exp meets its special cases, and subnormal results
			if b.r.IntN(3) == 0 {
				return draw() * 40
			}
			return draw()
		}
		blocks := 1
		if dense {
			blocks += b.r.IntN(4)
		}
		z := b.array(blocks*batch*outputs, wide) // or parts
		bias := b.array(outputs, draw)
		labels := make([]byte, 20)
		for i := range labels {
			labels[i] = byte(b.r.IntN(outputs))
		}
		index := make([]int, b.trials*steps*batch)
		for i := range index {
			index[i] = b.r.IntN(len(labels))
		}
		g := b.output(batch * outputs)
		losses, logits := b.output(steps*batch), b.output(steps*batch*outputs)
		net := &nn.Net{Model: nn.Model{Loss: kind, Batch: batch}, Outputs: outputs}
		scale := 1 / float32(batch)
		if kind == nn.MeanSquaredError {
			scale = 1 / float32(outputs*batch)
		}
		var gradient any = g
		if b.r.IntN(4) == 0 {
			gradient = nil
		}
		kernel, args := "loss", []any{z, gradient, losses, logits, strideArg{}}
		if dense {
			kernel, args = "dense_loss", []any{z, bias, gradient, losses, logits, strideArg{}, blocks}
		}
		args = append(args, b.bytes(labels), b.ints(index), b.ints([]int{step - offset}), offset, steps, batch, outputs, int(kind), relu, scale)
		b.run([]call{{kernel, shape(Loss(batch, b.trials)), args}},
			[]*array{g, losses, logits}, func(trial int, got [][]uint32) error {
				zs, gwant := z.of(trial), g.of(trial)
				if dense {
					zs = finished(zs, bias.of(trial), blocks, relu)
				}
				lwant, zwant := losses.of(trial), logits.of(trial)
				copy(zwant[step*batch*outputs:], zs)
				for i := range batch {
					row := zs[i*outputs : (i+1)*outputs]
					grad := make([]float32, outputs)
					lwant[step*batch+i] = net.SampleLoss(row, labels[index[(trial*steps+step)*batch+i]], grad)
					if relu {
						masked(grad, row)
					}
					if gradient != nil {
						copy(gwant[i*outputs:], grad)
					}
				}
				for i, want := range [][]float32{gwant, lwant, zwant} {
					if err := same([]string{"g", "losses", "logits"}[i], got[i], want); err != nil {
						return err
					}
				}
				return nil
			})
	})
}

// finished are a dense layer's outputs by its blocks of parts.
func finished(parts, bias []float32, blocks int, relu bool) []float32 {
	z := parts[:len(parts)/blocks]
	for i := range z {
		for block := 1; block < blocks; block++ {
			z[i] += parts[block*len(z)+i]
		}
		z[i] += bias[i%len(bias)]
		if relu && !(z[i] > 0) {
			z[i] = 0
		}
	}
	return z
}

func TestMeanLosses(t *testing.T) {
	cases(t, 8, func(t *testing.T, b *bench) {
		steps, batch := 1+b.r.IntN(40), b.oneOf(1, 32, 256, 600)
		losses, mean := b.array(steps*batch, b.values()), b.output(steps)
		b.run([]call{{"mean_losses", shape(MeanLosses(steps, b.trials)), []any{mean, losses, strideArg{}, steps, batch}}},
			[]*array{mean}, func(trial int, got [][]uint32) error {
				var want []float32
				for step := range steps {
					var f nn.Fold
					for _, x := range losses.of(trial)[step*batch : (step+1)*batch] {
						f.Add(x, 1)
					}
					want = append(want, f.Sum()/float32(batch))
				}
				return same("mean", got[0], want)
			})
	})
}

func TestGather(t *testing.T) {
	cases(t, 8, func(t *testing.T, b *bench) {
		samples, size, batch, steps := 300, 1+b.r.IntN(90), 1+b.r.IntN(12), 1+b.r.IntN(3)
		offset := b.r.IntN(steps)
		step := offset + b.r.IntN(steps-offset)
		pixels := make([]byte, samples*size)
		for i := range pixels {
			pixels[i] = byte(i)
		}
		index := make([]int, b.trials*steps*batch)
		for i := range index {
			index[i] = b.r.IntN(samples)
		}
		x := b.output(batch * size)
		b.run([]call{{"gather", shape(Gather(batch, size, b.trials)), []any{x, strideArg{}, b.bytes(pixels), b.ints(index),
			b.ints([]int{step - offset}), offset, steps, batch, size}}}, []*array{x}, func(trial int, got [][]uint32) error {
			var want []float32
			for _, i := range index[(trial*steps+step)*batch:][:batch] {
				for _, p := range pixels[i*size : (i+1)*size] {
					want = append(want, float32(p)/255)
				}
			}
			return same("x", got[0], want)
		})
	})
}

func TestState(t *testing.T) {
	cases(t, 8, func(t *testing.T, b *bench) {
		words, scalars := 1+b.r.IntN(1000), b.r.IntN(5)
		start := make([]float32, words)
		for i := range start {
			start[i] = float32(b.r.NormFloat64())
		}
		state := b.output(words + 4)
		want := append(floatBits(start), 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff)
		for i := range 4 {
			want[words+i] = state.words[0][words+i]
		}
		values := []any{uint32(1), uint32(0x80000000), uint32(3), uint32(0xfffffffe)}
		for i := range scalars {
			want[words+i] = values[i].(uint32)
		}
		b.run([]call{
			{"copy_state", shape(CopyState(words, b.trials)), []any{state, b.floats(start), strideArg{}, words}},
			{"set_scalars", shape(SetScalars(b.trials)), append([]any{at{state, words}, strideArg{}, scalars}, values...)},
		}, []*array{state}, func(_ int, got [][]uint32) error {
			if !slices.Equal(got[0], want) {
				return fmt.Errorf("state = %x, want %x", got[0], want)
			}
			return nil
		})
	})
}

func floatBits(f []float32) (words []uint32) {
	for _, x := range f {
		words = append(words, math.Float32bits(x))
	}
	return words
}

// The two kernels make the root of nn and find exponents of all ones among the floats, and nowhere else. Lengths around
// the blocks' ends meet every form of padding.
func TestSHA(t *testing.T) {
	lengths := []int{1, 13, 14, 15, 16, 17, 30, 1023, 1024, 1025, 2048, 3 * 1024, 4*1024 + 14, 7*1024 + 1}
	cases(t, len(lengths)+3, func(t *testing.T, b *bench) {
		words := 1 + b.r.IntN(3*1024)
		if b.seed < len(lengths) {
			words = lengths[b.seed]
		}
		floats := words - b.r.IntN(min(words, 5))
		data := b.array(words, func() float32 { return math.Float32frombits(b.r.Uint32() &^ (1 << 23)) })
		for i := floats; i < words; i++ {
			data.words[0][i] = 0x7fc00000 // not among the floats
		}
		bad := b.r.IntN(2) == 0
		if bad {
			last := data.words[b.trials-1]
			last[b.oneOf(0, floats-1, b.r.IntN(floats))] = []uint32{0x7f800000, 0xff800000, 0xffc00001, 0x7f800001}[b.r.IntN(4)]
		}
		n := ceil(4*words, nn.LeafSize)
		leaves, bads, root := b.output(8*n), b.output(n), b.output(9)
		b.run([]call{
			{"sha_leaves", shape(ShaLeaves(4*words, b.trials)), []any{leaves, bads, data, strideArg{}, 4 * words, floats}},
			{"sha_tree", shape(ShaTree(b.trials)), []any{root, leaves, bads, strideArg{}, n}},
		}, []*array{root, leaves, bads}, func(trial int, got [][]uint32) error {
			var p []byte
			for _, w := range data.words[trial] {
				p = binary.LittleEndian.AppendUint32(p, w)
			}
			return sameRoot(got[0], nn.BytesRoot(p), bad && trial == b.trials-1)
		})
	})
}

// A tree of many leaves needs more than one round of the block's threads on a level.
func TestSHATree(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 1023, 1024, 1027} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, n)
			hashes, root := b.output(8*n), b.output(9)
			bads := b.array(n, func() float32 { return 0 })
			bads.words[0][n-1] = 1
			roots := make([]nn.Hash, b.trials)
			for trial := range roots {
				leaves := make([][]byte, n)
				for i := range leaves {
					leaves[i] = []byte{byte(i), byte(i >> 8), byte(trial)}
					h := sha256.Sum256(append([]byte{0}, leaves[i]...))
					for j := range 8 {
						hashes.words[trial][8*i+j] = binary.BigEndian.Uint32(h[4*j:])
					}
				}
				roots[trial] = nn.MerkleRoot(leaves)
			}
			b.run([]call{{"sha_tree", shape(ShaTree(b.trials)), []any{root, hashes, bads, strideArg{}, n}}}, []*array{root, hashes},
				func(trial int, got [][]uint32) error { return sameRoot(got[0], roots[trial], trial == 0) })
		})
	}
}

// sameRoot compares what sha_tree wrote.
func sameRoot(got []uint32, want nn.Hash, bad bool) error {
	var h nn.Hash
	for i := range 8 {
		binary.BigEndian.PutUint32(h[4*i:], got[i])
	}
	if h != want {
		return fmt.Errorf("root = %v, want %v", h, want)
	}
	if found := got[8] == 1; got[8] > 1 || found != bad {
		return fmt.Errorf("bad = %d, want %t", got[8], bad)
	}
	return nil
}
