package nn

import (
	"context"
	"fmt"
)

// This file is the law: the forward pass, the gradients and the updates of every layer, each sum in its one allowed
// order. It is written to be read. All other engines are held to its bits.

// FoldBlock is the number of terms that one chain of fused multiply-adds takes.
const FoldBlock = 256

// Fold is the one way in which products are summed: fold(a, b, K) cuts 0..K-1 into blocks of FoldBlock terms; inside
// a block acc = fma(a, b, acc) from +0; the block results are added left to right, the first taken as it is.
type Fold struct {
	total, acc float32
	terms      int // in the block at hand
	blocks     int // that went into total
}

// Add takes the next term a*b.
func (f *Fold) Add(a, b float32) {
	if f.terms == FoldBlock {
		f.EndBlock()
	}
	f.acc = FMA(a, b, f.acc)
	f.terms++
}

// EndBlock ends the block early, where the rule says that no block goes across (the samples of a convolution).
func (f *Fold) EndBlock() {
	if f.blocks == 0 {
		f.total = f.acc
	} else {
		f.total += f.acc
	}
	f.acc, f.terms = 0, 0
	f.blocks++
}

// Sum is the value of the fold.
func (f *Fold) Sum() float32 {
	if f.terms > 0 {
		f.EndBlock()
	}
	return f.total
}

// sum is the plain sum of x: fold(x, ones).
func sum(x []float32) float32 {
	var f Fold
	for _, v := range x {
		f.Add(v, 1)
	}
	return f.Sum()
}

// plain is the engine of scalar Go.
type plain struct {
	net    *Net
	logits floatHasher
}

// NewPlain is the engine in scalar Go: slow, and right by definition.
func NewPlain(net *Net) Engine { return &plain{net: net} }

func (p *plain) Name() string { return "plain" }

func (p *plain) Close() {}

func (p *plain) Train(ctx context.Context, start *State, data Samples, t Trial) (*Trained, error) {
	if err := p.net.CheckSamples(data); err != nil {
		return nil, err
	}
	s := start.Clone()
	index := make([]int, p.net.Model.Batch)
	p.logits.reset()
	return runTrial(ctx, t, s, 1, func(step int) (float32, error) {
		DrawBatch(t.BatchSeed(uint32(step)), data.Len(), index)
		loss := p.step(s, data, index)
		return loss, nil
	}, &p.logits)
}

// runTrial is the loop that all engines on the host share: steps, early roots, trained root, logits digest.
func runTrial(ctx context.Context, t Trial, s *State, threads int, step func(step int) (float32, error), logits *floatHasher) (*Trained, error) {
	r := &Trained{State: s, BatchLosses: make([]float32, 0, t.Steps)}
	for i := range t.Steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if t.OnStep != nil {
			if err := t.OnStep(i); err != nil {
				return nil, err
			}
		}
		loss, err := step(i)
		if err != nil {
			return nil, err
		}
		r.BatchLosses = append(r.BatchLosses, loss)
		done := i + 1
		if !t.EarlyRoots || done == t.Steps || done&(done-1) != 0 {
			continue
		}
		root, err := s.Root(threads)
		if err != nil {
			return nil, fmt.Errorf("after step %d: %w", done, err)
		}
		r.EarlyRoots = append(r.EarlyRoots, root)
		if t.OnRoot != nil {
			if err := t.OnRoot(done, root); err != nil {
				return nil, err
			}
		}
	}
	root, err := s.Root(threads)
	if err != nil {
		return nil, fmt.Errorf("after step %d: %w", t.Steps, err)
	}
	r.Root = root
	r.LogitsDigest = logits.root()
	return r, nil
}

// CheckSamples says whether the samples fit the net: their size, and no label beyond its outputs.
func (n *Net) CheckSamples(data Samples) error {
	if data.Size != n.Model.Input.Size() || len(data.Pixels) != data.Size*len(data.Labels) || data.Len() == 0 {
		return fmt.Errorf("%d samples of %d bytes in %d bytes, the model takes %v images", data.Len(), data.Size, len(data.Pixels), n.Model.Input)
	}
	for i, y := range data.Labels {
		if int(y) >= n.Outputs {
			return fmt.Errorf("sample %d has label %d, the model has %d outputs", i, y, n.Outputs)
		}
	}
	return nil
}

