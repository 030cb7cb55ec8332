package ptx

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/descentnet/minerd/nn"
)

//go:embed testdata/clang.ptx
var clangPTX string

func parse(t testing.TB, text string) *Module {
	t.Helper()
	m, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// put allocates device memory for the values.
func put(t testing.TB, mem *Memory, values any) uint64 {
	t.Helper()
	b, err := binary.Append(nil, binary.LittleEndian, values)
	if err != nil {
		t.Fatal(err)
	}
	a, err := mem.Alloc(len(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.Write(a, b); err != nil {
		t.Fatal(err)
	}
	return a
}

// get copies device memory into a slice of values.
func get(t testing.TB, mem *Memory, values any, address uint64) {
	t.Helper()
	b := make([]byte, binary.Size(values))
	if err := mem.Read(b, address); err != nil {
		t.Fatal(err)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, values); err != nil {
		t.Fatal(err)
	}
}

var orders = map[string]Order{"forward": Forward, "backward": Backward, "shuffled": Shuffled(7), "shuffled otherwise": Shuffled(8)}

// What clang made of a kernel gives what Go gives, in any order of threads.

func TestClangSHA256(t *testing.T) {
	m := parse(t, clangPTX)
	r := rand.New(rand.NewPCG(1, 2))
	const n = 5
	message := make([]byte, n*55) // each 55 bytes and their padding are a block
	var blocks []byte
	for i := range message {
		message[i] = byte(r.Uint32())
	}
	var state []uint32
	for i := range n {
		blocks = append(append(blocks, message[55*i:55*i+55]...), 0x80, 0, 0, 0, 0, 0, 0, 55*8>>8, 55*8&0xff)
		state = append(state, 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19)
	}
	for name, order := range orders {
		var mem Memory
		s := put(t, &mem, state)
		if err := m.Launch(&mem, "sha256", [3]int{1, 1, 1}, [3]int{n, 1, 1}, []uint64{s, put(t, &mem, blocks)}, order); err != nil {
			t.Fatal(name, err)
		}
		got := make([]uint32, 8*n)
		get(t, &mem, got, s)
		for i := range n {
			sum := sha256.Sum256(message[55*i : 55*i+55])
			for j := range 8 {
				if want := binary.BigEndian.Uint32(sum[4*j:]); got[8*i+j] != want {
					t.Fatalf("%s: word %d of digest %d is %#x, want %#x", name, j, i, got[8*i+j], want)
				}
			}
		}
	}
}

func floats(r *rand.Rand, n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(r.NormFloat64())
	}
	return s
}

func TestClangGemm(t *testing.T) {
	module := parse(t, clangPTX)
	r := rand.New(rand.NewPCG(3, 4))
	m, n, k := 17, 33, 45
	a, x := floats(r, m*k), floats(r, k*n)
	for name, order := range orders {
		var mem Memory
		y := put(t, &mem, make([]float32, m*n))
		args := []uint64{y, put(t, &mem, a), put(t, &mem, x), uint64(m), uint64(n), uint64(k)}
		if err := module.Launch(&mem, "gemm", [3]int{(n + 15) / 16, (m + 15) / 16, 1}, [3]int{16, 16, 1}, args, order); err != nil {
			t.Fatal(name, err)
		}
		got := make([]float32, m*n)
		get(t, &mem, got, y)
		for i := range got {
			var want float32
			for j := range k {
				want = nn.FMA(a[i/n*k+j], x[j*n+i%n], want)
			}
			// The tile's last rows are zero: they make +0 of -0.
			if math.Float32bits(got[i]) != math.Float32bits(want) {
				t.Fatalf("%s: element %d is %g, want %g", name, i, got[i], want)
			}
		}
	}
}

func TestClangMix(t *testing.T) {
	m := parse(t, clangPTX)
	r := rand.New(rand.NewPCG(5, 6))
	const n, kind, s = 40, 2, float32(1.25)
	for _, flip := range []bool{false, true} {
		q := floats(r, 4*n)
		q[5] = float32(math.NaN())
		bytes, shorts, wide := make([]int8, n), make([]int16, n), make([]int64, n)
		for i := range n {
			bytes[i], shorts[i], wide[i] = int8(r.Uint32()), int16(r.Uint32()>>24)-128, int64(r.Uint64())>>r.IntN(64)
		}
		var mem Memory
		addresses := []uint64{put(t, &mem, q), put(t, &mem, bytes), put(t, &mem, shorts), put(t, &mem, wide)}
		args := append(addresses[:4:4], uint64(math.Float32bits(s)), b2u(flip), kind)
		if err := m.Launch(&mem, "mix", [3]int{n / 8, 1, 1}, [3]int{8, 1, 1}, args, Shuffled(1)); err != nil {
			t.Fatal(err)
		}
		gotQ, gotBytes, gotShorts, gotWide := make([]float32, 4*n), make([]int8, n), make([]int16, n), make([]int64, n)
		get(t, &mem, gotQ, addresses[0])
		get(t, &mem, gotBytes, addresses[1])
		get(t, &mem, gotShorts, addresses[2])
		get(t, &mem, gotWide, addresses[3])
		for i := range n {
			v := [4]float32(q[4*i:])
			v[0] = nn.FMA(v[0], s, v[1])
			if !(v[2] > v[0]) {
				v[2] = v[0]
			}
			v[1] = float32(math.Sqrt(math.Abs(float64(v[1]))))
			if flip {
				v[3] = -v[3]
			}
			d := v[1]
			if d != d {
				d = 1
			}
			v[3] /= d
			if bytes[i] < 0 {
				bytes[i] += 100
			} else {
				bytes[i] = -bytes[i] / 3
			}
			if int(shorts[i]) > int(bytes[i]) {
				shorts[i] = -1
			}
			w := wide[i]
			switch (i + kind) % 5 {
			case 0:
				w /= kind + 3
			case 1:
				w %= 6 + int64(i)
			case 2:
				w = int64(int32(w))
			case 3:
				w = int64(float32(w))
			default:
				w <<= i & 7
			}
			for j := range v {
				if fb(gotQ[4*i+j]) != fb(v[j]) {
					t.Errorf("q[%d][%d] is %g, want %g", i, j, gotQ[4*i+j], v[j])
				}
			}
			if gotBytes[i] != bytes[i] || gotShorts[i] != shorts[i] || gotWide[i] != w {
				t.Errorf("%d: %d %d %d, want %d %d %d", i, gotBytes[i], gotShorts[i], gotWide[i], bytes[i], shorts[i], w)
			}
		}
	}
}

// inKernel wraps a body into a kernel that has one pointer.
func inKernel(body string) string {
	return header + ".visible .entry k(\n.param .u64 p\n)\n{\n" + registers + body + "\nret;\n}\n"
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		text string
		kind Error
	}{
		// arithmetic that the consensus rules forbid
		{"add.f32 %f1, %f2, %f3;", ErrForbidden}, // may be contracted
		{"sub.f32 %f1, %f2, %f3;", ErrForbidden},
		{"mul.f32 %f1, %f2, %f3;", ErrForbidden},
		{"mul.rn.ftz.f32 %f1, %f2, %f3;", ErrForbidden},
		{"add.ftz.f32 %f1, %f2, %f3;", ErrForbidden},
		{"add.rn.sat.f32 %f1, %f2, %f3;", ErrForbidden},
		{"add.rz.f32 %f1, %f2, %f3;", ErrForbidden},
		{"fma.rm.f32 %f1, %f2, %f3, %f4;", ErrForbidden},
		{"fma.rp.f32 %f1, %f2, %f3, %f4;", ErrForbidden},
		{"mad.rn.f32 %f1, %f2, %f3, %f4;", ErrForbidden},
		{"mad.f32 %f1, %f2, %f3, %f4;", ErrForbidden},
		{"div.full.f32 %f1, %f2, %f3;", ErrForbidden},
		{"div.approx.f32 %f1, %f2, %f3;", ErrForbidden},
		{"sqrt.approx.f32 %f1, %f2;", ErrForbidden},
		{"rsqrt.approx.f32 %f1, %f2;", ErrForbidden},
		{"rcp.rn.f32 %f1, %f2;", ErrForbidden},
		{"ex2.approx.f32 %f1, %f2;", ErrForbidden},
		{"lg2.approx.f32 %f1, %f2;", ErrForbidden},
		{"sin.approx.f32 %f1, %f2;", ErrForbidden},
		{"abs.ftz.f32 %f1, %f2;", ErrForbidden},
		{"setp.lt.ftz.f32 %p1, %f1, %f2;", ErrForbidden},
		{"atom.global.add.f32 %f1, [%rd1], %f2;", ErrForbidden},
		{"red.global.add.f32 [%rd1], %f2;", ErrForbidden},
		{"atom.global.add.u32 %r1, [%rd1], %r2;", ErrForbidden},
		{"add.rn.f64 %rd1, %rd2, %rd3;", ErrForbidden},
		{"cvt.f64.f32 %rd1, %f3;", ErrForbidden},
		{"cvt.rn.f16.f32 %rs1, %f3;", ErrForbidden},
		{"cvt.rzi.sat.s32.f32 %r1, %f3;", ErrForbidden},
		{"cvt.rz.f32.s32 %f1, %r1;", ErrForbidden},
		{"cvt.f32.s32 %f1, %r1;", ErrForbidden},
		{"cvt.rmi.s32.f32 %r1, %f1;", ErrForbidden},
		{"cvt.rni.f32.f32 %f1, %f1;", ErrForbidden},
		{"add.rn.f16x2 %r1, %r2, %r3;", ErrForbidden},
		{".reg .f64 %fd<2>;", ErrForbidden},
		{".reg .f16 %h<2>;", ErrForbidden},
		// what is unknown
		{"frobnicate.s32 %r1, %r2, %r3;", ErrUnknown},
		{"add.cc.s32 %r1, %r2, %r3;", ErrUnknown},
		{"add.s128 %r1, %r2, %r3;", ErrUnknown},
		{"add.s8 %r1, %r2, %r3;", ErrUnknown},
		{"add.b32 %r1, %r2, %r3;", ErrUnknown},
		{"and.s32 %r1, %r2, %r3;", ErrUnknown},
		{"mul.s32 %r1, %r2, %r3;", ErrUnknown},
		{"setp.lt.b32 %p1, %r2, %r3;", ErrUnknown},
		{"setp.frob.s32 %p1, %r2, %r3;", ErrUnknown},
		{"setp.lt.and.s32 %p1, %r2, %r3, %p2;", ErrUnknown},
		{"shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", ErrUnknown},
		{"ld.global.f32 %f1, [nowhere];", ErrUnknown},
		{"ld.global.f32 %f1, [16];", ErrUnknown},
		{"ld.global.v8.f32 {%f1,%f2,%f3,%f4,%f5,%f6,%f7,%f8}, [%rd1];", ErrUnknown},
		{"ld.global.relaxed.f32 %f1, [%rd1];", ErrUnknown},
		{"ld.shared.nc.f32 %f1, [%rd1];", ErrUnknown},
		{"ld.param.u32 %r1, [p];", ErrUnknown},
		{"ld.param.u64 %rd1, [q];", ErrUnknown},
		{"ld.param.u64 %rd1, [p+4];", ErrUnknown},
		{"st.const.u32 [%rd1], %r1;", ErrUnknown},
		{"st.param.u32 [%rd1], %r1;", ErrUnknown},
		{"mov.u32 %r1, %laneid;", ErrUnknown},
		{"mov.u32 %r10, 1;", ErrUnknown},
		{"mov.u32 %q1, 1;", ErrUnknown},
		{"mov.u32 1, %r1;", ErrUnknown},
		{"bar.sync 1;", ErrUnknown},
		{"bar.sync 0, 32;", ErrUnknown},
		{"call f;", ErrUnknown},
		{".pragma \"frob\";", ErrUnknown},
		{".loc 1 2 3", ErrUnknown},
		{".shared .align 4 .b8 s[49153];\nmov.u64 %rd1, s;", ErrUnknown},
		{".local .align 4 .b8 s[65537];", ErrUnknown},
		{".reg .b32 %x<9000>, %y<9000>;", ErrUnknown},
		// what is not written as PTX
		{"add.s32 %r1, %r2;", ErrSyntax},
		{"add.s32 %r1, %r2, %r3, %r4;", ErrSyntax},
		{"add.s32 %r1, %r2, %r3", ErrSyntax},
		{"add.s32 %rd1, %r2, %r3;", ErrSyntax},
		{"add.s64 %rd1, %r2, %rd3;", ErrSyntax},
		{"add.s32 %r1, %f2, %r3;", ErrSyntax},
		{"add.rn.f32 %f1, %f2, 1;", ErrSyntax},
		{"add.rn.f32 %f1, %f2, 0f3F80000G;", ErrSyntax},
		{"add.s32 %r1, %r2, 4294967296;", ErrSyntax},
		{"add.s32 %r1, %r2, -2147483649;", ErrSyntax},
		{"add.s32 %r1, %r2, 0f3F800000;", ErrSyntax},
		{"add.s32 %r1, %r2, 1_0;", ErrSyntax},
		{"@%r1 bra L; L:", ErrSyntax},
		{"bra L;", ErrSyntax},
		{"L: L:", ErrSyntax},
		{"selp.b32 %r1, %r2, %r3, %r4;", ErrSyntax},
		{"mov.b64 %rd1, {%r1};", ErrSyntax},
		{"mov.b64 {%r1, %rs2}, %rd1;", ErrSyntax},
		{"cvt.u64.u32 %rd1, %rs1;", ErrSyntax},
		{"cvt.u64.u32 %r1, %r1;", ErrSyntax},
		{"ld.global.f32 %rd1, [%rd1];", ErrSyntax},
		{"ld.global.u8 %f1, [%rd1];", ErrSyntax},
		{"ld.global.u32 %r1, [%r1];", ErrSyntax},
		{"ld.global.u64 %r1, [%rd1];", ErrSyntax},
		{"st.global.u32 [%rd1], %rs1;", ErrSyntax},
		{".shared .align 4 .b8 s[16]; ld.global.u32 %r1, [s];", ErrSyntax},
		{".shared .align 4 .b8 s[16]; mov.u32 %r1, s;", ErrSyntax},
		{".shared .align 3 .b8 s[16];", ErrSyntax},
		{".shared .b32 s = 5;", ErrSyntax},
		{".reg .b32 %r<2>;", ErrSyntax},
		{".pragma \"nounroll", ErrSyntax},
		{"/* ", ErrSyntax},
		{"{", ErrSyntax},
	}
	line := strings.Count(inKernel(""), "\n") - 2
	for _, test := range tests {
		_, err := Parse(inKernel(test.text))
		if !errors.Is(err, test.kind) {
			t.Errorf("%s: %v, want %v", test.text, err, test.kind)
		} else if at := fmt.Sprintf("line %d: ", line); test.kind != ErrSyntax && !strings.Contains(test.text, "\n") && !strings.HasPrefix(err.Error(), at) {
			t.Errorf("%s: %v, want %s", test.text, err, at)
		}
	}
	for text, kind := range map[string]Error{
		".version x": ErrSyntax, ".target compute_60": ErrUnknown, ".target sm_60, debug": ErrUnknown, ".address_size 32": ErrUnknown,
		".extern .func f;": ErrUnknown, ".visible .func f() {}": ErrUnknown, ".extern .shared .align 4 .b8 s[];": ErrUnknown,
		".section x": ErrUnknown, "add.s32": ErrUnknown, "}": ErrUnknown,
		".global .f64 x;": ErrForbidden, ".global .pred x;": ErrSyntax, ".global .b8 x[2] = {1, 2, 3};": ErrSyntax, ".global .b8 x = 256;": ErrSyntax,
		".global .u64 x = y;": ErrSyntax, ".global .b8 x[0];": ErrUnknown, ".global .b8 x[17000000];": ErrSyntax, ".const .b8 x[70000];": ErrUnknown,
		".global .b8 x; .global .b8 x;": ErrSyntax, ".entry k() { ret; } .entry k() { ret; }": ErrSyntax, ".entry k() {": ErrSyntax,
		".entry k(.param .align 4 .b8 x[8]) { ret; }": ErrUnknown, ".entry k(.param .b8 x[8]) { ret; }": ErrUnknown, ".entry k(.param .f64 x) { ret; }": ErrForbidden,
		".entry k(.param .u32 x, .param .u32 x) { ret; }": ErrSyntax, ".entry k() .maxntid 0 { ret; }": ErrSyntax, ".entry k() .frob 1 { ret; }": ErrUnknown,
	} {
		if _, err := Parse(text); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", text, err, kind)
		}
	}
}

