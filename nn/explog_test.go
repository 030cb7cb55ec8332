package nn

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"math"
	"testing"
)

var exhaustive = flag.Bool("exhaustive", false, "test exp and log on all inputs (several minutes)")

// ulp is the distance of binary32 values at |x|.
func ulp(x float64) float64 {
	_, e := math.Frexp(math.Abs(x))
	return math.Ldexp(1, max(e, -125)-24)
}

func TestExpLogError(t *testing.T) {
	step := uint64(61)
	switch {
	case *exhaustive:
		step = 1
	case testing.Short():
		step = 1021
	}
	const expBound, logBound = 1.05, 0.9
	for _, c := range []struct {
		name      string
		low, high float32 // by bits, so the greater magnitude comes last
		f         func(float32) float32
		exact     func(float64) float64
		bound     float64
	}{
		{"exp, normal results", -0x1p-26, -87.33, Exp, math.Exp, expBound},
		{"exp, subnormal results", -87.33, -104, Exp, math.Exp, expBound},
		{"exp, positive", 0x1p-26, 88.72283, Exp, math.Exp, expBound},
		{"log, below 1", 0.5, 0x1.fffffep-1, Log, math.Log, logBound},
		{"log, 1 to 256", 1, 256, Log, math.Log, logBound},
		{"log, all normal numbers", 0x1p-126, math.MaxFloat32, Log, math.Log, logBound},
	} {
		t.Run(c.name, func(t *testing.T) {
			worst, at := 0.0, float32(0)
			for u := uint64(bitsOf(c.low)); u <= uint64(bitsOf(c.high)); u += step {
				x := math.Float32frombits(uint32(u))
				want := c.exact(float64(x))
				got := float64(c.f(x))
				if got == want {
					continue
				}
				if d := math.Abs(got-want) / ulp(want); !(d <= worst) {
					worst, at = d, x
				}
			}
			t.Logf("largest error %.4f ulp, at %g", worst, at)
			if !(worst <= c.bound) {
				t.Errorf("error of %.4f ulp at %g, allowed are %g", worst, at, c.bound)
			}
		})
	}
}

func TestExpSpecial(t *testing.T) {
	next := math.Nextafter32
	for _, c := range []struct {
		name    string
		x, want float32
	}{
		{"+0", 0, 1},
		{"-0", minus0, 1},
		{"smallest", tiniest, 1},
		{"-smallest", -tiniest, 1},
		{"-inf", -inf, 0},
		{"+inf", inf, inf},
		{"below -104", next(-104, -inf), 0},
		{"-104", -104, 0},
		{"rounds to the smallest", -103.9, tiniest},
		{"above the limit", next(88.72284, inf), inf},
		{"the limit, which overflows by itself", 88.72284, inf},
		{"greatest finite", next(88.72284, 0), float32(math.Exp(float64(next(88.72284, 0))))},
		{"largest", math.MaxFloat32, inf},
		{"-largest", -math.MaxFloat32, 0},
	} {
		if got := Exp(c.x); bitsOf(got) != bitsOf(c.want) {
			t.Errorf("%s: exp(%g) = %g (%#08x), want %g", c.name, c.x, got, bitsOf(got), c.want)
		}
	}
	if got := Exp(nan); got == got {
		t.Errorf("exp(NaN) = %g", got)
	}
}

func TestLogSpecial(t *testing.T) {
	if got := bitsOf(Log(1)); got != 0 {
		t.Errorf("log(1) = %#08x, want +0", got)
	}
	for e := -126; e <= 127; e++ {
		got, want := float64(Log(float32(math.Ldexp(1, e)))), float64(e)*math.Ln2
		if math.Abs(got-want) > 0.9*ulp(want) {
			t.Errorf("log(2^%d) = %g, want %g", e, got, want)
		}
	}
	for _, bits := range []uint32{0x7fc00000, 0xffc00000, 0x7f800001, 0xffffffff, 0x7fffffff} {
		if got := Log(math.Float32frombits(bits)); got == got {
			t.Errorf("log(NaN %#08x) = %g", bits, got)
		}
	}
}

// The bits of exp and log on a fixed grid of inputs. A change here is a change of consensus.
func TestExpLogGolden(t *testing.T) {
	grid := func(f func(float32) float32, ranges ...[2]float32) string {
		h := sha256.New()
		for _, r := range ranges {
			for u := uint64(bitsOf(r[0])); u <= uint64(bitsOf(r[1])); u += 40_009 {
				var b [4]byte
				binary.LittleEndian.PutUint32(b[:], bitsOf(f(math.Float32frombits(uint32(u)))))
				h.Write(b[:])
			}
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	const (
		wantExp = "3cb963a9bca94f2e531e7a0bb46d9a0eaa8a9d726fa829bfa6251d2435994255"
		wantLog = "dba95b3d3b3b37c35796c01002dd2e1553c29dcf66c9c4971b4de85f565d69c5"
	)
	if got := grid(Exp, [2]float32{0, 100}, [2]float32{minus0, -110}); got != wantExp {
		t.Errorf("exp: %s, want %s", got, wantExp)
	}
	if got := grid(Log, [2]float32{0x1p-126, math.MaxFloat32}); got != wantLog {
		t.Errorf("log: %s, want %s", got, wantLog)
	}
}
