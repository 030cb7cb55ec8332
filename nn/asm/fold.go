package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// foldBlock emits tiles of the fold product, one after another: one chain of fused multiply-adds per element of C,
// all chains of a tile side by side in registers so that their latencies overlap.
func foldBlock(s isa, p panel, rows int) {
	s.begin(fmt.Sprintf("fold%dx%s", rows, p.name),
		"func(a *float32, strideA uintptr, offsets *int32, b *float32, strideB uintptr, c *float32, strideC, k, add, tiles, nextA, nextC uintptr"+p.colsParam()+")",
		fmt.Sprintf("is one block of a fold product, tiles > 0 times %d rows by %s, nextA and nextC from tile to tile. Strides are in bytes, offsets in elements.", rows, p.describe()))
	a, strideA, strideB, c, tiles := param("a"), param("strideA"), param("strideB"), param("c"), param("tiles")
	mask := s.panelMask(p)
	row := rowAddresses(strideA, rows)
	acc := make([][]reg.VecVirtual, rows)
	for i := range acc {
		acc[i] = s.vectors(p.vectors)
	}
	Label("tile")
	offsets, b, k := param("offsets"), param("b"), param("k")
	for i := range acc {
		for _, v := range acc[i] {
			s.zero(v)
		}
	}
	Label("term")
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
	DECQ(k)
	JNZ(LabelRef("term"))

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
	DECQ(tiles)
	JNZ(LabelRef("tile"))
	end()
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
