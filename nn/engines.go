package nn

import "github.com/descentnet/minerd/nn/kernel"

// EngineMaker makes engines of one kind.
type EngineMaker struct {
	Name     string // as the engine's Name gives it
	Threaded bool   // can use more than one thread
	New      func(net *Net, threads int) (Engine, error)
}

// Engines lists the kinds of engine that this machine's CPU can run, the fastest first, the plain one last.
func Engines() []EngineMaker {
	var makers []EngineMaker
	for _, isa := range kernel.All() {
		makers = append(makers, EngineMaker{isa.Name(), true, func(net *Net, threads int) (Engine, error) {
			return NewVector(net, isa, threads)
		}})
	}
	return append(makers, EngineMaker{"plain", false, func(net *Net, _ int) (Engine, error) { return NewPlain(net), nil }})
}
