package ptx

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/descentnet/minerd/nn"
)

// step runs a thread from an instruction on until it ends or waits at a barrier, and returns where it goes on. At a fault,
// which it leaves in l.fault, it returns the instruction at fault.
func (l *launch) step(pc int, r []uint64) int {
	code := l.k.code
	for {
		in := &code[pc]
		pc++
		switch in.op {
		case opMov:
			r[in.d] = r[in.a]
		case opAdd32:
			r[in.d] = uint64(uint32(r[in.a]) + uint32(r[in.b]))
		case opAdd64:
			r[in.d] = r[in.a] + r[in.b]
		case opSub32:
			r[in.d] = uint64(uint32(r[in.a]) - uint32(r[in.b]))
		case opSub64:
			r[in.d] = r[in.a] - r[in.b]
		case opMul32:
			r[in.d] = uint64(uint32(r[in.a]) * uint32(r[in.b]))
		case opMul64:
			r[in.d] = r[in.a] * r[in.b]
		case opMulHiS32:
			r[in.d] = uint64(uint32(int64(int32(r[in.a])) * int64(int32(r[in.b])) >> 32))
		case opMulHiU32:
			r[in.d] = r[in.a] * r[in.b] >> 32
		case opMulHiS64:
			r[in.d] = mulHiSigned(r[in.a], r[in.b])
		case opMulHiU64:
			r[in.d], _ = bits.Mul64(r[in.a], r[in.b])
		case opMulWideS32:
			r[in.d] = uint64(int64(int32(r[in.a])) * int64(int32(r[in.b])))
		case opMulWideU32:
			r[in.d] = r[in.a] * r[in.b]
		case opMad32:
			r[in.d] = uint64(uint32(r[in.a])*uint32(r[in.b]) + uint32(r[in.c]))
		case opMad64:
			r[in.d] = r[in.a]*r[in.b] + r[in.c]
		case opMadWideS32:
			r[in.d] = uint64(int64(int32(r[in.a]))*int64(int32(r[in.b]))) + r[in.c]
		case opMadWideU32:
			r[in.d] = r[in.a]*r[in.b] + r[in.c]
		case opDivS32, opRemS32, opDivS64, opRemS64, opDivU, opRemU:
			q, ok := divide(in.op, r[in.a], r[in.b])
			if !ok {
				l.fault = fmt.Errorf("%w: by zero, or of the smallest number by -1", ErrDivision)
				return pc - 1
			}
			r[in.d] = q
		case opMinS32:
			r[in.d] = uint64(uint32(min(int32(r[in.a]), int32(r[in.b]))))
		case opMinS64:
			r[in.d] = uint64(min(int64(r[in.a]), int64(r[in.b])))
		case opMinU:
			r[in.d] = min(r[in.a], r[in.b])
		case opMaxS32:
			r[in.d] = uint64(uint32(max(int32(r[in.a]), int32(r[in.b]))))
		case opMaxS64:
			r[in.d] = uint64(max(int64(r[in.a]), int64(r[in.b])))
		case opMaxU:
			r[in.d] = max(r[in.a], r[in.b])
		case opAbs32:
			v := int32(r[in.a])
			r[in.d] = uint64(uint32(max(v, -v)))
		case opAbs64:
			v := int64(r[in.a])
			r[in.d] = uint64(max(v, -v))
		case opAnd:
			r[in.d] = r[in.a] & r[in.b]
		case opOr:
			r[in.d] = r[in.a] | r[in.b]
		case opXor:
			r[in.d] = r[in.a] ^ r[in.b]
		case opShl32:
			r[in.d] = uint64(uint32(r[in.a]) << r[in.b])
		case opShl64:
			r[in.d] = r[in.a] << r[in.b]
		case opShrS32:
			r[in.d] = uint64(uint32(int32(r[in.a]) >> r[in.b]))
		case opShrS64:
			r[in.d] = uint64(int64(r[in.a]) >> r[in.b])
		case opShrU:
			r[in.d] = r[in.a] >> r[in.b]
		case opShfLWrap:
			r[in.d] = (r[in.b]<<32 | r[in.a]) << (r[in.c] & 31) >> 32
		case opShfRWrap:
			r[in.d] = uint64(uint32((r[in.b]<<32 | r[in.a]) >> (r[in.c] & 31)))
		case opShfLClamp:
			r[in.d] = (r[in.b]<<32 | r[in.a]) << min(r[in.c], 32) >> 32
		case opShfRClamp:
			r[in.d] = uint64(uint32((r[in.b]<<32 | r[in.a]) >> min(r[in.c], 32)))
		case opPrmt:
			r[in.d] = permute(r[in.b]<<32|r[in.a], r[in.c])
		case opBfeS, opBfeU:
			r[in.d] = extract(r[in.a], r[in.b]&0xff, r[in.c]&0xff, uint64(in.bits), in.op == opBfeS)
		case opBfi:
			r[in.d] = insert(r[in.a], r[in.b], r[in.c]&0xff, r[in.e]&0xff, uint64(in.bits))
		case opLop3:
			r[in.d] = lop3(uint32(r[in.a]), uint32(r[in.b]), uint32(r[in.c]), uint8(in.imm))
		case opClz:
			r[in.d] = uint64(bits.LeadingZeros64(r[in.a]) - 64 + int(in.bits))
		case opPopc:
			r[in.d] = uint64(bits.OnesCount64(r[in.a]))
		case opBrev:
			r[in.d] = bits.Reverse64(r[in.a]) >> (64 - in.bits)
		case opSelp:
			if r[in.c]&1 != 0 {
				r[in.d] = r[in.a]
			} else {
				r[in.d] = r[in.b]
			}
		case opSExt8:
			r[in.d] = uint64(int64(int8(r[in.a]))) << (64 - in.bits) >> (64 - in.bits)
		case opSExt16:
			r[in.d] = uint64(int64(int16(r[in.a]))) << (64 - in.bits) >> (64 - in.bits)
		case opSExt32:
			r[in.d] = uint64(int64(int32(r[in.a]))) << (64 - in.bits) >> (64 - in.bits)
		case opEq:
			r[in.d] = truth(r[in.a] == r[in.b])
		case opNe:
			r[in.d] = truth(r[in.a] != r[in.b])
		case opLtU:
			r[in.d] = truth(r[in.a] < r[in.b])
		case opLeU:
			r[in.d] = truth(r[in.a] <= r[in.b])
		case opLtS32:
			r[in.d] = truth(int32(r[in.a]) < int32(r[in.b]))
		case opLeS32:
			r[in.d] = truth(int32(r[in.a]) <= int32(r[in.b]))
		case opLtS64:
			r[in.d] = truth(int64(r[in.a]) < int64(r[in.b]))
		case opLeS64:
			r[in.d] = truth(int64(r[in.a]) <= int64(r[in.b]))
		case opFEq:
			r[in.d] = truth(float(r[in.a]) == float(r[in.b]))
		case opFNe:
			a, b := float(r[in.a]), float(r[in.b])
			r[in.d] = truth(a < b || a > b)
		case opFLt:
			r[in.d] = truth(float(r[in.a]) < float(r[in.b]))
		case opFLe:
			r[in.d] = truth(float(r[in.a]) <= float(r[in.b]))
		case opFEqu:
			a, b := float(r[in.a]), float(r[in.b])
			r[in.d] = truth(!(a < b || a > b))
		case opFNeu:
			r[in.d] = truth(float(r[in.a]) != float(r[in.b]))
		case opFLtu:
			r[in.d] = truth(!(float(r[in.a]) >= float(r[in.b])))
		case opFLeu:
			r[in.d] = truth(!(float(r[in.a]) > float(r[in.b])))
		case opFNum:
			r[in.d] = truth(!isNaN(r[in.a]) && !isNaN(r[in.b]))
		case opFNan:
			r[in.d] = truth(isNaN(r[in.a]) || isNaN(r[in.b]))
		case opFAdd:
			r[in.d] = result(float(r[in.a]) + float(r[in.b]))
		case opFSub:
			r[in.d] = result(float(r[in.a]) - float(r[in.b]))
		case opFMul:
			r[in.d] = result(float(r[in.a]) * float(r[in.b]))
		case opFDiv:
			r[in.d] = result(float(r[in.a]) / float(r[in.b]))
		case opFma:
			r[in.d] = result(nn.FMA(float(r[in.a]), float(r[in.b]), float(r[in.c])))
		case opFSqrt:
			// Rounding the binary64 root again does no harm: it has more than twice the bits.
			r[in.d] = result(float32(math.Sqrt(float64(float(r[in.a])))))
		case opFNeg:
			r[in.d] = result(-float(r[in.a]))
		case opFAbs:
			r[in.d] = result(float(r[in.a] &^ signBit))
		case opFMin:
			r[in.d] = smaller(r[in.a], r[in.b])
		case opFMax:
			r[in.d] = larger(r[in.a], r[in.b])
		case opFCopysign:
			r[in.d] = r[in.a]&^signBit | r[in.b]&signBit
		case opFTestp:
			r[in.d] = truth(testp(in.imm, uint32(r[in.a])))
		case opS64ToF:
			r[in.d] = result(float32(int64(r[in.a])))
		case opU64ToF:
			r[in.d] = result(float32(r[in.a]))
		case opFToS:
			r[in.d] = toSigned(float(r[in.a]), in.bits)
		case opFToU:
			r[in.d] = toUnsigned(float(r[in.a]), in.bits)
		case opFRoundEven:
			r[in.d] = result(float32(math.RoundToEven(float64(float(r[in.a])))))
		case opLoad4:
			b := l.load(in, r[in.e]+uint64(in.imm))
			if b == nil {
				return pc - 1
			}
			r[in.d] = uint64(binary.LittleEndian.Uint32(b))
		case opStore4:
			b := l.store(in, r[in.e]+uint64(in.imm))
			if b == nil {
				return pc - 1
			}
			binary.LittleEndian.PutUint32(b, uint32(r[in.d]))
		case opLoad:
			b := l.load(in, r[in.e]+uint64(in.imm))
			if b == nil {
				return pc - 1
			}
			registers := [4]uint16{in.d, in.a, in.b, in.c}
			for i, d := range registers[:in.count] {
				r[d] = element(in, b[i*int(in.bytes):])
			}
		case opStore:
			b := l.store(in, r[in.e]+uint64(in.imm))
			if b == nil {
				return pc - 1
			}
			registers := [4]uint16{in.d, in.a, in.b, in.c}
			for i, d := range registers[:in.count] {
				putElement(in, b[i*int(in.bytes):], r[d])
			}
		case opBra:
			pc = int(in.imm)
		case opBraIf:
			if r[in.a]&1 != 0 {
				pc = int(in.imm)
			}
		case opBraUnless:
			if r[in.a]&1 == 0 {
				pc = int(in.imm)
			}
		case opBar:
			return pc
		case opRet:
			return ended
		}
	}
}

