package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Kernels of this file work on n elements of arrays of one length.

func reluGradient(s isa) {
	s.begin("reluGradient", "func(grad, y *float32, n uintptr)", "clears grad to +0 where y is not > 0.")
	g, y, n := param("grad"), param("y"), param("n")
	zero := s.zeroVector()
	s.each(n, func(at func(reg.Register) Mem, mask reg.Register) {
		gv, yv := s.vector(), s.vector()
		s.load(at(g), gv, mask)
		s.load(at(y), yv, mask)
		s.keep(gv, s.compare(greater, yv, zero))
		s.store(gv, at(g), mask)
	})
}

func add(s isa) {
	s.begin("add", "func(dst, x *float32, n uintptr)", "sets dst = dst + x.")
	dst, x, n := param("dst"), param("x"), param("n")
	s.each(n, func(at func(reg.Register) Mem, mask reg.Register) {
		dv, xv := s.vector(), s.vector()
		s.load(at(dst), dv, mask)
		s.load(at(x), xv, mask)
		VADDPS(xv, dv, dv)
		s.store(dv, at(dst), mask)
	})
}

// broadcast reads n successive values into vectors of their own.
func (s isa) broadcast(base reg.Register, n int) []reg.VecVirtual {
	v := s.vectors(n)
	for i := range v {
		VBROADCASTSS(Mem{Base: base, Disp: 4 * i}, v[i])
	}
	return v
}

// cutter gives the cut of tiny moments: +0 where x < 2^-96, or |x| < 2^-96 where signed. NaN stays NaN.
func (s isa) cutter() func(x reg.VecVirtual, signed bool) {
	limit := s.constant(math.Float32bits(0x1p-96))
	noSign := s.constant(0x7fffffff)
	return func(x reg.VecVirtual, signed bool) {
		size := x
		if signed {
			size = s.abs(x, noSign)
		}
		s.keep(x, s.compare(notLess, size, limit))
	}
}

// adamAhead is how far ahead of its step Adam asks for what it will need, in bytes: the processor sees the three arrays
// coming, but where they come from the third cache not early enough.
const adamAhead = 2048

func adam(s isa) {
	s.begin("adam", "func(w, m, v, grad *float32, n uintptr, c *[4]float32)",
		"is one step of Adam; c holds 1-beta1, 1-beta2, alpha, epsilon.")
	w, m, v, g, n := param("w"), param("m"), param("v"), param("grad"), param("n")
	step := s.adamStep(param("c"))
	s.each(n, func(at func(reg.Register) Mem, mask reg.Register) {
		for _, p := range []reg.Register{w, m, v} {
			PREFETCHT0(at(p).Offset(adamAhead))
		}
		for _, part := range step(at(w), at(m), at(v), at(g), mask) {
			part()
		}
	})
}

const adamParts = 4

// adamStep gives what emits a step of Adam on one vector, with the numbers that are given. It comes in parts, of which
// each ends where a result takes long.
func (s isa) adamStep(numbers reg.Register) func(w, m, v, g Mem, mask reg.Register) [adamParts]func() {
	c := s.broadcast(numbers, 4)
	cut := s.cutter()
	return func(w, m, v, g Mem, mask reg.Register) [adamParts]func() {
		gv, mv, vv, t := s.vector(), s.vector(), s.vector(), s.vector()
		return [adamParts]func(){func() {
			s.load(g, gv, mask)
			s.load(v, vv, mask)
			VMULPS(gv, gv, t) // v + (g*g - v)*c1
			VSUBPS(vv, t, t)
			VMULPS(c[1], t, t)
			VADDPS(t, vv, vv)
			cut(vv, false)
			s.store(vv, v, mask)
			VSQRTPS(vv, vv)
		}, func() {
			s.load(m, mv, mask)
			VSUBPS(mv, gv, gv) // m + (g - m)*c0
			VMULPS(c[0], gv, gv)
			VADDPS(gv, mv, mv)
			cut(mv, true)
			s.store(mv, m, mask)
		}, func() {
			VADDPS(c[3], vv, vv) // (m*c2)/(sqrt(v) + c3)
			VMULPS(c[2], mv, mv)
			VDIVPS(vv, mv, mv)
		}, func() {
			s.load(w, t, mask)
			VSUBPS(mv, t, t)
			s.store(t, w, mask)
		}}
	}
}

