package nn

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
)

// Hash is a SHA-256 value: an id or a Merkle root.
type Hash [32]byte

// String is the whole hash in hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Short is the first eight hexadecimal digits, for messages read by people.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// MarshalText writes the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (h *Hash) UnmarshalText(text []byte) error {
	v, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = v
	return nil
}

// ParseHash reads 64 hexadecimal digits.
func ParseHash(s string) (h Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("a hash is 64 hexadecimal digits, not %q", s)
	}
	copy(h[:], b)
	return h, nil
}

// LeafSize is the length of a Merkle leaf of states, logits and data files, in bytes.
const LeafSize = 4096

// MerkleRoot is the RFC 6962 SHA-256 tree hash of the leaves (section 2.1): prefix 0x00 before a leaf, 0x01 before
// an inner node. The root of no leaves is SHA-256 of the empty string.
func MerkleRoot(leaves [][]byte) Hash {
	hashes := make([]Hash, len(leaves))
	for i, leaf := range leaves {
		hashes[i] = leafHash(leaf)
	}
	return merkleFold(hashes)
}

// BytesRoot is the RFC 6962 root over data cut into leaves of LeafSize bytes, the last as long as what is left.
func BytesRoot(data []byte) Hash { return bytesRoot(data, nil, 1) }

// bytesRoot is the root over head followed by tail, hashed on the given number of goroutines. Only tail may be short.
func bytesRoot(head, tail []byte, threads int) Hash {
	n := len(head) + len(tail)
	leaves := make([]Hash, (n+LeafSize-1)/LeafSize)
	one := func(i int) {
		lo, hi := i*LeafSize, min((i+1)*LeafSize, n)
		if hi <= len(head) {
			leaves[i] = leafHash(head[lo:hi])
			return
		}
		var buf [LeafSize]byte
		k := 0
		if lo < len(head) {
			k = copy(buf[:], head[lo:])
		}
		k += copy(buf[k:], tail[max(lo-len(head), 0):hi-len(head)])
		leaves[i] = leafHash(buf[:k])
	}
	if threads <= 1 || len(leaves) < 64 {
		for i := range leaves {
			one(i)
		}
		return merkleFold(leaves)
	}
	const chunk = 32
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func() {
		for {
			hi := int(next.Add(chunk))
			if hi-chunk >= len(leaves) {
				return
			}
			for i := hi - chunk; i < min(hi, len(leaves)); i++ {
				one(i)
			}
		}
	}
	for range threads - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	return merkleFold(leaves)
}

func leafHash(leaf []byte) (h Hash) {
	d := sha256.New()
	d.Write([]byte{0})
	d.Write(leaf)
	d.Sum(h[:0])
	return h
}

func nodeHash(l, r Hash) Hash {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// merkleFold combines leaf hashes level by level, in place. Pairing neighbours and carrying an odd last one up gives
// the tree of RFC 6962, whose left part is the largest power of two.
func merkleFold(level []Hash) Hash {
	if len(level) == 0 {
		return sha256.Sum256(nil)
	}
	for len(level) > 1 {
		n := 0
		for i := 0; i < len(level); i += 2 {
			if i+1 < len(level) {
				level[n] = nodeHash(level[i], level[i+1])
			} else {
				level[n] = level[i]
			}
			n++
		}
		level = level[:n]
	}
	return level[0]
}
