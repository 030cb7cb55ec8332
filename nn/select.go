package nn

import (
	"sync"

	"github.com/descentnet/minerd/nn/kernel"
)

// NewEngine makes the fastest engine for this machine's CPU, with so many threads where it can use them. The first time
// in a process it has that engine pass KnownAnswer, and fails if it does not.
func NewEngine(net *Net, threads int) (Engine, error) {
	if err := cpuWorks(); err != nil {
		return nil, err
	}
	return newCPU(net, threads)
}

func newCPU(net *Net, threads int) (Engine, error) {
	if isa := kernel.Best(); isa != nil {
		return NewVector(net, isa, threads)
	}
	return NewPlain(net), nil
}

// One thread: threads share the kernels, and a test in virtual time must not meet goroutines from outside.
var cpuWorks = sync.OnceValue(func() error {
	return KnownAnswer(func(n *Net) (Engine, error) { return newCPU(n, 1) })
})
