package ptx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"testing"

	"github.com/descentnet/minerd/nn"
)

const header = ".version 5.0\n.target sm_60\n.address_size 64\n"

// registers are those of the tests' kernels.
const registers = "\t.reg .pred %p<10>;\n\t.reg .b16 %rs<10>;\n\t.reg .b32 %r<10>;\n\t.reg .f32 %f<10>;\n\t.reg .b64 %rd<20>;\n"

// opKernel runs the body once for every triple of 64-bit values a, b, c. It finds them, cut to size, in registers 1, 2 and 3
// of each kind, predicates being whether they are odd, and leaves its answer in register 9 of one kind.
func opKernel(body, kind string) string {
	var b strings.Builder
	b.WriteString(header + ".visible .entry op(\n\t.param .u64 out,\n\t.param .u64 in\n)\n{\n" + registers)
	b.WriteString("\tmov.u32 %r0, %ctaid.x;\n\tld.param.u64 %rd4, [out];\n\tld.param.u64 %rd5, [in];\n")
	b.WriteString("\tmad.wide.u32 %rd4, %r0, 8, %rd4;\n\tmad.wide.u32 %rd5, %r0, 24, %rd5;\n")
	for i := 1; i <= 3; i++ {
		fmt.Fprintf(&b, "\tld.global.u64 %%rd%d, [%%rd5+%d];\n\tcvt.u32.u64 %%r%d, %%rd%d;\n\tcvt.u16.u64 %%rs%d, %%rd%d;\n\tmov.b32 %%f%d, %%r%d;\n",
			i, 8*i-8, i, i, i, i, i, i)
		fmt.Fprintf(&b, "\tand.b32 %%r8, %%r%d, 1;\n\tsetp.eq.s32 %%p%d, %%r8, 1;\n", i, i)
	}
	b.WriteString(body)
	b.WriteString("\n")
	switch kind {
	case "p":
		b.WriteString("\tselp.b64 %rd9, 1, 0, %p9;\n")
	case "rs":
		b.WriteString("\tcvt.u64.u16 %rd9, %rs9;\n")
	case "r":
		b.WriteString("\tcvt.u64.u32 %rd9, %r9;\n")
	case "f":
		b.WriteString("\tmov.b32 %r9, %f9;\n\tcvt.u64.u32 %rd9, %r9;\n")
	}
	b.WriteString("\tst.global.u64 [%rd4], %rd9;\n\tret;\n}\n")
	return b.String()
}