// launchBody runs the kernel of inKernel with p pointing to 64 bytes of 0, 1, 2 and so on as words.
func launchBody(t *testing.T, body string, blocks, threads int, order Order) error {
	t.Helper()
	m := parse(t, inKernel("ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.wide.u32 %rd2, %r1, 4, %rd1; mad.wide.u32 %rd3, %r2, 4, %rd1;\n"+body))
	var mem Memory
	words := make([]uint32, 16)
	for i := range words {
		words[i] = uint32(i)
	}
	return m.Launch(&mem, "k", [3]int{blocks, 1, 1}, [3]int{threads, 1, 1}, []uint64{put(t, &mem, words)}, order)
}

func TestFaults(t *testing.T) {
	const shared = ".shared .align 4 .b8 s[32]; mov.u64 %rd4, s; mad.wide.u32 %rd5, %r1, 4, %rd4;\n"
	const odd = "and.b32 %r3, %r1, 1; setp.eq.s32 %p1, %r3, 1; setp.eq.s32 %p2, %r1, 0;\n"
	tests := []struct {
		name, body      string
		blocks, threads int
		kind            error // nil: none
		says            string
	}{
		{"inside", "ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%rd1+48];", 1, 1, nil, ""},
		{"behind the end", "ld.global.u32 %r9, [%rd1+64];", 1, 1, ErrAddress, "block [0 0 0] thread [0 0 0] line 14: bad address: load: 4 bytes at 0x7f0000000140"},
		{"before the beginning", "st.global.u32 [%rd1+-4], %r1;", 1, 1, ErrAddress, ""},
		{"partly outside", "ld.global.u64 %rd9, [%rd1+60];", 1, 1, ErrAddress, "8 bytes at"},
		{"a vector partly outside", "st.global.v4.u32 [%rd1+56], {%r1,%r1,%r1,%r1};", 1, 1, ErrAddress, ""},
		{"the second thread", "st.global.u32 [%rd2+60], %r1;", 1, 2, ErrAddress, "thread [1 0 0]"},
		{"the null pointer", "mov.u64 %rd9, 0; ld.global.u32 %r9, [%rd9];", 1, 1, ErrAddress, ""},
		{"a small number", "mov.u64 %rd9, 4096; ld.u32 %r9, [%rd9];", 1, 1, ErrAddress, ""},
		{"a register never written", "ld.global.u32 %r9, [%rd9];", 1, 1, ErrAddress, "0xffffffffffffffff"},
		{"a word at 2", "ld.global.u32 %r9, [%rd1+2];", 1, 1, ErrMisaligned, "0x7f0000000102"},
		{"a pair at 4", "ld.global.v2.u32 {%r8,%r9}, [%rd1+4];", 1, 1, ErrMisaligned, ""},
		{"a quadruple at 8", "st.global.v4.u32 [%rd1+8], {%r1,%r1,%r1,%r1};", 1, 1, ErrMisaligned, ""},
		{"a half at 1", "st.global.u16 [%rd1+1], %rs1;", 1, 1, ErrMisaligned, ""},
		{"shared memory as global", shared + "ld.global.u32 %r9, [%rd4];", 1, 1, ErrAddress, ""},
		{"global memory as shared", shared + "ld.shared.u32 %r9, [%rd1];", 1, 1, ErrAddress, ""},
		{"behind a shared array", shared + ".shared .align 4 .b8 u[32]; st.shared.u32 [u], %r1; st.shared.u32 [s+32], %r1;", 1, 1, ErrAddress, ""},
		{"a shared array's alignment", shared + "ld.shared.v2.u32 {%r8, %r9}, [%rd4];", 1, 1, ErrMisaligned, ""},
		{"shared memory by a generic address", shared + "cvta.shared.u64 %rd9, %rd5; st.u32 [%rd9], %r1; ld.shared.u32 %r9, [%rd5];", 1, 8, nil, ""},
		{"local memory of each thread", ".local .align 4 .b8 d[8]; mov.u64 %rd9, d; cvta.local.u64 %rd8, %rd9; st.local.u32 [%rd9+4], %r1;" +
			"bar.sync 0; ld.u32 %r9, [%rd8+4]; setp.ne.u32 %p1, %r9, %r1; @!%p1 bra L; mov.u64 %rd1, 0; L: st.global.u32 [%rd2], %r9;", 1, 8, nil, ""},
		{"behind local memory", ".local .align 4 .b8 d[8]; st.local.u32 [d+8], %r1;", 1, 1, ErrAddress, ""},

		{"all at the barrier", odd + "@%p1 add.s32 %r9, %r1, 1; bar.sync 0;", 2, 8, nil, ""},
		{"some have ended", odd + "@%p1 ret; bar.sync 0;", 1, 8, ErrDivergence, "has ended"},
		{"two barriers", odd + "@%p1 bra L;\nbar.sync 0; ret;\nL: bar.sync 0;", 1, 8, ErrDivergence, "waits in line 16"},
		{"some wait once more", odd + "bar.sync 0; @%p1 bar.sync 0;", 1, 8, ErrDivergence, ""},

		{"shared: read after a neighbour's write", shared + "st.shared.u32 [%rd5], %r1; setp.eq.s32 %p1, %r1, 7; @%p1 bra L; ld.shared.u32 %r9, [%rd5+4]; L:", 1, 8, ErrRace, "since the last barrier"},
		{"shared: with a barrier", shared + "st.shared.u32 [%rd5], %r1; bar.sync 0; setp.eq.s32 %p1, %r1, 7; @%p1 bra L; ld.shared.u32 %r9, [%rd5+4]; L:", 3, 8, nil, ""},
		{"shared: written by all", shared + "st.shared.u32 [s], 1;", 1, 8, ErrRace, ""},
		{"shared: written by all, one after the other", shared + strings.Repeat("bar.sync 0; @%p2 st.shared.u32 [s], 1;", 3), 1, 1, nil, ""},
		{"shared: written where many read", shared + "setp.eq.s32 %p3, %r1, 7; @%p3 st.shared.u32 [s], 1; bar.sync 0; ld.shared.u32 %r9, [s]; @%p3 st.shared.u32 [s], 2;", 1, 8, ErrRace, "several threads"},
		{"shared: written where one read", odd + shared + "@%p1 ld.shared.u32 %r9, [s]; @%p2 st.shared.u32 [s], 2;", 1, 2, ErrRace, "thread [1 0 0]"},
		{"shared: one's own", shared + "ld.shared.u32 %r9, [%rd5]; st.shared.u32 [%rd5], %r1; ld.shared.u32 %r9, [%rd5]; st.shared.u32 [%rd5], %r1;", 2, 8, nil, ""},
		{"shared: bytes of a word", shared + "cvt.u64.u32 %rd6, %r1; add.s64 %rd6, %rd4, %rd6; st.shared.u8 [%rd6], %r1; ld.shared.u8 %r9, [%rd6];", 1, 8, nil, ""},
		{"shared: a byte of a neighbour's word", odd + shared + "@%p1 st.shared.u8 [s+3], %r1; @%p2 ld.shared.u32 %r9, [s];", 1, 2, ErrRace, ""},

		{"global: read by all", "ld.global.nc.u32 %r9, [%rd1];", 3, 8, nil, ""},
		{"global: one's own", "setp.ne.s32 %p1, %r2, 0; @%p1 ret; ld.global.u32 %r9, [%rd2]; st.global.u32 [%rd2], %r1; ld.global.u32 %r9, [%rd2];", 2, 8, nil, ""},
		{"global: a neighbour's", "st.global.u32 [%rd2], %r1; ld.global.u32 %r9, [%rd2+4];", 1, 8, ErrRace, ""},
		{"global: a neighbour's after a barrier", "st.global.u32 [%rd2], %r1; bar.sync 0; ld.global.u32 %r9, [%rd2+4];", 1, 8, nil, ""},
		{"global: written by two blocks", "st.global.u32 [%rd1], %r1;", 2, 1, ErrRace, "another block"},
		{"global: written by two blocks behind barriers", "bar.sync 0; st.global.u32 [%rd1], %r1; bar.sync 0;", 2, 1, ErrRace, "another block"},
		{"global: read of another block's", "st.global.u32 [%rd3], %r1; ld.global.u32 %r9, [%rd1];", 2, 1, ErrRace, "another block"},
		{"global: written where several blocks read", "ld.global.u32 %r9, [%rd1]; bar.sync 0; setp.eq.s32 %p1, %r2, 1; @!%p1 bra L; ld.global.u32 %r9, [%rd1]; bar.sync 0; st.global.u32 [%rd1], %r1; ret; L: bar.sync 0;", 2, 1, ErrRace, "another block"},
		{"global: two words of the blocks", "st.global.u32 [%rd3], %r1; ld.global.u32 %r9, [%rd3];", 8, 1, nil, ""},
		{"global: nc of what was written", "st.global.u32 [%rd2], %r1; ld.global.nc.u32 %r9, [%rd2];", 1, 8, ErrRace, "nc"},
	}
	for _, test := range tests {
		for name, order := range orders {
			err := launchBody(t, test.body, test.blocks, test.threads, order)
			switch {
			case test.kind == nil && err != nil:
				t.Errorf("%s, %s: %v", test.name, name, err)
			case !errors.Is(err, test.kind):
				t.Errorf("%s, %s: %v, want %v", test.name, name, err, test.kind)
			case name == "forward" && test.kind != nil && (!strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "kernel k: block [")):
				t.Errorf("%s: %v; it should say %q", test.name, err, test.says)
			}
		}
	}
}

