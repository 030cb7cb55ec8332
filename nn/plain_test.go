package nn

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// lawFold is fold(a, b, K) written out as the rule says it, with the exact sum for each fused operation.
func lawFold(a, b []float32) float32 {
	var blocks []float32
	for at := 0; at < len(a); at += 256 {
		acc := float32(0)
		for k := at; k < min(at+256, len(a)); k++ {
			acc = fmaExact(a[k], b[k], acc)
		}
		blocks = append(blocks, acc)
	}
	return addBlocks(blocks)
}

// addBlocks adds block results left to right, the first taken as it is.
func addBlocks(blocks []float32) float32 {
	if len(blocks) == 0 {
		return 0
	}
	total := blocks[0]
	for _, b := range blocks[1:] {
		total += b
	}
	return total
}

// uneven draws values of many magnitudes, so that another order of a sum gives other bits.
func uneven(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = (r.Float32() - 0.5) * float32(math.Ldexp(1, r.IntN(8)))
		if r.IntN(6) == 0 {
			x[i] = 0
		}
	}
	return x
}

func goFold(a, b []float32) float32 {
	var f Fold
	for k := range a {
		f.Add(a[k], b[k])
	}
	return f.Sum()
}

func TestFold(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 2, 255, 256, 257, 511, 512, 513, 768, 1025} {
		otherwise := 0
		for range 100 {
			a, b := uneven(r, n), uneven(r, n)
			want := lawFold(a, b)
			if got := goFold(a, b); bitsOf(got) != bitsOf(want) {
				t.Fatalf("%d terms: %g, want %g", n, got, want)
			}
			chain := float32(0)
			for k := range a {
				chain = FMA(a[k], b[k], chain)
			}
			if bitsOf(chain) != bitsOf(want) {
				otherwise++
			}
		}
		if n != 257 && (otherwise > 0) != (n > 256) { // one term more differs too rarely
			t.Errorf("%d terms: one chain differs in %d of 100 draws", n, otherwise)
		}
	}
}

// sum is a fold with ones, which is a plain sum in blocks.
func TestSum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 256, 257, 600} {
		x := uneven(r, n)
		var blocks []float32
		for at := 0; at < n; at += 256 {
			acc := float32(0)
			for _, v := range x[at:min(at+256, n)] {
				acc += v
			}
			blocks = append(blocks, acc)
		}
		if got, want := sum(x), addBlocks(blocks); bitsOf(got) != bitsOf(want) {
			t.Errorf("%d terms: %g, want %g", n, got, want)
		}
	}
}

// Zeros have signs, and sums must give them as the rule does.
func TestFoldZeroSigns(t *testing.T) {
	const small = float32(0x1p-100) // its square rounds to a zero
	blockOf := func(first float32, n int) []float32 {
		x := make([]float32, n)
		x[0] = first
		return x
	}
	ones := func(n int) []float32 { return slices.Repeat([]float32{1}, n) }
	for _, c := range []struct {
		name string
		a, b []float32
		want float32
	}{
		{"no terms", nil, nil, 0},
		{"one term -0", []float32{minus0}, []float32{1}, 0},
		{"many terms -0", slices.Repeat([]float32{minus0}, 600), ones(600), 0},
		{"-x + x", []float32{-1, 1}, []float32{1, 1}, 0},
		{"a product that rounds to -0", []float32{small}, []float32{-small}, minus0},
		{"the same, then a zero term", []float32{small, 0}, []float32{-small, 1}, 0},
		{"the same, then a term -0", []float32{small, minus0}, []float32{-small, 1}, minus0},
		{"the last term of a block of zeros", append(make([]float32, 255), small), append(ones(255), -small), minus0},
		{"a block of -0, then a block of +0", append(append(make([]float32, 255), small), 0), append(append(ones(255), -small), 1), 0},
		{"two blocks of -0", append(append(make([]float32, 255), small), small), append(append(ones(255), -small), -small), minus0},
		{"first of a block, zeros after it", blockOf(small, 256), append([]float32{-small}, ones(255)...), 0},
	} {
		if got := goFold(c.a, c.b); bitsOf(got) != bitsOf(c.want) {
			t.Errorf("%s: %#08x, want %#08x", c.name, bitsOf(got), bitsOf(c.want))
		}
		if got := lawFold(c.a, c.b); bitsOf(got) != bitsOf(c.want) {
			t.Errorf("%s: the rule itself gives %#08x, want %#08x", c.name, bitsOf(got), bitsOf(c.want))
		}
	}
}

