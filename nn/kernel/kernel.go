// Package kernel has the vector kernels of the consensus arithmetic: fold products, biases, pooling, optimizers. Every
// instruction set gives the same bits as scalar code that follows the rule, because vectors run side by side what the
// rule leaves independent and never reorder what it orders.
package kernel

//go:generate go run -C ../asm . -out ../kernel/kernels_amd64.s -stubs ../kernel/kernels_amd64.go -pkg kernel

import "fmt"

// BlockTerms is the number of terms in one chain of fused multiply-adds.
const BlockTerms = 256

// ISA is the set of kernels written for one instruction set. Its methods check their bounds and panic where an
// argument is too short; arrays must not overlap unless it says so.
type ISA struct {
	name   string
	lanes  int
	narrow *ISA // works faster on what fits its vectors; nil: none

	// By the kind of panel; fold also by the tile's rows, from 1.
	fold                 [2][]foldFunc
	foldTail             []foldTailFunc
	foldAdam             foldAdamFunc // adamRows rows of two vectors; nil: none
	addBias, addBiasReLU [2]biasFunc
	addBiasTail          biasTailFunc
	addBiasReLUTail      biasTailFunc
	sumRows              [2]sumRowsFunc
	sumRowsTail          sumRowsTailFunc
	maxPool              [2]maxPoolFunc
	maxPoolTail          maxPoolTailFunc
	maxPoolGradient      [2]maxPoolGradientFunc
	maxPoolGradientTail  maxPoolGradientTailFunc
	reluGradient         func(g, y *float32, n uintptr)
	add                  func(dst, x *float32, n uintptr)
	adam                 func(w, m, v, g *float32, n uintptr, c *[4]float32)
	sgd                  func(w, u, g *float32, n uintptr, c *[2]float32)
	pixels               func(dst *float32, src *byte, n uintptr)
	transpose8           func(dst *float32, strideDst uintptr, src *float32, strideSrc uintptr)
	prefetch             func(x *float32, stride, lines uintptr)
	fmaScalar            func(d, a, b, c *float32, n uintptr)
	peak                 func(k uintptr)
	peakVectors          int
}

// The kinds of panel that have no tail: two vectors wide and one.
const (
	two = iota
	one
)

type (
	foldFunc                = func(a *float32, strideA uintptr, offsets *int32, b *float32, strideB uintptr, c *float32, strideC, k, add, tiles, nextA, nextC uintptr)
	foldTailFunc            = func(a *float32, strideA uintptr, offsets *int32, b *float32, strideB uintptr, c *float32, strideC, k, add, tiles, nextA, nextC, cols uintptr)
	foldAdamFunc            = func(a *float32, strideA uintptr, offsets *int32, b *float32, strideB uintptr, c *float32, strideC, k, add, tiles, nextA, nextC uintptr, w, m, v, grad *float32, numbers *[4]float32, rest uintptr)
	biasFunc                = func(dst *float32, strideDst uintptr, src *float32, strideSrc uintptr, bias *float32, n uintptr)
	biasTailFunc            = func(dst *float32, strideDst uintptr, src *float32, strideSrc uintptr, bias *float32, n, cols uintptr)
	sumRowsFunc             = func(dst, x *float32, stride, n, add uintptr)
	sumRowsTailFunc         = func(dst, x *float32, stride, n, add, cols uintptr)
	maxPoolFunc             = func(x *float32, step uintptr, offsets *int32, window uintptr, bias *float32, relu uintptr, y *float32, code *int32, stride, n uintptr)
	maxPoolTailFunc         = func(x *float32, step uintptr, offsets *int32, window uintptr, bias *float32, relu uintptr, y *float32, code *int32, stride, n, cols uintptr)
	maxPoolGradientFunc     = func(g *float32, code *int32, stride uintptr, dx *float32, step uintptr, offsets *int32, window, n uintptr)
	maxPoolGradientTailFunc = func(g *float32, code *int32, stride uintptr, dx *float32, step uintptr, offsets *int32, window, n, cols uintptr)
)

// All lists the instruction sets that this machine has, the fastest first.
func All() []*ISA { return available }

// Best is the fastest of All, nil if there is none.
func Best() *ISA {
	if len(available) == 0 {
		return nil
	}
	return available[0]
}

// Name is the instruction set's usual name.
func (s *ISA) Name() string { return s.name }

