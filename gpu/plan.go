package gpu

import (
	"github.com/descentnet/minerd/gpu/kernels"
	"github.com/descentnet/minerd/nn"
)

// plan says where the values of one trial lie in device memory and which kernels make them. Every trial that is trained
// side by side has an arena of its own, laid out alike and stride words after the one before; all offsets are in 4-byte
// words from the arena's beginning.
type plan struct {
	net   *nn.Net
	steps int // that there is room for
	ops   []op

	stride   int // words from one trial's arena to the next
	state    int // the model state's bytes: parameters, moments, scalars
	logits   int // [steps][batch][outputs]
	losses   int // [steps][batch]
	means    int // [steps]
	roots    int // state root and logits digest: [2][9]
	leaves   int // hashes of leaves, used up by the tree: [n][8]
	bad      int // which leaves have a value that is not finite: [n]
	scratch  int // partial sums of products
	gradient [2]int
}

// op is a layer that computes something; flatten layers only look at the same values in another way. A convolution and
// the pooling right behind it are one op: what lies between them is never in memory.
type op struct {
	*nn.NetLayer
	pool    *nn.NetLayer // of a convolution: the pooling that is made with it, or nil
	in, out int          // activations: [batch][size]; there is no out of a last dense layer, as the logits are that
	code    int          // of a pooling: the winners [batch][size]; made with a convolution they are bytes
	relu    bool         // the output is that of a ReLU, or of a pooling over one

	// Of a convolution: its gradients' parts of a wave of samples lie in scratch, the sums so far before them.
	wave, blocks int
}

// waveMemory bounds the parts of a convolution's gradients that are in memory at a time, in words: 16 MiB.
const waveMemory = 1 << 22

// alignment of what lies in an arena, in words: 256 bytes.
const alignment = 64

// rootWords are the words that the tree kernel writes: the root and whether any value was not finite.
const rootWords = 9

func newPlan(net *nn.Net, steps int) *plan {
	p := &plan{net: net, steps: steps}
	take := func(words int) int {
		at := p.stride
		p.stride += (words + alignment - 1) / alignment * alignment
		return at
	}
	batch := net.Model.Batch
	stateWords := net.StateSize() / 4
	logitsWords := steps * batch * net.Outputs
	p.state = take(stateWords)
	p.logits = take(logitsWords)
	p.losses = take(steps * batch)
	p.means = take(steps)
	p.roots = take(2 * rootWords)
	leaves := max(leafCount(4*stateWords), leafCount(4*logitsWords))
	p.leaves = take(8 * leaves)
	p.bad = take(leaves)

	scratch, gradient := 0, 0
	at := take(batch * net.Model.Input.Size())
	for i := 0; i < len(net.Layers); i++ {
		l := &net.Layers[i]
		if l.Kind == nn.Flatten {
			continue
		}
		o := op{NetLayer: l, in: at, relu: l.Activation == nn.ReLU}
		if l.Kind == nn.Conv2D && i+1 < len(net.Layers) && pooled(&net.Layers[i+1]) {
			i++
			o.pool = &net.Layers[i]
		}
		size := batch * o.outShape().Size()
		if l.Kind != nn.Dense || i+1 < len(net.Layers) {
			o.out = take(size)
		}
		at = o.out
		gradient = max(gradient, size)
		switch l.Kind {
		case nn.MaxPool2D:
			o.code = take(size)
			o.relu = len(p.ops) > 0 && p.ops[len(p.ops)-1].relu
		case nn.Conv2D:
			if o.pool != nil {
				o.code = take((size + 3) / 4)
			}
			o.blocks = blockCount(l.Out.Rows * l.Out.Cols)
			perSample := o.blocks * o.count()
			o.wave = min(max(waveMemory/perSample, 1), batch)
			scratch = max(scratch, o.count()+o.wave*perSample)
		case nn.Dense:
			scratch = max(scratch, blockCount(l.In.Size())*size)
		}
		p.ops = append(p.ops, o)
	}
	p.scratch = take(scratch)
	p.gradient = [2]int{take(gradient), take(gradient)}
	return p
}

// pooled says whether the layer is a pooling that can be made with a convolution before it.
func pooled(l *nn.NetLayer) bool {
	return l.Kind == nn.MaxPool2D && l.KernelRows*l.KernelCols <= kernels.MaxPooledWindow
}

// outShape is the shape of the op's output.
func (o *op) outShape() nn.Shape {
	if o.pool != nil {
		return o.pool.Out
	}
	return o.Out
}

// count is the number of the layer's parameters.
func (o *op) count() int { return o.BiasAt - o.WeightsAt + o.Units }

// blockCount is the number of blocks that a fold of so many terms is cut into.
func blockCount(terms int) int { return (terms + nn.FoldBlock - 1) / nn.FoldBlock }

// leafCount is the number of leaves of so many bytes.
func leafCount(bytes int) int { return (bytes + nn.LeafSize - 1) / nn.LeafSize }
