package gpu

import (
	"errors"
	"fmt"

	"github.com/descentnet/minerd/gpu/kernels"
	"github.com/descentnet/minerd/nn"
)

// NewEngine makes an engine on a CUDA device that passes the known-answer test. It trains up to trials trials side by
// side; 0 finds out how many suit the device, for trials of so many steps. Faults of the device are nn.ErrDevice and one of this package's kinds.
func NewEngine(net *nn.Net, device, trials, steps int) (nn.Engine, error) {
	if err := Check(device); err != nil {
		return nil, err
	}
	return openEngine(net, device, trials, steps)
}

// Check runs the known-answer test on a device. Wrong answers are nn.ErrKnownAnswer, other faults those of NewEngine.
func Check(device int) error {
	return nn.KnownAnswer(func(net *nn.Net) (nn.Engine, error) { return openEngine(net, device, 1, 0) })
}

func openEngine(net *nn.Net, device, trials, steps int) (nn.Engine, error) {
	m, err := openCUDA(device, kernels.PTX)
	if err != nil {
		return nil, deviceFault(err)
	}
	return newEngine(net, m, fmt.Sprintf("cuda:%d", device), trials, steps)
}

// deviceFault marks what a device did not do. That this binary has no CUDA in it is no device's fault.
func deviceFault(err error) error {
	if err == nil || errors.Is(err, ErrNotBuilt) {
		return err
	}
	return fmt.Errorf("%w: %w", nn.ErrDevice, err)
}

// marked is a machine whose errors are marked as its device's.
type marked struct{ machine }

func (m marked) Alloc(bytes int) (Pointer, error) {
	p, err := m.machine.Alloc(bytes)
	return p, deviceFault(err)
}

func (m marked) ToDevice(dst Pointer, src []byte) error {
	return deviceFault(m.machine.ToDevice(dst, src))
}

func (m marked) FromDevice(dst []byte, src Pointer) error {
	return deviceFault(m.machine.FromDevice(dst, src))
}

func (m marked) Fill(dst Pointer, word uint32, words int) error {
	return deviceFault(m.machine.Fill(dst, word, words))
}

func (m marked) Launch(kernel string, grid, block [3]int, args ...uint64) error {
	return deviceFault(m.machine.Launch(kernel, grid, block, args...))
}

func (m marked) Record(enqueue func() error) (Graph, error) {
	g, err := m.machine.Record(enqueue)
	return g, deviceFault(err)
}

func (m marked) Replay(g Graph) error { return deviceFault(m.machine.Replay(g)) }

func (m marked) Sync() error { return deviceFault(m.machine.Sync()) }

func (m marked) FreeMemory() (free, total int, err error) {
	free, total, err = m.machine.FreeMemory()
	return free, total, deviceFault(err)
}