// Lanes is the number of values of one vector.
func (s *ISA) Lanes() int { return s.lanes }

// Rows are rows of float32 values, each Stride elements after the one before; Data begins with the first.
type Rows struct {
	Data   []float32
	Stride int
}

// At are the rows that begin at the given row and column.
func (r Rows) At(row, col int) Rows { return Rows{r.Data[row*r.Stride+col:], r.Stride} }

func (r Rows) check(what string, rows, cols int) {
	if r.Stride < 0 || (rows-1)*r.Stride+cols > len(r.Data) {
		panic(fmt.Sprintf("kernel: %s: %d rows of %d values, stride %d, in %d", what, rows, cols, r.Stride, len(r.Data)))
	}
}

func bytes(elements int) uintptr { return uintptr(elements) * 4 }

func flag(b bool) uintptr {
	if b {
		return 1
	}
	return 0
}

// Offsets say where the terms of a fold (or the elements of a pooling window) lie, in elements after its first.
type Offsets struct {
	at  []int32
	max int
}

// NewOffsets lists n offsets, none of them negative.
func NewOffsets(n int, at func(k int) int) Offsets {
	o := Offsets{at: make([]int32, n)}
	for k := range o.at {
		v := at(k)
		if v < 0 || int(int32(v)) != v {
			panic(fmt.Sprintf("kernel: offset %d", v))
		}
		o.at[k] = int32(v)
		o.max = max(o.max, v)
	}
	return o
}

// Strided lists n offsets that are stride apart, from 0.
func Strided(n, stride int) Offsets {
	return NewOffsets(n, func(k int) int { return k * stride })
}

// Len is the number of terms.
func (o Offsets) Len() int { return len(o.at) }

// Cut is the terms lo to hi-1.
func (o Offsets) Cut(lo, hi int) Offsets { return Offsets{o.at[lo:hi], o.max} }

// Fold sets C[m][n] to the fold product: element (i, j) is fold over k of A(i, k)*B[k][j], where A(i, k) is at
// a.Data[i*a.Stride + terms[k]]. The terms are cut into blocks of BlockTerms; the block results are added left to
// right, the first taken as it is.
func (s *ISA) Fold(m, n int, a Rows, terms Offsets, b, c Rows) {
	s.FoldGroups(Groups{N: 1}, m, n, a, terms, b, c)
}

// FoldAdam is Fold and does the beginning of a step of Adam beside it, as much as goes along at little cost, which it
// cuts off the step. The step's arrays must not overlap with those of the product.
func (s *ISA) FoldAdam(m, n int, a Rows, terms Offsets, b, c Rows, step *AdamStep) {
	tiles, width := m/adamRows, 2*s.lanes
	for lo := 0; lo < terms.Len(); lo += BlockTerms {
		block, b := terms.Cut(lo, min(lo+BlockTerms, terms.Len())), b.At(lo, 0)
		j := 0
		for s.foldAdam != nil && tiles > 0 && n-j >= width {
			vectors := min(len(step.W)/s.lanes/tiles, block.Len()/adamTerms) // beside each tile
			if vectors == 0 {
				break
			}
			a.check("A", m, block.max+1)
			b.check("B", block.Len(), n)
			c.check("C", m, n)
			x := step.cut(tiles * vectors * s.lanes)
			s.foldAdam(&a.Data[0], bytes(a.Stride), &block.at[0], &b.Data[j], bytes(b.Stride), &c.Data[j], bytes(c.Stride),
				uintptr(block.Len()), flag(lo > 0), uintptr(tiles), bytes(adamRows*a.Stride), bytes(adamRows*c.Stride),
				&x.W[0], &x.M[0], &x.V[0], &x.G[0], x.C, uintptr(block.Len()-vectors*adamTerms))
			j += width
		}
		if i := tiles * adamRows; i < m {
			s.FoldBlock(Groups{N: 1}, m-i, j, a.At(i, 0), block, b, c.At(i, 0), lo > 0)
		}
		s.FoldBlock(Groups{N: 1}, m, n-j, a, block, b.At(0, j), c.At(0, j), lo > 0)
	}
}

// The tile that takes Adam along, and its terms for each vector of Adam, as in package asm.
const (
	adamRows  = 8
	adamTerms = 4
)

