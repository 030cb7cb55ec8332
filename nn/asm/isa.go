package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set that kernels are written for. Its methods emit the few operations that differ.
type isa struct {
	name  string
	lanes int // float32 values of a vector
}

var (
	avx512 = isa{"AVX512", 16}
	avx2   = isa{"AVX2", 8}
)

// panel is the part of a row that a kernel works on at once: so many whole vectors, or one that is partly used.
type panel struct {
	name    string
	vectors int
	tail    bool
}

var panels = []panel{{"2", 2, false}, {"1", 1, false}, {"Tail", 1, true}}

func (p panel) describe() string {
	switch {
	case p.tail:
		return "cols columns of one vector"
	case p.vectors == 1:
		return "one vector"
	}
	return fmt.Sprintf("%d vectors", p.vectors)
}

// colsParam is the last parameter of a tail kernel: how many lanes it uses.
func (p panel) colsParam() string {
	if p.tail {
		return ", cols uintptr"
	}
	return ""
}

// panelMask selects the lanes that a tail kernel uses; nil stands for all.
func (s isa) panelMask(p panel) reg.Register {
	if !p.tail {
		return nil
	}
	return s.tailMask(param("cols"))
}

// maxRows is the greatest height of a fold's tile of which all sums stay in registers.
func (s isa) maxRows(p panel) int {
	switch {
	case s == avx512:
		return 14
	case p.vectors == 2:
		return 6
	}
	return 13
}

func (s isa) bytes() int { return 4 * s.lanes }

func (s isa) vector() reg.VecVirtual {
	if s == avx512 {
		return ZMM()
	}
	return YMM()
}

func (s isa) vectors(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = s.vector()
	}
	return v
}

func (s isa) zero(v reg.VecVirtual) {
	if s == avx512 {
		VPXORD(v, v, v)
	} else {
		VXORPS(v, v, v)
	}
}

func (s isa) allOnes(v reg.VecVirtual) {
	if s == avx512 {
		VPTERNLOGD(U8(0xff), v, v, v)
	} else {
		VPCMPEQD(v, v, v)
	}
}

func (s isa) zeroVector() reg.VecVirtual {
	v := s.vector()
	s.zero(v)
	return v
}

// constant is a vector of one 32-bit pattern.
func (s isa) constant(bits uint32) reg.VecVirtual {
	t, x, v := GP32(), XMM(), s.vector()
	MOVL(U32(bits), t)
	VMOVD(t, x)
	VPBROADCASTD(x, v)
	return v
}

// tailMask selects the first n lanes, 0 < n <= lanes.
func (s isa) tailMask(n reg.Register) reg.Register {
	if s == avx512 {
		ones, t, k := GP32(), GP32(), K()
		MOVL(U32(0xffff), ones)
		BZHIL(n.(reg.GPVirtual).As32(), ones, t)
		KMOVW(t, k)
		return k
	}
	at, table, mask := GP64(), GP64(), YMM()
	LEAQ(NewDataAddr(Symbol{Name: tailMaskName, Static: true}, 0), table)
	MOVQ(U32(8), at)
	SUBQ(n, at)
	VMOVUPS(Mem{Base: table, Index: at, Scale: 4}, mask)
	return mask
}

const tailMaskName = "tailMasks"

// tailMasks is the table of AVX2 masks: eight lanes from entry 8-n on select the first n.
func tailMasks() {
	GLOBL(tailMaskName, RODATA|NOPTR)
	for i := range 16 {
		v := uint32(0xffffffff)
		if i >= 8 {
			v = 0
		}
		DATA(4*i, U32(v))
	}
}

// load reads a vector; where mask is given, lanes that it leaves out read as +0 and their memory is not touched.
func (s isa) load(m Mem, v, mask reg.Register) {
	switch {
	case mask == nil:
		VMOVUPS(m, v)
	case s == avx512:
		VMOVUPS_Z(m, mask, v)
	default:
		VMASKMOVPS(m, mask, v)
	}
}

func (s isa) store(v reg.Register, m Mem, mask reg.Register) {
	switch {
	case mask == nil:
		VMOVUPS(v, m)
	case s == avx512:
		VMOVUPS(v, mask, m)
	default:
		VMASKMOVPS(v, mask, m)
	}
}

// Comparison predicates (Intel's manual, VCMPPS). Comparisons with a NaN are false, so "not less" is true.
const (
	notLess = 0x15
	greater = 0x1e
)

// compare is the lane mask of x <predicate> y.
func (s isa) compare(predicate uint8, x, y reg.VecVirtual) reg.Register {
	if s == avx512 {
		k := K()
		VCMPPS(U8(predicate), y, x, k)
		return k
	}
	k := YMM()
	VCMPPS(U8(predicate), y, x, k)
	return k
}

// equal is the lane mask of integers x == y.
func (s isa) equal(x, y reg.VecVirtual) reg.Register {
	if s == avx512 {
		k := K()
		VPCMPEQD(y, x, k)
		return k
	}
	k := YMM()
	VPCMPEQD(y, x, k)
	return k
}

// keep clears the lanes of v that the mask of a comparison leaves out to +0.
func (s isa) keep(v reg.VecVirtual, mask reg.Register) {
	if s == avx512 {
		VMOVAPS_Z(v, mask, v)
	} else {
		VANDPS(v, mask, v)
	}
}

// replace moves the lanes of x that the mask selects into v.
func (s isa) replace(v, x reg.VecVirtual, mask reg.Register) {
	if s == avx512 {
		VMOVAPS(x, mask, v)
	} else {
		VBLENDVPS(mask, x, v, v)
	}
}

func (s isa) abs(x, signMask reg.VecVirtual) reg.VecVirtual {
	v := s.vector()
	if s == avx512 {
		VPANDD(x, signMask, v)
	} else {
		VANDPS(x, signMask, v)
	}
	return v
}

// begin starts a kernel named for its instruction set.
func (s isa) begin(name, signature, doc string) {
	begin(name+s.name, signature, doc)
}

func begin(name, signature, doc string) {
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
	Doc(fmt.Sprintf("%s %s", name, doc))
}

func end() {
	VZEROUPPER()
	RET()
}

// param loads an argument.
func param(name string) reg.Register { return Load(Param(name), GP64()) }

// argument is where an argument lies, for those that the registers do not suffice for.
func argument(name string) Mem {
	c, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return c.Addr
}

// each runs body over n elements: whole vectors, then what is left under a mask. The offset into the arrays, in
// bytes, is given to body with the mask (nil for whole vectors).
func (s isa) each(n reg.Register, body func(at func(base reg.Register) Mem, mask reg.Register)) {
	off := GP64()
	XORQ(off, off)
	at := func(base reg.Register) Mem { return Mem{Base: base, Index: off, Scale: 1} }
	Label("whole")
	CMPQ(n, U8(s.lanes))
	JLT(LabelRef("tail"))
	body(at, nil)
	ADDQ(U8(s.bytes()), off)
	SUBQ(U8(s.lanes), n)
	JMP(LabelRef("whole"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	body(at, s.tailMask(n))
	Label("done")
	end()
}
