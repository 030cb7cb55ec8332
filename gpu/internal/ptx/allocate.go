package ptx

import (
	"cmp"
	"math/bits"
	"slices"
)

// PTX has as many registers as the compiler likes, thousands in an unrolled kernel. allocate maps those that are never
// needed at the same time to the same place, so that a block's frames fit a cache: liveness by the usual backward iteration
// over basic blocks, then a linear scan (Poletto and Sarkar, "Linear scan register allocation", 1999).

// maxLiveness bounds the memory of the analysis: words of one of its three sets over all basic blocks.
const maxLiveness = 1 << 20

// operands calls use for every frame index that the instruction reads, then def for every one that it writes.
func (in *instr) operands(use, def func(*uint16)) {
	elements := [4]*uint16{&in.d, &in.a, &in.b, &in.c}
	n := 2
	switch in.op {
	case opBra, opBar, opRet:
		return
	case opBraIf, opBraUnless:
		use(&in.a)
		return
	case opLoad, opLoad4:
		use(&in.e)
		for _, d := range elements[:in.count] {
			def(d)
		}
		return
	case opStore, opStore4:
		use(&in.e)
		for _, d := range elements[:in.count] {
			use(d)
		}
		return
	case opMov, opAbs32, opAbs64, opClz, opPopc, opBrev, opSExt8, opSExt16, opSExt32, opFSqrt, opFNeg, opFAbs, opFTestp,
		opS64ToF, opU64ToF, opFToS, opFToU, opFRoundEven:
		n = 1
	case opMad32, opMad64, opMadWideS32, opMadWideU32, opShfLWrap, opShfRWrap, opShfLClamp, opShfRClamp, opPrmt, opBfeS, opBfeU,
		opLop3, opSelp, opFma:
		n = 3
	case opBfi:
		n = 3
		use(&in.e)
	}
	for _, a := range elements[1 : 1+n] {
		use(a)
	}
	def(&in.d)
}

// A basicBlock is a run of instructions that is entered and left only at its ends.
type basicBlock struct {
	from, to     int // instructions, to not included
	next         []int
	in, gen, def []uint64 // registers needed at its beginning; read before any write in it; written in it
}

// set is a bit set.
type set []uint64

func (s set) add(i int)      { s[i>>6] |= 1 << (i & 63) }
func (s set) has(i int) bool { return s[i>>6]>>(i&63)&1 != 0 }

func (s set) each(f func(i int)) {
	for w, x := range s {
		for ; x != 0; x &= x - 1 {
			f(w<<6 + bits.TrailingZeros64(x))
		}
	}
}

// basicBlocks cuts the code; false: it is too large to be analysed.
func basicBlocks(code []instr, registers int) (blocks []basicBlock, ok bool) {
	leader := make([]bool, len(code)+1)
	leader[0] = true
	for i := range code {
		switch code[i].op {
		case opBra, opBraIf, opBraUnless:
			leader[code[i].imm] = true
			leader[i+1] = true
		case opRet:
			leader[i+1] = true
		}
	}
	at := make([]int, len(code)) // of a leader: its block
	for i := range code {
		if leader[i] {
			at[i] = len(blocks)
			blocks = append(blocks, basicBlock{from: i})
		}
		blocks[len(blocks)-1].to = i + 1
	}
	words := (registers + 63) / 64
	if len(blocks)*words > maxLiveness {
		return nil, false
	}
	sets := make([]uint64, 3*len(blocks)*words)
	for i := range blocks {
		b := &blocks[i]
		b.in, b.gen, b.def, sets = sets[:words], sets[words:2*words], sets[2*words:3*words], sets[3*words:]
		last := code[b.to-1]
		switch last.op {
		case opBra:
			b.next = []int{at[last.imm]}
		case opBraIf, opBraUnless:
			b.next = []int{at[last.imm], i + 1}
		case opRet:
		default:
			b.next = []int{i + 1}
		}
	}
	return blocks, true
}

// An interval is where a register is needed, from its first to its last point: of instruction i, 2i for reading and 2i+1 for
// writing.
type interval struct {
	register, from, to int
}

// allocate renumbers the registers of the code and returns how many are left; false: the code is too large.
func allocate(code []instr, registers int) (n int, ok bool) {
	blocks, ok := basicBlocks(code, registers)
	if !ok {
		return 0, false
	}
	liveness(code, blocks)

	intervals := make([]interval, registers)
	for r := range intervals {
		intervals[r] = interval{r, 2 * len(code), -1}
	}
	extend := func(r, point int) {
		v := &intervals[r]
		v.from, v.to = min(v.from, point), max(v.to, point)
	}
	for _, b := range blocks {
		set(b.in).each(func(r int) { extend(r, 2*b.from) })
		for _, next := range b.next {
			set(blocks[next].in).each(func(r int) { extend(r, 2*b.to) })
		}
		for i := b.from; i < b.to; i++ {
			code[i].operands(
				func(x *uint16) {
					if *x&presetFlag == 0 {
						extend(int(*x), 2*i)
					}
				},
				func(x *uint16) { extend(int(*x), 2*i+1) })
		}
	}

	places, n := scan(intervals)
	rename := func(x *uint16) {
		if *x&presetFlag == 0 {
			*x = places[*x]
		}
	}
	for i := range code {
		code[i].operands(rename, rename)
	}
	return n, true
}

// liveness fills the blocks' sets.
func liveness(code []instr, blocks []basicBlock) {
	for i := range blocks {
		b := &blocks[i]
		for j := b.from; j < b.to; j++ {
			code[j].operands(
				func(x *uint16) {
					if *x&presetFlag == 0 && !set(b.def).has(int(*x)) {
						set(b.gen).add(int(*x))
					}
				},
				func(x *uint16) { set(b.def).add(int(*x)) })
		}
		copy(b.in, b.gen)
	}
	for changed := true; changed; {
		changed = false
		for i := len(blocks) - 1; i >= 0; i-- {
			b := &blocks[i]
			for _, next := range b.next {
				for w, x := range blocks[next].in {
					if x = b.in[w] | x&^b.def[w]; x != b.in[w] {
						b.in[w] = x
						changed = true
					}
				}
			}
		}
	}
}

// scan gives every interval a place that no other has at the same time.
func scan(intervals []interval) (places []uint16, n int) {
	places = make([]uint16, len(intervals))
	byStart := slices.DeleteFunc(slices.Clone(intervals), func(v interval) bool { return v.to < 0 })
	slices.SortStableFunc(byStart, func(a, b interval) int { return cmp.Compare(a.from, b.from) })
	byEnd := slices.Clone(byStart)
	slices.SortStableFunc(byEnd, func(a, b interval) int { return cmp.Compare(a.to, b.to) })
	var free []uint16
	for _, v := range byStart {
		for ; byEnd[0].to < v.from; byEnd = byEnd[1:] {
			free = append(free, places[byEnd[0].register])
		}
		if len(free) == 0 {
			free = append(free, uint16(n))
			n++
		}
		places[v.register], free = free[len(free)-1], free[:len(free)-1]
	}
	return places, n
}