const signBit = 1 << 31

// canonicalNaN is the NaN that the devices' arithmetic makes.
const canonicalNaN = 0x7fffffff

func float(v uint64) float32 { return math.Float32frombits(uint32(v)) }

func isNaN(v uint64) bool { f := float(v); return f != f }

// result is the bits of what float arithmetic gave.
func result(f float32) uint64 {
	if f != f {
		return canonicalNaN
	}
	return uint64(math.Float32bits(f))
}

func truth(b bool) uint64 {
	var v uint64
	if b {
		v = 1
	}
	return v
}

// mulHiSigned is the upper half of a signed product.
func mulHiSigned(a, b uint64) uint64 {
	hi, _ := bits.Mul64(a, b)
	// Read as unsigned, a negative factor is 2^64 too large.
	if int64(a) < 0 {
		hi -= b
	}
	if int64(b) < 0 {
		hi -= a
	}
	return hi
}

// divide is a quotient or remainder; not ok: PTX leaves it open.
func divide(op opcode, a, b uint64) (q uint64, ok bool) {
	if b == 0 {
		return 0, false
	}
	switch op {
	case opDivU:
		return a / b, true
	case opRemU:
		return a % b, true
	case opDivS32, opRemS32:
		x, y := int32(a), int32(b)
		if x == math.MinInt32 && y == -1 {
			return 0, false
		}
		if op == opDivS32 {
			return uint64(uint32(x / y)), true
		}
		return uint64(uint32(x % y)), true
	default:
		x, y := int64(a), int64(b)
		if x == math.MinInt64 && y == -1 {
			return 0, false
		}
		if op == opDivS64 {
			return uint64(x / y), true
		}
		return uint64(x % y), true
	}
}

