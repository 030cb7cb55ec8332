package nn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"unsafe"
)

// ErrNotFinite says that training or evaluation gave a NaN or an infinity.
var ErrNotFinite = errors.New("a value is not finite")

// State is what training changes: parameters, the optimizer's moments and its scalars. All three slices lie in one
// array in the order of the state's bytes.
type State struct {
	Params []float32 // layer by layer, weights then bias
	First  []float32 // first moments (Adam's m, SGD's u), in the order of Params
	Second []float32 // second moments (Adam's v); empty for SGD
	P1, P2 float32   // Adam's b1^steps and b2^steps by repeated multiplication; 1 for SGD
	Steps  uint64

	all []float32
}

// NewState is the zero state of the net, before any step.
func (n *Net) NewState() *State {
	s := &State{P1: 1, P2: 1}
	moments := 2
	if n.Model.Optimizer.Kind == SGD {
		moments = 1
	}
	s.all = make([]float32, (1+moments)*n.Params)
	s.cut(n.Params)
	return s
}

func (s *State) cut(params int) {
	s.Params, s.First, s.Second = s.all[:params], s.all[params:2*params], s.all[2*params:]
}

// Init is the net's initial state under a seed: Glorot-uniform weights from one ChaCha8 stream, layer by layer in
// storage order, biases zero. Fans of a convolution are the kernel's area times its input and output channels.
func (n *Net) Init(seed [32]byte) *State {
	s := n.NewState()
	r := rand.NewChaCha8(seed)
	for i := range n.Layers {
		l := &n.Layers[i]
		if !l.HasWeights() {
			continue
		}
		fanIn, fanOut := l.In.Size(), l.Units
		if l.Kind == Conv2D {
			fanIn = l.KernelRows * l.KernelCols * l.In.Channels
			fanOut = l.KernelRows * l.KernelCols * l.Units
		}
		limit := float32(math.Sqrt(6 / float64(fanIn+fanOut)))
		w := s.Params[l.WeightsAt:l.BiasAt]
		for j := range w {
			u := float32(float32(r.Uint64()>>40) * 0x1p-24) // exact, as is 2u - 1
			w[j] = (u + u - 1) * limit
		}
	}
	return s
}

// Clone is a copy that shares nothing.
func (s *State) Clone() *State {
	c := &State{all: make([]float32, len(s.all))}
	c.cut(len(s.Params))
	c.CopyFrom(s)
	return c
}

// CopyFrom makes s equal to from, which must be of the same net.
func (s *State) CopyFrom(from *State) {
	copy(s.all, from.all)
	s.P1, s.P2, s.Steps = from.P1, from.P2, from.Steps
}

// scalars are the bytes after the moments: Adam's p1 and p2 (binary32), then the step count (u64), little-endian.
func (s *State) scalars() []byte {
	var b []byte
	if len(s.Second) > 0 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s.P1))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s.P2))
	}
	return binary.LittleEndian.AppendUint64(b, s.Steps)
}

// StateSize is the length of the net's state in bytes.
func (n *Net) StateSize() int {
	if n.Model.Optimizer.Kind == SGD {
		return 8*n.Params + 8
	}
	return 12*n.Params + 16
}

// Bytes are the state's canonical bytes: parameters, first moments, second moments (binary32, little-endian), scalars.
func (s *State) Bytes() []byte {
	floats := floatBytes(s.all)
	scalars := s.scalars()
	b := make([]byte, 0, len(floats)+len(scalars))
	return append(append(b, floats...), scalars...)
}