// Groups says that N products with the same B are wanted at once: A and C of each begin so many elements after those
// of the one before.
type Groups struct{ N, A, C int }

// FoldGroups is Fold for each group.
func (s *ISA) FoldGroups(g Groups, m, n int, a Rows, terms Offsets, b, c Rows) {
	for lo := 0; lo < terms.Len(); lo += BlockTerms {
		hi := min(lo+BlockTerms, terms.Len())
		s.FoldBlock(g, m, n, a, terms.Cut(lo, hi), b.At(lo, 0), c, lo > 0)
	}
}

// FoldBlock is one block of FoldGroups, at most BlockTerms terms: element (i, j) of C becomes the chain
// acc = fma(A(i, k), B[k][j], acc) from +0 in rising k, or C + acc if add is set.
func (s *ISA) FoldBlock(g Groups, m, n int, a Rows, terms Offsets, b, c Rows, add bool) {
	k := terms.Len()
	if m <= 0 || n <= 0 || k == 0 || g.N <= 0 {
		return
	}
	if k > BlockTerms {
		panic(fmt.Sprintf("kernel: block of %d terms", k))
	}
	if g.A < 0 || g.C < 0 {
		panic(fmt.Sprintf("kernel: groups %v", g))
	}
	a.check("A", m, terms.max+1+(g.N-1)*g.A)
	b.check("B", k, n)
	c.check("C", m, n+(g.N-1)*g.C)
	s.panels(n, func(kind, j int) {
		g.tiles(m, len(s.fold[kind]), a, c, func(i, h, tiles, nextA, nextC int) {
			s.fold[kind][h-1](&a.Data[i*a.Stride], bytes(a.Stride), &terms.at[0], &b.Data[j], bytes(b.Stride),
				&c.Data[i*c.Stride+j], bytes(c.Stride), uintptr(k), flag(add), uintptr(tiles), bytes(nextA), bytes(nextC))
		})
	}, func(j, cols int) {
		if s.narrow != nil && cols <= s.narrow.lanes {
			s.narrow.FoldBlock(g, m, cols, a, terms, b.At(0, j), c.At(0, j), add)
			return
		}
		g.tiles(m, len(s.foldTail), a, c, func(i, h, tiles, nextA, nextC int) {
			s.foldTail[h-1](&a.Data[i*a.Stride], bytes(a.Stride), &terms.at[0], &b.Data[j], bytes(b.Stride),
				&c.Data[i*c.Stride+j], bytes(c.Stride), uintptr(k), flag(add), uintptr(tiles), bytes(nextA), bytes(nextC), uintptr(cols))
		})
	})
}

// tiles cuts the m rows of each group into tiles of at most most rows and calls do for those that lie evenly: from
// row i on, of h rows, so many of them.
func (g Groups) tiles(m, most int, a, c Rows, do func(i, h, tiles, nextA, nextC int)) {
	for i, h := 0, tileRows(m, most); i < m; {
		h = min(h, m-i)
		if g.N > 1 {
			do(i, h, g.N, g.A, g.C)
			i += h
			continue
		}
		n := (m - i) / h
		do(i, h, n, h*a.Stride, h*c.Stride)
		i += n * h
	}
}

// tileRows cuts m rows into the fewest tiles of at most most rows, all nearly alike: a low tile has too few chains to
// hide the latency of an FMA.
func tileRows(m, most int) int {
	tiles := (m + most - 1) / most
	return (m + tiles - 1) / tiles
}

// panels cuts n columns into panels and calls whole for those of two vectors or one, tail for what is left.
func (s *ISA) panels(n int, whole func(kind, j int), tail func(j, cols int)) {
	j := 0
	for ; n-j >= 2*s.lanes; j += 2 * s.lanes {
		whole(two, j)
	}
	if n-j >= s.lanes {
		whole(one, j)
		j += s.lanes
	}
	if j < n {
		tail(j, n-j)
	}
}

