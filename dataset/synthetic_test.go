package dataset

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/descentnet/minerd/nn"
)

// TestSyntheticGolden pins every byte: a change here changes the data of every task on built-in digits.
func TestSyntheticGolden(t *testing.T) {
	for _, c := range []struct {
		seed           uint64
		n              int
		images, labels string
	}{
		{1, 64,
			"06139b7fb7e2fef286450611847943a21920b436bbf1cafd91999d28b17af9cf",
			"1513ae8e3d299691a6f389c5efed786a8bf7114f6fb39c18f2c5e0ac8577db62"},
		{math.MaxUint64, 64,
			"b210b29b9bc86cb5a7fc39bc351027b0b6fc47241bcfe97f964cf39555e07ea5",
			"8f85b05d0b9370cdceb1f4bde71620828cb85b683471865d31271a16e615029c"},
		{1, SyntheticCount,
			"dffebd74f92f3f642484003089b6b860a1a93e1c639f29bf961427d9e988265b",
			"d24961392a96b27a73059afd612c77d23acdb005f5fdc21736622e7ac2f1d58f"},
	} {
		want := Identity{
			Images: File{Root: hash(t, c.images), Length: 16 + c.n*28*28},
			Labels: File{Root: hash(t, c.labels), Length: 8 + c.n},
			Count:  c.n,
		}
		if err := Synthetic(c.seed, c.n).Match(want); err != nil {
			t.Errorf("seed %d, %d samples: %v", c.seed, c.n, err)
		}
	}
}

func TestSyntheticParses(t *testing.T) {
	d := Synthetic(3, 10)
	p := mustParse(t, d.ImageFile(), d.LabelFile())
	if p.Identity() != d.Identity() || p.Rows() != 28 || p.Cols() != 28 || p.Channels() != 1 || d.Rows() != 28 || d.Cols() != 28 || d.Channels() != 1 {
		t.Errorf("parsed again: %v, was %v", p, d)
	}
}

// TestSyntheticOrder draws the same samples alone and as the start of a longer set, with different numbers of threads.
func TestSyntheticOrder(t *testing.T) {
	const n = 300
	want := synthetic(5, n, 1).Identity()
	for threads := 2; threads <= 5; threads++ {
		if got := synthetic(5, n, threads).Identity(); got != want {
			t.Errorf("%d threads: %v, one thread: %v", threads, got, want)
		}
	}
	short, long := synthetic(5, 70, 1).Samples(0, 70), synthetic(5, n, 2).Samples(0, 70)
	if string(short.Pixels) != string(long.Pixels) || string(short.Labels) != string(long.Labels) {
		t.Error("the first samples depend on how many follow")
	}
}

func TestSyntheticBalance(t *testing.T) {
	d := Synthetic(2, 5000)
	if err := d.CheckLabels(10); err != nil {
		t.Fatal(err)
	}
	s := d.Samples(0, d.Count())
	var count [10]int
	seen := map[string]bool{}
	for i, l := range s.Labels {
		count[l]++
		pixels := s.Pixels[i*s.Size : (i+1)*s.Size]
		seen[string(pixels)] = true
		bright := 0
		for _, p := range pixels {
			if p > 120 {
				bright++
			}
		}
		if bright < 10 || bright > 300 {
			t.Errorf("sample %d, a %d, has %d bright pixels of 784", i, l, bright)
		}
	}
	for l, n := range count { // 500 expected, standard deviation 21
		if n < 390 || n > 610 {
			t.Errorf("%d of 5000 samples are a %d", n, l)
		}
	}
	if len(seen) != 5000 {
		t.Errorf("only %d of 5000 images are different", len(seen))
	}
}

func TestSquareRoot(t *testing.T) {
	check := func(n int64) {
		if r := squareRoot(n); r*r > n || (r+1)*(r+1) <= n {
			t.Errorf("root of %d: %d", n, r)
		}
	}
	for n := range int64(5000) {
		check(n)
		check((n + 1<<20) * (n + 1<<20))
		check((n+1<<20)*(n+1<<20) - 1)
	}
}

func TestSyntheticPanics(t *testing.T) {
	for _, n := range []int{-1, 0, MaxBytes / 784} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d samples: no panic", n)
				}
			}()
			Synthetic(1, n)
		}()
	}
}

