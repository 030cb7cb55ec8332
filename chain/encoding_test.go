package chain_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"os"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/descentnet/minerd/chain"
)

func fill(b byte) (h chain.Hash) {
	for i := range h {
		h[i] = b
	}
	return h
}

// fixedBlock has another value in every field.
func fixedBlock() *chain.Block {
	var payout chain.Address
	copy(payout[:], bytes.Repeat([]byte{10}, 20))
	return &chain.Block{
		Header: chain.Header{
			Claim: chain.Claim{
				Version: 1, Network: fill(1), Height: 2, Parent: fill(3), Time: 1_700_000_000_004,
				Difficulty: chain.Uint128{Hi: 5, Lo: 6}, Task: fill(7), TxRoot: fill(8), LedgerRoot: fill(9), Payout: payout, Nonce: 11,
			},
			Outcome: chain.Outcome{
				EarlyRoot: fill(12), LogitsDigest: fill(13), TrainedRoot: fill(14), StateRoot: fill(15),
				LossBefore: 0x3f800000, LossAfter: 0x3f000000,
			},
		},
		EarlyRoots:   []chain.Hash{fill(16), fill(17)},
		Transactions: [][]byte{[]byte("abc"), {}},
	}
}

// TestGoldenBlock pins the canonical bytes (testdata/block.hex) and what is hashed over them.
func TestGoldenBlock(t *testing.T) {
	b := fixedBlock()
	text, err := os.ReadFile("testdata/block.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("block's bytes are %x", b.Bytes())
	}
	if chain.HeaderSize != 360 || !bytes.Equal(b.Header.Bytes(), want[:360]) {
		t.Errorf("header's bytes are %x", b.Header.Bytes())
	}
	seed := chain.BatchSeed(b.Claim.ID(), 258)
	for name, g := range map[string]struct{ got, want string }{
		"claim id":   {b.Claim.ID().String(), "43be730248ab4786ecc2dce983e04275928ce928cdfbc545c33d88ae9b079fda"},
		"block id":   {b.Header.ID().String(), "033c4f37fe1f79de54b8284c8d94dd6d6deb281de5bd9f92ce86bb0f77b1ba7f"},
		"ticket":     {b.Ticket().String(), "855c8457432e5f6493bf8a272ac106805e5dd90d6135b12698559e3094484d0a"},
		"batch seed": {hex.EncodeToString(seed[:]), "8ce7fbb1cdf0a614aad590c7c71f71111a1dd6e3fc35c145c826874ba71432f9"},
	} {
		if g.got != g.want {
			t.Errorf("%s is %s, want %s", name, g.got, g.want)
		}
	}
	back, err := chain.ParseBlock(want)
	if err != nil {
		t.Fatal(err)
	}
	if back.Header != b.Header || !bytes.Equal(back.Bytes(), want) {
		t.Errorf("decoded: %+v", back)
	}
	if back.Size() != len(want) {
		t.Errorf("size %d, it has %d bytes", back.Size(), len(want))
	}
}

func TestAnyHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Byte(), chain.HeaderSize, chain.HeaderSize).Draw(t, "header")
		h, err := chain.ParseHeader(in)
		if err != nil || !bytes.Equal(h.Bytes(), in) {
			t.Fatalf("%v\n%x\n%x", err, in, h.Bytes())
		}
	})
	for _, n := range []int{0, chain.HeaderSize - 1, chain.HeaderSize + 1} {
		if _, err := chain.ParseHeader(make([]byte, n)); !errors.Is(err, chain.ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// body is a block of zeros with the given bytes after its header.
func body(b ...[]byte) []byte {
	return append(make([]byte, chain.HeaderSize), bytes.Join(b, nil)...)
}

func u32(x uint32) []byte { return binary.LittleEndian.AppendUint32(nil, x) }

func TestMalformedBlocks(t *testing.T) {
	whole := fixedBlock().Bytes()
	sized := func(n int) []byte {
		transaction := n - chain.HeaderSize - 12
		return body(u32(0), u32(1), u32(uint32(transaction)), make([]byte, transaction))
	}
	if _, err := chain.ParseBlock(sized(chain.MaxBlockBytes)); err != nil {
		t.Errorf("a block of the greatest size: %v", err)
	}
	for name, in := range map[string][]byte{
		"empty":                       nil,
		"header cut":                  whole[:chain.HeaderSize-1],
		"header alone":                whole[:chain.HeaderSize],
		"one byte missing":            whole[:len(whole)-1],
		"one byte too many":           append(bytes.Clone(whole), 0),
		"too long":                    sized(chain.MaxBlockBytes + 1),
		"2^32-1 early roots":          body(u32(0xffffffff), u32(0)),
		"early roots one too many":    body(u32(2), make([]byte, 32), u32(0)),
		"2^32-1 transactions":         body(u32(0), u32(0xffffffff)),
		"transactions one too many":   body(u32(0), u32(2), u32(0)),
		"transaction of 2^32-1 bytes": body(u32(0), u32(1), u32(0xffffffff)),
		"transaction of 2^31 bytes":   body(u32(0), u32(1), u32(1<<31), make([]byte, 100)),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := chain.ParseBlock(in)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, chain.ErrMalformed) || chain.VerdictOf(err) != chain.Invalid {
				t.Errorf("error is %v", err)
			}
			// Lengths that the bytes do not bear out are refused before anything of that length is made.
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

func FuzzParseBlock(f *testing.F) {
	whole := fixedBlock().Bytes()
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), 0))
	f.Add(body(u32(0), u32(0)))
	f.Add(body(u32(1), make([]byte, 32), u32(0)))
	f.Add(body(u32(0xffffffff), u32(0)))
	f.Add(body(u32(0), u32(1), u32(3), []byte("abc")))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := chain.ParseBlock(in)
		if err != nil {
			if !errors.Is(err, chain.ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if out := b.Bytes(); !bytes.Equal(out, in) || b.Size() != len(in) {
			t.Fatalf("read %x\nmade %x, size %d", in, out, b.Size())
		}
	})
}

