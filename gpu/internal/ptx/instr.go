package ptx

// typ is a PTX type: a letter (b, s, u, f, or p for a predicate) and a width.
type typ struct {
	kind byte
	bits int
}

var types = map[string]typ{
	"b8": {'b', 8}, "b16": {'b', 16}, "b32": {'b', 32}, "b64": {'b', 64},
	"s8": {'s', 8}, "s16": {'s', 16}, "s32": {'s', 32}, "s64": {'s', 64},
	"u8": {'u', 8}, "u16": {'u', 16}, "u32": {'u', 32}, "u64": {'u', 64},
	"f32": {'f', 32}, "pred": {'p', 1},
}

func (t typ) signed() bool { return t.kind == 's' }

// mask has the type's bits set.
func (t typ) mask() uint64 { return ^uint64(0) >> (64 - t.bits) }

// instr is one operation of the interpreter. A PTX instruction becomes one or a few. d, a, b and c index the thread's
// frame, whose values have no bits set above their type's width.
type instr struct {
	op         opcode
	space      spaceID // of a load or store
	bytes      uint8   // of one element of a load or store
	bits       uint8   // of the result of a conversion
	count      uint8   // elements of a load or store
	signed     bool    // the element is sign-extended to bits
	constant   bool    // a load of what the launch may not write (.nc)
	d, a, b, c uint16
	e          uint16 // a fourth source; the address of a load or store, whose elements are d, a, b, c
	line       int32
	imm        int64 // offset of an address; target of a branch; table of lop3
}

type opcode uint16

const (
	opMov opcode = iota
	opAdd32
	opAdd64
	opSub32
	opSub64
	opMul32
	opMul64
	opMulHiS32
	opMulHiU32
	opMulHiS64
	opMulHiU64
	opMulWideS32
	opMulWideU32
	opMad32
	opMad64
	opMadWideS32
	opMadWideU32
	opDivS32
	opDivS64
	opDivU
	opRemS32
	opRemS64
	opRemU
	opMinS32
	opMinS64
	opMinU
	opMaxS32
	opMaxS64
	opMaxU
	opAbs32
	opAbs64
	opAnd
	opOr
	opXor
	opShl32
	opShl64
	opShrS32
	opShrS64
	opShrU
	opShfLWrap
	opShfRWrap
	opShfLClamp
	opShfRClamp
	opPrmt
	opBfeS
	opBfeU
	opBfi
	opLop3
	opClz
	opPopc
	opBrev
	opSelp
	opSExt8
	opSExt16
	opSExt32
	opEq
	opNe
	opLtU
	opLeU
	opLtS32
	opLeS32
	opLtS64
	opLeS64
	opFEq
	opFNe
	opFLt
	opFLe
	opFEqu
	opFNeu
	opFLtu
	opFLeu
	opFNum
	opFNan
	opFAdd
	opFSub
	opFMul
	opFDiv
	opFma
	opFSqrt
	opFNeg
	opFAbs
	opFMin
	opFMax
	opFCopysign
	opFTestp
	opS64ToF
	opU64ToF
	opFToS
	opFToU
	opFRoundEven
	opLoad4
	opStore4
	opLoad
	opStore
	opBra
	opBraIf
	opBraUnless
	opBar
	opRet
)
