package nn

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestInitGolden(t *testing.T) {
	root, err := build(t, DefaultModel()).Init(seedOf("init golden")).Root(1)
	if err != nil {
		t.Fatal(err)
	}
	if want := "9cb845b46b88f998f3b64b621f7e218bf65d9c280c2bddd3880a601103413e3a"; root.String() != want {
		t.Errorf("root %v, want %s", root, want)
	}
}

// Weights come from one stream, layer by layer, uniform in -limit..limit; everything else is zero.
func TestInit(t *testing.T) {
	m := Model{
		Input: Shape{6, 6, 2},
		Layers: []Layer{
			{Kind: Conv2D, Units: 5, KernelRows: 3, KernelCols: 2, Stride: 1},
			{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2},
			{Kind: Flatten},
			{Kind: Dense, Units: 7},
			{Kind: Dense, Units: 3},
		},
		Loss: SoftmaxCrossEntropy, Optimizer: testAdam, Batch: 1,
	}
	n := build(t, m)
	s := n.Init(seedOf("init"))
	r := rand.NewChaCha8(seedOf("init"))
	at := 0
	for _, l := range []struct{ weights, biases, fans int }{{3 * 2 * 2 * 5, 5, 3*2*2 + 3*2*5}, {2 * 2 * 5 * 7, 7, 20 + 7}, {7 * 3, 3, 7 + 3}} {
		limit := float32(math.Sqrt(6 / float64(l.fans)))
		for range l.weights {
			// k*2^-23 - 1 is exact in binary64, and so is the product before it is rounded.
			u := float64(r.Uint64()>>40)*0x1p-23 - 1
			if got, want := s.Params[at], float32(u*float64(limit)); bitsOf(got) != bitsOf(want) {
				t.Fatalf("parameter %d is %g, want %g", at, got, want)
			}
			at++
		}
		for range l.biases {
			if bitsOf(s.Params[at]) != 0 {
				t.Fatalf("bias %d is %g", at, s.Params[at])
			}
			at++
		}
	}
	if at != n.Params || at != len(s.Params) {
		t.Errorf("%d parameters, the net has %d, the state %d", at, n.Params, len(s.Params))
	}
	for i := range s.First {
		if bitsOf(s.First[i]) != 0 || bitsOf(s.Second[i]) != 0 {
			t.Fatalf("moments %d are %g and %g", i, s.First[i], s.Second[i])
		}
	}
	if s.P1 != 1 || s.P2 != 1 || s.Steps != 0 {
		t.Errorf("scalars %g, %g, %d", s.P1, s.P2, s.Steps)
	}
}

// numbered is a state in which every value is another.
func numbered(n *Net) *State {
	s := n.NewState()
	for i := range s.all {
		s.all[i] = float32(i) + 0.5
	}
	s.Steps = 0x0102030405060708
	if n.Model.Optimizer.Kind == Adam {
		s.P1, s.P2 = 0.25, 0.125
	}
	return s
}

func smallNets(t *testing.T) map[string]*Net {
	of := func(o Optimizer) *Net {
		return build(t, Model{Input: Shape{1, 1, 3}, Layers: []Layer{{Kind: Dense, Units: 2}}, Loss: MeanSquaredError, Optimizer: o, Batch: 2})
	}
	return map[string]*Net{"adam": of(testAdam), "sgd": of(testSGD)}
}

