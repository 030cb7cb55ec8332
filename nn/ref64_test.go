package nn

import (
	"math"
	"math/rand/v2"
	"testing"
)

// ref64 trains a net in binary64, written apart from the engines: convolutions work on inputs padded in memory, the
// gradients are scattered instead of gathered, sums run as they come. It says what the mathematics is, not the bits.
type ref64 struct {
	net     *Net
	w, m, v []float64
	steps   int
}

func newRef64(net *Net, s *State) *ref64 {
	r := &ref64{net: net, m: make([]float64, net.Params), v: make([]float64, net.Params)}
	for _, x := range s.Params {
		r.w = append(r.w, float64(x))
	}
	return r
}

// padded is a sample with its zero border: rows x cols x channels.
type padded struct {
	x          []float64
	cols, chs  int
	top, left  int
	rows0, col int // size without border
}

// border makes room for the padding of l around its input, from the rule: as many zeros as whole patches need, the
// smaller half of them before.
func border(l *NetLayer) padded {
	p := padded{chs: l.In.Channels, rows0: l.In.Rows, col: l.In.Cols}
	rows := l.In.Rows
	p.cols = l.In.Cols
	if l.Padding == Same {
		along := func(in, kernel int) (before, all int) {
			out := int(math.Ceil(float64(in) / float64(l.Stride)))
			if all = (out-1)*l.Stride + kernel - in; all < 0 {
				all = 0
			}
			return all / 2, all
		}
		var more int
		p.top, more = along(l.In.Rows, l.KernelRows)
		rows += more
		p.left, more = along(l.In.Cols, l.KernelCols)
		p.cols += more
	}
	p.x = make([]float64, rows*p.cols*p.chs)
	return p
}

// row is the part of one border row that the input's row lies in.
func (p *padded) row(r int) []float64 {
	at := ((r+p.top)*p.cols + p.left) * p.chs
	return p.x[at : at+p.col*p.chs]
}

func (p *padded) fill(x []float64) {
	n := p.col * p.chs
	for r := range p.rows0 {
		copy(p.row(r), x[r*n:(r+1)*n])
	}
}

// convTaps calls do with the index of an output value, of an input value in the border, and of a weight, for all
// products of one sample.
func convTaps(l *NetLayer, p *padded, do func(out, in, w int)) {
	for r := range l.Out.Rows {
		for c := range l.Out.Cols {
			for kr := range l.KernelRows {
				for kc := range l.KernelCols {
					in := ((r*l.Stride+kr)*p.cols + c*l.Stride + kc) * p.chs
					for i := range p.chs {
						for o := range l.Units {
							do((r*l.Out.Cols+c)*l.Units+o, in+i, ((kr*l.KernelCols+kc)*p.chs+i)*l.Units+o)
						}
					}
				}
			}
		}
	}
}

// forward gives the activations of one sample, and for pools the index of the input that each output came from.
func (r *ref64) forward(x []float64) (acts [][]float64, from [][]int) {
	acts = [][]float64{x}
	for i := range r.net.Layers {
		l := &r.net.Layers[i]
		y := make([]float64, l.Out.Size())
		var source []int
		w, bias := r.w[l.WeightsAt:l.BiasAt], r.w[l.BiasAt:]
		switch l.Kind {
		case Conv2D:
			p := border(l)
			p.fill(x)
			convTaps(l, &p, func(out, in, k int) { y[out] += p.x[in] * w[k] })
		case Dense:
			for i, v := range x {
				for o := range y {
					y[o] += v * w[i*l.Units+o]
				}
			}
		case MaxPool2D:
			source = make([]int, len(y))
			for o := range y {
				y[o] = math.Inf(-1)
			}
			for row := range l.Out.Rows * l.KernelRows { // the rest is not used
				for col := range l.Out.Cols * l.KernelCols {
					for c := range l.In.Channels {
						in := (row*l.In.Cols+col)*l.In.Channels + c
						o := (row/l.KernelRows*l.Out.Cols+col/l.KernelCols)*l.In.Channels + c
						if x[in] > y[o] {
							y[o], source[o] = x[in], in
						}
					}
				}
			}
		case Flatten:
			copy(y, x)
		}
		if l.HasWeights() {
			for o := range y {
				y[o] += bias[o%l.Units]
				if l.Activation == ReLU {
					y[o] = math.Max(y[o], 0)
				}
			}
		}
		x = y
		acts, from = append(acts, y), append(from, source)
	}
	return acts, from
}

// loss is that of one sample, and its gradient by the outputs z.
func (r *ref64) loss(z []float64, label byte) (loss float64, g []float64) {
	g = make([]float64, len(z))
	target := func(j int) float64 {
		if j == int(label) {
			return 1
		}
		return 0
	}
	if r.net.Model.Loss == MeanSquaredError {
		for j, v := range z {
			d := v - target(j)
			loss += d * d / float64(len(z))
			g[j] = 2 * d / float64(len(z))
		}
		return loss, g
	}
	sum := 0.0
	for _, v := range z {
		sum += math.Exp(v)
	}
	for j, v := range z {
		g[j] = math.Exp(v)/sum - target(j)
	}
	return math.Log(sum) - z[label], g
}

