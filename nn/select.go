package nn

// NewEngine makes the fastest engine for this machine's CPU, with so many threads where it can use them. It first has
// that engine pass KnownAnswer, and fails if it does not.
func NewEngine(net *Net, threads int) (Engine, error) {
	if err := cpuWorks(); err != nil {
		return nil, err
	}
	return Engines()[0].New(net, threads)
}

// One thread: threads share the kernels, and a test in virtual time must not meet goroutines from outside.
func cpuWorks() error {
	return KnownAnswer(func(n *Net) (Engine, error) { return Engines()[0].New(n, 1) })
}