func TestDenseZeroSigns(t *testing.T) {
	l := &NetLayer{Layer: Layer{Kind: Dense, Units: 2}, In: Shape{1, 1, 1}, Out: Shape{1, 1, 2}}
	y := make([]float32, 2)
	denseForward(l, 1, []float32{0}, []float32{-1, 1}, []float32{minus0, 0}, y)
	if !sameBits(y, []float32{0, 0}) {
		t.Errorf("0*-1 + -0 = %g, 0*1 + 0 = %g, want +0", y[0], y[1])
	}
	denseForward(l, 1, []float32{0x1p-100}, []float32{-0x1p-100, -0x1p-100}, []float32{minus0, 0}, y)
	if !sameBits(y, []float32{minus0, 0}) {
		t.Errorf("fold -0 with bias -0 is %g, with bias +0 %g, want -0 and +0", y[0], y[1])
	}
	l.Activation = ReLU
	denseForward(l, 1, []float32{0x1p-100}, []float32{-0x1p-100, -0x1p-100}, []float32{minus0, 0}, y)
	if !sameBits(y, []float32{0, 0}) {
		t.Errorf("ReLU of a zero is %g and %g, want +0", y[0], y[1])
	}
}

func TestReLU(t *testing.T) {
	l := &NetLayer{Layer: Layer{Activation: ReLU}}
	for _, c := range []struct{ x, want float32 }{
		{1, 1}, {tiniest, tiniest}, {inf, inf}, {0, 0}, {minus0, 0}, {-tiniest, 0}, {-1, 0}, {-inf, 0}, {nan, 0},
		{math.Float32frombits(0xffc00000), 0},
	} {
		if got := l.activate(c.x); bitsOf(got) != bitsOf(c.want) {
			t.Errorf("ReLU(%g) = %g (%#08x), want %g", c.x, got, bitsOf(got), c.want)
		}
	}
	l.Activation = Linear
	if got := l.activate(minus0); bitsOf(got) != bitsOf(minus0) {
		t.Errorf("linear: -0 became %#08x", bitsOf(got))
	}
}

// A NaN before a ReLU is +0 after it, and the trial goes on.
func TestNaNBeforeReLU(t *testing.T) {
	m := Model{
		Input: Shape{1, 1, 2}, Layers: []Layer{{Kind: Dense, Units: 1, Activation: ReLU}, {Kind: Dense, Units: 2}},
		Loss: SoftmaxCrossEntropy, Optimizer: testAdam, Batch: 1,
	}
	net := build(t, m)
	s := net.NewState()
	copy(s.Params, []float32{inf, -inf, 0.5, 3, 4, 5, 6}) // weights of the first layer, its bias; of the second
	acts := NewPlain(net).(*plain).forward(s, Samples{Pixels: []byte{255, 255}, Labels: []byte{0}, Size: 2}, []int{0})
	if !sameBits(acts[1], []float32{0}) || !sameBits(acts[2], []float32{5, 6}) {
		t.Errorf("activations %v", acts)
	}
}

func TestPoolTies(t *testing.T) {
	l := &NetLayer{Layer: Layer{Kind: MaxPool2D, KernelRows: 2, KernelCols: 3}, In: Shape{2, 3, 1}, Out: Shape{1, 1, 1}}
	for _, c := range []struct {
		name   string
		x      []float32
		winner int
	}{
		{"all equal", []float32{2, 2, 2, 2, 2, 2}, 0},
		{"tie in a row", []float32{1, 3, 3, 2, 1, 0}, 1},
		{"tie over rows", []float32{1, 0, 3, 3, 1, 0}, 2},
		{"tie in a column", []float32{1, 3, 0, 2, 3, 0}, 1},
		{"last is greatest", []float32{1, 2, 3, 4, 5, 6}, 5},
		{"+0 is not greater than -0", []float32{minus0, 0, 0, -1, -1, -1}, 0},
		{"NaN first stays", []float32{nan, 1, 2, inf, 4, 5}, 0},
		{"NaN later loses", []float32{1, nan, nan, 0, nan, nan}, 0},
		{"NaN between", []float32{1, nan, 2, nan, 1, nan}, 2},
		{"all -infinite", []float32{-inf, -inf, -inf, -inf, -inf, -inf}, 0},
	} {
		y, dx := make([]float32, 1), make([]float32, 6)
		poolForward(l, 1, c.x, y)
		if bitsOf(y[0]) != bitsOf(c.x[c.winner]) {
			t.Errorf("%s: output %g, want %g", c.name, y[0], c.x[c.winner])
		}
		poolInputGradient(l, 1, c.x, []float32{7}, dx)
		want := make([]float32, 6)
		want[c.winner] = 7
		if !sameBits(dx, want) {
			t.Errorf("%s: gradient %v, want all of it at %d", c.name, dx, c.winner)
		}
	}
}

// The rows and columns that fill no window give nothing and get the gradient +0.
func TestPoolRest(t *testing.T) {
	l := &NetLayer{Layer: Layer{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2}, In: Shape{3, 5, 2}, Out: Shape{1, 2, 2}}
	x := make([]float32, 2*30)
	for i := range x {
		x[i] = float32(i)
	}
	y, dx := make([]float32, 8), make([]float32, 60)
	poolForward(l, 2, x, y)
	if want := []float32{12, 13, 16, 17, 42, 43, 46, 47}; !sameBits(y, want) {
		t.Errorf("output %v, want %v", y, want)
	}
	poolInputGradient(l, 2, x, []float32{1, 2, 3, 4, 5, 6, 7, 8}, dx)
	want := make([]float32, 60)
	for i, at := range []int{12, 13, 16, 17, 42, 43, 46, 47} {
		want[at] = float32(i + 1)
	}
	if !sameBits(dx, want) {
		t.Errorf("gradient %v", dx)
	}
}