// AddBias sets dst = src + bias on m rows of n values, or the ReLU of it: +0 where the sum is not > 0. dst may be src.
func (s *ISA) AddBias(m, n int, dst, src Rows, bias []float32, relu bool) {
	if m <= 0 || n <= 0 {
		return
	}
	dst.check("destination", m, n)
	src.check("source", m, n)
	bias = bias[:n]
	whole, tail := &s.addBias, s.addBiasTail
	if relu {
		whole, tail = &s.addBiasReLU, s.addBiasReLUTail
	}
	s.panels(n, func(kind, j int) {
		whole[kind](&dst.Data[j], bytes(dst.Stride), &src.Data[j], bytes(src.Stride), &bias[j], uintptr(m))
	}, func(j, cols int) {
		tail(&dst.Data[j], bytes(dst.Stride), &src.Data[j], bytes(src.Stride), &bias[j], uintptr(m), uintptr(cols))
	})
}

// SumBlock is one block of the fold of m rows with ones, column by column: acc = acc + x from +0, which is what
// fma(x, 1, acc) gives. The n sums go to dst, or are added to it if add is set.
func (s *ISA) SumBlock(m, n int, x Rows, dst []float32, add bool) {
	if m <= 0 || n <= 0 {
		return
	}
	if m > BlockTerms {
		panic(fmt.Sprintf("kernel: block of %d terms", m))
	}
	x.check("rows", m, n)
	dst = dst[:n]
	s.panels(n, func(kind, j int) {
		s.sumRows[kind](&dst[j], &x.Data[j], bytes(x.Stride), uintptr(m), flag(add))
	}, func(j, cols int) {
		s.sumRowsTail(&dst[j], &x.Data[j], bytes(x.Stride), uintptr(m), flag(add), uintptr(cols))
	})
}

// Sum is the fold of m rows with ones, column by column.
func (s *ISA) Sum(m, n int, x Rows, dst []float32) {
	for lo := 0; lo < m; lo += BlockTerms {
		s.SumBlock(min(BlockTerms, m-lo), n, x.At(lo, 0), dst, lo > 0)
	}
}

// MaxPool pools n positions of one output row over the given channels. Position p has its window's elements at
// x[p*step + window[i]], the channels side by side, and its output and code at [p*channels]. The bias is added to
// every element first; NoBias adds nothing. Best is the first element of the window, replaced if and only if a later
// one is > it; the code is the winner's i. With relu, elements pass the ReLU before they are pooled, and the code is
// -1 where none is > 0.
func (s *ISA) MaxPool(n, channels int, x []float32, step int, window Offsets, bias []float32, relu bool, y []float32, code []int32) {
	if n <= 0 || channels <= 0 {
		return
	}
	Rows{x, step}.check("input", n, window.max+channels)
	bias, y, code = bias[:channels], y[:n*channels], code[:n*channels]
	offsets, w, stride := &window.at[0], uintptr(len(window.at)), bytes(channels)
	s.panels(channels, func(kind, j int) {
		s.maxPool[kind](&x[j], bytes(step), offsets, w, &bias[j], flag(relu), &y[j], &code[j], stride, uintptr(n))
	}, func(j, cols int) {
		s.maxPoolTail(&x[j], bytes(step), offsets, w, &bias[j], flag(relu), &y[j], &code[j], stride, uintptr(n), uintptr(cols))
	})
}

// NoBias is a bias that changes nothing: x + -0 is x for every x, +0 and -0 among them.
func NoBias(n int) []float32 {
	b := make([]float32, n)
	for i := range b {
		b[i] = negativeZero
	}
	return b
}

var negativeZero = func() float32 { z := float32(0); return -z }()

// MaxPoolGradient gives the elements of the n windows of an output row their gradients: g to the one that won, +0 to
// the others. The layout is that of MaxPool.
func (s *ISA) MaxPoolGradient(n, channels int, g []float32, code []int32, dx []float32, step int, window Offsets) {
	if n <= 0 || channels <= 0 {
		return
	}
	Rows{dx, step}.check("gradient", n, window.max+channels)
	g, code = g[:n*channels], code[:n*channels]
	offsets, w, stride := &window.at[0], uintptr(len(window.at)), bytes(channels)
	s.panels(channels, func(kind, j int) {
		s.maxPoolGradient[kind](&g[j], &code[j], stride, &dx[j], bytes(step), offsets, w, uintptr(n))
	}, func(j, cols int) {
		s.maxPoolGradientTail(&g[j], &code[j], stride, &dx[j], bytes(step), offsets, w, uintptr(n), uintptr(cols))
	})
}

