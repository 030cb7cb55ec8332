// Package nntest draws models, data and states at random and compares what engines make of them, for the tests of all
// engines.
package nntest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/descentnet/minerd/nn"
)

// Case is a trial and its evaluation.
type Case struct {
	Net   *nn.Net
	Data  nn.Samples
	Start *nn.State
	Steps int
}

// Seeded draws the case of a seed, with a model whose trial takes so much work at most: multiply-adds.
func Seeded(seed uint64, work int) Case {
	return drawCase(&draw{r: rand.New(rand.NewPCG(0, seed))}, work)
}

// From takes model, data and state from the input, as far as it goes.
func From(input []byte, work int) Case {
	return drawCase(&draw{input: input, r: rand.New(rand.NewPCG(0, 0))}, work)
}

// draw makes choices: by the bytes of an input while there are some, then by a stream.
type draw struct {
	input []byte
	r     *rand.Rand
}

func (d *draw) byte() byte {
	if len(d.input) == 0 {
		return byte(d.r.Uint32())
	}
	b := d.input[0]
	d.input = d.input[1:]
	return b
}

// below is from 0 to n-1, for n up to 256.
func (d *draw) below(n int) int { return int(d.byte()) % n }

// oneIn is true once in n times.
func (d *draw) oneIn(n int) bool { return d.below(n) == n-1 }

// float has any bits but those of a NaN or an infinity.
func (d *draw) float() float32 {
	u := uint32(d.byte())<<24 | uint32(d.byte())<<16 | uint32(d.byte())<<8 | uint32(d.byte())
	if x := math.Float32frombits(u); finite(x) {
		return x
	}
	return math.Float32frombits(u &^ (1 << 23))
}

// stream is for what takes many numbers.
func (d *draw) stream() *rand.Rand {
	return rand.New(rand.NewPCG(uint64(d.byte()), 0))
}

func pick[T any](d *draw, from ...T) T { return from[d.below(len(from))] }

func drawCase(d *draw, work int) Case {
	c := Case{Steps: 1 + d.below(5)}
	m := drawModel(d, work/c.Steps)
	net, err := m.Build()
	if err != nil {
		panic(err) // drawModel chooses among what fits
	}
	c.Net = net
	c.Data = drawData(d, net)
	c.Start = drawState(d, net)
	return c
}

// drawModel draws one whose step takes so much work at most, the last layer's not counted.
func drawModel(d *draw, work int) nn.Model {
	m := nn.Model{
		Loss:  pick(d, nn.SoftmaxCrossEntropy, nn.SoftmaxCrossEntropy, nn.MeanSquaredError),
		Batch: pick(d, 1, 2, 3+d.below(5), 3+d.below(10), 16, 31, 33, 64, 260),
	}
	rate := pick[float32](d, 0.001, 0.05, 1, 1023, 0x1p-60)
	if d.oneIn(3) {
		m.Optimizer = nn.Optimizer{Kind: nn.SGD, LearningRate: rate, Momentum: pick[float32](d, 0, 0.9, 0x1.fffffep-1, 0x1p-100)}
	} else {
		m.Optimizer = nn.Optimizer{Kind: nn.Adam, LearningRate: rate, Beta1: pick[float32](d, 0.9, 0, 0x1.fffffep-1),
			Beta2: pick[float32](d, 0.999, 0, 0x1.fffffep-1), Epsilon: pick[float32](d, 1e-7, 0x1p-60, 0.5)}
	}
	side := func() int { return pick(d, 1+d.below(6), 1+d.below(13), 17, 28) }
	m.Input = nn.Shape{Rows: side(), Cols: side(), Channels: pick(d, 1, 1, 2, 3, 1+d.below(20))}
	if d.oneIn(5) {
		m.Input = nn.Shape{Rows: 1, Cols: 1, Channels: 1 + d.below(256) + 200*d.below(2)}
	}
	work /= 3 * m.Batch
	values := work / 5 // of a sample in all layers
	if m.Input.Size() > values {
		m.Input.Channels = 1
	}
	in := m.Input
	add := func(l nn.Layer) {
		// With layers behind it that make it a model.
		net, err := nn.Model{Input: in, Layers: []nn.Layer{l, {Kind: nn.Flatten}, {Kind: nn.Dense, Units: 2}},
			Loss: m.Loss, Optimizer: m.Optimizer, Batch: 1}.Build()
		if err != nil {
			return
		}
		b := &net.Layers[0]
		if int(b.MulAdds()) > work || b.Out.Size() > values {
			return
		}
		work -= int(b.MulAdds())
		values -= b.Out.Size()
		in = b.Out
		m.Layers = append(m.Layers, l)
	}
	for range 1 + d.below(9) {
		units := pick(d, 1+d.below(5), 1+d.below(20), 8, 15, 16, 17, 31, 32, 33, 40, 64)
		activation := pick(d, nn.Linear, nn.ReLU)
		kind := pick(d, nn.Conv2D, nn.Conv2D, nn.Conv2D, nn.Conv2D, nn.Conv2D, nn.MaxPool2D, nn.MaxPool2D, nn.Flatten)
		if in.Flat() && !d.oneIn(4) {
			kind = nn.Dense
		}
		l := nn.Layer{Kind: kind}
		switch kind {
		case nn.Conv2D:
			l = nn.Layer{Kind: nn.Conv2D, Units: units, KernelRows: 3, KernelCols: 3, Padding: pick(d, nn.Valid, nn.Same), Activation: activation}
			if d.oneIn(2) {
				l.KernelRows, l.KernelCols = 1+d.below(nn.MaxKernel), 1+d.below(nn.MaxKernel)
			}
			if l.KernelRows > in.Rows || l.KernelCols > in.Cols {
				l.Padding = nn.Same
			}
			l.Stride = 1
			if d.oneIn(3) {
				l.Stride += d.below(min(l.KernelRows, l.KernelCols))
			}
		case nn.MaxPool2D:
			l.KernelRows, l.KernelCols = 1+d.below(min(in.Rows, 4)), 1+d.below(min(in.Cols, 4))
		case nn.Dense:
			l.Units, l.Activation = pick(d, units, units, 100, 128, 257), activation
		}
		add(l) // unless it would be too much work
	}
	// Any layer may be the last if it gives a vector.
	net, err := m.Build()
	if err == nil && net.Outputs <= 64 && d.oneIn(2) {
		return m
	}
	m.Layers = append(m.Layers, nn.Layer{Kind: nn.Flatten},
		nn.Layer{Kind: nn.Dense, Units: pick(d, 2, 10, 2+d.below(40)), Activation: pick(d, nn.Linear, nn.Linear, nn.Linear, nn.ReLU)})
	return m
}