// The sums of a convolution, each gathered into two vectors in the order of the rule.
func TestConvOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	for _, c := range []struct {
		name string
		in   Shape
		l    Layer
	}{
		{"3x3 valid", Shape{6, 5, 2}, Layer{Units: 3, KernelRows: 3, KernelCols: 3, Stride: 1}},
		{"2x4 same", Shape{5, 6, 3}, Layer{Units: 2, KernelRows: 2, KernelCols: 4, Stride: 1, Padding: Same}},
		{"3x3 same, stride 2", Shape{8, 7, 2}, Layer{Units: 3, KernelRows: 3, KernelCols: 3, Stride: 2, Padding: Same}},
		{"3x4 valid, stride 3", Shape{10, 12, 1}, Layer{Units: 2, KernelRows: 3, KernelCols: 4, Stride: 3}},
		{"294 taps, 324 positions", Shape{18, 18, 6}, Layer{Units: 2, KernelRows: 7, KernelCols: 7, Stride: 1, Padding: Same}},
		{"294 taps back, 256 positions", Shape{16, 16, 1}, Layer{Units: 6, KernelRows: 7, KernelCols: 7, Stride: 1, Padding: Same}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.l.Kind = Conv2D
			l, err := buildLayer(c.l, c.in)
			if err != nil {
				t.Fatal(err)
			}
			const n = 2
			positions := l.Out.Rows * l.Out.Cols
			taps := l.KernelRows * l.KernelCols
			x, w, bias, g := uneven(r, n*l.In.Size()), uneven(r, taps*l.In.Channels*l.Units), uneven(r, l.Units), uneven(r, n*l.Out.Size())
			at := func(v []float32, shape Shape, b, row, col, ch int) float32 {
				if row < 0 || col < 0 || row >= shape.Rows || col >= shape.Cols {
					return 0
				}
				return v[b*shape.Size()+(row*shape.Cols+col)*shape.Channels+ch]
			}
			weight := func(tap, c, o int) float32 { return w[(tap*l.In.Channels+c)*l.Units+o] }
			var wantY, wantDX []float32
			for b := range n {
				for p := range positions {
					for o := range l.Units {
						var xs, ws []float32
						for tap := range taps {
							row, col := p/l.Out.Cols*l.Stride+tap/l.KernelCols-l.PadTop, p%l.Out.Cols*l.Stride+tap%l.KernelCols-l.PadLeft
							for c := range l.In.Channels {
								xs, ws = append(xs, at(x, l.In, b, row, col, c)), append(ws, weight(tap, c, o))
							}
						}
						wantY = append(wantY, lawFold(xs, ws)+bias[o])
					}
				}
				for q := range l.In.Rows * l.In.Cols {
					for c := range l.In.Channels {
						var gs, ws []float32
						for tap := range taps {
							row, col := q/l.In.Cols+l.PadTop-tap/l.KernelCols, q%l.In.Cols+l.PadLeft-tap%l.KernelCols
							for o := range l.Units {
								v := float32(0)
								if row >= 0 && col >= 0 && row%l.Stride == 0 && col%l.Stride == 0 {
									v = at(g, l.Out, b, row/l.Stride, col/l.Stride, o)
								}
								gs, ws = append(gs, v), append(ws, weight(tap, c, o))
							}
						}
						wantDX = append(wantDX, lawFold(gs, ws))
					}
				}
			}
			y, dx := make([]float32, len(wantY)), make([]float32, len(wantDX))
			convForward(&l, n, x, w, bias, y)
			if !sameBits(y, wantY) {
				t.Error("forward pass")
			}
			convInputGradient(&l, n, g, w, dx)
			if !sameBits(dx, wantDX) {
				t.Error("gradient of the input")
			}

			wantDW, wantDB := make([]float32, len(w)), make([]float32, l.Units)
			perSample := func(xs, gs []float32) float32 { // block by block, none over two samples
				var blocks []float32
				for b := range n {
					for lo := 0; lo < positions; lo += 256 {
						from, to := b*positions+lo, b*positions+min(lo+256, positions)
						blocks = append(blocks, lawFold(xs[from:to], gs[from:to]))
					}
				}
				return addBlocks(blocks)
			}
			for o := range l.Units {
				var gs []float32
				for i := o; i < len(g); i += l.Units {
					gs = append(gs, g[i])
				}
				wantDB[o] = perSample(slices.Repeat([]float32{1}, len(gs)), gs)
				for tap := range taps {
					for c := range l.In.Channels {
						var xs []float32
						for i := range n * positions {
							p := i % positions
							xs = append(xs, at(x, l.In, i/positions, p/l.Out.Cols*l.Stride+tap/l.KernelCols-l.PadTop, p%l.Out.Cols*l.Stride+tap%l.KernelCols-l.PadLeft, c))
						}
						wantDW[(tap*l.In.Channels+c)*l.Units+o] = perSample(xs, gs)
					}
				}
			}
			dw, db := make([]float32, len(w)), make([]float32, l.Units)
			convWeightGradient(&l, n, x, g, dw, db)
			if !sameBits(dw, wantDW) {
				t.Error("gradient of the weights")
			}
			if !sameBits(db, wantDB) {
				t.Error("gradient of the bias")
			}
		})
	}
}