func TestStateBytes(t *testing.T) {
	const params = 3*2 + 2
	for name, n := range smallNets(t) {
		s := numbered(n)
		floats := 3 * params
		if name == "sgd" {
			floats = 2 * params
		}
		var want []byte
		for i := range floats {
			want = binary.LittleEndian.AppendUint32(want, bitsOf(float32(i)+0.5))
		}
		if name == "adam" {
			want = append(want, 0, 0, 0x80, 0x3e, 0, 0, 0, 0x3e) // 0.25, 0.125
		}
		want = append(want, 8, 7, 6, 5, 4, 3, 2, 1)

		b := s.Bytes()
		if !slices.Equal(b, want) {
			t.Errorf("%s: bytes %x, want %x", name, b, want)
		}
		if len(b) != n.StateSize() {
			t.Errorf("%s: %d bytes, StateSize says %d", name, len(b), n.StateSize())
		}
		if s.Params[0] != 0.5 || s.First[0] != params+0.5 || name == "adam" && s.Second[0] != 2*params+0.5 || name == "sgd" && len(s.Second) != 0 {
			t.Errorf("%s: parameters and moments are not in the order of the bytes", name)
		}
		back, err := n.ReadState(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.Equal(back.Bytes(), b) || !sameBits(back.Params, s.Params) || !sameBits(back.First, s.First) ||
			!sameBits(back.Second, s.Second) || back.P1 != s.P1 || back.P2 != s.P2 || back.Steps != s.Steps {
			t.Errorf("%s: %+v was read back as %+v", name, s, back)
		}
		for threads := 1; threads <= 3; threads++ {
			root, err := s.Root(threads)
			if err != nil || root != BytesRoot(want) {
				t.Errorf("%s: root on %d threads is %v, %v", name, threads, root, err)
			}
		}
	}
}

func TestReadStateRefuses(t *testing.T) {
	for name, n := range smallNets(t) {
		good := numbered(n).Bytes()
		for _, b := range [][]byte{nil, good[:len(good)-1], append(slices.Clone(good), 0), good[8:]} {
			if _, err := n.ReadState(b); err == nil {
				t.Errorf("%s: %d bytes were read", name, len(b))
			}
		}
		for at := 0; at+8 < len(good); at += 4 { // all floats, Adam's p1 and p2 among them
			for _, bits := range []uint32{0x7f800000, 0xff800000, 0x7fc00000, 0xff800001} {
				b := slices.Clone(good)
				binary.LittleEndian.PutUint32(b[at:], bits)
				if _, err := n.ReadState(b); !errors.Is(err, ErrNotFinite) {
					t.Errorf("%s: %#08x at byte %d: %v", name, bits, at, err)
				}
			}
		}
		b := slices.Clone(good)
		for i := range 8 { // the step count is no float
			b[len(b)-1-i] = 0xff
		}
		if _, err := n.ReadState(b); err != nil {
			t.Errorf("%s: step count of all ones: %v", name, err)
		}
	}
}

func TestRootRefusesNotFinite(t *testing.T) {
	n := build(t, layerModels()[1].model) // some 3 x 919 values
	for threads := 1; threads <= 4; threads++ {
		s := n.NewState()
		for _, at := range []int{0, 1, n.Params - 1, n.Params, 2*n.Params + 3, len(s.all) - 1} {
			s.all[at] = nan
			if _, err := s.Root(threads); !errors.Is(err, ErrNotFinite) {
				t.Errorf("NaN at %d, %d threads: %v", at, threads, err)
			}
			s.all[at] = 0
		}
		s.P1 = inf
		if _, err := s.Root(threads); !errors.Is(err, ErrNotFinite) {
			t.Errorf("p1 infinite: %v", err)
		}
		s.P1, s.P2 = 1, nan
		if _, err := s.Root(threads); !errors.Is(err, ErrNotFinite) {
			t.Errorf("p2 NaN: %v", err)
		}
		s.P2 = 1
		if _, err := s.Root(threads); err != nil {
			t.Error(err)
		}
	}
}

func TestCloneIsIndependent(t *testing.T) {
	for name, n := range smallNets(t) {
		s := numbered(n)
		before := s.Bytes()
		c := s.Clone()
		if !slices.Equal(c.Bytes(), before) {
			t.Fatalf("%s: the clone differs", name)
		}
		for i := range c.all {
			c.all[i] = -1
		}
		c.P1, c.P2, c.Steps = 0, 0, 0
		if !slices.Equal(s.Bytes(), before) {
			t.Errorf("%s: writing to the clone changed the state", name)
		}
		if c.Params[0] != -1 || c.First[0] != -1 || name == "adam" && c.Second[0] != -1 {
			t.Errorf("%s: the clone's parts are not views of its values", name)
		}
		c.CopyFrom(s)
		if !slices.Equal(c.Bytes(), before) {
			t.Errorf("%s: CopyFrom left a difference", name)
		}
	}
}

func TestAllFinite(t *testing.T) {
	finiteBits := []uint32{0, 1, 0x7fffff, 0x800000, 0x3f800000, 0x7f7fffff, 0x7f000000}
	badBits := []uint32{0x7f800000, 0x7f800001, 0x7fbfffff, 0x7fc00000, 0x7fffffff}
	x := make([]float32, 9)
	for at := range x {
		for _, sign := range []uint32{0, 1 << 31} {
			for _, b := range finiteBits {
				x[at] = math.Float32frombits(b | sign)
				if !allFinite(x) || !finite(x[at]) {
					t.Errorf("%#08x is called not finite", b|sign)
				}
			}
			for _, b := range badBits {
				x[at] = math.Float32frombits(b | sign)
				if allFinite(x) || finite(x[at]) {
					t.Errorf("%#08x is called finite", b|sign)
				}
			}
		}
		x[at] = 1
	}
	if !allFinite(nil) {
		t.Error("no values are called not finite")
	}
}

func TestDrawBatchGolden(t *testing.T) {
	for _, c := range []struct {
		n    int
		want []int
	}{
		{1, []int{0, 0, 0, 0, 0, 0, 0, 0}},
		{10, []int{8, 1, 0, 4, 2, 0, 4, 2}},
		{8000, []int{6455, 1520, 619, 3483, 1993, 641, 3582, 2188}},
		{60000, []int{48416, 11403, 4646, 26124, 14954, 4811, 26865, 16414}},
	} {
		got := make([]int, 8)
		DrawBatch(seedOf("batch golden"), c.n, got)
		if !slices.Equal(got, c.want) {
			t.Errorf("below %d: %v, want %v", c.n, got, c.want)
		}
	}
}

// The index is floor(x*n/2^64) for the next x whose remainder is not below 2^64 mod n, in exact integers. An n near
// 3*2^61 draws again one time in four.
func TestDrawBatchRule(t *testing.T) {
	if math.MaxInt == math.MaxInt32 {
		t.Skip("needs 64-bit indices: run it on a 64-bit machine")
	}
	two64 := new(big.Int).Lsh(big.NewInt(1), 64)
	again := 0
	for _, n := range []uint64{1, 2, 3, 255, 8000, 1 << 40, 3 << 61, 3<<61 + 1} {
		got := make([]int, 300)
		DrawBatch(seedOf("batch rule"), int(n), got)
		r := rand.NewChaCha8(seedOf("batch rule"))
		bound := new(big.Int).SetUint64(n)
		favoured := new(big.Int).Mod(two64, bound)
		for i := range got {
			var index, low big.Int
			for {
				x := new(big.Int).SetUint64(r.Uint64())
				index.DivMod(x.Mul(x, bound), two64, &low)
				if low.Cmp(favoured) >= 0 {
					break
				}
				again++
			}
			if uint64(got[i]) != index.Uint64() {
				t.Fatalf("below %d: draw %d is %d, want %v", n, i, got[i], &index)
			}
		}
	}
	if again < 100 {
		t.Errorf("only %d draws were made again", again)
	}
}

func TestDrawBatchUniform(t *testing.T) {
	const n, draws = 10, 100_000
	index := make([]int, draws)
	DrawBatch(seedOf("uniform"), n, index)
	var count [n]int
	for _, i := range index {
		count[i]++ // an index out of range panics
	}
	chi2 := 0.0
	for _, c := range count {
		d := float64(c) - draws/n
		chi2 += d * d / (draws / n)
	}
	if chi2 > 27.9 { // one in a thousand at 9 degrees of freedom
		t.Errorf("chi squared is %.1f: %v", chi2, count)
	}
}
