package nn

import (
	"context"
	"errors"
	"fmt"

	"github.com/descentnet/minerd/nn/kernel"
)

// vector is the engine on the vector kernels. It gives the bits of the plain one: what it reorders is only which sums
// are worked on when, never the terms of a sum. Its memory is made once, for the largest batch it meets.
type vector struct {
	net      *Net
	isa      *kernel.ISA
	threads  int
	workers  *workers
	capacity int // samples that there is room for
	stages   []stage
	output   *tensor    // the last layer's: [capacity][Outputs]
	goutput  *gradients // by the output: [batch][Outputs]

	// The batch at hand: n samples of data, by their numbers.
	state  *State
	data   Samples
	index  []int
	n      int
	losses []float32

	adam   [4]float32 // the step's numbers for the kernels
	sgd    [2]float32
	logits floatHasher
}

// stage is a part of the net that is shared among the workers in its own way.
type stage interface {
	// forward makes the stage's output of the batch at hand.
	forward()
	// backward takes the gradient by the stage's output to its input, and updates its parameters.
	backward()
}

// evaluateBatch is how many samples are evaluated at once even if a training batch has fewer, as a weight that was
// loaded should be used on several samples; but no more than evaluateMemory values of a layer (256 MiB).
const (
	evaluateBatch  = 32
	evaluateMemory = 1 << 26
)

// NewVector makes an engine on the instruction set with so many threads. With one, all work is done by the caller's
// goroutine. Close ends the others.
func NewVector(net *Net, isa *kernel.ISA, threads int) (Engine, error) {
	if isa == nil {
		return nil, errors.New("no vector instruction set")
	}
	if threads < 1 {
		return nil, fmt.Errorf("%d threads", threads)
	}
	largest := net.Model.Input.Size()
	for i := range net.Layers {
		largest = max(largest, net.Layers[i].Out.Size())
	}
	e := &vector{net: net, isa: isa, threads: threads, capacity: max(net.Model.Batch, min(evaluateBatch, evaluateMemory/largest))}
	e.index = make([]int, e.capacity)
	e.losses = make([]float32, net.Model.Batch)
	e.build()
	e.workers = newWorkers(threads, spinRounds)
	return e, nil
}

// build makes the stages. Neighbouring convolutions and poolings become one stage, the first of which begins with the
// pixels; flatten layers vanish, as they only look at the same values in another way.
func (e *vector) build() {
	layers := e.net.Layers
	tensors := make([]*tensor, len(layers)+1)  // tensors[i] is the input of layer i
	grads := make([]*gradients, len(layers)+1) // likewise; nil where nobody needs it
	for i := len(layers); i >= 0; i-- {
		switch {
		case i == len(layers):
			tensors[i] = newTensor(e.capacity, layers[i-1].Out, nil)
			grads[i] = e.newGradient(layers[i-1].Out.Size(), false)
		case layers[i].Kind == Flatten:
			tensors[i], grads[i] = tensors[i+1].unflatten(layers[i].In), grads[i+1]
		case e.pooledConv(i - 1):
			// The convolution keeps it to itself.
		default:
			tensors[i] = newTensor(e.capacity, layers[i].In, &layers[i])
			grads[i] = e.newGradient(layers[i].In.Size(), e.betweenImages(i))
		}
		if i <= e.net.FirstWeights {
			grads[i] = nil
		}
	}
	e.output, e.goutput = tensors[len(layers)], grads[len(layers)]

	images := &imageStage{e: e, layers: []imageLayer{&pixelInput{e, tensors[0]}}, backFrom: 1}
	e.stages = []stage{images}
	for i := 0; i < len(layers); i++ {
		l := &layers[i]
		if l.Kind == Flatten {
			continue
		}
		if l.Kind == Dense {
			if images != nil {
				images.finish()
				images = nil
			}
			e.stages = append(e.stages, e.newDense(l, tensors[i], tensors[i+1], grads[i], grads[i+1]))
			continue
		}
		if images == nil {
			images = &imageStage{e: e}
			e.stages = append(e.stages, images)
		}
		if i < e.net.FirstWeights {
			images.backFrom = len(images.layers) + 1
		}
		if l.Kind == MaxPool2D {
			p := e.newPool(l, tensors[i+1], tensors[i].row)
			p.in, p.gin, p.gout = tensors[i], grads[i], grads[i+1]
			images.layers = append(images.layers, p)
			continue
		}
		at := i
		var pool *vectorPool
		if e.pooledConv(i) {
			i++
			pool = e.newPool(&layers[i], tensors[i+1], l.Out.Cols*l.Out.Channels)
		}
		c := e.newConv(images, l, tensors[at], tensors[i+1], grads[at], grads[i+1], pool)
		images.layers = append(images.layers, c)
		images.convs = append(images.convs, c)
	}
	if images != nil {
		images.finish()
	}
}