// A block of a convolution's weight gradient ends with its sample: 300 positions are blocks of 256 and 44. The values
// are chosen so that any other cut gives another sum.
func TestConvBlocksEndWithSample(t *testing.T) {
	l, err := buildLayer(Layer{Kind: Conv2D, Units: 1, KernelRows: 1, KernelCols: 1, Stride: 1}, Shape{1, 300, 1})
	if err != nil {
		t.Fatal(err)
	}
	const big = 0x1p24 // big + 1 rounds to big
	x := slices.Repeat([]float32{1}, 600)
	g := make([]float32, 600)
	g[256], g[299] = big, -big // the sample's second block is 0
	g[300], g[301] = 1, 1      // they start a block of their own; in a chain after big the first would be lost
	dw, db := make([]float32, 1), make([]float32, 1)
	convWeightGradient(&l, 2, x, g, dw, db)
	if dw[0] != 2 || db[0] != 2 {
		t.Errorf("gradients %g and %g, want 2", dw[0], db[0])
	}

	g = make([]float32, 600)
	g[299], g[300], g[301] = big, 1, 1 // block results 0, big, 2, 0
	convWeightGradient(&l, 2, x, g, dw, db)
	if want := float32(big + 2); dw[0] != want || db[0] != want {
		t.Errorf("gradients %g and %g, want %g", dw[0], db[0], want)
	}
	if straddling := lawFold(x, g); straddling == big+2 {
		t.Error("blocks over two samples give the same: the values show nothing")
	}
}

// Dense gradients are plain folds: over the batch for weights and bias, over the outputs for the input.
func TestDenseOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	const n, in, units = 260, 300, 270
	l := &NetLayer{Layer: Layer{Kind: Dense, Units: units}, In: Shape{1, 1, in}, Out: Shape{1, 1, units}}
	x, w, bias, g := uneven(r, n*in), uneven(r, in*units), uneven(r, units), uneven(r, n*units)
	column := func(v []float32, width, c int) (out []float32) {
		for i := c; i < len(v); i += width {
			out = append(out, v[i])
		}
		return out
	}
	y, dx, dw, db := make([]float32, n*units), make([]float32, n*in), make([]float32, in*units), make([]float32, units)
	denseForward(l, n, x, w, bias, y)
	denseInputGradient(l, n, g, w, dx)
	denseWeightGradient(l, n, x, g, dw, db)
	for range 300 {
		b, i, o := r.IntN(n), r.IntN(in), r.IntN(units)
		if got, want := y[b*units+o], lawFold(x[b*in:(b+1)*in], column(w, units, o))+bias[o]; bitsOf(got) != bitsOf(want) {
			t.Fatalf("output %d of sample %d: %g, want %g", o, b, got, want)
		}
		if got, want := dx[b*in+i], lawFold(g[b*units:(b+1)*units], w[i*units:(i+1)*units]); bitsOf(got) != bitsOf(want) {
			t.Fatalf("gradient of input %d of sample %d: %g, want %g", i, b, got, want)
		}
		if got, want := dw[i*units+o], lawFold(column(x, in, i), column(g, units, o)); bitsOf(got) != bitsOf(want) {
			t.Fatalf("gradient of weight %d, %d: %g, want %g", i, o, got, want)
		}
		if got, want := db[o], lawFold(column(g, units, o), slices.Repeat([]float32{1}, n)); bitsOf(got) != bitsOf(want) {
			t.Fatalf("gradient of bias %d: %g, want %g", o, got, want)
		}
	}
}

// The losses written out operation by operation.
func TestLossOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 1))
	for _, outputs := range []int{2, 10, 256} {
		for _, kind := range []LossKind{SoftmaxCrossEntropy, MeanSquaredError} {
			net := build(t, Model{Input: Shape{1, 1, 1}, Layers: []Layer{{Kind: Dense, Units: outputs}}, Loss: kind, Optimizer: testSGD, Batch: 3})
			ones := slices.Repeat([]float32{1}, outputs)
			for range 20 {
				z := uneven(r, outputs)
				y := r.IntN(outputs)
				want, terms := make([]float32, outputs), make([]float32, outputs)
				var wantLoss float32
				if kind == SoftmaxCrossEntropy {
					most := slices.Max(z)
					for j := range z {
						terms[j] = Exp(z[j] - most)
					}
					s := lawFold(terms, ones)
					for j := range z {
						q := terms[j] / s
						if j == y {
							q -= 1
						}
						want[j] = q * float32(float32(1)/float32(3))
					}
					wantLoss = Log(s) - (z[y] - most)
				} else {
					scale := float32(1) / float32(3*outputs)
					for j := range z {
						d := z[j]
						if j == y {
							d -= 1
						}
						terms[j] = d * d
						want[j] = 2 * d * scale // doubling is exact
					}
					wantLoss = lawFold(terms, ones) / float32(outputs)
				}
				g := make([]float32, outputs)
				if loss := net.SampleLoss(z, byte(y), g); bitsOf(loss) != bitsOf(wantLoss) {
					t.Errorf("%v of %d outputs: loss %g, want %g", kind, outputs, loss, wantLoss)
				}
				if !sameBits(g, want) {
					t.Errorf("%v of %d outputs: gradient %v, want %v", kind, outputs, g, want)
				}
				if loss := net.SampleLoss(z, byte(y), nil); bitsOf(loss) != bitsOf(wantLoss) {
					t.Errorf("%v of %d outputs: loss %g without gradient, want %g", kind, outputs, loss, wantLoss)
				}
			}
		}
	}
}