func (p *plain) Evaluate(ctx context.Context, s *State, data Samples) (float32, int, error) {
	if err := p.net.CheckSamples(data); err != nil {
		return 0, 0, err
	}
	losses := make([]float32, data.Len())
	correct := 0
	for i := range losses {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		acts := p.forward(s, data, []int{i})
		z := acts[len(acts)-1]
		losses[i] = p.net.SampleLoss(z, data.Labels[i], nil)
		if argmax(z) == int(data.Labels[i]) {
			correct++
		}
	}
	loss, err := meanLoss(losses)
	return loss, correct, err
}

// Evaluation gives what Engine.Evaluate gives, of the losses of all samples and their logits.
func (n *Net) Evaluation(losses, logits []float32, labels []byte) (loss float32, correct int, err error) {
	for i, y := range labels {
		if argmax(logits[i*n.Outputs:(i+1)*n.Outputs]) == int(y) {
			correct++
		}
	}
	loss, err = meanLoss(losses)
	return loss, correct, err
}

// meanLoss is the evaluation loss: fold(per-sample losses, ones) divided by their count.
func meanLoss(losses []float32) (float32, error) {
	loss := sum(losses) / float32(len(losses))
	if !finite(loss) {
		return 0, fmt.Errorf("evaluation loss: %w", ErrNotFinite)
	}
	return loss, nil
}

func argmax(z []float32) int {
	best := 0
	for j, v := range z {
		if v > z[best] {
			best = j
		}
	}
	return best
}

// pixel gives byte/255 as a binary32 division.
var pixel = func() (t [256]float32) {
	for i := range t {
		t[i] = float32(i) / 255
	}
	return t
}()

// forward gives the activations of the batch: acts[0] is the input, acts[i+1] the output of layer i, each laid out
// (sample, row, column, channel).
func (p *plain) forward(s *State, data Samples, index []int) [][]float32 {
	x := make([]float32, 0, len(index)*data.Size)
	for _, i := range index {
		for _, b := range data.Pixels[i*data.Size : (i+1)*data.Size] {
			x = append(x, pixel[b])
		}
	}
	acts := [][]float32{x}
	for i := range p.net.Layers {
		l := &p.net.Layers[i]
		out := make([]float32, len(index)*l.Out.Size())
		l.Forward(len(index), x, s.Params, out)
		x = out
		acts = append(acts, x)
	}
	return acts
}

// weights are the layer's weights and bias among params (or among their gradients).
func (l *NetLayer) weights(params []float32) (w, bias []float32) {
	if !l.HasWeights() {
		return nil, nil
	}
	return params[l.WeightsAt:l.BiasAt], params[l.BiasAt : l.BiasAt+l.Units]
}

// step trains one batch and gives its mean loss (telemetry).
func (p *plain) step(s *State, data Samples, index []int) float32 {
	n := len(index)
	acts := p.forward(s, data, index)
	z := acts[len(acts)-1]
	p.logits.write(z)

	g := make([]float32, len(z)) // gradient of the loss by the output of the layer at hand
	losses := make([]float32, n)
	k := p.net.Outputs
	for b, i := range index {
		losses[b] = p.net.SampleLoss(z[b*k:(b+1)*k], data.Labels[i], g[b*k:(b+1)*k])
	}

	grads := make([]float32, len(s.Params))
	for i := len(p.net.Layers) - 1; i >= p.net.FirstWeights; i-- {
		l := &p.net.Layers[i]
		in, out := acts[i], acts[i+1]
		if l.Activation == ReLU {
			for j := range g {
				if !(out[j] > 0) {
					g[j] = 0
				}
			}
		}
		l.ParamGradient(n, in, g, grads)
		if i == p.net.FirstWeights {
			break // nothing uses the gradient of its input
		}
		dx := make([]float32, len(in))
		l.InputGradient(n, in, g, s.Params, dx)
		g = dx
	}
	p.net.Model.Optimizer.Update(s, grads)
	return sum(losses) / float32(n)
}