// permute is prmt: the four low nibbles of the selector each choose a byte of v, or with their top bit its sign.
func permute(v, selector uint64) uint64 {
	var d uint64
	for i := range 4 {
		n := selector >> (4 * i) & 0xf
		b := v >> (8 * (n & 7)) & 0xff
		if n&8 != 0 {
			b = -(b >> 7) & 0xff
		}
		d |= b << (8 * i)
	}
	return d
}

// extract is bfe: n bits of a from position at, extended with zeros or, if signed, with the topmost bit of the field.
func extract(a, at, n, width uint64, signed bool) uint64 {
	low := uint64(1)<<min(n, width-min(at, width)) - 1 // the bits of the result that a has
	v := a >> at & low
	if signed && n > 0 && a>>min(at+n-1, width-1)&1 != 0 {
		v |= ^low
	}
	return v & (^uint64(0) >> (64 - width))
}

// insert is bfi: b with n of its bits from position at replaced by a's low ones.
func insert(a, b, at, n, width uint64) uint64 {
	field := (uint64(1)<<n - 1) << at & (^uint64(0) >> (64 - width))
	return b&^field | a<<at&field
}

// lop3 is any function of three bits, given by its table.
func lop3(a, b, c uint32, table uint8) uint64 {
	var d uint32
	for i := range 8 {
		if table>>i&1 == 0 {
			continue
		}
		m := ^uint32(0)
		for bit, v := range [3]uint32{c, b, a} {
			if i>>bit&1 == 0 {
				v = ^v
			}
			m &= v
		}
		d |= m
	}
	return uint64(d)
}

