package nn

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// The leaves and roots of the reference tests of Certificate Transparency, whose tree is that of RFC 6962.
func TestMerkleRootVectors(t *testing.T) {
	roots := []string{
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var leaves [][]byte
	for _, s := range []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, b)
	}
	for n, want := range roots {
		if got := MerkleRoot(leaves[:n]).String(); got != want {
			t.Errorf("%d leaves: %s, want %s", n, got, want)
		}
	}
}

// tlogRoot is the root by another implementation.
func tlogRoot(t *testing.T, leaves [][]byte) Hash {
	t.Helper()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, leaf := range leaves {
		h, err := tlog.StoredHashes(int64(i), leaf, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, h...)
	}
	h, err := tlog.TreeHash(int64(len(leaves)), read)
	if err != nil {
		t.Fatal(err)
	}
	return Hash(h)
}

func TestMerkleRootAgainstTlog(t *testing.T) {
	r := rand.NewChaCha8(seedOf("tlog"))
	var leaves [][]byte
	for n := 1; n <= 150; n++ {
		leaf := make([]byte, r.Uint64()%100)
		_, _ = r.Read(leaf)
		leaves = append(leaves, leaf)
		if got, want := MerkleRoot(leaves), tlogRoot(t, leaves); got != want {
			t.Fatalf("%d leaves: %v, want %v", n, got, want)
		}
	}
}

func TestBytesRoot(t *testing.T) {
	lengths := []int{0, 1, 100, LeafSize - 1, LeafSize, LeafSize + 1, 2*LeafSize - 1, 2 * LeafSize, 7*LeafSize + 5,
		63 * LeafSize, 63*LeafSize + 1, 64 * LeafSize, 65*LeafSize + 7, 96*LeafSize - 1, 97 * LeafSize, 200*LeafSize + 123}
	data := make([]byte, lengths[len(lengths)-1])
	_, _ = rand.NewChaCha8(seedOf("bytes")).Read(data)
	for _, n := range lengths {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			data := data[:n]
			var leaves [][]byte
			for rest := data; len(rest) > 0; {
				k := min(len(rest), LeafSize)
				leaves = append(leaves, rest[:k])
				rest = rest[k:]
			}
			want := MerkleRoot(leaves)
			if n > 0 && want != tlogRoot(t, leaves) {
				t.Fatal("the leaves' root is wrong")
			}
			if got := BytesRoot(data); got != want {
				t.Fatalf("BytesRoot is %v, want %v", got, want)
			}
			for _, threads := range []int{1, 2, 3, 8} {
				for _, tail := range []int{0, 1, 8, 16, LeafSize - 1, LeafSize, LeafSize + 1, 3*LeafSize + 9, n} {
					if tail > n {
						continue
					}
					if got := bytesRoot(data[:n-tail], data[n-tail:], threads); got != want {
						t.Fatalf("%d threads, tail of %d bytes: %v, want %v", threads, tail, got, want)
					}
				}
			}
		})
	}
}

func TestFloatHasher(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	x := make([]float32, 5*LeafSize)
	for i := range x {
		x[i] = r.Float32() - 0.5
	}
	var h floatHasher
	for _, n := range []int{0, 1, LeafSize/4 - 1, LeafSize / 4, LeafSize/4 + 1, LeafSize, 3*LeafSize + 77, len(x)} {
		h.reset()
		for rest := x[:n]; len(rest) > 0; {
			k := min(len(rest), 1+r.IntN(3000))
			h.write(rest[:k])
			rest = rest[k:]
		}
		if got, want := h.root(), BytesRoot(floatBytes(x[:n])); got != want {
			t.Errorf("%d floats: %v, want %v", n, got, want)
		}
	}
}

func TestFloatBytes(t *testing.T) {
	got := floatBytes([]float32{1, minus0, 0x1.020304p-1})
	if want := []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 0x82, 0x01, 0x01, 0x3f}; !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	if floatBytes(nil) != nil {
		t.Error("bytes of nothing")
	}
}

func TestHashText(t *testing.T) {
	h := BytesRoot([]byte("x"))
	text, err := h.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back Hash
	if err := back.UnmarshalText(text); err != nil || back != h {
		t.Errorf("%s reads as %v, %v", text, back, err)
	}
	if h.Short() != h.String()[:8] {
		t.Errorf("short form %q of %v", h.Short(), h)
	}
	for _, bad := range []string{"", "00", h.String() + "00", h.String()[1:], "g" + h.String()[1:]} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("%q was read as a hash", bad)
		}
		if err := back.UnmarshalText([]byte(bad)); err == nil || back != h {
			t.Errorf("%q: error %v, hash now %v", bad, err, back)
		}
	}
}
