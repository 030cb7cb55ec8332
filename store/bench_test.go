package store

import (
	"testing"

	"github.com/descentnet/minerd/chain"
)

// stateBytes is the size of the default model's state.
const stateBytes = 12*693_962 + 16

func BenchmarkConnect(b *testing.B) {
	s := open(b, b.TempDir())
	c := newBranch(1)
	c.bytes = 1000
	blocks := c.grow(b.N).blocks
	b.ResetTimer()
	connect(b, s, blocks...)
}

func BenchmarkVerified(b *testing.B) {
	s := open(b, b.TempDir())
	c := newBranch(1).grow(100)
	connect(b, s, c.blocks...)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Verified(c.blocks[i%100].State.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutModel(b *testing.B) {
	s := open(b, b.TempDir())
	_, m := testModel(1, stateBytes)
	b.SetBytes(stateBytes)
	for i := 0; b.Loop(); i++ {
		root := chain.Hash{byte(i), byte(i >> 8)}
		if err := s.PutModel(root, uint64(i), m); err != nil {
			b.Fatal(err)
		}
		if err := s.DeleteModel(root); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkModel(b *testing.B) {
	s := open(b, b.TempDir())
	root, m := testModel(1, stateBytes)
	if err := s.PutModel(root, 1, m); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(stateBytes)
	for b.Loop() {
		if _, err := s.Model(root); err != nil {
			b.Fatal(err)
		}
	}
}