func (r *ref64) input(data Samples, i int) []float64 {
	x := make([]float64, data.Size)
	for j := range x {
		x[j] = float64(data.Pixels[i*data.Size+j]) / 255
	}
	return x
}

// meanLoss is the mean loss of the samples named by index.
func (r *ref64) meanLoss(data Samples, index []int) float64 {
	total := 0.0
	for _, i := range index {
		acts, _ := r.forward(r.input(data, i))
		loss, _ := r.loss(acts[len(acts)-1], data.Labels[i])
		total += loss
	}
	return total / float64(len(index))
}

// gradient gives the mean loss of the samples and its gradient by all parameters.
func (r *ref64) gradient(data Samples, index []int) (loss float64, grads []float64) {
	grads = make([]float64, len(r.w))
	for _, sample := range index {
		acts, from := r.forward(r.input(data, sample))
		sampleLoss, g := r.loss(acts[len(acts)-1], data.Labels[sample])
		loss += sampleLoss / float64(len(index))
		for j := range g {
			g[j] /= float64(len(index))
		}
		for i := len(r.net.Layers) - 1; i >= 0; i-- {
			l := &r.net.Layers[i]
			x, y := acts[i], acts[i+1]
			dx := make([]float64, len(x))
			if l.Activation == ReLU {
				for j := range g {
					if y[j] == 0 {
						g[j] = 0
					}
				}
			}
			w, dw := r.w[l.WeightsAt:l.BiasAt], grads[l.WeightsAt:l.BiasAt]
			if l.HasWeights() {
				for j, v := range g {
					grads[l.BiasAt+j%l.Units] += v
				}
			}
			switch l.Kind {
			case Conv2D:
				p, dp := border(l), border(l)
				p.fill(x)
				convTaps(l, &p, func(out, in, k int) {
					dw[k] += p.x[in] * g[out]
					dp.x[in] += w[k] * g[out]
				})
				dx = dx[:0]
				for row := range l.In.Rows {
					dx = append(dx, dp.row(row)...)
				}
			case Dense:
				for i, v := range x {
					for o, gv := range g {
						dw[i*l.Units+o] += v * gv
						dx[i] += w[i*l.Units+o] * gv
					}
				}
			case MaxPool2D:
				for o, in := range from[i] {
					dx[in] += g[o]
				}
			case Flatten:
				copy(dx, g)
			}
			g = dx
		}
	}
	return loss, grads
}

// step takes one step of the model's optimizer, Adam in the form of its paper.
func (r *ref64) step(data Samples, index []int) (loss float64) {
	loss, grads := r.gradient(data, index)
	r.steps++
	o := r.net.Model.Optimizer
	lr, mu, b1, b2 := float64(o.LearningRate), float64(o.Momentum), float64(o.Beta1), float64(o.Beta2)
	for i, g := range grads {
		switch o.Kind {
		case SGD:
			r.m[i] = mu*r.m[i] - lr*g
			r.w[i] += r.m[i]
		case Adam:
			r.m[i] = b1*r.m[i] + (1-b1)*g
			r.v[i] = b2*r.v[i] + (1-b2)*g*g
			c1, c2 := 1-math.Pow(b1, float64(r.steps)), 1-math.Pow(b2, float64(r.steps))
			r.w[i] -= lr * math.Sqrt(c2) / c1 * r.m[i] / (math.Sqrt(r.v[i]) + float64(o.Epsilon))
		}
	}
	return loss
}

// The reference's gradients against central differences of its losses.
func TestRef64(t *testing.T) {
	for _, m := range layerModels() {
		t.Run(m.name, func(t *testing.T) {
			net := build(t, m.model)
			data := drawSamples(net, "ref64", 3)
			r := newRef64(net, initState(net, "ref64"))
			index := []int{2, 0, 1, 2}
			loss, grads := r.gradient(data, index)
			if direct := r.meanLoss(data, index); math.Abs(loss-direct) > 1e-12 {
				t.Errorf("loss %v with gradients, %v without", loss, direct)
			}
			rnd := rand.New(rand.NewPCG(7, 8))
			for range 40 {
				i := rnd.IntN(net.Params)
				const h = 1e-6
				w := r.w[i]
				r.w[i] = w + h
				up := r.meanLoss(data, index)
				r.w[i] = w - h
				down := r.meanLoss(data, index)
				r.w[i] = w
				if d := (up - down) / (2 * h); math.Abs(d-grads[i]) > 1e-7*(1+math.Abs(d)) {
					t.Errorf("parameter %d: difference quotient %v, gradient %v", i, d, grads[i])
				}
			}
		})
	}
}
