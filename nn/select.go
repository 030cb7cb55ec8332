package nn

import "github.com/descentnet/minerd/nn/kernel"

// NewEngine makes the fastest engine for this machine's CPU, with so many threads where it can use them.
func NewEngine(net *Net, threads int) (Engine, error) {
	if isa := kernel.Best(); isa != nil {
		return NewVector(net, isa, threads)
	}
	return NewPlain(net), nil
}
