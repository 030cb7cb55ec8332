package kernels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
	"github.com/descentnet/minerd/nn"
)

var module = sync.OnceValues(func() (*ptx.Module, error) { return ptx.Parse(PTX) })

var orders = []struct {
	name string
	ptx.Order
}{{"forward", ptx.Forward}, {"backward", ptx.Backward}, {"shuffled", ptx.Shuffled(1)}}

// bench is device memory as the engine lays it out: one arena per trial, all alike, each stride words after the one
// before. Between the arrays are gaps, which no kernel may touch.
type bench struct {
	t      *testing.T
	r      *rand.Rand
	seed   int // of r
	trials int
	stride int
	arrays []*array
	shared [][]byte // what all trials share, an allocation each
}

// array is one array of every trial, float32 or 32-bit words.
type array struct {
	at    int
	words [][]uint32 // per trial, as written before the launch
}

// common is a pointer that all trials share.
type common int

func newBench(t *testing.T, seed int) *bench {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	return &bench{t: t, r: r, seed: seed, trials: 1 + r.IntN(3), stride: r.IntN(5)}
}

// array has n values of every trial from draw. Most arrays begin at a multiple of 16 bytes, as the engine's do; some do
// not, as weights that follow others.
func (b *bench) array(n int, draw func() float32) *array {
	a := &array{at: b.stride}
	if b.r.IntN(3) > 0 {
		a.at = (a.at + 3) &^ 3
	}
	for range b.trials {
		words := make([]uint32, n)
		for i := range words {
			words[i] = math.Float32bits(draw())
		}
		a.words = append(a.words, words)
	}
	b.stride = a.at + n + 1 + b.r.IntN(7)
	if b.r.IntN(2) == 0 {
		b.stride = (b.stride + 3) &^ 3
	}
	b.arrays = append(b.arrays, a)
	return a
}

// output is an array that the kernel fills: before, it is full of NaN.
func (b *bench) output(n int) *array {
	return b.array(n, func() float32 { return float32(math.NaN()) })
}

func (b *bench) bytes(p []byte) common {
	b.shared = append(b.shared, p)
	return common(len(b.shared) - 1)
}

func (b *bench) ints(v []int) common {
	var p []byte
	for _, x := range v {
		p = binary.LittleEndian.AppendUint32(p, uint32(x))
	}
	return b.bytes(p)
}

func (b *bench) floats(v []float32) common {
	var p []byte
	for _, x := range v {
		p = binary.LittleEndian.AppendUint32(p, math.Float32bits(x))
	}
	return b.bytes(p)
}

// of is the array's values in a trial.
func (a *array) of(trial int) []float32 { return floatsOf(a.words[trial]) }

func floatsOf(words []uint32) []float32 {
	f := make([]float32, len(words))
	for i, w := range words {
		f[i] = math.Float32frombits(w)
	}
	return f
}

// call is one launch. An argument is an array or a common (a pointer), a number, or nil, the null pointer; at is an
// array from a value on.
type call struct {
	kernel string
	shape  geometry
	args   []any
}

type geometry struct{ grid, block [3]int }

func shape(grid, block [3]int) geometry { return geometry{grid, block} }

type at struct {
	*array
	from int
}

// strideArg stands for the stride among a call's arguments: it is known only when all arrays are laid out.
type strideArg struct{}

// run makes the calls one after the other, in every order of threads, and gives what is then in the outputs to check,
// trial by trial. Everything else must be as before.
func (b *bench) run(calls []call, outputs []*array, check func(trial int, got [][]uint32) error) {
	b.t.Helper()
	mod, err := module()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, order := range orders {
		var mem ptx.Memory
		before := b.image()
		arena := b.alloc(&mem, before)
		var commons []uint64
		for _, p := range b.shared {
			commons = append(commons, b.alloc(&mem, p))
		}
		for _, c := range calls {
			var args []uint64
			for _, a := range c.args {
				args = append(args, b.arg(a, arena, commons))
			}
			if err := mod.Launch(&mem, c.kernel, c.shape.grid, c.shape.block, args, order.Order); err != nil {
				b.t.Fatalf("%s, %s order: %v", c.kernel, order.name, err)
			}
		}
		after := make([]byte, len(before))
		if err := mem.Read(after, arena); err != nil {
			b.t.Fatal(err)
		}
		for trial := range b.trials {
			var got [][]uint32
			for _, o := range outputs {
				p := after[4*(trial*b.stride+o.at):]
				words := make([]uint32, len(o.words[trial]))
				for i := range words {
					words[i] = binary.LittleEndian.Uint32(p[4*i:])
				}
				copy(p, before[4*(trial*b.stride+o.at):][:4*len(words)])
				got = append(got, words)
			}
			if err := check(trial, got); err != nil {
				b.t.Fatalf("%s, %s order, trial %d of %d: %v", calls[len(calls)-1].kernel, order.name, trial, b.trials, err)
			}
		}
		if !bytes.Equal(after, before) {
			b.t.Fatalf("%s, %s order: wrote where it must not", calls[len(calls)-1].kernel, order.name)
		}
		for i, p := range b.shared {
			now := make([]byte, len(p))
			if err := mem.Read(now, commons[i]); err != nil || !bytes.Equal(now, p) {
				b.t.Fatalf("%s, %s order: wrote to what the trials share (%v)", calls[len(calls)-1].kernel, order.name, err)
			}
		}
	}
}

