package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Kernels of this file work on one panel of columns, row after row.

// loadPanel reads the panel's vectors.
func (s isa) loadPanel(p panel, base reg.Register, mask reg.Register) []reg.VecVirtual {
	v := s.vectors(p.vectors)
	for j := range v {
		s.load(Mem{Base: base, Disp: j * s.bytes()}, v[j], mask)
	}
	return v
}

func (s isa) storePanel(v []reg.VecVirtual, base reg.Register, mask reg.Register) {
	for j := range v {
		s.store(v[j], Mem{Base: base, Disp: j * s.bytes()}, mask)
	}
}

func addBias(s isa, p panel, relu bool) {
	name, doc := "addBias"+p.name, "sets dst = src + bias on n > 0 rows; strides are in bytes."
	if relu {
		name, doc = "addBiasReLU"+p.name, "sets dst = src + bias where that is > 0, else +0, on n > 0 rows; strides are in bytes."
	}
	s.begin(name, "func(dst *float32, strideDst uintptr, src *float32, strideSrc uintptr, bias *float32, n uintptr"+p.colsParam()+")", doc)
	dst, strideDst, src, strideSrc, n := param("dst"), param("strideDst"), param("src"), param("strideSrc"), param("n")
	mask := s.panelMask(p)
	bias := s.loadPanel(p, param("bias"), mask)
	zero := s.zeroVector()
	Label("row")
	x := s.loadPanel(p, src, mask)
	for j, v := range x {
		VADDPS(bias[j], v, v)
		if relu {
			s.keep(v, s.compare(greater, v, zero))
		}
	}
	s.storePanel(x, dst, mask)
	ADDQ(strideSrc, src)
	ADDQ(strideDst, dst)
	DECQ(n)
	JNZ(LabelRef("row"))
	end()
}

func sumRows(s isa, p panel) {
	s.begin("sumRows"+p.name, "func(dst, x *float32, stride, n, add uintptr"+p.colsParam()+")",
		"sums n > 0 rows one after another from +0, and stores or adds the result to dst; the stride is in bytes.")
	dst, x, stride, n := param("dst"), param("x"), param("stride"), param("n")
	mask := s.panelMask(p)
	acc := make([]reg.VecVirtual, p.vectors)
	for j := range acc {
		acc[j] = s.zeroVector()
	}
	Label("row")
	for j, v := range s.loadPanel(p, x, mask) {
		VADDPS(v, acc[j], acc[j])
	}
	ADDQ(stride, x)
	DECQ(n)
	JNZ(LabelRef("row"))
	add := param("add")
	TESTQ(add, add)
	JZ(LabelRef("store"))
	for j, v := range s.loadPanel(p, dst, mask) {
		VADDPS(v, acc[j], acc[j])
	}
	Label("store")
	s.storePanel(acc, dst, mask)
	end()
}

// maxPool emits one row of pooled positions. A code is the number of the window's element that won. With the ReLU
// taken along, the best starts as +0 under code -1: a window without a positive value has the output +0, and no
// element of it passes a gradient.
func maxPool(s isa, p panel) {
	s.begin("maxPool"+p.name,
		"func(x *float32, step uintptr, offsets *int32, window uintptr, bias *float32, relu uintptr, y *float32, code *int32, stride, n uintptr"+p.colsParam()+")",
		"pools n > 0 positions of a row: windows begin step bytes apart, outputs and codes stride bytes; offsets are in elements.")
	x, step, offsets, window := param("x"), param("step"), param("offsets"), param("window")
	y, code, stride, n := param("y"), param("code"), param("stride"), param("n")
	mask := s.panelMask(p)
	bias := s.loadPanel(p, param("bias"), mask)
	one := s.constant(1)

	Label("position")
	best, win := s.vectors(p.vectors), s.vectors(p.vectors)
	counter := s.zeroVector()
	relu := param("relu")
	TESTQ(relu, relu)
	JZ(LabelRef("first"))
	for j := range best {
		s.zero(best[j])
		s.allOnes(win[j])
	}
	JMP(LabelRef("window"))
	Label("first")
	for j := range best {
		s.zero(win[j])
	}
	at := GP64()
	MOVLQSX(Mem{Base: offsets}, at)
	LEAQ(Mem{Base: x, Index: at, Scale: 4}, at)
	for j := range best {
		s.load(Mem{Base: at, Disp: j * s.bytes()}, best[j], mask)
		VADDPS(bias[j], best[j], best[j])
	}
	Label("window")
	i := GP64()
	XORQ(i, i)
	Label("element")
	MOVLQSX(Mem{Base: offsets, Index: i, Scale: 4}, at)
	LEAQ(Mem{Base: x, Index: at, Scale: 4}, at)
	for j, v := range s.loadPanel(p, at, mask) {
		VADDPS(bias[j], v, v)
		k := s.compare(greater, v, best[j])
		s.replace(best[j], v, k)
		s.replace(win[j], counter, k)
	}
	VPADDD(one, counter, counter)
	INCQ(i)
	CMPQ(i, window)
	JNE(LabelRef("element"))
	s.storePanel(best, y, mask)
	s.storePanel(win, code, mask)
	ADDQ(step, x)
	ADDQ(stride, y)
	ADDQ(stride, code)
	DECQ(n)
	JNZ(LabelRef("position"))
	end()
}

func maxPoolGradient(s isa, p panel) {
	s.begin("maxPoolGradient"+p.name,
		"func(grad *float32, code *int32, stride uintptr, dx *float32, step uintptr, offsets *int32, window, n uintptr"+p.colsParam()+")",
		"gives every element of n > 0 windows its gradient: grad where its number is the code, else +0.")
	g, code, stride := param("grad"), param("code"), param("stride")
	dx, step, offsets, window, n := param("dx"), param("step"), param("offsets"), param("window"), param("n")
	mask := s.panelMask(p)
	one := s.constant(1)
	Label("position")
	grad, win := s.loadPanel(p, g, mask), s.loadPanel(p, code, mask)
	counter := s.zeroVector()
	i := GP64()
	XORQ(i, i)
	Label("element")
	at := GP64()
	MOVLQSX(Mem{Base: offsets, Index: i, Scale: 4}, at)
	LEAQ(Mem{Base: dx, Index: at, Scale: 4}, at)
	for j := range grad {
		v := s.vector()
		k := s.equal(win[j], counter)
		if s == avx512 {
			VMOVAPS_Z(grad[j], k, v)
		} else {
			VANDPS(grad[j], k, v)
		}
		s.store(v, Mem{Base: at, Disp: j * s.bytes()}, mask)
	}
	VPADDD(one, counter, counter)
	INCQ(i)
	CMPQ(i, window)
	JNE(LabelRef("element"))
	ADDQ(stride, g)
	ADDQ(stride, code)
	ADDQ(step, dx)
	DECQ(n)
	JNZ(LabelRef("position"))
	end()
}