func anyU128() *rapid.Generator[chain.Uint128] {
	return rapid.Custom(func(t *rapid.T) chain.Uint128 {
		return chain.Uint128{Hi: rapid.Uint64().Draw(t, "hi"), Lo: rapid.Uint64().Draw(t, "lo")}
	})
}

func TestUint128(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyU128().Draw(t, "a"), anyU128().Draw(t, "b")
		if rapid.Bool().Draw(t, "same high half") {
			b.Hi = a.Hi
		}
		if got, want := a.Cmp(b), a.Big().Cmp(b.Big()); got != want {
			t.Fatalf("Cmp(%v, %v) = %d", a, b, got)
		}
		want := new(big.Int).Add(new(big.Int).Lsh(new(big.Int).SetUint64(a.Hi), 64), new(big.Int).SetUint64(a.Lo))
		if a.Big().Cmp(want) != 0 || a.String() != want.String() {
			t.Fatalf("%#v is %v", a, a.Big())
		}
		text, err := a.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back chain.Uint128
		if err := back.UnmarshalText(text); err != nil || back != a {
			t.Fatalf("%s is read as %v, %v", text, back, err)
		}
	})
	for _, bad := range []string{"", "-1", "1.5", "0x10", "12 ", "1_000", "340282366920938463463374607431768211456"} {
		var u chain.Uint128
		if err := u.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, u)
		}
	}
}

func bigWork(w chain.Work) *big.Int {
	b := w.Bytes()
	return new(big.Int).SetBytes(b[:])
}

func TestWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w, v chain.Work
		for i := range w {
			// Words of all ones make carries run through.
			word := rapid.OneOf(rapid.Uint64(), rapid.Just(^uint64(0)), rapid.Just(uint64(0)))
			w[i], v[i] = word.Draw(t, "w"), word.Draw(t, "v")
		}
		w[3], v[3] = w[3]>>1, v[3]>>1 // so that sums fit
		d := anyU128().Draw(t, "d")
		a, b := bigWork(w), bigWork(v)
		if got, want := w.Add(d), new(big.Int).Add(a, d.Big()); bigWork(got).Cmp(want) != 0 {
			t.Fatalf("%v + %v = %v", w, d, got)
		}
		if got, want := w.AddWork(v), new(big.Int).Add(a, b); bigWork(got).Cmp(want) != 0 {
			t.Fatalf("%v + %v = %v", w, v, got)
		}
		if got := w.Cmp(v); got != a.Cmp(b) {
			t.Fatalf("Cmp(%v, %v) = %d", w, v, got)
		}
		if a.Cmp(b) >= 0 {
			if got, want := w.Sub(v), new(big.Int).Sub(a, b); bigWork(got).Cmp(want) != 0 {
				t.Fatalf("%v - %v = %v", w, v, got)
			}
		}
		if chain.WorkFromBytes(w.Bytes()) != w || w.String() != a.String() {
			t.Fatalf("%v is written %x", w, w.Bytes())
		}
	})
	if got := (chain.Work{1, 2, 3, 4}).Bytes(); got[31] != 1 || got[23] != 2 || got[15] != 3 || got[7] != 4 {
		t.Errorf("bytes are %x, not big-endian", got)
	}
}

func TestAddress(t *testing.T) {
	a := chain.AddressOf(bytes.Repeat([]byte{7}, 32))
	const text = "md1k4n28mkvaqycjcmpnzyz8nf0ggl7sq88rezc3a"
	if a.String() != text {
		t.Errorf("address is %s, want %s", a, text)
	}
	for _, good := range []string{text, strings.ToUpper(text)} {
		if got, err := chain.ParseAddress(good); err != nil || got != a {
			t.Errorf("%s is read as %v, %v", good, got, err)
		}
	}
	flipped := []byte(text)
	flipped[10] ^= 1
	for name, bad := range map[string]string{
		"empty":             "",
		"wrong checksum":    text[:len(text)-1] + "q",
		"changed":           string(flipped),
		"mixed case":        text[:5] + strings.ToUpper(text[5:]),
		"bech32":            "md1k4n28mkvaqycjcmpnzyz8nf0ggl7sq88k9j55l",
		"another prefix":    "mx1k4n28mkvaqycjcmpnzyz8nf0ggl7sq88csprsx",
		"19 bytes":          "md1k4n28mkvaqycjcmpnzyz8nf0ggl7sqqp4x8t5",
		"21 bytes":          "md1k4n28mkvaqycjcmpnzyz8nf0ggl7sq88qqcal3sy",
		"cut":               text[:len(text)-1],
		"with a space":      text + " ",
		"prefix by itself":  "md1",
		"checksum and zero": "md1" + strings.Repeat("q", 38),
	} {
		got := chain.Address{5}
		if err := got.UnmarshalText([]byte(bad)); !errors.Is(err, chain.ErrAddress) || got != (chain.Address{5}) {
			t.Errorf("%s: %q is read as %v, %v", name, bad, got, err)
		}
	}
}