func sgd(s isa) {
	s.begin("sgd", "func(w, u, grad *float32, n uintptr, c *[2]float32)", "is one step of SGD; c holds the momentum and the learning rate.")
	w, u, g, n := param("w"), param("u"), param("grad"), param("n")
	c := s.broadcast(param("c"), 2)
	cut := s.cutter()
	s.each(n, func(at func(reg.Register) Mem, mask reg.Register) {
		wv, uv, gv := s.vector(), s.vector(), s.vector()
		s.load(at(g), gv, mask)
		s.load(at(u), uv, mask)
		s.load(at(w), wv, mask)
		VMULPS(c[0], uv, uv) // u*momentum - g*rate
		VMULPS(c[1], gv, gv)
		VSUBPS(gv, uv, uv)
		cut(uv, true)
		s.store(uv, at(u), mask)
		VADDPS(uv, wv, wv)
		s.store(wv, at(w), mask)
	})
}

func pixels(s isa) {
	s.begin("pixels", "func(dst *float32, src *byte, n uintptr)", "sets dst = src/255 for n > 0 whole vectors.")
	dst, src, n := param("dst"), param("src"), param("n")
	white := s.constant(math.Float32bits(255))
	Label("vector")
	v := s.vector()
	VPMOVZXBD(Mem{Base: src}, v)
	VCVTDQ2PS(v, v)
	VDIVPS(white, v, v)
	VMOVUPS(v, Mem{Base: dst})
	ADDQ(U8(s.lanes), src)
	ADDQ(U8(s.bytes()), dst)
	DECQ(n)
	JNZ(LabelRef("vector"))
	end()
}

func transpose8() {
	begin("transpose8", "func(dst *float32, strideDst uintptr, src *float32, strideSrc uintptr)",
		"transposes 8x8 values; strides are in bytes.")
	dst, strideDst, src, strideSrc := param("dst"), param("strideDst"), param("src"), param("strideSrc")
	var r, t, u [8]reg.VecVirtual
	for i := range r {
		r[i], t[i], u[i] = YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: src}, r[i])
		if i < 7 {
			ADDQ(strideSrc, src)
		}
	}
	for i := 0; i < 8; i += 2 {
		VUNPCKLPS(r[i+1], r[i], t[i])
		VUNPCKHPS(r[i+1], r[i], t[i+1])
	}
	for h := 0; h < 8; h += 4 {
		VSHUFPS(U8(0x44), t[h+2], t[h], u[h])
		VSHUFPS(U8(0xee), t[h+2], t[h], u[h+1])
		VSHUFPS(U8(0x44), t[h+3], t[h+1], u[h+2])
		VSHUFPS(U8(0xee), t[h+3], t[h+1], u[h+3])
	}
	for i := range 8 {
		o := YMM()
		if i < 4 {
			VPERM2F128(U8(0x20), u[i+4], u[i], o)
		} else {
			VPERM2F128(U8(0x31), u[i], u[i-4], o)
		}
		VMOVUPS(o, Mem{Base: dst})
		if i < 7 {
			ADDQ(strideDst, dst)
		}
	}
	end()
}

func prefetch() {
	begin("prefetch", "func(x *float32, stride, lines uintptr)", "asks for lines > 0 cache lines to be brought near, stride bytes apart.")
	x, stride, lines := param("x"), param("stride"), param("lines")
	Label("line")
	PREFETCHT1(Mem{Base: x})
	ADDQ(stride, x)
	DECQ(lines)
	JNZ(LabelRef("line"))
	RET()
}
