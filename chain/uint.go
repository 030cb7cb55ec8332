package chain

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
)

// Uint128 is an unsigned number of 128 bits: a difficulty, in multiply-accumulates.
type Uint128 struct{ Hi, Lo uint64 }

// U128 makes a Uint128 of a uint64.
func U128(x uint64) Uint128 { return Uint128{Lo: x} }

// Big is the number as a big.Int.
func (u Uint128) Big() *big.Int {
	b := new(big.Int).SetUint64(u.Hi)
	return b.Lsh(b, 64).Or(b, new(big.Int).SetUint64(u.Lo))
}

// Cmp is -1, 0 or 1 as u is less than, equal to or greater than v.
func (u Uint128) Cmp(v Uint128) int {
	switch {
	case u == v:
		return 0
	case u.Hi < v.Hi || u.Hi == v.Hi && u.Lo < v.Lo:
		return -1
	}
	return 1
}

func (u Uint128) String() string { return u.Big().String() }

// MarshalText writes the number in decimal.
func (u Uint128) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads a decimal number below 2^128.
func (u *Uint128) UnmarshalText(text []byte) error {
	b, ok := new(big.Int).SetString(string(text), 10)
	if !ok || b.Sign() < 0 || b.BitLen() > 128 {
		return fmt.Errorf("%q is not a whole number from 0 to 2^128-1", text)
	}
	*u = uint128(b)
	return nil
}

// uint128 of a number known to be in range.
func uint128(b *big.Int) Uint128 {
	var buf [16]byte
	b.FillBytes(buf[:])
	return Uint128{binary.BigEndian.Uint64(buf[:8]), binary.BigEndian.Uint64(buf[8:])}
}

// Work is the sum of the difficulties of a chain's blocks: an unsigned number of 256 bits, least significant word first.
type Work [4]uint64

// Add is w + d. It cannot overflow: a difficulty is at most 2^96.
func (w Work) Add(d Uint128) Work {
	var c uint64
	w[0], c = bits.Add64(w[0], d.Lo, 0)
	w[1], c = bits.Add64(w[1], d.Hi, c)
	w[2], c = bits.Add64(w[2], 0, c)
	w[3], _ = bits.Add64(w[3], 0, c)
	return w
}

// Sub is w - v for v <= w.
func (w Work) Sub(v Work) Work {
	var b uint64
	for i := range w {
		w[i], b = bits.Sub64(w[i], v[i], b)
	}
	return w
}

// Cmp is -1, 0 or 1 as w is less than, equal to or greater than v.
func (w Work) Cmp(v Work) int {
	for i := 3; i >= 0; i-- {
		if w[i] != v[i] {
			if w[i] < v[i] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// Bytes is the number big-endian.
func (w Work) Bytes() (b [32]byte) {
	for i, v := range w {
		binary.BigEndian.PutUint64(b[8*(3-i):], v)
	}
	return b
}

// WorkFromBytes reads Bytes.
func WorkFromBytes(b [32]byte) (w Work) {
	for i := range w {
		w[i] = binary.BigEndian.Uint64(b[8*(3-i):])
	}
	return w
}

func (w Work) String() string {
	b := w.Bytes()
	return new(big.Int).SetBytes(b[:]).String()
}

// AddWork is w + v.
func (w Work) AddWork(v Work) Work {
	var c uint64
	for i := range w {
		w[i], c = bits.Add64(w[i], v[i], c)
	}
	return w
}