// pooledConv says whether layer i is a convolution with a pooling right after it.
func (e *vector) pooledConv(i int) bool {
	l := e.net.Layers
	return i >= 0 && i+1 < len(l) && l[i].Kind == Conv2D && l[i+1].Kind == MaxPool2D
}

// betweenImages says whether the input of layer i is made and used sample by sample.
func (e *vector) betweenImages(i int) bool {
	if e.net.Layers[i].Kind == Dense {
		return false
	}
	for i--; i >= 0; i-- {
		if k := e.net.Layers[i].Kind; k != Flatten {
			return k != Dense
		}
	}
	return false
}

func (e *vector) newGradient(size int, perWorker bool) *gradients {
	n := e.net.Model.Batch
	if perWorker {
		n = e.threads
	}
	return &gradients{make([]float32, n*size), size, perWorker}
}

func (e *vector) Name() string { return e.isa.Name() }

func (e *vector) Close() { e.workers.close() }

func (e *vector) Train(ctx context.Context, start *State, data Samples, t Trial) (*Trained, error) {
	if err := e.net.CheckSamples(data); err != nil {
		return nil, err
	}
	e.state, e.data, e.n = start.Clone(), data, e.net.Model.Batch
	defer e.release()
	e.logits.reset()
	return runTrial(ctx, t, e.state, e.threads, func(step int) (float32, error) {
		DrawBatch(t.BatchSeed(uint32(step)), data.Len(), e.index[:e.n])
		return e.step(), nil
	}, &e.logits)
}

// release lets go of what belongs to the caller.
func (e *vector) release() { e.state, e.data = nil, Samples{} }

// step trains one batch and gives its mean loss.
func (e *vector) step() float32 {
	e.forward()
	e.logits.write(e.output.data[:e.n*e.net.Outputs])
	for b, i := range e.index[:e.n] {
		e.losses[b] = e.net.SampleLoss(e.output.at(b, 0), e.data.Labels[i], e.goutput.of(0, b))
	}
	switch o := &e.net.Model.Optimizer; o.Kind {
	case Adam:
		c := o.Adam(e.state)
		e.adam = [4]float32{c.OneMinusBeta1, c.OneMinusBeta2, c.Alpha, c.Epsilon}
	case SGD:
		e.state.Steps++
		e.sgd = [2]float32{o.Momentum, o.LearningRate}
	}
	for i := len(e.stages) - 1; i >= 0; i-- {
		e.stages[i].backward()
	}
	return sum(e.losses) / float32(e.n)
}

func (e *vector) forward() {
	for _, s := range e.stages {
		s.forward()
	}
}

// update takes the optimizer's step on the parameters from at on, with their gradients.
func (e *vector) update(at int, g []float32) {
	step := e.updateLater(at, g)
	e.finish(&step)
}

// updateLater is update, but leaves a step of Adam to be done.
func (e *vector) updateLater(at int, g []float32) kernel.AdamStep {
	end := at + len(g)
	s := e.state
	if e.net.Model.Optimizer.Kind == Adam {
		return kernel.AdamStep{W: s.Params[at:end], M: s.First[at:end], V: s.Second[at:end], G: g, C: &e.adam}
	}
	e.isa.SGD(s.Params[at:end], s.First[at:end], g, &e.sgd)
	return kernel.AdamStep{}
}

// finish does what is left of a step.
func (e *vector) finish(step *kernel.AdamStep) {
	e.isa.Adam(step.W, step.M, step.V, step.G, step.C)
	*step = kernel.AdamStep{}
}

func (e *vector) Evaluate(ctx context.Context, s *State, data Samples) (float32, int, error) {
	if err := e.net.CheckSamples(data); err != nil {
		return 0, 0, err
	}
	e.state, e.data = s, data
	defer e.release()
	losses := make([]float32, data.Len())
	correct := 0
	for lo := 0; lo < len(losses); lo += e.capacity {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		e.n = min(e.capacity, len(losses)-lo)
		for b := range e.n {
			e.index[b] = lo + b
		}
		e.forward()
		for b := range e.n {
			z, label := e.output.at(b, 0), data.Labels[lo+b]
			losses[lo+b] = e.net.SampleLoss(z, label, nil)
			if argmax(z) == int(label) {
				correct++
			}
		}
	}
	loss, err := meanLoss(losses)
	return loss, correct, err
}
