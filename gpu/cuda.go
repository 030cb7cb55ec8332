//go:build cuda

package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/descentnet/minerd/gpu/internal/driver"
	"gorgonia.org/cu"
)

// stagingBytes is the size of each of the two page-locked buffers through which
// all copies go. 4 MiB take 0.2 ms on a bus of 20 GB/s, many times what it costs to
// start a copy, so that nothing would be gained by more.
const stagingBytes = 4 << 20

// queuedCommands may wait for the device's goroutine before a Launch blocks.
const queuedCommands = 64

// A cudaMachine is a device and the goroutine on whose thread its context is
// current. Launches, fills and replays are sent to it and not waited for; all else
// is a call that waits for its answer.
//
// An error of work that was not waited for is kept, what comes after is skipped,
// and the next call returns it.
type cudaMachine struct {
	commands  chan command
	answers   chan error
	kernels   map[string]kernel
	recording bool
	closed    bool

	// The rest is the goroutine's own.
	device  cu.Device
	module  cu.Module
	stream  cu.Stream
	staging [2]staging
	memory  map[Pointer]bool
	graphs  map[*cudaGraph]bool
	failed  error // of work not waited for, not yet returned
	lost    error // ErrDeviceLost: the driver is not asked any more
}

type kernel struct {
	function   cu.Function
	parameters int
}

// staging is a page-locked buffer, in use by the device until event.
type staging struct {
	host  []byte
	event cu.Event
}

// A command is either a call, or work that its kind names. It has room for all
// that it needs, so that sending it allocates nothing.
type command struct {
	kind        commandKind
	call        func() error
	name        string // of the kernel
	kernel      cu.Function
	grid, block [3]uint32
	arguments   [driver.MaxArguments]uint64
	count       int // arguments or words
	to          Pointer
	word        uint32
	graph       *cudaGraph
}

type commandKind int

const (
	callCommand   commandKind = iota // unless something failed
	alwaysCommand                    // a call also then
	launchCommand
	fillCommand
	replayCommand
	freeCommand
)

// openCUDA makes the machine of a device, with the kernels of a module given as
// PTX text, which the driver translates. Its error is one of the kinds in gpu.go
// where one fits.
func openCUDA(ordinal int, ptx string) (machine, error) {
	n, err := countDevices()
	if err != nil {
		return nil, err
	}
	if ordinal < 0 || ordinal >= n {
		return nil, fmt.Errorf("%w: there is no device %d, only 0 to %d", ErrNoDevice, ordinal, n-1)
	}
	device, err := cu.GetDevice(ordinal)
	if err != nil {
		return nil, kindOf(err)
	}
	m := &cudaMachine{
		commands: make(chan command, queuedCommands), answers: make(chan error),
		kernels: map[string]kernel{}, device: device, memory: map[Pointer]bool{}, graphs: map[*cudaGraph]bool{},
	}
	go m.run(ptx)
	if err := <-m.answers; err != nil {
		return nil, fmt.Errorf("open CUDA device %d: %w", ordinal, err)
	}
	return m, nil
}

// run is the device's goroutine. It answers once it has opened or could not open
// the device, then does what it is sent, and answers once more at the end.
func (m *cudaMachine) run(ptx string) {
	// Never unlocked: so the thread, on which the context is current, ends here too.
	runtime.LockOSThread()
	context, err := m.retain()
	if err != nil {
		m.answers <- kindOf(err)
		return
	}
	if err := m.open(context, ptx); err != nil {
		err = kindOf(err)
		m.note(err)
		_ = m.release() // what matters is why the device was not opened
		m.answers <- err
		return
	}
	m.answers <- nil
	for c := range m.commands {
		m.do(&c)
	}
	m.answers <- m.release()
}

