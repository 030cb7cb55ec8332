package nn

import "math"

// FMA is x*y + z rounded once to binary32, computed in binary64 alone, so that it gives the same bits on every machine.
//
// The product of two 24-bit significands is exact in binary64. The sum rounds to 53 bits and then to 24; the second
// rounding can err only where the first result lies exactly half-way between two binary32 values, or where the result
// is subnormal and keeps fewer bits. Those cases round to odd first (Boldo and Melquiond, "Emulation of FMA and
// correctly rounded sums: proved algorithms using rounding to odd", 2008).
func FMA(x, y, z float32) float32 {
	p := float64(float64(x) * float64(y)) // the conversion keeps the compiler from fusing it into the sum
	s := p + float64(z)
	b := math.Float64bits(s)
	const dropped = 1<<29 - 1 // bits of a binary64 significand that binary32 lacks
	const half = 1 << 28
	// A biased exponent 897..1150 is that of a normal binary32.
	if b&dropped != half && b>>52&0x7ff-897 < 254 {
		return float32(s)
	}
	return fmaOdd(p, float64(z), s)
}

// fmaOdd rounds p + z to odd in binary64 and that to binary32; s is the rounded sum.
func fmaOdd(p, z, s float64) float32 {
	b := math.Float64bits(s)
	if b>>52&0x7ff == 0x7ff || s == 0 {
		return float32(s) // infinite, not a number, or an exact zero with its sign
	}
	t := s - p
	e := (p - (s - t)) + (z - t) // the exact error of the sum (Knuth's TwoSum)
	if e != 0 && b&1 == 0 {
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return float32(math.Float64frombits(b))
}

func isNegative(x float32) bool { return math.Float32bits(x)>>31 != 0 }

// sqrt is the correctly rounded binary32 root: binary64 has more than twice the bits, so rounding twice does no harm.
func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }
