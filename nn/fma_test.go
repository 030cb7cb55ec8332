package nn

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// fmaExact is x*y + z by its definition: the special values by the rules of IEEE 754, everything else as an exact
// sum that is rounded once.
func fmaExact(x, y, z float32) float32 {
	isInf := func(v float32) bool { return v == inf || v == -inf }
	negative := isNegative(x) != isNegative(y) // the product's sign
	switch {
	case x != x || y != y || z != z:
		return nan
	case isInf(x) || isInf(y):
		if x == 0 || y == 0 || isInf(z) && isNegative(z) != negative {
			return nan
		}
		if negative {
			return -inf
		}
		return inf
	case isInf(z):
		return z
	case (x == 0 || y == 0) && z == 0:
		if negative && isNegative(z) {
			return minus0
		}
		return 0
	}
	const enough = 700 // bits from 2^256 down to 2^-298
	exact := func(v float32) *big.Float { return new(big.Float).SetPrec(enough).SetFloat64(float64(v)) }
	s := exact(x)
	s.Mul(s, exact(y))
	s.Add(s, exact(z))
	if s.Sign() == 0 {
		return 0 // x*y = -z: +0 when rounding to nearest
	}
	r, _ := s.Float32()
	return r
}

func checkFMA(t *testing.T, x, y, z float32) {
	t.Helper()
	got, want := FMA(x, y, z), fmaExact(x, y, z)
	if bitsOf(got) != bitsOf(want) && !(got != got && want != want) {
		t.Fatalf("FMA(%#08x, %#08x, %#08x) = %#08x, exactly it is %#08x", bitsOf(x), bitsOf(y), bitsOf(z), bitsOf(got), bitsOf(want))
	}
}

// fmaEdges are zeros, the ends of the subnormals and normals, powers of two and their neighbours, and not numbers.
var fmaEdges = func() (edges []float32) {
	for _, u := range []uint32{
		0, 1, 2, 3, 0x400000, 0x400001, 0x7ffffe, 0x7fffff, 0x800000, 0x800001, 0xffffff, 0x1000000,
		0x0d800000, 0x19ffffff, 0x1a000000, 0x1a000001, 0x20000000, 0x33000000, 0x337fffff, 0x33800000, 0x33800001, 0x34000000,
		0x3f000000, 0x3f000001, 0x3f7fffff, 0x3f800000, 0x3f800001, 0x3f8fffff, 0x3fffffff, 0x40000000,
		0x4b000000, 0x4b7fffff, 0x4b800000, 0x4b800001, 0x5f000000, 0x5f7fffff, 0x7f000000, 0x7f7ffffe, 0x7f7fffff,
		0x7f800000, 0x7fc00000,
	} {
		edges = append(edges, math.Float32frombits(u), math.Float32frombits(u|1<<31))
	}
	return edges
}()

func TestFMAEdges(t *testing.T) {
	for i, x := range fmaEdges {
		if testing.Short() && i%4 != 0 {
			continue
		}
		for _, y := range fmaEdges {
			for _, z := range fmaEdges {
				checkFMA(t, x, y, z)
			}
		}
	}
}

func TestFMARandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	f := math.Float32frombits
	near := func() float32 { return f(r.Uint32()&0x807fffff | (120+r.Uint32N(16))<<23) } // exponents near that of 1
	sparse := func() float32 { return f(r.Uint32()&0x807ff000 | (120+r.Uint32N(16))<<23) }
	subnormal := func() float32 { return f(r.Uint32()&0x80000000 | r.Uint32()>>(9+r.Uint32N(23))) }
	// (1 + a*2^-23)*(1 - a*2^-23) = 1 - a^2*2^-46: a product next to a power of two, which as half a unit of z lies
	// next to a tie that binary64 cannot tell from it.
	nearTie := func(exponent int) (float32, float32) {
		a := float32(r.Uint32N(4000)) * 0x1p-23
		x, y := 1+a, 1-a
		if r.Uint32()&1 == 0 {
			x = -x
		}
		return x, float32(math.Ldexp(float64(y), exponent))
	}
	for _, c := range []struct {
		name string
		hard bool // rounding the binary64 result once more must fail somewhere, or the cases miss their aim
		draw func() (x, y, z float32)
	}{
		{"any bits", false, func() (x, y, z float32) { return f(r.Uint32()), f(r.Uint32()), f(r.Uint32()) }},
		{"near one", false, func() (x, y, z float32) { return near(), near(), near() }},
		{"few bits, ties", false, func() (x, y, z float32) {
			return sparse(), sparse(), f(r.Uint32()&0x80000007 | (96+r.Uint32N(80))<<23)
		}},
		{"half a unit", true, func() (x, y, z float32) {
			x, y = nearTie(-25 + int(r.Uint32N(4)))
			return x, y, f(r.Uint32()&0x807fffff | 127<<23)
		}},
		{"subnormal", false, func() (x, y, z float32) {
			return f(r.Uint32()&0x807fffff | (40+r.Uint32N(70))<<23), f(r.Uint32()&0x807fffff | r.Uint32N(60)<<23), subnormal()
		}},
		{"subnormal, half a unit", true, func() (x, y, z float32) {
			x, y = nearTie(-76 + int(r.Uint32N(4)))
			return x * 0x1p-75, y, subnormal()
		}},
		{"cancellation", false, func() (x, y, z float32) {
			x, y = near(), near()
			return x, y, -f(bitsOf(x*y) + r.Uint32N(3) - 1)
		}},
		{"overflow", false, func() (x, y, z float32) {
			x, y = near(), near()
			return x * 0x1p63, y * 0x1p64, f(r.Uint32()&0x807fffff | (250+r.Uint32N(5))<<23)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, naive := 400_000, 0
			if testing.Short() {
				n /= 10
			}
			for range n {
				x, y, z := c.draw()
				checkFMA(t, x, y, z)
				if bitsOf(FMA(x, y, z)) != bitsOf(float32(math.FMA(float64(x), float64(y), float64(z)))) {
					naive++
				}
			}
			if c.hard && naive == 0 {
				t.Errorf("no case among %d needs more than binary64's rounding", n)
			}
		})
	}
}

func FuzzFMA(f *testing.F) {
	for i, x := range fmaEdges {
		f.Add(bitsOf(x), bitsOf(fmaEdges[(7*i+3)%len(fmaEdges)]), bitsOf(fmaEdges[(11*i+5)%len(fmaEdges)]))
	}
	f.Fuzz(func(t *testing.T, x, y, z uint32) {
		checkFMA(t, math.Float32frombits(x), math.Float32frombits(y), math.Float32frombits(z))
	})
}

func TestSqrt(t *testing.T) {
	// r is the rounded root of x if and only if x lies between the squares of r's half-way points, all exact in big.
	r := rand.New(rand.NewPCG(3, 4))
	square := func(v float64) *big.Float {
		b := new(big.Float).SetPrec(200).SetFloat64(v)
		return b.Mul(b, b)
	}
	check := func(x float32) {
		t.Helper()
		got := sqrt(x)
		up, down := math.Nextafter32(got, inf), math.Nextafter32(got, 0)
		exact := new(big.Float).SetFloat64(float64(x))
		if exact.Cmp(square((float64(got)+float64(down))/2)) < 0 || exact.Cmp(square((float64(got)+float64(up))/2)) > 0 {
			t.Fatalf("sqrt(%g) = %g", x, got)
		}
	}
	for range 20_000 {
		check(math.Float32frombits(1 + r.Uint32N(0x7f7fffff)))
	}
	for _, x := range []float32{tiniest, 0x1p-126, 1, 2, 4, math.MaxFloat32} {
		check(x)
	}
	if got := bitsOf(sqrt(0)); got != 0 {
		t.Errorf("sqrt(+0) = %#08x", got)
	}
}