func TestLossExtremes(t *testing.T) {
	net := build(t, Model{Input: Shape{1, 1, 1}, Layers: []Layer{{Kind: Dense, Units: 3}}, Loss: SoftmaxCrossEntropy, Optimizer: testSGD, Batch: 1})
	g := make([]float32, 3)
	if loss := net.SampleLoss([]float32{3e38, -3e38, 0}, 0, g); loss != 0 || !sameBits(g, []float32{0, 0, 0}) {
		t.Errorf("certain and right: loss %g, gradient %v", loss, g)
	}
	if loss := net.SampleLoss([]float32{1e38, 0, 0}, 1, g); loss != 1e38 || !sameBits(g, []float32{1, -1, 0}) {
		t.Errorf("certain and wrong: loss %g, gradient %v", loss, g)
	}
	for _, z := range [][]float32{{nan, 0, 0}, {0, nan, 0}, {0, 0, nan}, {inf, 0, 0}, {0, inf, inf}, {-inf, -inf, -inf}} {
		if loss := net.SampleLoss(z, 0, g); finite(loss) || finite(g[0]) {
			t.Errorf("outputs %v: loss %g, gradient %v", z, loss, g)
		}
	}
}

// The optimizers for one parameter, in exact operations rounded one by one.
func TestOptimizerSteps(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 1))
	round := func(x float64) float32 { return float32(x) } // sums and products of two binary32 values, rounded once more
	add := func(a, b float32) float32 { return fmaExact(a, 1, b) }
	mul := func(a, b float32) float32 { return round(float64(a) * float64(b)) }
	div := func(a, b float32) float32 { return round(float64(a) / float64(b)) }
	root := func(a float32) float32 { return round(math.Sqrt(float64(a))) }
	net := build(t, Model{Input: Shape{1, 1, 3}, Layers: []Layer{{Kind: Dense, Units: 2}}, Loss: MeanSquaredError, Optimizer: testAdam, Batch: 1})
	o := net.Model.Optimizer
	s := net.Init(seedOf("optimizer"))
	want := s.Clone()
	for step := 1; step <= 300; step++ {
		g := uneven(r, net.Params)
		if step > 20 {
			g[0], g[1] = 0, minus0 // dead from here on
		}
		want.P1, want.P2 = mul(want.P1, o.Beta1), mul(want.P2, o.Beta2)
		alpha := div(mul(o.LearningRate, root(add(1, -want.P2))), add(1, -want.P1))
		for i := range g {
			m, v := want.First[i], want.Second[i]
			m = add(m, mul(add(g[i], -m), add(1, -o.Beta1)))
			v = add(v, mul(add(mul(g[i], g[i]), -v), add(1, -o.Beta2)))
			if math.Abs(float64(m)) < 0x1p-96 {
				m = 0
			}
			if v < 0x1p-96 {
				v = 0
			}
			want.First[i], want.Second[i] = m, v
			want.Params[i] = add(want.Params[i], -div(mul(m, alpha), add(root(v), o.Epsilon)))
		}
		want.Steps++
		o.Update(s, g)
		if !slices.Equal(s.Bytes(), want.Bytes()) {
			t.Fatalf("adam, step %d: %+v, want %+v", step, s, want)
		}
	}

	net.Model.Optimizer = testSGD
	o = testSGD
	s = net.Init(seedOf("optimizer"))
	want = s.Clone()
	for step := 1; step <= 100; step++ {
		g := uneven(r, net.Params)
		for i := range g {
			u := add(mul(want.First[i], o.Momentum), -mul(g[i], o.LearningRate))
			if math.Abs(float64(u)) < 0x1p-96 {
				u = 0
			}
			want.First[i], want.Params[i] = u, add(want.Params[i], u)
		}
		want.Steps++
		o.Update(s, g)
		if !slices.Equal(s.Bytes(), want.Bytes()) {
			t.Fatalf("sgd, step %d: %+v, want %+v", step, s, want)
		}
	}
}

