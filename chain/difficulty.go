package chain

import "math/big"

var (
	maxDifficulty = uint128(new(big.Int).Lsh(big.NewInt(1), 96))
	two256        = new(big.Int).Lsh(big.NewInt(1), 256)
)

// nextDifficulty is relative ASERT: the parent's difficulty times 2^((interval - e)/halfLife), e being the time that
// the parent took, clamped to ten intervals so that an outage does not let blocks rain afterwards. The power's
// fractional part is the cubic approximation of Bitcoin Cash's aserti3-2d. Times in milliseconds.
func nextDifficulty(parent Uint128, elapsed, interval, halfLife uint64, floor Uint128) Uint128 {
	elapsed = min(elapsed, 10*interval)
	x := new(big.Int).Lsh(big.NewInt(int64(interval)-int64(elapsed)), 16)
	x.Div(x, new(big.Int).SetUint64(halfLife)) // Euclidean; the divisor is positive, so it rounds down
	q := new(big.Int).Rsh(x, 16).Int64()       // arithmetic shift
	f := new(big.Int).And(x, big.NewInt(65535)).Uint64()
	m := 65536 + (195766423245049*f+971821376*f*f+5127*f*f*f+1<<47)>>48
	d := new(big.Int).Mul(parent.Big(), new(big.Int).SetUint64(m))
	if s := 16 - q; s >= 0 {
		d.Rsh(d, uint(min(s, 1024)))
	} else {
		d.Lsh(d, uint(min(-s, 1024)))
	}
	if d.BitLen() > 97 || d.Cmp(maxDifficulty.Big()) > 0 {
		d = maxDifficulty.Big()
	}
	return maxU128(uint128(d), floor)
}

func maxU128(a, b Uint128) Uint128 {
	if a.Cmp(b) < 0 {
		return b
	}
	return a
}

// Target is the greatest winning ticket: min(floor(2^256*cost/difficulty), 2^256 - 1).
func Target(cost, difficulty Uint128) Hash {
	t := new(big.Int).Mul(two256, cost.Big())
	t.Div(t, difficulty.Big())
	if t.BitLen() > 256 {
		t.Sub(two256, big.NewInt(1))
	}
	var h Hash
	t.FillBytes(h[:])
	return h
}

// Wins says whether the ticket, as a big-endian number, is at most the target.
func Wins(ticket, target Hash) bool {
	for i := range ticket {
		if ticket[i] != target[i] {
			return ticket[i] < target[i]
		}
	}
	return true
}
