package nn

// ChunkSize is the length of a chunk, in which contents such as data files and model states travel, in bytes: 16 leaves,
// so that each full chunk is a subtree of its content. The last chunk is as long as what is left.
const ChunkSize = 16 * LeafSize

// ChunkCount is the number of chunks of a content of the given length in bytes, which is not negative.
func ChunkCount(length int64) int { return int((length + ChunkSize - 1) / ChunkSize) }

// ChunkTree is the part of a content's Merkle tree that lies above its chunks: 64 bytes per chunk, 1 per 1,024 bytes of
// content. It is never changed after it is made.
type ChunkTree struct {
	levels [][]Hash // the chunks' own roots first, the content's root last; an odd last one is carried up
}

// NewChunkTree hashes a content.
func NewChunkTree(content []byte) *ChunkTree {
	roots := make([]Hash, ChunkCount(int64(len(content))))
	for i := range roots {
		lo := i * ChunkSize
		roots[i] = BytesRoot(content[lo:min(lo+ChunkSize, len(content))])
	}
	return ChunkTreeOf(roots)
}

// ChunkTreeOf makes the tree above chunks with these roots, in order; it keeps the slice.
func ChunkTreeOf(roots []Hash) *ChunkTree {
	t := &ChunkTree{levels: [][]Hash{roots}}
	for len(roots) > 1 {
		up := make([]Hash, 0, (len(roots)+1)/2)
		for i := 0; i < len(roots); i += 2 {
			if i+1 < len(roots) {
				up = append(up, nodeHash(roots[i], roots[i+1]))
			} else {
				up = append(up, roots[i])
			}
		}
		t.levels = append(t.levels, up)
		roots = up
	}
	return t
}

// Root is the root of the content, BytesRoot of its bytes.
func (t *ChunkTree) Root() Hash {
	top := t.levels[len(t.levels)-1]
	if len(top) == 0 {
		return BytesRoot(nil)
	}
	return top[0]
}

// Count is the number of chunks.
func (t *ChunkTree) Count() int { return len(t.levels[0]) }

// Proof is the RFC 6962 inclusion proof (section 2.1.1) of a chunk's subtree: its siblings, lowest first. It panics if
// there is no such chunk.
func (t *ChunkTree) Proof(index int) []Hash {
	_ = t.levels[0][index]
	var proof []Hash
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := index ^ 1; sibling < len(level) {
			proof = append(proof, level[sibling])
		}
		index /= 2
	}
	return proof
}

// CheckChunk says whether a proof shows that a chunk is at the given index of the content with this root and this number
// of chunks. It gives the chunk's own root as well. The chunk's length is for the caller to check.
func CheckChunk(root Hash, index, count int, chunk []byte, proof []Hash) (own Hash, ok bool) {
	own = BytesRoot(chunk)
	if index < 0 || index >= count {
		return own, false
	}
	h := own
	for ; count > 1; index, count = index/2, (count+1)/2 {
		if index^1 >= count {
			continue // the last one of an odd number is carried up
		}
		if len(proof) == 0 {
			return own, false
		}
		if index%2 == 0 {
			h = nodeHash(h, proof[0])
		} else {
			h = nodeHash(proof[0], h)
		}
		proof = proof[1:]
	}
	return own, len(proof) == 0 && h == root
}