// TestLinearClassifier: the digits cannot be told apart by a weighted sum of their pixels. A change that makes them
// that easy would leave a convolutional network nothing to do.
func TestLinearClassifier(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds, much longer with -race: runs without -short")
	}
	d := Synthetic(1, SyntheticCount)
	train := d.Samples(SyntheticSplit.Train.From, SyntheticSplit.Train.To)
	test := d.Samples(SyntheticSplit.Test.From, SyntheticSplit.Test.To)
	c := newLinear(train.Size)
	best := 0.0
	for epoch := range 16 {
		c.train(train, 0.002/float32(1+epoch/4))
		best = max(best, c.accuracy(test))
	}
	fit := c.accuracy(train)
	t.Logf("accuracy on the test split %.3f at best, on the training split %.3f", best, fit)
	if best >= 0.92 {
		t.Errorf("a linear classifier gets %.1f %% right, must stay below 92 %%", 100*best)
	}
	if best < 0.6 {
		t.Errorf("a linear classifier gets %.1f %% right: it has not been trained, or the digits are unreadable", 100*best)
	}
}

const classes = 10

// linear is a softmax classifier: a weight for each pixel and class, then the biases; trained with Adam.
type linear struct {
	w, m, v, g []float32
	step       int
	random     *rand.Rand
}

func newLinear(size int) *linear {
	n := (size + 1) * classes
	return &linear{w: make([]float32, n), m: make([]float32, n), v: make([]float32, n), g: make([]float32, n),
		random: rand.New(rand.NewPCG(1, 1))}
}

// logits are the scores of an image, and the class with the highest.
func (c *linear) logits(pixels []byte) (z [classes]float32, best byte) {
	copy(z[:], c.w[len(pixels)*classes:])
	for i, p := range pixels {
		if p == 0 {
			continue
		}
		a := float32(p) / 255
		row := (*[classes]float32)(c.w[i*classes:])
		for j := range z {
			z[j] += a * row[j]
		}
	}
	for j := range z {
		if z[j] > z[best] {
			best = byte(j)
		}
	}
	return z, best
}

// train runs one epoch in batches of 50.
func (c *linear) train(s nn.Samples, rate float32) {
	const batch = 50
	order := c.random.Perm(s.Len())
	for len(order) >= batch {
		clear(c.g)
		for _, i := range order[:batch] {
			c.addGradient(s.Pixels[i*s.Size:(i+1)*s.Size], s.Labels[i])
		}
		order = order[batch:]
		c.step++
		alpha := rate * float32(math.Sqrt(1-math.Pow(0.999, float64(c.step)))/(1-math.Pow(0.9, float64(c.step))))
		for i, g := range c.g {
			g /= batch
			c.m[i] += (g - c.m[i]) * 0.1
			c.v[i] += (g*g - c.v[i]) * 0.001
			c.w[i] -= alpha * c.m[i] / (float32(math.Sqrt(float64(c.v[i]))) + 1e-7)
		}
	}
}

// addGradient adds the gradient of the cross-entropy of one image.
func (c *linear) addGradient(pixels []byte, label byte) {
	z, best := c.logits(pixels)
	highest, sum := z[best], float32(0)
	for j := range z {
		z[j] = float32(math.Exp(float64(z[j] - highest)))
		sum += z[j]
	}
	for j := range z {
		z[j] /= sum
	}
	z[label]--
	for i, p := range pixels {
		if p == 0 {
			continue
		}
		a := float32(p) / 255
		row := (*[classes]float32)(c.g[i*classes:])
		for j := range z {
			row[j] += a * z[j]
		}
	}
	for j := range z {
		c.g[len(pixels)*classes+j] += z[j]
	}
}

func (c *linear) accuracy(s nn.Samples) float64 {
	right := 0
	for i, l := range s.Labels {
		if _, best := c.logits(s.Pixels[i*s.Size : (i+1)*s.Size]); best == l {
			right++
		}
	}
	return float64(right) / float64(s.Len())
}

func BenchmarkSynthetic(b *testing.B) {
	for b.Loop() {
		synthetic(1, SyntheticCount, 1)
	}
}