// A launch sees no race with one before it.
func TestLaunchesAreInOrder(t *testing.T) {
	m := parse(t, inKernel("ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; ld.global.u32 %r2, [%rd2]; add.s32 %r2, %r2, %r1; st.global.u32 [%rd2], %r2;"))
	var mem Memory
	p := put(t, &mem, make([]uint32, 32))
	for range 3 {
		for _, address := range []uint64{p, p + 64} {
			if err := m.Launch(&mem, "k", [3]int{1, 1, 1}, [3]int{16, 1, 1}, []uint64{address}, Backward); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := make([]uint32, 32)
	get(t, &mem, got, p)
	for i, v := range got {
		if want := uint32(3 * (i % 16)); v != want {
			t.Errorf("word %d is %d, want %d", i, v, want)
		}
	}
}

func TestLaunchErrors(t *testing.T) {
	m := parse(t, header+".entry free(.param .u64 p) { ret; }\n.entry most(.param .u64 p) .maxntid 8, 2 { ret; }\n.entry just(.param .u64 p) .reqntid 8, 2, 1 { ret; }")
	one := [3]int{1, 1, 1}
	for _, test := range []struct {
		kernel      string
		grid, block [3]int
		args        int
		ok          bool
	}{
		{"free", one, one, 1, true},
		{"none", one, one, 1, false},
		{"free", one, one, 0, false},
		{"free", one, one, 2, false},
		{"free", [3]int{0, 1, 1}, one, 1, false},
		{"free", [3]int{1, 1 << 16, 1}, one, 1, false},
		{"free", [3]int{1 << 30, 1, 1}, one, 1, false},
		{"free", one, [3]int{1024, 1, 1}, 1, true},
		{"free", one, [3]int{1025, 1, 1}, 1, false},
		{"free", one, [3]int{1, 1, 65}, 1, false},
		{"free", one, [3]int{32, 33, 1}, 1, false},
		{"free", one, [3]int{1, -1, 1}, 1, false},
		{"most", one, [3]int{4, 4, 1}, 1, true},
		{"most", one, [3]int{17, 1, 1}, 1, false},
		{"just", one, [3]int{8, 2, 1}, 1, true},
		{"just", one, [3]int{4, 4, 1}, 1, false},
	} {
		var mem Memory
		err := m.Launch(&mem, test.kernel, test.grid, test.block, make([]uint64, test.args), Forward)
		if test.ok && err != nil || !test.ok && !errors.Is(err, ErrLaunch) {
			t.Errorf("%s %v %v with %d arguments: %v", test.kernel, test.grid, test.block, test.args, err)
		}
	}
	if got := fmt.Sprint(m.Kernels()); got != "[free just most]" {
		t.Error(got)
	}
}

// Every block and thread runs once and knows its place; arguments are cut to their types.
func TestSpecialRegisters(t *testing.T) {
	body := ""
	for i, r := range []string{"%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z"} {
		body += fmt.Sprintf("mov.u32 %%r1, %s; mad.lo.s32 %%r9, %%r9, 11, %%r1; mov.u32 %%x%d, %s;\n", r, i, r)
	}
	m := parse(t, header+".entry k(.param .u64 p, .param .s8 b, .param .u16 h, .param .f32 f) {\n"+registers+".reg .b32 %x<12>; mov.u32 %r9, 1;\n"+body+
		`// ((ctaid.z*nctaid.y + ctaid.y)*nctaid.x + ctaid.x) * threads of a block + thread
		mad.lo.s32 %r2, %x8, %x10, %x7; mad.lo.s32 %r2, %r2, %x9, %x6;
		mad.lo.s32 %r2, %r2, %x5, %x2; mad.lo.s32 %r2, %r2, %x4, %x1; mad.lo.s32 %r2, %r2, %x3, %x0;
		ld.param.u64 %rd1, [p]; mad.wide.u32 %rd1, %r2, 16, %rd1; ld.param.s8 %r3, [b]; ld.param.u16 %r4, [h]; ld.param.f32 %f1, [f]; mov.b32 %r5, %f1;
		st.global.v4.u32 [%rd1], {%r9, %r3, %r4, %r5}; }`)
	grid, block := [3]int{3, 2, 4}, [3]int{5, 3, 2}
	n := 3 * 2 * 4 * 5 * 3 * 2
	for name, order := range orders {
		var mem Memory
		p := put(t, &mem, make([]uint32, 4*n))
		if err := m.Launch(&mem, "k", grid, block, []uint64{p, 0xabcdef80, 0xabcdef80, math.MaxUint64 - 0xff}, order); err != nil {
			t.Fatal(name, err)
		}
		got := make([]uint32, 4*n)
		get(t, &mem, got, p)
		for i := range n {
			place, id := position(i%30, block), position(i/30, grid)
			want := uint32(1)
			for _, box := range [][3]int{place, block, id, grid} {
				for _, v := range box {
					want = want*11 + uint32(v)
				}
			}
			if w := [4]uint32{want, 0xffffff80, 0xef80, 0xffffff00}; [4]uint32(got[4*i:]) != w {
				t.Fatalf("%s: thread %v of block %v wrote %x, want %x", name, place, id, got[4*i:4*i+4], w)
			}
		}
	}
}

// Loads extend to the register's width, stores take the low bits, constants and variables have their first values, and what
// was never written is NaN.
func TestMemoryInstructions(t *testing.T) {
	m := parse(t, header+`.global .align 8 .b8 g[12] = {1, 2, 255, 0x80};
		.global .s32 w = -5;
		.const .align 8 .f32 c[2] = {0f3F800000, 0fC0000000};
		.shared .align 8 .b8 common[16];
		.entry k(.param .u64 p) {`+registers+`
		.local .align 8 .b8 d[16];
		.shared .align 4 .u32 s;
		ld.param.u64 %rd1, [p];
		ld.global.u8 %r1, [g+2]; st.global.u32 [%rd1], %r1;
		ld.global.s8 %r1, [g+2]; st.global.u32 [%rd1+4], %r1;
		ld.global.s8 %rs1, [g+3]; cvt.u32.u16 %r1, %rs1; st.global.u32 [%rd1+8], %r1;
		ld.global.s16 %rd2, [g+2]; st.global.u64 [%rd1+16], %rd2;
		ld.global.s32 %rd2, [w]; st.global.v2.u64 [%rd1+32], {%rd2, %rd1};
		ld.const.v2.f32 {%f1, %f2}, [c]; add.rn.f32 %f3, %f1, %f2; st.global.f32 [%rd1+12], %f3;
		ld.shared.f32 %f1, [s]; add.rn.f32 %f1, %f1, 0f3F800000; st.global.f32 [%rd1+24], %f1;
		st.shared.u64 [common+8], %rd1; ld.shared.v2.u32 {%r1, %r2}, [common+8]; sub.s32 %r1, %r1, %r2; st.global.u32 [%rd1+28], %r1;
		ld.local.u32 %r1, [d+12]; st.global.u32 [%rd1+48], %r1;
		mov.u32 %r1, 0x12345678; st.local.u8 [d], %r1; st.local.u16 [d+2], %r1; ld.volatile.local.u32 %r2, [d]; st.global.u32 [%rd1+52], %r2;
		mov.u64 %rd2, g; add.s64 %rd2, %rd2, 4; st.global.u32 [%rd2], 9; ld.u64 %rd3, [g]; st.global.u64 [%rd1+56], %rd3; }`)
	var mem Memory
	p := put(t, &mem, make([]uint32, 16))
	for range 2 { // the second finds the variables as the first left them
		if err := m.Launch(&mem, "k", [3]int{1, 1, 1}, [3]int{1, 1, 1}, []uint64{p}, Forward); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]uint32, 16)
	get(t, &mem, got, p)
	want := []uint32{255, 0xffffffff, 0xff80, 0xbf800000, 0xffff80ff, 0xffffffff, 0x7fffffff, 0, 0xfffffffb, 0xffffffff, uint32(p), uint32(p >> 32), 0xffffffff, 0x5678ff78, 0x80ff0201, 9}
	want[7] = uint32(p) - uint32(p>>32)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("word %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	if mem.Used() != 64+12+4 {
		t.Errorf("%d bytes are in use", mem.Used())
	}
}

func TestConstantMemoryIsNotWritten(t *testing.T) {
	m := parse(t, header+".const .align 4 .u32 c = 7; .entry k() {"+registers+"mov.u64 %rd1, c; cvta.const.u64 %rd1, %rd1; ld.u32 %r1, [%rd1]; st.u32 [%rd1], %r1; }")
	var mem Memory
	err := m.Launch(&mem, "k", [3]int{1, 1, 1}, [3]int{1, 1, 1}, nil, Forward)
	if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), "store to constant memory") {
		t.Error(err)
	}
}