// retain makes the device's primary context, or joins those who use it already.
func (m *cudaMachine) retain() (cu.CUContext, error) {
	// A thread that waits for the device sleeps. Left to itself the driver would let it spin, and a trial is milliseconds.
	err := driver.Check(m.device.SetPrimaryCtxFlags(cu.SchedBlockingSync))
	if err != nil && !errors.Is(err, driver.PrimaryContextInUse) {
		return cu.CUContext{}, err
	}
	return m.device.RetainPrimaryCtx()
}

// open makes all that the machine needs in the context.
func (m *cudaMachine) open(context cu.CUContext, ptx string) (err error) {
	if err := cu.SetCurrentContext(context); err != nil {
		return err
	}
	log := &cu.JITErrorLogBuffer{Buffer: make([]byte, 8<<10)}
	if m.module, err = cu.LoadDataEx(ptx, log); err != nil {
		text, _, _ := bytes.Cut(log.Buffer, []byte{0})
		return fmt.Errorf("translate the kernels: %w: %s", driver.Check(err), bytes.TrimSpace(text))
	}
	for name, parameters := range entries(ptx) {
		function, err := m.module.Function(name)
		if err != nil {
			return fmt.Errorf("kernel %s: %w", name, driver.Check(err))
		}
		m.kernels[name] = kernel{function, parameters}
	}
	if m.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return err
	}
	for i := range m.staging {
		s := &m.staging[i]
		if s.host, err = driver.HostAlloc(stagingBytes); err != nil {
			return fmt.Errorf("page-locked memory: %w", err)
		}
		if s.event, err = cu.MakeEvent(cu.DisableTiming | cu.BlockingSyncEvent); err != nil {
			return err
		}
	}
	return nil
}

// release frees everything. What a lost device held goes with its context, which
// the driver destroys when the last who use it have released it.
func (m *cudaMachine) release() error {
	var errs []error
	do := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, driver.Check(err)))
		}
	}
	if m.lost == nil && m.stream != (cu.Stream{}) {
		m.note(wrap("end the work", m.stream.Synchronize()))
	}
	if m.lost == nil {
		for g := range m.graphs {
			do("free a graph", g.ready.Destroy())
		}
		for p := range m.memory {
			do("free memory", cu.MemFree(cu.DevicePtr(p)))
		}
		for i := range m.staging {
			s := &m.staging[i]
			if s.event != (cu.Event{}) {
				do("free an event", cu.DestroyEvent(&s.event))
			}
			if s.host != nil {
				do("free page-locked memory", cu.MemFreeHost(unsafe.Pointer(unsafe.SliceData(s.host))))
			}
		}
		if m.stream != (cu.Stream{}) {
			do("free the stream", m.stream.Destroy())
		}
		if m.module != (cu.Module{}) {
			do("unload the kernels", m.module.Unload())
		}
	}
	do("release the device", m.device.ReleasePrimaryCtx())
	return kindOf(errors.Join(append([]error{m.failed}, errs...)...))
}

// note keeps the error of work that was not waited for.
func (m *cudaMachine) note(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, ErrDeviceLost) && m.lost == nil {
		m.lost = err
	}
	if m.failed == nil {
		m.failed = err
	}
}

func (m *cudaMachine) do(c *command) {
	switch c.kind {
	case callCommand, alwaysCommand:
		err := m.lost
		if err == nil {
			err = m.failed
		}
		if err == nil || c.kind == alwaysCommand {
			if called := kindOf(c.call()); err == nil {
				err = called
			}
		}
		m.note(err)
		m.failed = nil // it is returned now
		m.answers <- err
	case freeCommand:
		if m.memory[c.to] && m.lost == nil {
			m.note(wrap("free memory", cu.MemFree(cu.DevicePtr(c.to))))
		}
		delete(m.memory, c.to)
	default:
		if m.failed == nil && m.lost == nil {
			m.note(m.enqueue(c))
		}
	}
}

