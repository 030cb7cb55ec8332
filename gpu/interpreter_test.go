package gpu

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
	"github.com/descentnet/minerd/gpu/kernels"
)

// interpreter is a machine that runs the shipped PTX without a device. Work is done when somebody waits for it, so that
// a wait that is missing shows.
type interpreter struct {
	module    *ptx.Module
	memory    ptx.Memory
	order     ptx.Order
	queue     []func() error
	recording *interpretedGraph
	launches  int
	closed    bool
}

type interpretedGraph struct{ work []func() error }

func (g *interpretedGraph) Close() error {
	g.work = nil
	return nil
}

var shipped = sync.OnceValues(func() (*ptx.Module, error) { return ptx.Parse(kernels.PTX) })

func newInterpreter(t testing.TB, order ptx.Order) *interpreter {
	t.Helper()
	module, err := shipped()
	if err != nil {
		t.Fatal(err)
	}
	return &interpreter{module: module, order: order}
}

func (m *interpreter) ask(work func() error) error {
	if m.closed {
		return ErrClosed
	}
	if m.recording != nil {
		m.recording.work = append(m.recording.work, work)
		return nil
	}
	m.queue = append(m.queue, work)
	return nil
}

func (m *interpreter) Sync() error {
	if m.recording != nil {
		return errors.New("a recording cannot wait")
	}
	for len(m.queue) > 0 {
		work := m.queue[0]
		m.queue = m.queue[1:]
		if err := work(); err != nil {
			m.queue = nil
			return err
		}
	}
	return nil
}

func (m *interpreter) Alloc(bytes int) (Pointer, error) {
	p, err := m.memory.Alloc(bytes)
	if errors.Is(err, ptx.ErrOutOfMemory) {
		err = fmt.Errorf("%w: %w", ErrOutOfMemory, err)
	}
	return Pointer(p), err
}

func (m *interpreter) Free(p Pointer) {
	_ = m.ask(func() error { return m.memory.Free(uint64(p)) })
}

func (m *interpreter) ToDevice(dst Pointer, src []byte) error {
	if err := m.Sync(); err != nil {
		return err
	}
	return m.memory.Write(uint64(dst), src)
}

func (m *interpreter) FromDevice(dst []byte, src Pointer) error {
	if err := m.Sync(); err != nil {
		return err
	}
	return m.memory.Read(dst, uint64(src))
}

func (m *interpreter) Fill(dst Pointer, word uint32, words int) error {
	b := make([]byte, 0, 4*words)
	for range words {
		b = append(b, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	return m.ask(func() error { return m.memory.Write(uint64(dst), b) })
}

func (m *interpreter) Launch(kernel string, grid, block [3]int, args ...uint64) error {
	return m.ask(func() error {
		m.launches++
		return m.module.Launch(&m.memory, kernel, grid, block, args, m.order)
	})
}

func (m *interpreter) Record(enqueue func() error) (Graph, error) {
	m.recording = &interpretedGraph{}
	defer func() { m.recording = nil }()
	g := m.recording
	return g, enqueue()
}

func (m *interpreter) Replay(g Graph) error {
	work := g.(*interpretedGraph).work
	if len(work) == 0 {
		return errors.New("replay of a graph that is closed or empty")
	}
	for _, w := range work {
		if err := m.ask(w); err != nil {
			return err
		}
	}
	return nil
}

func (m *interpreter) FreeMemory() (free, total int, err error) {
	const limit = 64 << 20
	return limit - m.memory.Used(), limit, m.Sync()
}

func (m *interpreter) Close() error {
	m.closed = true
	return nil
}