func TestMemory(t *testing.T) {
	mem := Memory{Limit: 1000}
	a, err := mem.Alloc(600)
	if err != nil || a%256 != 0 || a%512 == 0 {
		t.Fatalf("%#x, %v", a, err)
	}
	for _, n := range []int{0, -1, 401, 1 << 62} {
		if _, err := mem.Alloc(n); !errors.Is(err, ErrOutOfMemory) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	b := alloc(t, &mem, 400)
	buf := make([]byte, 400)
	if err := mem.Read(buf, b); err != nil || buf[0] != 0xff || buf[399] != 0xff {
		t.Errorf("fresh memory is %#x %#x, %v", buf[0], buf[399], err)
	}
	if err := mem.Write(b+300, []byte{1, 2, 3}); err != nil {
		t.Error(err)
	}
	if err := mem.Read(buf[:4], b+300); err != nil || [4]byte(buf) != [4]byte{1, 2, 3, 0xff} {
		t.Error(buf[:4], err)
	}
	if mem.Read(nil, 5) != nil || mem.Write(5, nil) != nil {
		t.Error("no bytes have no address")
	}
	for _, address := range []uint64{0, b + 1, b - 1, a + 600, a + 599, math.MaxUint64} {
		if mem.Read(buf, address) == nil || mem.Write(address, buf) == nil {
			t.Errorf("400 bytes at %#x", address)
		}
	}
	if err := mem.Free(a + 256); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
	if err := mem.Free(a); err != nil {
		t.Error(err)
	}
	for _, err := range []error{mem.Free(a), mem.Read(buf[:1], a), mem.Write(a, buf[:1])} {
		if !errors.Is(err, ErrAddress) || !strings.Contains(err.Error(), "freed") {
			t.Error(err)
		}
	}
	if mem.Used() != 400 {
		t.Error(mem.Used())
	}
	if c := alloc(t, &mem, 600); c == a {
		t.Error("a freed address came back")
	}
	m := parse(t, ".global .b8 x[8]; .entry k() { ret; }")
	if err := m.Launch(&mem, "k", [3]int{1, 1, 1}, [3]int{1, 1, 1}, nil, Forward); !errors.Is(err, ErrOutOfMemory) {
		t.Error(err)
	}
}

func TestOrder(t *testing.T) {
	sequence := func(o Order) string {
		s := make([]int32, 6)
		p := o.permuter()
		p.first(s)
		all := fmt.Sprint(s)
		p.next(s)
		return all + fmt.Sprint(s)
	}
	if got := sequence(Forward); got != "[0 1 2 3 4 5][0 1 2 3 4 5]" {
		t.Error(got)
	}
	if got := sequence(Backward); got != "[5 4 3 2 1 0][5 4 3 2 1 0]" {
		t.Error(got)
	}
	a := sequence(Shuffled(1))
	if a != sequence(Shuffled(1)) || a == sequence(Shuffled(2)) || a[:len(a)/2] == a[len(a)/2:] {
		t.Error("shuffled orders: ", a, sequence(Shuffled(2)))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(inKernel("cvt.rn.f32.s16 %f1, %rs1; fma.rn.f32 %f1, %f2, %f3, %f1; mad.hi.s32 %r1, %r2, 7, %r3; mul.wide.s16 %r1, %rs2, -3; bar.sync 0;"))
	f.Add(inKernel(".shared .align 8 .b8 s[16]; st.shared.v2.u32 [s+8], {%r1, 5}; .local .b32 d; mov.u64 %rd1, d; cvta.local.u64 %rd2, %rd1; ld.u8 %rs1, [%rd2];"))
	f.Add(inKernel("L: @%p1 bra L; ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%rd1+-16]; { .reg .b32 t; mov.b64 {t, _}, %rd1; }"))
	f.Add(header + ".global .align 4 .b8 x[8] = {1, 0x2, 03};\n.const .f32 c = 0f3F800000;\n.entry k() .maxntid 8 { .reg .pred %p; mov.pred %p, -1; }")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Parse(text)
		if err != nil {
			if m != nil {
				t.Error("a module and an error")
			}
			return
		}
		for _, k := range m.kernels {
			if k.regs > maxRegisters || len(k.presets) > maxRegisters || k.local > maxLocal || len(k.code) > 8*len(text)+1 {
				t.Errorf("kernel %s: %d registers, %d presets, %d bytes of local memory, %d instructions", k.name, k.regs, len(k.presets), k.local, len(k.code))
			}
		}
	})
}
