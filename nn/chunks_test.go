package nn

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Every chunk of contents of many lengths is proved by its path, which shows nothing else.
func TestChunkTree(t *testing.T) {
	data := make([]byte, 9*ChunkSize+5)
	_, _ = rand.NewChaCha8(seedOf("chunks")).Read(data)
	for _, n := range []int{
		1, LeafSize, LeafSize + 1, ChunkSize - 1, ChunkSize, ChunkSize + 1, 2 * ChunkSize, 3*ChunkSize - LeafSize, 5*ChunkSize + 17,
		7*ChunkSize + LeafSize, 8 * ChunkSize, 9 * ChunkSize, 9*ChunkSize + 5,
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			content := data[:n]
			tree, root := NewChunkTree(content), BytesRoot(content)
			if tree.Root() != root {
				t.Fatalf("the tree's root is %v, that of the bytes %v", tree.Root(), root)
			}
			count := ChunkCount(int64(n))
			if tree.Count() != count {
				t.Fatalf("%d chunks, want %d", tree.Count(), count)
			}
			for i := range count {
				chunk := content[i*ChunkSize : min((i+1)*ChunkSize, n)]
				proof := tree.Proof(i)
				own, ok := CheckChunk(root, i, count, chunk, proof)
				if !ok || own != BytesRoot(chunk) {
					t.Fatalf("chunk %d is not proved", i)
				}
				for j := range count {
					if _, ok := CheckChunk(root, j, count, chunk, proof); ok && j != i {
						t.Errorf("chunk %d is proved at %d", i, j)
					}
				}
				for _, wrong := range []struct {
					name  string
					at    int
					count int
					chunk []byte
					proof []Hash
				}{
					{"another chunk", i, count, append([]byte{chunk[0] ^ 1}, chunk[1:]...), proof},
					{"a shorter chunk", i, count, chunk[:len(chunk)-1], proof},
					{"a longer proof", i, count, chunk, append(proof[:len(proof):len(proof)], Hash{})},
					{"before the first", -1, count, chunk, proof},
					{"after the last", count, count, chunk, proof},
				} {
					if _, ok := CheckChunk(root, wrong.at, wrong.count, wrong.chunk, wrong.proof); ok {
						t.Errorf("chunk %d is proved with %s", i, wrong.name)
					}
				}
				if len(proof) > 0 {
					if _, ok := CheckChunk(root, i, count, chunk, proof[:len(proof)-1]); ok {
						t.Errorf("chunk %d is proved with a part of its proof", i)
					}
				}
			}
		})
	}
	if got := NewChunkTree(nil); got.Root() != BytesRoot(nil) || got.Count() != 0 {
		t.Errorf("the empty content has %d chunks and root %v", got.Count(), got.Root())
	}
}