func (m *cudaMachine) enqueue(c *command) error {
	switch c.kind {
	case launchCommand:
		err := driver.Launch(c.kernel, m.stream, c.grid, c.block, c.arguments[:c.count])
		if err != nil {
			return wrap(fmt.Sprintf("launch %s, grid %v, block %v", c.name, c.grid, c.block), err)
		}
		return nil
	case fillCommand:
		return wrap("fill memory", cu.MemsetD32Async(cu.DevicePtr(c.to), uint(c.word), int64(c.count), m.stream))
	default:
		if !m.graphs[c.graph] {
			return errors.New("replay: the graph is closed")
		}
		return wrap("launch a graph", c.graph.ready.Launch(m.stream))
	}
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, kindOf(err))
}

// call runs f on the device's thread, unless earlier work failed, and waits.
func (m *cudaMachine) call(f func() error) error {
	if m.recording {
		return errRecording
	}
	return m.send(command{kind: callCommand, call: f})
}

var errRecording = errors.New("only launches and fills can be recorded")

func (m *cudaMachine) send(c command) error {
	if m.closed {
		return ErrClosed
	}
	m.commands <- c
	if c.kind > alwaysCommand {
		return nil
	}
	return <-m.answers
}

// Alloc is of the machine interface.
func (m *cudaMachine) Alloc(bytes int) (p Pointer, err error) {
	if bytes <= 0 {
		return 0, fmt.Errorf("allocate %d bytes of device memory", bytes)
	}
	err = m.call(func() error {
		got, err := cu.MemAlloc(int64(bytes))
		if err != nil {
			return wrap(fmt.Sprintf("allocate %d bytes", bytes), err)
		}
		p = Pointer(got)
		m.memory[p] = true
		return nil
	})
	return p, err
}

// Free is of the machine interface.
func (m *cudaMachine) Free(p Pointer) { _ = m.send(command{kind: freeCommand, to: p}) } // a closed machine has freed it

// ToDevice is of the machine interface.
func (m *cudaMachine) ToDevice(dst Pointer, src []byte) error {
	return m.call(func() error {
		for i := 0; len(src) > 0; i++ {
			s := &m.staging[i%2]
			// What the last copy through this buffer read must have left it.
			if err := s.event.Synchronize(); err != nil {
				return wrap("wait for a copy to the device", err)
			}
			n := copy(s.host, src)
			err := cu.MemcpyHtoDAsync(cu.DevicePtr(dst), unsafe.Pointer(unsafe.SliceData(s.host)), int64(n), m.stream)
			if err == nil {
				err = s.event.Record(m.stream)
			}
			if err != nil {
				return wrap("copy to the device", err)
			}
			src, dst = src[n:], dst+Pointer(n)
		}
		return nil
	})
}

// FromDevice is of the machine interface.
func (m *cudaMachine) FromDevice(dst []byte, src Pointer) error {
	return m.call(func() error {
		// While one buffer's content is copied on to dst, the device fills the other.
		var under [2][]byte // the part of dst that each buffer is being filled for
		for i := 0; len(dst)+len(under[0])+len(under[1]) > 0; i++ {
			s := &m.staging[i%2]
			if err := s.event.Synchronize(); err != nil {
				return wrap("wait for a copy from the device", err)
			}
			copy(under[i%2], s.host)
			n := min(len(dst), len(s.host))
			under[i%2], dst = dst[:n], dst[n:]
			if n == 0 {
				continue
			}
			err := cu.MemcpyDtoHAsync(unsafe.Pointer(unsafe.SliceData(s.host)), cu.DevicePtr(src), int64(n), m.stream)
			if err == nil {
				err = s.event.Record(m.stream)
			}
			if err != nil {
				return wrap("copy from the device", err)
			}
			src += Pointer(n)
		}
		return nil
	})
}

// Fill is of the machine interface.
func (m *cudaMachine) Fill(dst Pointer, word uint32, words int) error {
	return m.send(command{kind: fillCommand, to: dst, word: word, count: words})
}

