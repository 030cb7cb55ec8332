package nn

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var drawnCases = flag.Int("drawn", 0, "number of drawn cases on which the engines are compared (0: some ten seconds of them)")

// All engines end alike, to the bit and to the error, on drawn models, states and data. A case is named by its seed:
// -run 'TestDrawnCases/^17$' repeats it alone.
func TestDrawnCases(t *testing.T) {
	engines := vectorEngines(t)
	cases := *drawnCases
	switch {
	case cases > 0:
	case testing.Short():
		cases = 50
	default:
		cases = 200
	}
	ends := map[string]int{}
	for seed := range cases {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := drawCase(&draw{r: rand.New(rand.NewPCG(0, uint64(seed)))}, 1<<23)
			ends[c.check(t, engines)]++
		})
	}
	t.Log(ends)
	finite, atOnce, midway := ends["finite"], ends["at once"], ends["midway"]
	if t.Failed() || finite+atOnce+midway < 50 {
		return // some were picked by hand
	}
	// Hostile states must not be so hostile that nothing but their end is compared.
	if finite < cases/3 || atOnce == 0 || midway == 0 {
		t.Errorf("%d cases ended as follows: %v; that leaves much untried", cases, ends)
	}
}

// FuzzEngines takes model, data and state from the input, as far as it goes. Threads make the coverage of one input
// vary, so that a hunt needs -fuzzminimizetime 1x, lest it spend its time on making inputs smaller.
func FuzzEngines(f *testing.F) {
	engines := vectorEngines(f)
	f.Add([]byte{})
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(1, seed))
		input := make([]byte, 8<<(seed%5))
		for i := range input {
			input[i] = byte(r.Uint32())
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		drawCase(&draw{input: input, r: rand.New(rand.NewPCG(0, 0))}, 1<<18).check(t, engines)
	})
}