// Moments below 2^-96 become +0, 2^-96 itself stays, and NaN is not hidden.
func TestMomentCut(t *testing.T) {
	below := math.Nextafter32(momentCut, 0)
	sgd := Optimizer{Kind: SGD, LearningRate: 1}
	for _, c := range []struct{ u, want float32 }{
		{momentCut, momentCut}, {-momentCut, -momentCut}, {below, 0}, {-below, 0}, {tiniest, 0}, {-tiniest, 0}, {0, 0}, {minus0, 0}, {1, 1},
	} {
		if _, u := sgd.sgd(0, 0, -c.u); bitsOf(u) != bitsOf(c.want) {
			t.Errorf("sgd: u = %g became %g, want %g", c.u, u, c.want)
		}
		keep := AdamStep{Epsilon: 1} // moments as they are
		if _, m, _ := keep.update(0, c.u, 1, 0); bitsOf(m) != bitsOf(c.want) {
			t.Errorf("adam: m = %g became %g, want %g", c.u, m, c.want)
		}
		if c.u >= 0 {
			if _, _, v := keep.update(0, 0, c.u, 0); bitsOf(v) != bitsOf(c.want) {
				t.Errorf("adam: v = %g became %g, want %g", c.u, v, c.want)
			}
		}
	}
	if w, u := sgd.sgd(0, nan, 0); w == w || u == u {
		t.Errorf("sgd: NaN became %g, the parameter %g", u, w)
	}
	if w, m, v := (&AdamStep{Epsilon: 1}).update(0, nan, nan, 0); w == w || m == m || v == v {
		t.Errorf("adam: NaN became %g and %g, the parameter %g", m, v, w)
	}
}

func TestPlainGradients(t *testing.T) { testGradients(t, NewPlain) }

// testGradients holds any engine's gradients to those of the binary64 reference, for all kinds of layers: within
// 2^-20 of the greatest gradient of the same weights, some eight units of rounding.
func testGradients(t *testing.T, newEngine func(*Net) Engine) {
	for _, m := range layerModels() {
		t.Run(m.name, func(t *testing.T) {
			net := build(t, gradientModel(m.model))
			data := drawSamples(net, "gradients", 20)
			start := initState(net, "gradients")
			e := newEngine(net)
			t.Cleanup(e.Close)
			got := gradient(t, e, start, data, batchSeeds("gradients"))
			index := make([]int, net.Model.Batch)
			DrawBatch(batchSeeds("gradients")(0), data.Len(), index)
			loss, want := newRef64(net, start).gradient(data, index)

			r := train(t, e, start, data, Trial{Steps: 1, BatchSeed: batchSeeds("gradients")})
			if d := math.Abs(float64(r.BatchLosses[0]) - loss); !(d <= 1e-6*(1+loss)) {
				t.Errorf("loss %g, want %g", r.BatchLosses[0], loss)
			}
			for i := range net.Layers {
				l := &net.Layers[i]
				if !l.HasWeights() {
					continue
				}
				for _, part := range [][2]int{{l.WeightsAt, l.BiasAt}, {l.BiasAt, l.BiasAt + l.Units}} {
					most, worst := 0.0, 0.0
					for j := part[0]; j < part[1]; j++ {
						most = max(most, math.Abs(want[j]))
						worst = max(worst, math.Abs(float64(got[j])-want[j]))
					}
					if most == 0 {
						t.Errorf("layer %d: all gradients are 0, they show nothing", i)
					}
					if !(worst <= most*0x1p-20) {
						t.Errorf("layer %d, parameters %d to %d: off by %g, the greatest gradient is %g", i, part[0], part[1], worst, most)
					}
				}
			}
		})
	}
}

func TestPlainTracksRef64(t *testing.T) {
	steps := 4
	if testing.Short() {
		steps = 2
	}
	testTracksRef64(t, NewPlain, DefaultModel(), steps)
	for _, m := range layerModels() {
		t.Run(m.name, func(t *testing.T) { testTracksRef64(t, NewPlain, m.model, 10) })
	}
}

// testTracksRef64 trains beside the binary64 reference and compares losses and parameters.
func testTracksRef64(t *testing.T, newEngine func(*Net) Engine, m Model, steps int) {
	net := build(t, m)
	data := drawSamples(net, "track", 100)
	start := initState(net, "track")
	e := newEngine(net)
	t.Cleanup(e.Close)
	got := train(t, e, start, data, Trial{Steps: steps, BatchSeed: batchSeeds("track")})
	ref := newRef64(net, start)
	index := make([]int, net.Model.Batch)
	for s := range steps {
		DrawBatch(batchSeeds("track")(uint32(s)), data.Len(), index)
		want := ref.step(data, index)
		if d := math.Abs(float64(got.BatchLosses[s]) - want); !(d <= 1e-5*(1+want)) {
			t.Errorf("step %d: loss %g, want %g", s, got.BatchLosses[s], want)
		}
	}
	var off, moved float64 // squared distances: from the reference, and of the reference from the start
	for i, w := range ref.w {
		off += (w - float64(got.State.Params[i])) * (w - float64(got.State.Params[i]))
		moved += (w - float64(start.Params[i])) * (w - float64(start.Params[i]))
	}
	t.Logf("distance %.3g of the way gone", math.Sqrt(off/moved))
	if !(off <= moved*1e-8) {
		t.Errorf("parameters are off by %g of the way they went", math.Sqrt(off/moved))
	}
}