// ReadState decodes Bytes. The length must fit and all values must be finite.
func (n *Net) ReadState(b []byte) (*State, error) {
	if len(b) != n.StateSize() {
		return nil, fmt.Errorf("model state of %d bytes, this model's has %d", len(b), n.StateSize())
	}
	s := n.NewState()
	for i := range s.all {
		s.all[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	b = b[4*len(s.all):]
	if len(s.Second) > 0 {
		s.P1 = math.Float32frombits(binary.LittleEndian.Uint32(b))
		s.P2 = math.Float32frombits(binary.LittleEndian.Uint32(b[4:]))
		b = b[8:]
	}
	s.Steps = binary.LittleEndian.Uint64(b)
	if !s.finite(1) {
		return nil, fmt.Errorf("model state: %w", ErrNotFinite)
	}
	return s, nil
}

// Root is the RFC 6962 root over the state's bytes in leaves of LeafSize, hashed on the given number of goroutines.
// A value that is not finite is ErrNotFinite.
func (s *State) Root(threads int) (Hash, error) {
	if !s.finite(threads) {
		return Hash{}, ErrNotFinite
	}
	return bytesRoot(floatBytes(s.all), s.scalars(), threads), nil
}

func (s *State) finite(threads int) bool {
	if !finite(s.P1) || !finite(s.P2) {
		return false
	}
	if threads <= 1 {
		return allFinite(s.all)
	}
	var bad atomic.Bool
	var wg sync.WaitGroup
	for i := range threads {
		part := s.all[len(s.all)*i/threads : len(s.all)*(i+1)/threads]
		wg.Go(func() {
			if !allFinite(part) {
				bad.Store(true)
			}
		})
	}
	wg.Wait()
	return !bad.Load()
}

func finite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }

// allFinite: the exponent of a NaN or an infinity is all ones, so adding one to it carries into the sign's place. Two
// values are looked at together, in four chains.
func allFinite(x []float32) bool {
	const noSigns, one = 0x7fffffff_7fffffff, 0x00800000_00800000
	var c0, c1, c2, c3 uint64
	b := floatBytes(x)
	for ; len(b) >= 32; b = b[32:] {
		c0 |= binary.LittleEndian.Uint64(b)&noSigns + one
		c1 |= binary.LittleEndian.Uint64(b[8:])&noSigns + one
		c2 |= binary.LittleEndian.Uint64(b[16:])&noSigns + one
		c3 |= binary.LittleEndian.Uint64(b[24:])&noSigns + one
	}
	for ; len(b) >= 4; b = b[4:] {
		c0 |= uint64(binary.LittleEndian.Uint32(b))&noSigns + one
	}
	return (c0|c1|c2|c3)&^noSigns == 0
}

var littleEndian = func() bool {
	x := uint16(1)
	return *(*byte)(unsafe.Pointer(&x)) == 1
}()

// floatBytes are the little-endian bytes of x: x itself where the machine stores floats that way.
func floatBytes(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	if littleEndian {
		return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x))
	}
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// floatHasher makes the Merkle root over a stream of floats, keeping only the leaves' hashes.
type floatHasher struct {
	leaf   []byte
	hashes []Hash
}

func (h *floatHasher) reset() { h.leaf, h.hashes = h.leaf[:0], h.hashes[:0] }

func (h *floatHasher) write(x []float32) {
	b := floatBytes(x)
	for len(b) > 0 {
		n := min(LeafSize-len(h.leaf), len(b))
		h.leaf = append(h.leaf, b[:n]...)
		b = b[n:]
		if len(h.leaf) == LeafSize {
			h.hashes = append(h.hashes, leafHash(h.leaf))
			h.leaf = h.leaf[:0]
		}
	}
}

// root ends the stream.
func (h *floatHasher) root() Hash {
	if len(h.leaf) > 0 {
		h.hashes = append(h.hashes, leafHash(h.leaf))
	}
	return merkleFold(h.hashes)
}

// DrawBatch fills index with sample numbers below n, drawn with replacement under the seed: the high half of x*n for
// successive ChaCha8 outputs x, drawn again in the rare case that would favour some samples (Lemire, "Fast random
// integer generation in an interval", 2019).
func DrawBatch(seed [32]byte, n int, index []int) {
	r := generators.Get().(*rand.ChaCha8)
	defer generators.Put(r)
	r.Seed(seed)
	bound := uint64(n)
	reject := -bound % bound // (2^64 - n) mod n
	for i := range index {
		hi, lo := bits.Mul64(r.Uint64(), bound)
		for lo < reject {
			hi, lo = bits.Mul64(r.Uint64(), bound)
		}
		index[i] = int(hi)
	}
}

// generators are those of DrawBatch, which would otherwise be allocated in every step.
var generators = sync.Pool{New: func() any { return new(rand.ChaCha8) }}