// smaller is min: the other value beside a NaN, and -0 below +0.
func smaller(a, b uint64) uint64 {
	x, y := float(a), float(b)
	switch {
	case x != x:
		return result(y)
	case x < y || y != y:
		return a
	case x == y:
		return a | b // -0 if either is
	}
	return b
}

// larger is max: the other value beside a NaN, and +0 above -0.
func larger(a, b uint64) uint64 {
	x, y := float(a), float(b)
	switch {
	case x != x:
		return result(y)
	case x > y || y != y:
		return a
	case x == y:
		return a & b
	}
	return b
}

// testp tells whether the float of these bits has the property.
func testp(property int64, v uint32) bool {
	exponent, fraction := v>>23&0xff, v&(1<<23-1)
	switch property {
	case testpKinds["finite"]:
		return exponent != 0xff
	case testpKinds["infinite"]:
		return exponent == 0xff && fraction == 0
	case testpKinds["number"]:
		return exponent != 0xff || fraction == 0
	case testpKinds["notanumber"]:
		return exponent == 0xff && fraction != 0
	case testpKinds["normal"]:
		return exponent != 0 && exponent != 0xff
	default:
		return exponent == 0 && fraction != 0
	}
}

// toSigned rounds toward zero to a signed integer of so many bits, at most the largest, at least the smallest.
func toSigned(f float32, width uint8) uint64 {
	mask := ^uint64(0) >> (64 - width)
	limit := math.Ldexp(1, int(width)-1)
	switch v := float64(f); {
	case v != v:
		return nanToInteger(width)
	case v >= limit:
		return mask >> 1
	case v <= -limit:
		return mask>>1 + 1
	default:
		return uint64(int64(v)) & mask
	}
}

// toUnsigned rounds toward zero to an unsigned integer of so many bits, at most the largest, at least 0.
func toUnsigned(f float32, width uint8) uint64 {
	switch v := float64(f); {
	case v != v:
		return nanToInteger(width)
	case v >= math.Ldexp(1, int(width)):
		return ^uint64(0) >> (64 - width)
	case v <= -1:
		return 0
	case v >= 1<<63:
		return uint64(v-1<<63) + 1<<63
	default:
		return uint64(int64(v))
	}
}

// nanToInteger is what a NaN becomes, by the PTX manual: 0, but of 64 bits only the top one.
func nanToInteger(width uint8) uint64 {
	if width == 64 {
		return 1 << 63
	}
	return 0
}

// element is one value of a load, as the register has it.
func element(in *instr, b []byte) uint64 {
	var v uint64
	switch in.bytes {
	case 1:
		v = uint64(b[0])
	case 2:
		v = uint64(binary.LittleEndian.Uint16(b))
	case 4:
		v = uint64(binary.LittleEndian.Uint32(b))
	default:
		v = binary.LittleEndian.Uint64(b)
	}
	if in.signed {
		unused := 64 - 8*in.bytes
		v = uint64(int64(v<<unused)>>unused) << (64 - in.bits) >> (64 - in.bits)
	}
	return v
}

// putElement writes one value of a store, of which the register may have more bits.
func putElement(in *instr, b []byte, v uint64) {
	switch in.bytes {
	case 1:
		b[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v))
	default:
		binary.LittleEndian.PutUint64(b, v)
	}
}
