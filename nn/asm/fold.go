package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The tile that takes a step of Adam along, and the terms for each of its vectors: with a batch of 32, dense layers have
// as many.
const (
	adamRows  = 8
	adamTerms = 4
)

// adamSpacing is how many of these terms follow each part of the step: the square root takes longest.
var adamSpacing = [adamParts]int{2, 1, 1, 0}

// foldBlock emits tiles of the fold product, one after another: one chain of fused multiply-adds per element of C,
// all chains of a tile side by side in registers so that their latencies overlap. With adam, the terms have parts of
// Adam's step between them, on a vector in every adamTerms terms, until rest terms are left: division, square root and
// memory take their time beside the multiply-adds, and no part waits so long that it holds these up.
func foldBlock(s isa, p panel, rows int, adam bool) {
	name, params, doc := fmt.Sprintf("fold%dx%s", rows, p.name), p.colsParam(), ""
	if adam {
		name, params = "foldAdam", ", w, m, v, grad *float32, numbers *[4]float32, rest uintptr"
		doc = fmt.Sprintf(" A vector of Adam's step is done beside every %d terms of a tile, until rest terms are left.", adamTerms)
	}
	s.begin(name,
		"func(a *float32, strideA uintptr, offsets *int32, b *float32, strideB uintptr, c *float32, strideC, k, add, tiles, nextA, nextC uintptr"+params+")",
		fmt.Sprintf("is one block of a fold product, tiles > 0 times %d rows by %s, nextA and nextC from tile to tile. Strides are in bytes, offsets in elements.%s", rows, p.describe(), doc))
	a, strideA, strideB, c := param("a"), param("strideA"), param("strideB"), param("c")
	mask := s.panelMask(p)
	row := rowAddresses(strideA, rows)
	acc := make([][]reg.VecVirtual, rows)
	for i := range acc {
		acc[i] = s.vectors(p.vectors)
	}
	var parts func() [adamParts]func()
	var next func()
	if adam {
		parts, next = s.adamAlong()
	}
	Label("tile")
	offsets, b, k := param("offsets"), param("b"), param("k")
	for i := range acc {
		for _, v := range acc[i] {
			s.zero(v)
		}
	}
	term := func() {
		at := GP64()
		MOVLQSX(Mem{Base: offsets}, at)
		LEAQ(Mem{Base: a, Index: at, Scale: 4}, at)
		bv := s.vectors(p.vectors)
		for j := range bv {
			s.load(Mem{Base: b, Disp: j * s.bytes()}, bv[j], mask)
		}
		for i := range acc {
			x := s.vector()
			VBROADCASTSS(row(at, i), x)
			for j := range bv {
				VFMADD231PS(bv[j], x, acc[i][j])
			}
		}
		ADDQ(U8(4), offsets)
		ADDQ(strideB, b)
	}
	if adam {
		CMPQ(k, argument("rest"))
		JE(LabelRef("term"))
		Label("terms")
		for i, part := range parts() {
			part()
			for range adamSpacing[i] {
				term()
			}
		}
		next()
		SUBQ(U8(adamTerms), k)
		CMPQ(k, argument("rest"))
		JNE(LabelRef("terms"))
		TESTQ(k, k)
		JZ(LabelRef("sums"))
	}
	Label("term")
	term()
	DECQ(k)
	JNZ(LabelRef("term"))

	Label("sums")
	strideC, add, to := param("strideC"), param("add"), GP64()
	MOVQ(c, to)
	TESTQ(add, add)
	JZ(LabelRef("store"))
	for i := range acc {
		for j, v := range acc[i] {
			m := Mem{Base: to, Disp: j * s.bytes()}
			if p.tail {
				x := s.vector()
				s.load(m, x, mask)
				VADDPS(x, v, v)
			} else {
				VADDPS(m, v, v)
			}
		}
		if i < rows-1 {
			ADDQ(strideC, to)
		}
	}
	MOVQ(c, to)
	Label("store")
	for i := range acc {
		for j, v := range acc[i] {
			s.store(v, Mem{Base: to, Disp: j * s.bytes()}, mask)
		}
		if i < rows-1 {
			ADDQ(strideC, to)
		}
	}
	ADDQ(param("nextA"), a)
	ADDQ(param("nextC"), c)
	DECQ(argument("tiles"))
	JNZ(LabelRef("tile"))
	end()
}

// adamAlong gives what emits the parts of Adam's step on a vector, and what moves on to the next.
func (s isa) adamAlong() (parts func() [adamParts]func(), next func()) {
	step := s.adamStep(param("numbers"))
	w, m, v, g := param("w"), param("m"), param("v"), param("grad")
	for _, p := range []reg.Register{m, v, g} { // as distances from w, so that one pointer moves
		SUBQ(w, p)
	}
	at := func(distance reg.Register) Mem { return Mem{Base: w, Index: distance, Scale: 1} }
	return func() [adamParts]func() { return step(Mem{Base: w}, at(m), at(v), at(g), nil) },
		func() { ADDQ(U8(s.bytes()), w) }
}

// rowAddresses gives the address of row i from a base: an odd multiple of the stride in a register, scaled by a power
// of two.
func rowAddresses(stride reg.Register, rows int) func(base reg.Register, i int) Mem {
	odd := map[int]reg.Register{1: stride}
	for i := 3; i < rows; i += 2 {
		r := GP64()
		if i == 3 {
			LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, r)
		} else {
			LEAQ(Mem{Base: odd[i-2], Index: stride, Scale: 2}, r)
		}
		odd[i] = r
	}
	return func(base reg.Register, i int) Mem {
		if i == 0 {
			return Mem{Base: base}
		}
		scale := uint8(1)
		for i%2 == 0 && scale < 8 {
			i /= 2
			scale *= 2
		}
		return Mem{Base: base, Index: odd[i], Scale: scale}
	}
}

// peak emits independent chains of fused multiply-adds, as many as keep the units busy.
func peak(s isa) {
	s.begin("peak", "func(k uintptr)", "runs k rounds of independent fused multiply-adds: 24 vectors (AVX-512) or 12 (AVX2) a round.")
	k := param("k")
	n := 12
	if s == avx512 {
		n = 24
	}
	x := s.zeroVector()
	acc := make([]reg.VecVirtual, n)
	for i := range acc {
		acc[i] = s.zeroVector()
	}
	Label("round")
	for _, v := range acc {
		VFMADD231PS(x, x, v)
	}
	DECQ(k)
	JNZ(LabelRef("round"))
	end()
}

func fmaScalar() {
	begin("fmaScalar", "func(d, a, b, c *float32, n uintptr)", "sets d[i] = fma(a[i], b[i], c[i]) for n > 0 elements.")
	d, a, b, c, n := param("d"), param("a"), param("b"), param("c"), param("n")
	Label("element")
	x, y := XMM(), XMM()
	VMOVSS(Mem{Base: a}, x)
	VMOVSS(Mem{Base: c}, y)
	VFMADD231SS(Mem{Base: b}, x, y)
	VMOVSS(y, Mem{Base: d})
	for _, p := range []reg.Register{a, b, c, d} {
		ADDQ(U8(4), p)
	}
	DECQ(n)
	JNZ(LabelRef("element"))
	RET()
}