func vectorEngines(t testing.TB) []EngineMaker {
	engines := slices.DeleteFunc(Engines(), func(e EngineMaker) bool { return !e.Threaded })
	if len(engines) == 0 {
		t.Skip("this machine has no instruction set that kernels are written for")
	}
	return engines
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

// drawnCase is a trial and its evaluation.
type drawnCase struct {
	net   *Net
	data  Samples
	start *State
	steps int
}

// drawCase draws one whose model takes some work at most: multiply-adds of the whole trial.
func drawCase(d *draw, work int) drawnCase {
	c := drawnCase{steps: 1 + d.below(5)}
	m := drawModel(d, work/c.steps)
	net, err := m.Build()
	if err != nil {
		panic(err) // drawModel chooses among what fits
	}
	c.net = net
	c.data = drawData(d, net)
	c.start = drawState(d, net)
	return c
}

// drawModel draws one whose step takes so much work at most, the last layer's not counted.
func drawModel(d *draw, work int) Model {
	m := Model{
		Loss:  pick(d, SoftmaxCrossEntropy, SoftmaxCrossEntropy, MeanSquaredError),
		Batch: pick(d, 1, 2, 3+d.below(5), 3+d.below(10), 16, 31, 33, 64, 260),
	}
	rate := pick[float32](d, 0.001, 0.05, 1, 1023, 0x1p-60)
	if d.oneIn(3) {
		m.Optimizer = Optimizer{Kind: SGD, LearningRate: rate, Momentum: pick[float32](d, 0, 0.9, 0x1.fffffep-1, 0x1p-100)}
	} else {
		m.Optimizer = Optimizer{Kind: Adam, LearningRate: rate, Beta1: pick[float32](d, 0.9, 0, 0x1.fffffep-1),
			Beta2: pick[float32](d, 0.999, 0, 0x1.fffffep-1), Epsilon: pick[float32](d, 1e-7, 0x1p-60, 0.5)}
	}
	side := func() int { return pick(d, 1+d.below(6), 1+d.below(13), 17, 28) }
	m.Input = Shape{side(), side(), pick(d, 1, 1, 2, 3, 1+d.below(20))}
	if d.oneIn(5) {
		m.Input = Shape{1, 1, 1 + d.below(256) + 200*d.below(2)}
	}
	work /= 3 * m.Batch
	values := work / 5 // of a sample in all layers
	if m.Input.Size() > values {
		m.Input.Channels = 1
	}
	in := m.Input
	add := func(l Layer) {
		b, err := buildLayer(l, in)
		if err != nil || int(b.MulAdds()) > work || b.Out.Size() > values {
			return
		}
		work -= int(b.MulAdds())
		values -= b.Out.Size()
		in = b.Out
		m.Layers = append(m.Layers, l)
	}
	for range 1 + d.below(9) {
		units := pick(d, 1+d.below(5), 1+d.below(20), 8, 15, 16, 17, 31, 32, 33, 40, 64)
		activation := pick(d, Linear, ReLU)
		kind := pick(d, Conv2D, Conv2D, Conv2D, Conv2D, Conv2D, MaxPool2D, MaxPool2D, Flatten)
		if in.Flat() && !d.oneIn(4) {
			kind = Dense
		}
		l := Layer{Kind: kind}
		switch kind {
		case Conv2D:
			l = Layer{Kind: Conv2D, Units: units, KernelRows: 3, KernelCols: 3, Padding: pick(d, Valid, Same), Activation: activation}
			if d.oneIn(2) {
				l.KernelRows, l.KernelCols = 1+d.below(MaxKernel), 1+d.below(MaxKernel)
			}
			if l.KernelRows > in.Rows || l.KernelCols > in.Cols {
				l.Padding = Same
			}
			l.Stride = 1
			if d.oneIn(3) {
				l.Stride += d.below(min(l.KernelRows, l.KernelCols))
			}
		case MaxPool2D:
			l.KernelRows, l.KernelCols = 1+d.below(min(in.Rows, 4)), 1+d.below(min(in.Cols, 4))
		case Dense:
			l.Units, l.Activation = pick(d, units, units, 100, 128, 257), activation
		}
		add(l) // unless it would be too much work
	}
	// Any layer may be the last if it gives a vector.
	net, err := m.Build()
	if err == nil && net.Outputs <= 64 && d.oneIn(2) {
		return m
	}
	m.Layers = append(m.Layers, Layer{Kind: Flatten},
		Layer{Kind: Dense, Units: pick(d, 2, 10, 2+d.below(40)), Activation: pick(d, Linear, Linear, Linear, ReLU)})
	return m
}

func drawData(d *draw, net *Net) Samples {
	n := pick(d, 1, 2, 5+d.below(20), 33, 65)
	size := net.Model.Input.Size()
	s := Samples{Size: size, Pixels: make([]byte, n*size), Labels: make([]byte, n)}
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
func drawState(d *draw, net *Net) *State {
	s := net.Init([32]byte{d.byte()})
	for i := range net.Layers {
		w, bias := net.Layers[i].weights(s.Params)
		d.fill(w)
		d.fill(bias)
	}
	if d.oneIn(2) {
		d.fill(s.First)
		d.fill(s.Second)
		for i, v := range s.Second {
			s.Second[i] = float32(math.Abs(float64(v)))
		}
		s.Steps = uint64(d.below(256))
	}
	if net.Model.Optimizer.Kind == Adam {
		s.P1 = pick(d, s.P1, s.P1, 0.5, 0, minus0, tiniest, d.float())
		s.P2 = pick(d, s.P2, s.P2, 0.5, 0, minus0, tiniest, d.float())
	}
	for range d.below(4) {
		at := uint(d.byte())<<8 | uint(d.byte())
		s.all[at%uint(len(s.all))] = d.float()
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

// outcome is everything that a trial and the evaluation of its start and end give.
type outcome struct {
	err    string
	roots  []string // as reported on the way
	end    *Trained // nil if it failed
	losses []uint32
	counts []int
	errs   []string
}

func (c drawnCase) run(e Engine) outcome {
	var o outcome
	evaluate := func(s *State) {
		loss, correct, err := e.Evaluate(context.Background(), s, c.data)
		o.losses = append(o.losses, bitsOf(loss))
		o.counts = append(o.counts, correct)
		o.errs = append(o.errs, fmt.Sprint(err))
	}
	evaluate(c.start)
	r, err := e.Train(context.Background(), c.start, c.data, Trial{
		Steps:      c.steps,
		BatchSeed:  batchSeeds("drawn"),
		EarlyRoots: true,
		OnRoot: func(step int, root Hash) error {
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

// check holds the vector engines to the plain one, each with 1 to 4 threads, and says how the trial ended.
func (c drawnCase) check(t *testing.T, engines []EngineMaker) string {
	t.Helper()
	want := c.run(NewPlain(c.net))
	for _, maker := range engines {
		for threads := 1; threads <= 4; threads++ {
			e, err := maker.New(c.net, threads)
			if err != nil {
				t.Fatal(err)
			}
			if threads > 2 {
				c.poison(e)
			}
			got := c.run(e)
			e.Close()
			if difference := want.compare(got); difference != "" {
				t.Errorf("%s with %d threads: %s\nmodel %+v\n%d samples, %d steps", maker.Name, threads, difference, c.net.Model, c.data.Len(), c.steps)
			}
		}
	}
	switch {
	case want.err == "":
		return "finite"
	case len(want.roots) == 0:
		return "at once"
	}
	return "midway"
}

// poison leaves infinities and NaNs in the engine's memory, of which no later run may see anything.
func (c drawnCase) poison(e Engine) {
	s := c.net.NewState()
	for i := range s.Params {
		s.Params[i] = math.MaxFloat32
		if i%3 == 0 {
			s.Params[i] = -math.MaxFloat32
		}
	}
	white := Samples{Pixels: slices.Repeat([]byte{255}, c.data.Size), Labels: []byte{0}, Size: c.data.Size}
	_, _ = e.Train(context.Background(), s, white, Trial{Steps: 1, BatchSeed: batchSeeds("poison")})
}

// compare says what differs, "" if nothing does.
func (o outcome) compare(got outcome) string {
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
	case !sameBits(got.end.State.all, o.end.State.all):
		at := 0
		for bitsOf(got.end.State.all[at]) == bitsOf(o.end.State.all[at]) {
			at++
		}
		return fmt.Sprintf("value %d of the state is %#08x, want %#08x", at, bitsOf(got.end.State.all[at]), bitsOf(o.end.State.all[at]))
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