// runOp returns the answers of an opKernel.
func runOp(t *testing.T, body string, in []uint64) ([]uint64, error) {
	t.Helper()
	kind := ""
	for _, k := range []string{"p", "rs", "rd", "r", "f"} {
		if strings.Contains(body, "%"+k+"9") {
			kind = k
		}
	}
	if kind == "" {
		t.Fatal("no register 9 in", body)
	}
	m, err := Parse(opKernel(body, kind))
	if err != nil {
		t.Fatal(body, err)
	}
	var mem Memory
	n := len(in) / 3
	src, dst := alloc(t, &mem, 8*len(in)), alloc(t, &mem, 8*n)
	b := make([]byte, 8*len(in))
	for i, v := range in {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	if err := mem.Write(src, b); err != nil {
		t.Fatal(err)
	}
	if err := m.Launch(&mem, "op", [3]int{n, 1, 1}, [3]int{1, 1, 1}, []uint64{dst, src}, Forward); err != nil {
		return nil, err
	}
	b = b[:8*n]
	if err := mem.Read(b, dst); err != nil {
		t.Fatal(err)
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return out, nil
}

func alloc(t *testing.T, mem *Memory, bytes int) uint64 {
	t.Helper()
	a, err := mem.Alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// edges are 64-bit values whose low 8, 16 and 32 bits are edges too, read as numbers or as floats.
var edges = []uint64{
	0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 0x7f, 0x80, 0x81, 0xff, 0x0123, 0x7fff, 0x8000, 0x8001, 0xffff, 0x10000,
	0x7fffffff, 0x80000000, 0x80000001, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
	0x0123456789abcdef, 0xfedcba9876543210, 0xdeadbeefcafe8042,
	0x3f800000, 0xbf800000, 0x3f800001, 0x00800000, 0x007fffff, 0x00000400, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345,
	0x3f000000, 0x3fc00000, 0x40200000, 0xbf000000, 0xc0200000, 0x4b800001, 0x4f000000, 0xcf000000, 0x4f800000, 0x5f000000, 0xdf000000, 0x5f800000,
	0x42f6e979, 0x1e3ce508, 0x33800000, 0x34000001,
}

// triples pairs every two edges, with a third that runs along, and some numbers without a pattern.
func triples() []uint64 {
	var in []uint64
	for i, a := range edges {
		for j, b := range edges {
			in = append(in, a, b, edges[(7*i+3*j)%len(edges)])
		}
	}
	x := uint64(0x9e3779b97f4a7c15)
	for range 3 * 500 {
		x = x*6364136223846793005 + 1442695040888963407
		in = append(in, bits.RotateLeft64(x, int(x>>59)))
	}
	return in
}

func fl(v uint64) float32 { return math.Float32frombits(uint32(v)) }

// fb is a float's bits, with the devices' NaN.
func fb(f float32) uint64 {
	if math.IsNaN(float64(f)) {
		return 0x7fffffff
	}
	return uint64(math.Float32bits(f))
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func s32(v uint64) int32      { return int32(v) }
func from32(v int32) uint64   { return uint64(uint32(v)) }
func fromU32(v uint32) uint64 { return uint64(v) }

func nan(v uint64) bool { return math.IsNaN(float64(fl(v))) }

// mulHi64 is a 64-bit product's upper half by 32-bit parts.
func mulHi64(a, b uint64) uint64 {
	a0, a1, b0, b1 := a&0xffffffff, a>>32, b&0xffffffff, b>>32
	mid := a1*b0 + a0*b0>>32
	low := mid&0xffffffff + a0*b1
	return a1*b1 + mid>>32 + low>>32
}

// refBfe is the manual's own loop.
func refBfe(a, at, n uint64, width int, signed bool) uint64 {
	at, n = at&0xff, n&0xff
	var sign, d uint64
	if signed && n > 0 {
		sign = a >> min(at+n-1, uint64(width-1)) & 1
	}
	for i := range width {
		bit := sign
		if uint64(i) < n && uint64(i)+at < uint64(width) {
			bit = a >> (uint64(i) + at) & 1
		}
		d |= bit << i
	}
	return d
}

// refBfi is the manual's own loop.
func refBfi(a, b, at, n uint64, width int) uint64 {
	at, n = at&0xff, n&0xff
	for i := uint64(0); i < n && at+i < uint64(width); i++ {
		b = b&^(1<<(at+i)) | a>>i&1<<(at+i)
	}
	return b
}

// refToInt is the conversion by the manual: rounded, then held at the limits.
func refToInt(v uint64, lo, hi float64, width int, round func(float64) float64) uint64 {
	f := float64(fl(v))
	mask := ^uint64(0) >> (64 - width)
	switch {
	case f != f && width == 64:
		return 1 << 63
	case f != f:
		return 0
	}
	f = round(f)
	switch {
	case f >= hi && lo < 0:
		return mask >> 1
	case f >= hi:
		return mask
	case f <= lo && lo < 0:
		return mask>>1 + 1
	case f <= lo:
		return 0
	case lo < 0:
		return uint64(int64(f)) & mask
	}
	return uint64(f)
}

func TestOperations(t *testing.T) {
	type binary = func(a, b, c uint64) uint64
	tests := []struct {
		body string
		want binary
	}{
		// integers of 32 bits
		{"add.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(s32(a) + s32(b)) }},
		{"add.u32 %r9, %r1, -7;", func(a, _, _ uint64) uint64 { return from32(s32(a) - 7) }},
		{"sub.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(s32(a) - s32(b)) }},
		{"mul.lo.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(s32(a) * s32(b)) }},
		{"mul.hi.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(int32(int64(s32(a)) * int64(s32(b)) >> 32)) }},
		{"mul.hi.u32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return uint64(uint32(a)) * uint64(uint32(b)) >> 32 }},
		{"mul.wide.s32 %rd9, %r1, %r2;", func(a, b, _ uint64) uint64 { return uint64(int64(s32(a)) * int64(s32(b))) }},
		{"mul.wide.u32 %rd9, %r1, %r2;", func(a, b, _ uint64) uint64 { return uint64(uint32(a)) * uint64(uint32(b)) }},
		{"mad.lo.s32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 { return from32(s32(a)*s32(b) + s32(c)) }},
		{"mad.hi.s32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 { return from32(int32(int64(s32(a))*int64(s32(b))>>32) + s32(c)) }},
		{"mad.hi.u32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			return fromU32(uint32(uint64(uint32(a))*uint64(uint32(b))>>32) + uint32(c))
		}},
		{"mad.wide.s32 %rd9, %r1, %r2, %rd3;", func(a, b, c uint64) uint64 { return uint64(int64(s32(a))*int64(s32(b))) + c }},
		{"mad.wide.u32 %rd9, %r1, %r2, %rd3;", func(a, b, c uint64) uint64 { return uint64(uint32(a))*uint64(uint32(b)) + c }},
		{"min.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(min(s32(a), s32(b))) }},
		{"max.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(max(s32(a), s32(b))) }},
		{"min.u32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(min(uint32(a), uint32(b))) }},
		{"max.u32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(max(uint32(a), uint32(b))) }},
		{"neg.s32 %r9, %r1;", func(a, _, _ uint64) uint64 { return from32(-s32(a)) }},
		{"abs.s32 %r9, %r1;", func(a, _, _ uint64) uint64 {
			return fromU32(max(uint32(a)>>31*-uint32(a), (1-uint32(a)>>31)*uint32(a)))
		}},
		{"and.b32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a & b)) }},
		{"or.b32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a | b)) }},
		{"xor.b32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a ^ b)) }},
		{"not.b32 %r9, %r1;", func(a, _, _ uint64) uint64 { return fromU32(^uint32(a)) }},
		{"shl.b32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a) << uint32(b)) }},
		{"shr.u32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a) >> uint32(b)) }},
		{"shr.b32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(a) >> uint32(b)) }},
		{"shr.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return from32(s32(a) >> uint32(b)) }},
		{"shf.l.wrap.b32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			n := c & 31
			return fromU32(uint32(b)<<n | uint32(a)>>(32-n))
		}},
		{"shf.r.wrap.b32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			n := c & 31
			return fromU32(uint32(b)<<(32-n) | uint32(a)>>n)
		}},
		{"shf.l.clamp.b32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			n := min(uint32(c), 32)
			return fromU32(uint32(b)<<n | uint32(a)>>(32-n))
		}},
		{"shf.r.clamp.b32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			n := min(uint32(c), 32)
			return fromU32(uint32(b)<<(32-n) | uint32(a)>>n)
		}},
		{"shf.l.wrap.b32 %r9, %r1, %r1, 7;", func(a, _, _ uint64) uint64 { return fromU32(bits.RotateLeft32(uint32(a), 7)) }},
		{"prmt.b32 %r9, %r1, 0, 0x0123;", func(a, _, _ uint64) uint64 { return fromU32(bits.ReverseBytes32(uint32(a))) }},
		{"prmt.b32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 {
			var source [8]byte
			for i := range 4 {
				source[i], source[i+4] = byte(a>>(8*i)), byte(b>>(8*i))
			}
			var d uint32
			for i := range 4 {
				v := source[c>>(4*i)&7]
				if c>>(4*i)&8 != 0 {
					v = byte(int8(v) >> 7)
				}
				d |= uint32(v) << (8 * i)
			}
			return uint64(d)
		}},
		{"bfe.u32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 { return refBfe(uint64(uint32(a)), b, c, 32, false) }},
		{"bfe.s32 %r9, %r1, %r2, %r3;", func(a, b, c uint64) uint64 { return refBfe(uint64(uint32(a)), b, c, 32, true) }},
		{"bfe.u64 %rd9, %rd1, %r2, %r3;", func(a, b, c uint64) uint64 { return refBfe(a, b, c, 64, false) }},
		{"bfe.s64 %rd9, %rd1, %r2, %r3;", func(a, b, c uint64) uint64 { return refBfe(a, b, c, 64, true) }},
		{"bfi.b32 %r9, %r3, %r2, %r1, %r2;", func(a, b, c uint64) uint64 { return refBfi(c, uint64(uint32(b)), a, b, 32) }},
		{"bfi.b64 %rd9, %rd3, %rd2, %r1, %r2;", func(a, b, c uint64) uint64 { return refBfi(c, b, a, b, 64) }},
		{"lop3.b32 %r9, %r1, %r2, %r3, 0x96;", func(a, b, c uint64) uint64 { return fromU32(uint32(a ^ b ^ c)) }},
		{"lop3.b32 %r9, %r1, %r2, %r3, 202;", func(a, b, c uint64) uint64 { return fromU32(uint32(a&b | ^a&c)) }},
		{"lop3.b32 %r9, %r1, %r2, %r3, 0x40;", func(a, b, c uint64) uint64 { return fromU32(uint32(a & b &^ c)) }},
		{"clz.b32 %r9, %r1;", func(a, _, _ uint64) uint64 { return uint64(bits.LeadingZeros32(uint32(a))) }},
		{"clz.b64 %r9, %rd1;", func(a, _, _ uint64) uint64 { return uint64(bits.LeadingZeros64(a)) }},
		{"popc.b32 %r9, %r1;", func(a, _, _ uint64) uint64 { return uint64(bits.OnesCount32(uint32(a))) }},
		{"popc.b64 %r9, %rd1;", func(a, _, _ uint64) uint64 { return uint64(bits.OnesCount64(a)) }},
		{"brev.b32 %r9, %r1;", func(a, _, _ uint64) uint64 { return fromU32(bits.Reverse32(uint32(a))) }},
		{"brev.b64 %rd9, %rd1;", func(a, _, _ uint64) uint64 { return bits.Reverse64(a) }},
		// of 64
		{"add.s64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return a + b }},
		{"sub.u64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return a - b }},
		{"mul.lo.s64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return a * b }},
		{"mul.hi.u64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return mulHi64(a, b) }},
		{"mul.hi.s64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return mulHi64(a, b) - a>>63*b - b>>63*a }},
		{"mad.lo.s64 %rd9, %rd1, %rd2, %rd3;", func(a, b, c uint64) uint64 { return a*b + c }},
		{"min.s64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return uint64(min(int64(a), int64(b))) }},
		{"max.s64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return uint64(max(int64(a), int64(b))) }},
		{"min.u64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return min(a, b) }},
		{"max.u64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return max(a, b) }},
		{"neg.s64 %rd9, %rd1;", func(a, _, _ uint64) uint64 { return -a }},
		{"abs.s64 %rd9, %rd1;", func(a, _, _ uint64) uint64 { return max(int64Abs(a), 0) }},
		{"not.b64 %rd9, %rd1;", func(a, _, _ uint64) uint64 { return ^a }},
		{"and.b64 %rd9, %rd1, -4294967296;", func(a, _, _ uint64) uint64 { return a >> 32 << 32 }},
		{"or.b64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return a | b }},
		{"xor.b64 %rd9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return a ^ b }},
		{"shl.b64 %rd9, %rd1, %r2;", func(a, b, _ uint64) uint64 { return a << uint32(b) }},
		{"shr.u64 %rd9, %rd1, %r2;", func(a, b, _ uint64) uint64 { return a >> uint32(b) }},
		{"shr.s64 %rd9, %rd1, %r2;", func(a, b, _ uint64) uint64 { return uint64(int64(a) >> uint32(b)) }},
		// of 16
		{"add.s16 %rs9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return uint64(uint16(a + b)) }},
		{"sub.s16 %rs9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return uint64(uint16(a - b)) }},
		{"mul.lo.s16 %rs9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return uint64(uint16(a * b)) }},
		{"mad.lo.u16 %rs9, %rs1, %rs2, %rs3;", func(a, b, c uint64) uint64 { return uint64(uint16(a*b + c)) }},
		{"mul.wide.s16 %r9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return from32(int32(int16(a)) * int32(int16(b))) }},
		{"mul.wide.u16 %r9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return fromU32(uint32(uint16(a)) * uint32(uint16(b))) }},
		{"mad.wide.s16 %r9, %rs1, %rs2, %r3;", func(a, b, c uint64) uint64 { return from32(int32(int16(a))*int32(int16(b)) + s32(c)) }},
		{"mad.wide.u16 %r9, %rs1, %rs2, %r3;", func(a, b, c uint64) uint64 { return fromU32(uint32(uint16(a))*uint32(uint16(b)) + uint32(c)) }},
		{"min.s16 %rs9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return uint64(uint16(min(int16(a), int16(b)))) }},
		{"max.u16 %rs9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return uint64(max(uint16(a), uint16(b))) }},
		{"neg.s16 %rs9, %rs1;", func(a, _, _ uint64) uint64 { return uint64(uint16(-a)) }},
		{"abs.s16 %rs9, %rs1;", func(a, _, _ uint64) uint64 { return uint64(uint16(max(int16(a), -int16(a)))) }},
		{"not.b16 %rs9, %rs1;", func(a, _, _ uint64) uint64 { return uint64(^uint16(a)) }},
		{"xor.b16 %rs9, %rs1, -1;", func(a, _, _ uint64) uint64 { return uint64(^uint16(a)) }},
		{"shl.b16 %rs9, %rs1, %r2;", func(a, b, _ uint64) uint64 { return uint64(uint16(a) << uint32(b)) }},
		{"shr.u16 %rs9, %rs1, %r2;", func(a, b, _ uint64) uint64 { return uint64(uint16(a) >> uint32(b)) }},
		{"shr.s16 %rs9, %rs1, %r2;", func(a, b, _ uint64) uint64 { return uint64(uint16(int16(a) >> uint32(b))) }},
		// comparisons and choices
		{"setp.eq.s32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) == s32(b)) }},
		{"setp.ne.b32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) != s32(b)) }},
		{"setp.lt.s32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) < s32(b)) }},
		{"setp.le.s32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) <= s32(b)) }},
		{"setp.gt.s32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) > s32(b)) }},
		{"setp.ge.s32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(s32(a) >= s32(b)) }},
		{"setp.lt.u32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(uint32(a) < uint32(b)) }},
		{"setp.ls.u32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(uint32(a) <= uint32(b)) }},
		{"setp.hi.u32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(uint32(a) > uint32(b)) }},
		{"setp.ge.u32 %p9, %r1, %r2;", func(a, b, _ uint64) uint64 { return b2u(uint32(a) >= uint32(b)) }},
		{"setp.lt.s64 %p9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return b2u(int64(a) < int64(b)) }},
		{"setp.ge.s64 %p9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return b2u(int64(a) >= int64(b)) }},
		{"setp.gt.u64 %p9, %rd1, %rd2;", func(a, b, _ uint64) uint64 { return b2u(a > b) }},
		{"setp.gt.s16 %p9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return b2u(int16(a) > int16(b)) }},
		{"setp.le.s16 %p9, %rs1, -2;", func(a, _, _ uint64) uint64 { return b2u(int16(a) <= -2) }},
		{"setp.lo.u16 %p9, %rs1, %rs2;", func(a, b, _ uint64) uint64 { return b2u(uint16(a) < uint16(b)) }},
		{"set.lt.u32.s32 %r9, %r1, %r2;", func(a, b, _ uint64) uint64 { return fromU32(-uint32(b2u(s32(a) < s32(b)))) }},
		{"setp.eq.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) == fl(b)) }},
		{"setp.ne.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) != fl(b) && !nan(a) && !nan(b)) }},
		{"setp.lt.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) < fl(b)) }},
		{"setp.le.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) <= fl(b)) }},
		{"setp.gt.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) > fl(b)) }},
		{"setp.ge.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) >= fl(b)) }},
		{"setp.equ.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) == fl(b) || nan(a) || nan(b)) }},
		{"setp.neu.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) != fl(b) || nan(a) || nan(b)) }},
		{"setp.ltu.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) < fl(b) || nan(a) || nan(b)) }},
		{"setp.leu.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) <= fl(b) || nan(a) || nan(b)) }},
		{"setp.gtu.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) > fl(b) || nan(a) || nan(b)) }},
		{"setp.geu.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(fl(a) >= fl(b) || nan(a) || nan(b)) }},
		{"setp.num.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(!nan(a) && !nan(b)) }},
		{"setp.nan.f32 %p9, %f1, %f2;", func(a, b, _ uint64) uint64 { return b2u(nan(a) || nan(b)) }},
		{"selp.b32 %r9, %r1, %r2, %p3;", func(a, b, c uint64) uint64 { return fromU32(uint32(c&1*a + (1-c&1)*b)) }},
		{"selp.f32 %f9, %f1, 0f3F800000, %p3;", func(a, _, c uint64) uint64 { return fromU32(uint32(c&1*a + (1-c&1)*0x3f800000)) }},
		{"selp.b64 %rd9, %rd1, %rd2, %p3;", func(a, b, c uint64) uint64 { return c&1*a + (1-c&1)*b }},
		{"selp.b16 %rs9, %rs1, %rs2, %p3;", func(a, b, c uint64) uint64 { return uint64(uint16(c&1*a + (1-c&1)*b)) }},
		{"and.pred %p9, %p1, %p2;", func(a, b, _ uint64) uint64 { return a & b & 1 }},
		{"or.pred %p9, %p1, %p2;", func(a, b, _ uint64) uint64 { return (a | b) & 1 }},
		{"xor.pred %p9, %p1, %p2;", func(a, b, _ uint64) uint64 { return (a ^ b) & 1 }},
		{"not.pred %p9, %p1;", func(a, _, _ uint64) uint64 { return ^a & 1 }},
		{"mov.pred %p9, -1; @!%p1 mov.pred %p9, 0;", func(a, _, _ uint64) uint64 { return a & 1 }},
		// floats
		{"add.rn.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 { return fb(fl(a) + fl(b)) }},
		{"sub.rn.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 { return fb(fl(a) - fl(b)) }},
		{"mul.rn.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 { return fb(fl(a) * fl(b)) }},
		{"div.rn.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 { return fb(fl(a) / fl(b)) }},
		{"sqrt.rn.f32 %f9, %f1;", func(a, _, _ uint64) uint64 { return fb(float32(math.Sqrt(float64(fl(a))))) }},
		{"fma.rn.f32 %f9, %f1, %f2, %f3;", func(a, b, c uint64) uint64 { return fb(nn.FMA(fl(a), fl(b), fl(c))) }},
		{"fma.rn.f32 %f9, %f1, %f2, 0f00000001;", func(a, b, _ uint64) uint64 { return fb(nn.FMA(fl(a), fl(b), math.SmallestNonzeroFloat32)) }},
		// A product and a sum round twice.
		{"mul.rn.f32 %f8, %f1, %f2; add.rn.f32 %f9, %f8, %f3;", func(a, b, c uint64) uint64 { return fb(float32(fl(a)*fl(b)) + fl(c)) }},
		{"neg.f32 %f9, %f1;", func(a, _, _ uint64) uint64 { return fb(math.Float32frombits(uint32(a) ^ 1<<31)) }},
		{"abs.f32 %f9, %f1;", func(a, _, _ uint64) uint64 { return fb(math.Float32frombits(uint32(a) &^ (1 << 31))) }},
		{"min.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 {
			if nan(a) || nan(b) && !nan(a) {
				return other(a, b)
			}
			return fb(min(fl(a), fl(b))) // Go's: -0 is below +0
		}},
		{"max.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 {
			if nan(a) || nan(b) && !nan(a) {
				return other(a, b)
			}
			return fb(max(fl(a), fl(b)))
		}},
		{"copysign.f32 %f9, %f1, %f2;", func(a, b, _ uint64) uint64 { return a&(1<<31) | b&0x7fffffff }},
		{"testp.finite.f32 %p9, %f1;", func(a, _, _ uint64) uint64 { return b2u(!nan(a) && !math.IsInf(float64(fl(a)), 0)) }},
		{"testp.infinite.f32 %p9, %f1;", func(a, _, _ uint64) uint64 { return b2u(math.IsInf(float64(fl(a)), 0)) }},
		{"testp.number.f32 %p9, %f1;", func(a, _, _ uint64) uint64 { return b2u(!nan(a)) }},
		{"testp.notanumber.f32 %p9, %f1;", func(a, _, _ uint64) uint64 { return b2u(nan(a)) }},
		{"testp.normal.f32 %p9, %f1;", func(a, _, _ uint64) uint64 {
			v := math.Abs(float64(fl(a)))
			return b2u(v >= 0x1p-126 && v <= math.MaxFloat32)
		}},
		{"testp.subnormal.f32 %p9, %f1;", func(a, _, _ uint64) uint64 {
			v := math.Abs(float64(fl(a)))
			return b2u(v > 0 && v < 0x1p-126)
		}},
		// conversions
		{"cvt.s64.s32 %rd9, %r1;", func(a, _, _ uint64) uint64 { return uint64(int64(int32(a))) }},
		{"cvt.u64.u32 %rd9, %r1;", func(a, _, _ uint64) uint64 { return uint64(uint32(a)) }},
		{"cvt.u64.s32 %rd9, %r1;", func(a, _, _ uint64) uint64 { return uint64(int64(int32(a))) }},
		{"cvt.u32.u64 %r9, %rd1;", func(a, _, _ uint64) uint64 { return uint64(uint32(a)) }},
		{"cvt.s32.s16 %r9, %rs1;", func(a, _, _ uint64) uint64 { return from32(int32(int16(a))) }},
		{"cvt.u32.u16 %r9, %rs1;", func(a, _, _ uint64) uint64 { return uint64(uint16(a)) }},
		{"cvt.u16.u32 %rs9, %r1;", func(a, _, _ uint64) uint64 { return uint64(uint16(a)) }},
		{"cvt.s32.s8 %r9, %r1;", func(a, _, _ uint64) uint64 { return from32(int32(int8(a))) }},
		{"cvt.s16.s8 %rs9, %rs1;", func(a, _, _ uint64) uint64 { return uint64(uint16(int8(a))) }},
		{"cvt.s8.s32 %r9, %r1;", func(a, _, _ uint64) uint64 { return from32(int32(int8(a))) }},
		{"cvt.u8.u32 %r9, %r1;", func(a, _, _ uint64) uint64 { return uint64(uint8(a)) }},
		{"cvt.s64.s8 %rd9, %r1;", func(a, _, _ uint64) uint64 { return uint64(int64(int8(a))) }},
		{"cvt.rn.f32.s32 %f9, %r1;", func(a, _, _ uint64) uint64 { return fb(float32(int32(a))) }},
		{"cvt.rn.f32.u32 %f9, %r1;", func(a, _, _ uint64) uint64 { return fb(float32(uint32(a))) }},
		{"cvt.rn.f32.s64 %f9, %rd1;", func(a, _, _ uint64) uint64 { return fb(float32(int64(a))) }},
		{"cvt.rn.f32.u64 %f9, %rd1;", func(a, _, _ uint64) uint64 { return fb(float32(a)) }},
		{"cvt.rn.f32.u16 %f9, %rs1;", func(a, _, _ uint64) uint64 { return fb(float32(uint16(a))) }},
		{"cvt.rn.f32.s8 %f9, %r1;", func(a, _, _ uint64) uint64 { return fb(float32(int8(a))) }},
		{"cvt.rzi.s32.f32 %r9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, -0x1p31, 0x1p31, 32, math.Trunc) }},
		{"cvt.rni.s32.f32 %r9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, -0x1p31, 0x1p31, 32, math.RoundToEven) }},
		{"cvt.rzi.u32.f32 %r9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, 0, 0x1p32, 32, math.Trunc) }},
		{"cvt.rzi.s64.f32 %rd9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, -0x1p63, 0x1p63, 64, math.Trunc) }},
		{"cvt.rni.u64.f32 %rd9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, 0, 0x1p64, 64, math.RoundToEven) }},
		{"cvt.rzi.s16.f32 %rs9, %f1;", func(a, _, _ uint64) uint64 { return refToInt(a, -0x1p15, 0x1p15, 16, math.Trunc) }},
		// moves
		{"mov.b32 %r9, %f1;", func(a, _, _ uint64) uint64 { return uint64(uint32(a)) }},
		{"mov.f32 %f9, 0fBF800000;", func(_, _, _ uint64) uint64 { return 0xbf800000 }},
		{"mov.u16 %rs9, -1;", func(_, _, _ uint64) uint64 { return 0xffff }},
		{"mov.u32 %r9, 0x80000000U;", func(_, _, _ uint64) uint64 { return 0x80000000 }},
		{"mov.b64 %rd9, {%r1, %r2};", func(a, b, _ uint64) uint64 { return uint64(uint32(a)) | b<<32 }},
		{"mov.b64 %rd9, {%rs1, %rs2, %rs3, %rs1};", func(a, b, c uint64) uint64 {
			return uint64(uint16(a)) | uint64(uint16(b))<<16 | uint64(uint16(c))<<32 | a<<48
		}},
		{"mov.b32 %r9, {%rs1, %rs2};", func(a, b, _ uint64) uint64 { return uint64(uint16(a)) | uint64(uint16(b))<<16 }},
		{"mov.b64 {%r8, %r9}, %rd1;", func(a, _, _ uint64) uint64 { return a >> 32 }},
		{"mov.b64 {_, %r9}, %rd1;", func(a, _, _ uint64) uint64 { return a >> 32 }},
		{"{ .reg .b32 tmp; mov.b64 {%r9, tmp}, %rd1; xor.b32 %r9, %r9, tmp; }", func(a, _, _ uint64) uint64 { return uint64(uint32(a ^ a>>32)) }},
		{"mov.b32 {%rs8, %rs9}, %r1;", func(a, _, _ uint64) uint64 { return a >> 16 & 0xffff }},
		// guards and branches
		{"mov.u32 %r9, 5; @%p1 mov.u32 %r9, 6; @!%p2 add.s32 %r9, %r9, 10;", func(a, b, _ uint64) uint64 { return 5 + a&1 + 10*(1-b&1) }},
		{"mov.u32 %r9, 0; @%p1 bra L; mov.u32 %r9, 1; bra.uni M; L: add.s32 %r9, %r9, 2; M:", func(a, _, _ uint64) uint64 { return 1 + a&1 }},
		// A loop whose registers live across its edges.
		{"and.b32 %r7, %r1, 15; mov.u32 %r9, 0; mov.u32 %r6, 1; L: add.s32 %r9, %r9, %r6; add.s32 %r6, %r6, 2; add.s32 %r7, %r7, -1; setp.ge.s32 %p4, %r7, 0; @%p4 bra L;",
			func(a, _, _ uint64) uint64 { n := a&15 + 1; return n * n }},
	}
	in := triples()
	for _, test := range tests {
		t.Run(test.body, func(t *testing.T) {
			out, err := runOp(t, test.body, in)
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range out {
				a, b, c := in[3*i], in[3*i+1], in[3*i+2]
				if want := test.want(a, b, c); got != want {
					t.Fatalf("of %#x, %#x, %#x: %#x, want %#x", a, b, c, got, want)
				}
			}
		})
	}
}

// other is what min and max give where one of two is a NaN.
func other(a, b uint64) uint64 {
	if nan(a) {
		return fb(fl(b))
	}
	return fb(fl(a))
}

func int64Abs(a uint64) uint64 {
	if int64(a) < 0 {
		return -a
	}
	return a
}

func TestDivision(t *testing.T) {
	in := triples()
	// No divisor is 0, and none -1 by which the smallest number could be divided.
	for i := 1; i < len(in); i += 3 {
		if in[i] |= 1; uint16(in[i]) == 0xffff {
			in[i] ^= 2
		}
	}
	for _, test := range []struct {
		body string
		want func(a, b uint64) uint64
	}{
		{"div.s32 %r9, %r1, %r2;", func(a, b uint64) uint64 { return from32(s32(a) / s32(b)) }},
		{"div.u32 %r9, %r1, %r2;", func(a, b uint64) uint64 { return fromU32(uint32(a) / uint32(b)) }},
		{"rem.s32 %r9, %r1, %r2;", func(a, b uint64) uint64 { return from32(s32(a) % s32(b)) }},
		{"rem.u32 %r9, %r1, %r2;", func(a, b uint64) uint64 { return fromU32(uint32(a) % uint32(b)) }},
		{"div.s64 %rd9, %rd1, %rd2;", func(a, b uint64) uint64 { return uint64(int64(a) / int64(b)) }},
		{"div.u64 %rd9, %rd1, %rd2;", func(a, b uint64) uint64 { return a / b }},
		{"rem.s64 %rd9, %rd1, %rd2;", func(a, b uint64) uint64 { return uint64(int64(a) % int64(b)) }},
		{"rem.u64 %rd9, %rd1, %rd2;", func(a, b uint64) uint64 { return a % b }},
		{"div.s16 %rs9, %rs1, %rs2;", func(a, b uint64) uint64 { return uint64(uint16(int16(a) / int16(b))) }},
		{"rem.u16 %rs9, %rs1, %rs2;", func(a, b uint64) uint64 { return uint64(uint16(a) % uint16(b)) }},
	} {
		out, err := runOp(t, test.body, in)
		if err != nil {
			t.Fatal(test.body, err)
		}
		for i, got := range out {
			if want := test.want(in[3*i], in[3*i+1]); got != want {
				t.Fatalf("%s of %#x, %#x: %#x, want %#x", test.body, in[3*i], in[3*i+1], got, want)
			}
		}
	}
	for _, test := range []struct {
		body string
		a, b uint64
	}{
		{"div.s32 %r9, %r1, %r2;", 1, 0},
		{"rem.u32 %r9, %r1, %r2;", 1, 1 << 32},
		{"div.u64 %rd9, %rd1, %rd2;", 1, 0},
		{"div.s32 %r9, %r1, %r2;", 1 << 31, 1<<32 - 1},
		{"rem.s64 %rd9, %rd1, %rd2;", 1 << 63, 1<<64 - 1},
	} {
		if _, err := runOp(t, test.body, []uint64{test.a, test.b, 0}); !errors.Is(err, ErrDivision) {
			t.Errorf("%s of %#x, %#x: %v, want %v", test.body, test.a, test.b, err, ErrDivision)
		}
	}
}