// ReLUGradient lets g pass where the output y is > 0 and makes it +0 elsewhere.
func (s *ISA) ReLUGradient(g, y []float32) {
	if len(g) > 0 {
		y = y[:len(g)]
		s.reluGradient(&g[0], &y[0], uintptr(len(g)))
	}
}

// Add sets dst = dst + x.
func (s *ISA) Add(dst, x []float32) {
	if len(dst) > 0 {
		x = x[:len(dst)]
		s.add(&dst[0], &x[0], uintptr(len(dst)))
	}
}

// Adam takes one step: m = m + (g - m)*c[0], v = v + (g*g - v)*c[1], moments below 2^-96 cut to +0,
// w = w - (m*c[2])/(sqrt(v) + c[3]), each operation rounded.
func (s *ISA) Adam(w, m, v, g []float32, c *[4]float32) {
	if n := len(w); n > 0 {
		m, v, g = m[:n], v[:n], g[:n]
		s.adam(&w[0], &m[0], &v[0], &g[0], uintptr(n), c)
	}
}

// AdamStep is a call of Adam to come, or what is left of it.
type AdamStep struct {
	W, M, V, G []float32
	C          *[4]float32
}

// cut takes the first n elements off.
func (a *AdamStep) cut(n int) AdamStep {
	first := AdamStep{a.W[:n], a.M[:n], a.V[:n], a.G[:n], a.C}
	a.W, a.M, a.V, a.G = a.W[n:], a.M[n:], a.V[n:], a.G[n:]
	return first
}

// SGD takes one step: u = u*c[0] - g*c[1], cut to +0 below 2^-96, w = w + u.
func (s *ISA) SGD(w, u, g []float32, c *[2]float32) {
	if n := len(w); n > 0 {
		u, g = u[:n], g[:n]
		s.sgd(&w[0], &u[0], &g[0], uintptr(n), c)
	}
}

// Pixels sets dst = src/255, one division each.
func (s *ISA) Pixels(dst []float32, src []byte) {
	dst = dst[:len(src)]
	if len(src) < s.lanes {
		for i, v := range src {
			dst[i] = float32(v) / 255
		}
		return
	}
	s.pixels(&dst[0], &src[0], uintptr(len(src)/s.lanes))
	if last := len(src) - s.lanes; len(src)%s.lanes > 0 {
		s.pixels(&dst[last], &src[last], 1) // writes some values again
	}
}

// Prefetch asks for m rows of n values to be brought from memory into the second cache, and does not wait for them.
func (s *ISA) Prefetch(x Rows, m, n int) {
	if m <= 0 || n <= 0 {
		return
	}
	x.check("rows", m, 1)
	for j := 0; j < n; j += line {
		s.prefetch(&x.Data[j], bytes(x.Stride), uintptr(m))
	}
}

// line is the number of values in a line of the cache.
const line = 64 / 4

// Transpose sets dst[j][i] = src[i][j] for m rows of n values of src.
func (s *ISA) Transpose(m, n int, dst, src Rows) {
	if m <= 0 || n <= 0 {
		return
	}
	dst.check("destination", n, m)
	src.check("source", m, n)
	const side = 8
	m8, n8 := m/side*side, n/side*side
	for i := 0; i < m8; i += side {
		for j := 0; j < n8; j += side {
			s.transpose8(&dst.Data[j*dst.Stride+i], bytes(dst.Stride), &src.Data[i*src.Stride+j], bytes(src.Stride))
		}
	}
	for i := range m {
		from := n8
		if i >= m8 {
			from = 0
		}
		for j := from; j < n; j++ {
			dst.Data[j*dst.Stride+i] = src.Data[i*src.Stride+j]
		}
	}
}

// FMA sets d[i] = fma(a[i], b[i], c[i]) with the scalar instruction, for tests of software that does the same.
func (s *ISA) FMA(d, a, b, c []float32) {
	if n := len(d); n > 0 {
		a, b, c = a[:n], b[:n], c[:n]
		s.fmaScalar(&d[0], &a[0], &b[0], &c[0], uintptr(n))
	}
}

// Peak runs independent fused multiply-adds in registers, rounds times, and gives the number of floating-point
// operations that were done, two for each.
func (s *ISA) Peak(rounds int) (operations float64) {
	if rounds <= 0 {
		return 0
	}
	s.peak(uintptr(rounds))
	return 2 * float64(rounds) * float64(s.peakVectors*s.lanes)
}