func drawData(d *draw, net *nn.Net) nn.Samples {
	n := pick(d, 1, 2, 5+d.below(20), 33, 65)
	size := net.Model.Input.Size()
	s := nn.Samples{Size: size, Pixels: make([]byte, n*size), Labels: make([]byte, n)}
	kind, one := d.below(7), byte(d.below(256))
	r := d.stream()
	for i := range s.Pixels {
		x := byte(r.Uint32())
		switch kind {
		case 0: // all zero
			x = 0
		case 1: // constant images
			x = byte(i/size) * one
		case 2:
			x = 255
		case 3: // a bright spot in each image
			if i%size != int(one)%size {
				x = 0
			}
		case 4: // many equal neighbours
			x = x >> 7 * one
		}
		s.Pixels[i] = x
	}
	sameLabel := d.oneIn(4)
	for i := range s.Labels {
		s.Labels[i] = byte(r.IntN(net.Outputs))
		if sameLabel {
			s.Labels[i] = byte(net.Outputs - 1)
		}
	}
	return s
}

// drawState draws a finite state, as a peer may send it.
func drawState(d *draw, net *nn.Net) *nn.State {
	s := net.Init([32]byte{d.byte()})
	for i := range net.Layers {
		if l := &net.Layers[i]; l.HasWeights() {
			d.fill(s.Params[l.WeightsAt:l.BiasAt])
			d.fill(s.Params[l.BiasAt : l.BiasAt+l.Units])
		}
	}
	if d.oneIn(2) {
		d.fill(s.First)
		d.fill(s.Second)
		for i, v := range s.Second {
			s.Second[i] = float32(math.Abs(float64(v)))
		}
		s.Steps = uint64(d.below(256))
	}
	if net.Model.Optimizer.Kind == nn.Adam {
		s.P1 = pick(d, s.P1, s.P1, 0.5, 0, minus0, tiniest, d.float())
		s.P2 = pick(d, s.P2, s.P2, 0.5, 0, minus0, tiniest, d.float())
	}
	for range d.below(4) {
		at := uint(d.byte())<<8 | uint(d.byte())
		all := [][]float32{s.Params, s.First, s.Second}
		i := int(at) % (len(s.Params) + len(s.First) + len(s.Second))
		all[i/net.Params][i%net.Params] = d.float()
	}
	return s
}

// fill leaves x as it is, or makes all or some of its values extreme.
func (d *draw) fill(x []float32) {
	kind, rare := d.below(32), d.oneIn(2)
	r := d.stream()
	for i := range x {
		u := r.Uint32()
		if rare && u%16 > 0 {
			continue
		}
		random := r.Uint32()
		sign := random & (1 << 31)
		scaled := func(lowest, exponents uint32) float32 { // biased exponents lowest to lowest+exponents-1
			return math.Float32frombits(sign | (lowest+random>>23%exponents)<<23 | random&(1<<23-1))
		}
		switch kind {
		case 0:
			x[i] = 0
		case 1, 2:
			x[i] = minus0
		case 3, 4: // subnormal
			x[i] = math.Float32frombits(sign | random&(1<<23-1))
		case 5: // the smallest normal numbers and subnormal ones
			x[i] = scaled(0, 3)
		case 6: // around the cut of moments
			x[i] = scaled(127-98, 4)
		case 7: // products of them are subnormal
			x[i] = scaled(127-70, 10)
		case 8: // great, but not too great for some layers
			x[i] = scaled(127+20, 20)
		case 9: // squares overflow
			x[i] = scaled(127+60, 10)
		case 10: // sums of few overflow
			x[i] = scaled(127+120, 8)
		case 11:
			x[i] = pick[float32](&draw{r: r}, 0, minus0, tiniest, -tiniest, 0x1p-126, 1, -1, math.MaxFloat32, -math.MaxFloat32)
		}
	}
}