// image is the arenas' bytes before the launch; the gaps are full of NaN.
func (b *bench) image() []byte {
	image := bytes.Repeat([]byte{0xff}, 4*b.stride*b.trials)
	for trial := range b.trials {
		for _, a := range b.arrays {
			for i, w := range a.words[trial] {
				binary.LittleEndian.PutUint32(image[4*(trial*b.stride+a.at+i):], w)
			}
		}
	}
	return image
}

func (b *bench) alloc(mem *ptx.Memory, p []byte) uint64 {
	address, err := mem.Alloc(len(p))
	if err == nil {
		err = mem.Write(address, p)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return address
}

func (b *bench) arg(a any, arena uint64, commons []uint64) uint64 {
	switch v := a.(type) {
	case nil:
		return 0
	case *array:
		return arena + 4*uint64(v.at)
	case at:
		return arena + 4*uint64(v.array.at+v.from)
	case common:
		return commons[v]
	case strideArg:
		return uint64(b.stride)
	case int:
		return uint64(uint32(v))
	case uint32:
		return uint64(v)
	case bool:
		if v {
			return 1
		}
		return 0
	case float32:
		return uint64(math.Float32bits(v))
	}
	panic(fmt.Sprintf("argument %T", a))
}

// same compares values bit by bit, one NaN like another.
func same(what string, got []uint32, want []float32) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		g := math.Float32frombits(got[i])
		if got[i] != math.Float32bits(w) && (g == g || w == w) {
			return fmt.Errorf("%s[%d] = %g (%08x), want %g (%08x)", what, i, g, got[i], w, math.Float32bits(w))
		}
	}
	return nil
}

// values draws numbers of one of several kinds for a whole case: small ones and zeros as in training; such that products
// and sums are subnormal or overflow; such that infinities and NaN are met now and then.
func (b *bench) values() func() float32 {
	r := b.r
	kind := r.IntN(4)
	scale := float32(math.Ldexp(1, r.IntN(3)-1))
	return func() float32 {
		x := scale * float32(r.NormFloat64())
		switch n := r.IntN(64); {
		case n < 16:
			return 0
		case n < 20:
			return float32(math.Copysign(0, -1))
		case kind == 1 && n < 40:
			return x * 0x1p-75
		case kind == 1 && n < 44:
			return math.Float32frombits(r.Uint32() & 0x807fffff) // subnormal
		case kind == 2 && n < 22:
			return x * 0x1p66
		case kind == 3 && r.IntN(400) == 0:
			return []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}[r.IntN(3)]
		}
		return x
	}
}

// layer builds a net whose first layer is l and returns that.
func layer(t *testing.T, in nn.Shape, l nn.Layer) *nn.NetLayer {
	t.Helper()
	layers := []nn.Layer{l}
	if l.Kind != nn.Dense {
		layers = append(layers, nn.Layer{Kind: nn.Flatten})
	}
	m := nn.Model{Input: in, Layers: append(layers, nn.Layer{Kind: nn.Dense, Units: 2}), Loss: nn.SoftmaxCrossEntropy,
		Optimizer: nn.Optimizer{Kind: nn.SGD, LearningRate: 1}, Batch: 1}
	net, err := m.Build()
	if err != nil {
		t.Fatal(err)
	}
	return &net.Layers[0]
}

// params is the number of values of a net's parameters up to the end of the layer's.
func params(l *nn.NetLayer) int { return l.BiasAt + l.Units }

func masked(g, activations []float32) []float32 {
	for i, a := range activations {
		if !(a > 0) {
			g[i] = 0
		}
	}
	return g
}