// Launch is of the machine interface. What is wrong with the name or the arguments
// is said at once, what the driver does not like by a later call.
func (m *cudaMachine) Launch(name string, grid, block [3]int, args ...uint64) error {
	k, ok := m.kernels[name]
	if !ok {
		return fmt.Errorf("launch %s: there is no such kernel, only %s", name, strings.Join(slices.Sorted(maps.Keys(m.kernels)), ", "))
	}
	if len(args) != k.parameters {
		return fmt.Errorf("launch %s: it takes %d arguments, not %d", name, k.parameters, len(args))
	}
	c := command{kind: launchCommand, name: name, kernel: k.function, count: len(args)}
	for i := range 3 {
		if grid[i] < 1 || block[i] < 1 || grid[i] > math.MaxInt32 || block[i] > math.MaxInt32 {
			return fmt.Errorf("launch %s: grid %v of blocks %v: all must be from 1 to 2^31-1", name, grid, block)
		}
		c.grid[i], c.block[i] = uint32(grid[i]), uint32(block[i])
	}
	copy(c.arguments[:], args)
	return m.send(c)
}

// Record is of the machine interface.
func (m *cudaMachine) Record(enqueue func() error) (Graph, error) {
	if err := m.call(func() error { return wrap("record", driver.BeginCapture(m.stream)) }); err != nil {
		return nil, err
	}
	m.recording = true
	asked := enqueue()
	m.recording = false
	g := &cudaGraph{machine: m}
	err := m.send(command{kind: alwaysCommand, call: func() (err error) {
		if m.lost != nil {
			return nil
		}
		if g.ready, err = driver.EndCapture(m.stream); err != nil {
			return wrap("record", err)
		}
		m.graphs[g] = true
		return nil
	}})
	if asked != nil {
		err = asked
	}
	if err != nil {
		_ = g.Close() // what matters is why there is none
		return nil, err
	}
	return g, nil
}

// cudaGraph is recorded work, in the form in which the device runs it.
type cudaGraph struct {
	machine *cudaMachine
	ready   driver.Graph
}

// Close is of the Graph interface.
func (g *cudaGraph) Close() error {
	m := g.machine
	if m.closed {
		return nil
	}
	return m.call(func() error {
		if !m.graphs[g] {
			return nil
		}
		delete(m.graphs, g)
		return wrap("free a graph", errors.Join(driver.Check(m.stream.Synchronize()), g.ready.Destroy()))
	})
}

// Replay is of the machine interface.
func (m *cudaMachine) Replay(graph Graph) error {
	if m.recording {
		return errRecording
	}
	g, ok := graph.(*cudaGraph)
	if !ok || g.machine != m {
		return errors.New("replay: the graph is not of this device")
	}
	return m.send(command{kind: replayCommand, graph: g})
}

// Sync is of the machine interface.
func (m *cudaMachine) Sync() error {
	return m.call(func() error { return wrap("wait for the device", m.stream.Synchronize()) })
}

// FreeMemory is of the machine interface.
func (m *cudaMachine) FreeMemory() (free, total int, err error) {
	err = m.call(func() error {
		f, t, err := cu.MemInfo()
		free, total = int(f), int(t)
		return wrap("ask for free memory", err)
	})
	return free, total, err
}

// Close is of the machine interface.
func (m *cudaMachine) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	close(m.commands)
	return <-m.answers
}

var (
	entry     = regexp.MustCompile(`\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?`)
	parameter = regexp.MustCompile(`\.param\b`)
)

// entries returns how many parameters each kernel of a module has. A launch with
// fewer would make the driver read what is no argument.
func entries(ptx string) map[string]int {
	list := map[string]int{}
	for _, found := range entry.FindAllStringSubmatch(ptx, -1) {
		list[found[1]] = len(parameter.FindAllString(found[2], -1))
	}
	return list
}