// Outcome is everything that a trial and the evaluation of its start and end give.
type Outcome struct {
	err    string
	roots  []string    // as reported on the way
	end    *nn.Trained // nil if it failed
	losses []uint32
	counts []int
	errs   []string
}

// Run evaluates the start, trains, and evaluates the end.
func (c Case) Run(e nn.Engine) Outcome {
	var o Outcome
	evaluate := func(s *nn.State) {
		loss, correct, err := e.Evaluate(context.Background(), s, c.Data)
		o.losses = append(o.losses, bitsOf(loss))
		o.counts = append(o.counts, correct)
		o.errs = append(o.errs, fmt.Sprint(err))
	}
	evaluate(c.Start)
	r, err := e.Train(context.Background(), c.Start, c.Data, nn.Trial{
		Steps:      c.Steps,
		BatchSeed:  batchSeeds("drawn"),
		EarlyRoots: true,
		OnRoot: func(step int, root nn.Hash) error {
			o.roots = append(o.roots, fmt.Sprint(step, root))
			return nil
		},
	})
	if err != nil {
		o.err = err.Error()
		return o
	}
	o.end = r
	evaluate(r.State)
	return o
}

// Poison leaves infinities and NaNs in the engine's memory, of which no later run may see anything.
func (c Case) Poison(e nn.Engine) {
	s := c.Net.NewState()
	for i := range s.Params {
		s.Params[i] = math.MaxFloat32
		if i%3 == 0 {
			s.Params[i] = -math.MaxFloat32
		}
	}
	white := nn.Samples{Pixels: slices.Repeat([]byte{255}, c.Data.Size), Labels: []byte{0}, Size: c.Data.Size}
	_, _ = e.Train(context.Background(), s, white, nn.Trial{Steps: 1, BatchSeed: batchSeeds("poison")})
}

// Compare says what differs, "" if nothing does.
func (o Outcome) Compare(got Outcome) string {
	switch {
	case got.err != o.err:
		return fmt.Sprintf("the trial ended with error %q, want %q", got.err, o.err)
	case !slices.Equal(got.roots, o.roots):
		return fmt.Sprintf("early roots %v, want %v", got.roots, o.roots)
	case !slices.Equal(got.losses, o.losses), !slices.Equal(got.counts, o.counts), !slices.Equal(got.errs, o.errs):
		return fmt.Sprintf("evaluations gave %#08x, %d correct, errors %v; want %#08x, %d, %v",
			got.losses, got.counts, got.errs, o.losses, o.counts, o.errs)
	case o.end == nil:
		return ""
	case !bytes.Equal(got.end.State.Bytes(), o.end.State.Bytes()):
		a, b := got.end.State.Bytes(), o.end.State.Bytes()
		at := 0
		for a[at] == b[at] {
			at++
		}
		at -= at % 4
		return fmt.Sprintf("word %d of the state is %#08x, want %#08x", at/4, binary.LittleEndian.Uint32(a[at:]), binary.LittleEndian.Uint32(b[at:]))
	case got.end.Root != o.end.Root:
		return "other root"
	case !slices.Equal(got.end.EarlyRoots, o.end.EarlyRoots):
		return "the early roots are not those that were reported"
	case got.end.LogitsDigest != o.end.LogitsDigest:
		return "other logits"
	case !slices.EqualFunc(got.end.BatchLosses, o.end.BatchLosses, sameNumber):
		return fmt.Sprintf("batch losses %v, want %v", got.end.BatchLosses, o.end.BatchLosses)
	}
	return ""
}

// sameNumber: which bits a NaN has is left open.
func sameNumber(a, b float32) bool { return bitsOf(a) == bitsOf(b) || a != a && b != b }

func finite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

func bitsOf(x float32) uint32 { return math.Float32bits(x) }

var (
	minus0  = float32(math.Copysign(0, -1))
	tiniest = math.Float32frombits(1)
)

// batchSeeds gives one seed per step of a named run.
func batchSeeds(run string) func(uint32) [32]byte {
	return func(step uint32) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "%s %d", run, step)) }
}

// Ending says how the trial ended: finite, at once or midway.
func (o Outcome) Ending() string {
	switch {
	case o.err == "":
		return "finite"
	case len(o.roots) == 0:
		return "at once"
	}
	return "midway"
}