func TestPlainContract(t *testing.T) { testContract(t, NewPlain) }

// testContract checks what Engine promises beside its bits.
func testContract(t *testing.T, newEngine func(*Net) Engine) {
	m := layerModels()[6].model
	net := build(t, m)
	data := drawSamples(net, "contract", 30)
	start := initState(net, "contract")
	e := newEngine(net)
	t.Cleanup(e.Close)
	seeds := batchSeeds("contract")
	plainTrial := func(steps int) Trial { return Trial{Steps: steps, BatchSeed: seeds} }

	t.Run("start is left alone", func(t *testing.T) {
		before := start.Bytes()
		r := train(t, e, start, data, plainTrial(3))
		if !slices.Equal(start.Bytes(), before) {
			t.Error("training changed it")
		}
		if slices.Equal(r.State.Bytes(), before) || r.State.Steps != 3 || len(r.BatchLosses) != 3 {
			t.Errorf("%d steps, %d losses", r.State.Steps, len(r.BatchLosses))
		}
	})
	t.Run("early roots", func(t *testing.T) {
		for steps, want := range map[int][]int{0: nil, 1: nil, 2: {1}, 3: {1, 2}, 4: {1, 2}, 5: {1, 2, 4}, 8: {1, 2, 4}, 9: {1, 2, 4, 8}} {
			var at []int
			var seen []Hash
			tr := plainTrial(steps)
			tr.EarlyRoots = true
			tr.OnRoot = func(step int, root Hash) error {
				at, seen = append(at, step), append(seen, root)
				return nil
			}
			r := train(t, e, start, data, tr)
			if !slices.Equal(at, want) || !slices.Equal(seen, r.EarlyRoots) {
				t.Errorf("%d steps: roots after %v, want %v; %d were returned", steps, at, want, len(r.EarlyRoots))
			}
			for i, k := range want {
				if shorter := train(t, e, start, data, plainTrial(k)); shorter.Root != r.EarlyRoots[i] {
					t.Errorf("%d steps: root after %d is %v, a trial of that length gives %v", steps, k, r.EarlyRoots[i], shorter.Root)
				}
			}
			without := train(t, e, start, data, plainTrial(steps))
			if without.EarlyRoots != nil || without.Root != r.Root || without.LogitsDigest != r.LogitsDigest || !sameBits(without.BatchLosses, r.BatchLosses) {
				t.Errorf("%d steps: asking for early roots changed the trial", steps)
			}
			if root, err := r.State.Root(1); err != nil || root != r.Root {
				t.Errorf("%d steps: the state's root is %v, %v; returned was %v", steps, root, err, r.Root)
			}
		}
	})
	t.Run("trials go on where they ended", func(t *testing.T) {
		half := train(t, e, start, data, plainTrial(3))
		rest := train(t, e, half.State, data, Trial{Steps: 2, BatchSeed: func(s uint32) [32]byte { return seeds(s + 3) }})
		if whole := train(t, e, start, data, plainTrial(5)); whole.Root != rest.Root {
			t.Errorf("3 and 2 steps give %v, 5 give %v", rest.Root, whole.Root)
		}
	})
	t.Run("logits digest", func(t *testing.T) {
		const steps = 7
		p := NewPlain(net).(*plain)
		var logits []float32
		index := make([]int, m.Batch)
		for i := range steps {
			s := train(t, e, start, data, plainTrial(i)).State
			DrawBatch(seeds(uint32(i)), data.Len(), index)
			acts := p.forward(s, data, index)
			logits = append(logits, acts[len(acts)-1]...)
		}
		r := train(t, e, start, data, plainTrial(steps))
		if want := BytesRoot(floatBytes(logits)); r.LogitsDigest != want {
			t.Errorf("%v, want %v", r.LogitsDigest, want)
		}
		if again := train(t, e, start, data, plainTrial(steps)); again.LogitsDigest != r.LogitsDigest {
			t.Errorf("a second trial gives %v, the first %v", again.LogitsDigest, r.LogitsDigest)
		}
	})
	t.Run("hooks", func(t *testing.T) {
		stop := errors.New("stop")
		tr := plainTrial(9)
		var steps []int
		tr.OnStep = func(step int) error {
			steps = append(steps, step)
			if step == 4 {
				return stop
			}
			return nil
		}
		if r, err := e.Train(context.Background(), start, data, tr); err != stop || r != nil { //nolint:errorlint // the very error, not one that wraps it
			t.Errorf("OnStep's error became %v, result %v", err, r)
		}
		if !slices.Equal(steps, []int{0, 1, 2, 3, 4}) {
			t.Errorf("OnStep was called for %v", steps)
		}
		tr = plainTrial(9)
		tr.EarlyRoots = true
		var roots []int
		tr.OnRoot = func(step int, _ Hash) error {
			roots = append(roots, step)
			if step == 2 {
				return stop
			}
			return nil
		}
		if r, err := e.Train(context.Background(), start, data, tr); err != stop || r != nil { //nolint:errorlint // the very error, not one that wraps it
			t.Errorf("OnRoot's error became %v, result %v", err, r)
		}
		if !slices.Equal(roots, []int{1, 2}) {
			t.Errorf("OnRoot was called for %v", roots)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		tr := plainTrial(9)
		last := -1
		tr.OnStep = func(step int) error {
			if last = step; step == 3 {
				cancel()
			}
			return nil
		}
		if r, err := e.Train(ctx, start, data, tr); !errors.Is(err, context.Canceled) || r != nil {
			t.Errorf("training: %v, result %v", err, r)
		}
		if last != 3 {
			t.Errorf("training went on to step %d", last)
		}
		if _, _, err := e.Evaluate(ctx, start, data); !errors.Is(err, context.Canceled) {
			t.Errorf("evaluation: %v", err)
		}
	})
	t.Run("samples that do not fit", func(t *testing.T) {
		bad := data
		bad.Size--
		if _, err := e.Train(context.Background(), start, bad, plainTrial(1)); err == nil {
			t.Error("trained")
		}
		if _, _, err := e.Evaluate(context.Background(), start, bad); err == nil {
			t.Error("evaluated")
		}
	})
	t.Run("not finite", func(t *testing.T) {
		for _, v := range []float32{nan, inf, -inf} {
			for _, where := range []func(*State) *float32{
				func(s *State) *float32 { return &s.Params[0] },
				func(s *State) *float32 { return &s.Params[net.Params-1] },
				func(s *State) *float32 { return &s.First[3] },
				func(s *State) *float32 { return &s.Second[3] },
				func(s *State) *float32 { return &s.P1 },
				func(s *State) *float32 { return &s.P2 },
			} {
				s := start.Clone()
				*where(s) = v
				for _, early := range []bool{false, true} {
					tr := plainTrial(3)
					tr.EarlyRoots = early
					tr.OnRoot = func(step int, root Hash) error {
						t.Errorf("%g: root after step %d", v, step)
						return nil
					}
					if r, err := e.Train(context.Background(), s, data, tr); !errors.Is(err, ErrNotFinite) || r != nil {
						t.Errorf("%g: training gave %v, result %v", v, err, r)
					}
				}
			}
			s := start.Clone()
			s.Params[net.Params-1] = v // a bias of the last layer
			loss, _, err := e.Evaluate(context.Background(), s, data)
			if !errors.Is(err, ErrNotFinite) || loss != 0 {
				t.Errorf("bias %g: evaluation gave %g, %v", v, loss, err)
			}
		}
	})
	t.Run("diverging", func(t *testing.T) {
		wild := layerModels()[7].model // mean squared error
		wild.Optimizer = Optimizer{Kind: SGD, LearningRate: 1000}
		net := build(t, wild)
		data := drawSamples(net, "wild", 30)
		e := newEngine(net)
		t.Cleanup(e.Close)
		if _, err := e.Train(context.Background(), initState(net, "wild"), data, Trial{Steps: 40, BatchSeed: seeds}); !errors.Is(err, ErrNotFinite) {
			t.Error(err)
		}
	})
	t.Run("evaluation", func(t *testing.T) {
		ref := newRef64(net, start)
		all := make([]int, data.Len())
		right := 0
		for i := range all {
			all[i] = i
			acts, _ := ref.forward(ref.input(data, i))
			z := acts[len(acts)-1]
			if z[data.Labels[i]] == slices.Max(z) {
				right++
			}
		}
		want := ref.meanLoss(data, all)
		loss, correct, err := e.Evaluate(context.Background(), start, data)
		if err != nil || math.Abs(float64(loss)-want) > 1e-6*(1+want) || correct != right {
			t.Errorf("loss %g, %d right, %v; want %g and %d", loss, correct, err, want, right)
		}
	})
}

// The evaluation loss folds the samples' losses in blocks of 256 in stored order.
func TestMeanLoss(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 1))
	losses := uneven(r, 1000)
	got, err := meanLoss(losses)
	if want := lawFold(losses, slices.Repeat([]float32{1}, 1000)) / 1000; err != nil || bitsOf(got) != bitsOf(want) {
		t.Errorf("%g, %v, want %g", got, err, want)
	}
	losses[999] = inf
	if _, err := meanLoss(losses); !errors.Is(err, ErrNotFinite) {
		t.Errorf("infinite loss: %v", err)
	}
}

func TestArgmax(t *testing.T) {
	for _, c := range []struct {
		z    []float32
		want int
	}{{[]float32{1, 2, 2}, 1}, {[]float32{3, 1, 2}, 0}, {[]float32{minus0, 0}, 0}, {[]float32{-3, -2, -1}, 2}, {[]float32{nan, 1}, 0}} {
		if got := argmax(c.z); got != c.want {
			t.Errorf("argmax %v = %d, want %d", c.z, got, c.want)
		}
	}
}

func TestPixel(t *testing.T) {
	for b, got := range pixel {
		if want := float32(float64(b) / 255); bitsOf(got) != bitsOf(want) {
			t.Errorf("pixel %d is %g, want %g", b, got, want)
		}
	}
}
