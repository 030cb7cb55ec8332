//go:build cuda

package gpu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu/fake"
	"github.com/descentnet/minerd/gpu/kernels"
)

// fakeOnly skips a test that needs faults or a memory that only the fake has.
func fakeOnly(t *testing.T) {
	fake.Use(t)
	devices, err := Devices()
	if err != nil {
		t.Fatal(err)
	}
	if devices[0].Name != "Fake GPU" {
		t.Skip("not for a real device")
	}
}

// inject makes the fake count to a fault from now on, also where the same one was
// set before: it counts anew when the variable has changed.
func inject(t *testing.T, variable, value string) {
	t.Helper()
	t.Setenv(variable, "")
	noError(t, openTest(t, 0).Close())
	t.Setenv(variable, value)
}

func openTest(t testing.TB, ordinal int) *cudaMachine {
	t.Helper()
	fake.Use(t)
	m, err := openCUDA(ordinal, kernels.PTX)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m.(*cudaMachine)
}

func noError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func allocTest(t testing.TB, m machine, n int) Pointer {
	t.Helper()
	p, err := m.Alloc(n)
	noError(t, err)
	if p%256 != 0 {
		t.Errorf("memory at %#x is not aligned to 256 bytes", p)
	}
	return p
}

// setScalars launches set_scalars: the four words of each of so many trials.
func setScalars(m machine, p Pointer, trials int, v [4]uint32) error {
	return m.Launch("set_scalars", [3]int{1, 1, trials}, [3]int{1, 1, 1},
		uint64(p), 4, 4, uint64(v[0]), uint64(v[1]), uint64(v[2]), uint64(v[3]))
}

func readWords(t testing.TB, m machine, p Pointer, n int) []uint32 {
	t.Helper()
	b := make([]byte, 4*n)
	noError(t, m.FromDevice(b, p))
	list := make([]uint32, n)
	for i := range list {
		list[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return list
}

func TestDevices(t *testing.T) {
	fakeOnly(t)
	t.Setenv("FAKECUDA_DEVICES", "2")
	t.Setenv("FAKECUDA_MEMORY", "1073741824")
	devices, err := Devices()
	noError(t, err)
	want := Device{Index: 1, Name: "Fake GPU", UUID: "GPU-fafafafa-fafa-fafa-fafa-fafafafafa01", Major: 6, MemoryBytes: 1 << 30, SMs: 4, ClockMHz: 1000,
		PCIBusID: "0000:02:00.0", DriverVersion: "12.4"}
	if len(devices) != 2 || devices[1] != want {
		t.Errorf("devices = %v, want the second to be %v", devices, want)
	}
	const line = "cuda:1  Fake GPU, 1.0 GiB, 4 SMs, compute capability 6.0, CUDA 12.4, PCI 0000:02:00.0, GPU-fafafafa-fafa-fafa-fafa-fafafafafa01"
	if got := want.String(); got != line {
		t.Errorf("line %q, want %q", got, line)
	}
	t.Setenv("FAKECUDA_DEVICES", "0")
	if _, err := Devices(); !errors.Is(err, ErrNoDevice) {
		t.Errorf("without devices: %v, want ErrNoDevice", err)
	}
}

func TestOpenErrors(t *testing.T) {
	fakeOnly(t)
	for _, ordinal := range []int{-1, 1} {
		if _, err := openCUDA(ordinal, kernels.PTX); !errors.Is(err, ErrNoDevice) {
			t.Errorf("device %d: %v, want ErrNoDevice", ordinal, err)
		}
	}
	if _, err := openCUDA(0, "nonsense"); err == nil || !strings.Contains(err.Error(), "missing .version") {
		t.Errorf("nonsense for PTX: %v, want the translator's own words", err)
	}
	if _, err := openCUDA(0, ".version 6.0\n.visible .entry nothing() {}"); err == nil || !strings.Contains(err.Error(), "kernel nothing") {
		t.Errorf("a kernel that the driver does not know: %v", err)
	}
}

// Copies of all sizes about that of the staging buffers, and what lies beside them.
func TestCopies(t *testing.T) {
	m := openTest(t, 0)
	r := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{1, 4, 4096, stagingBytes - 1, stagingBytes, stagingBytes + 1, 2 * stagingBytes, 5*stagingBytes + 12345} {
		src, dst := make([]byte, n), make([]byte, n)
		_, _ = r.Read(src) // never fails
		p := allocTest(t, m, n+8)
		noError(t, m.ToDevice(p, bytes.Repeat([]byte{7}, n+8)))
		noError(t, m.ToDevice(p+4, src))
		noError(t, m.FromDevice(dst, p+4))
		if !bytes.Equal(src, dst) {
			t.Fatalf("%d bytes did not come back as they went", n)
		}
		ends := make([]byte, 8)
		noError(t, m.FromDevice(ends[:4], p))
		noError(t, m.FromDevice(ends[4:], p+Pointer(n+4)))
		if !bytes.Equal(ends, bytes.Repeat([]byte{7}, 8)) {
			t.Fatalf("a copy of %d bytes went beyond its ends: %v", n, ends)
		}
		m.Free(p)
	}
}

// The source of a copy is free when ToDevice returns, though the copy is not done.
func TestSourceReused(t *testing.T) {
	m := openTest(t, 0)
	p := allocTest(t, m, 400)
	src := make([]byte, 4)
	for i := range 100 {
		binary.LittleEndian.PutUint32(src, uint32(i))
		noError(t, m.ToDevice(p+Pointer(4*i), src))
	}
	for i, v := range readWords(t, m, p, 100) {
		if v != uint32(i) {
			t.Fatalf("word %d is %d", i, v)
		}
	}
}

func TestLaunch(t *testing.T) {
	m := openTest(t, 0)
	const n, trials = 1000, 3
	start, state := allocTest(t, m, 4*n), allocTest(t, m, 4*n*trials)
	src := make([]byte, 4*n)
	for i := range n {
		binary.LittleEndian.PutUint32(src[4*i:], math.Float32bits(float32(i)))
	}
	noError(t, m.ToDevice(start, src))
	noError(t, m.Fill(state, 0xabcd, n*trials))
	noError(t, m.Launch("copy_state", [3]int{4, 1, trials}, [3]int{256, 1, 1}, uint64(state), uint64(start), n, n-1))
	noError(t, m.Launch("set_scalars", [3]int{1, 1, trials}, [3]int{1, 1, 1}, uint64(state+8), n, 3, 11, 12, 1<<32-1, 14))
	got := readWords(t, m, state, n*trials)
	for i, v := range got {
		want := math.Float32bits(float32(i % n))
		switch i % n {
		case 2:
			want = 11
		case 3:
			want = 12
		case 4:
			want = 1<<32 - 1
		case n - 1:
			want = 0xabcd // behind the words that copy_state was told of
		}
		if v != want {
			t.Fatalf("trial %d, word %d: %#x, want %#x", i/n, i%n, v, want)
		}
	}
}

func TestGraph(t *testing.T) {
	m := openTest(t, 0)
	const trials = 2
	direct, recorded := allocTest(t, m, 16*trials), allocTest(t, m, 16*trials)
	work := func(p Pointer) error {
		return errors.Join(m.Fill(p, 5, 4*trials), setScalars(m, p, trials, [4]uint32{1, 2, 3, 4}), m.Fill(p+20, 9, 1))
	}
	noError(t, m.Fill(recorded, 0, 4*trials))
	g, err := m.Record(func() error { return work(recorded) })
	noError(t, err)
	if got := readWords(t, m, recorded, 4*trials); !slices.Equal(got, make([]uint32, 4*trials)) {
		t.Fatalf("recording did the work: %v", got)
	}
	noError(t, work(direct))
	for range 3 {
		noError(t, m.Fill(recorded, 0, 4*trials))
		noError(t, m.Replay(g))
		if got, want := readWords(t, m, recorded, 4*trials), readWords(t, m, direct, 4*trials); !slices.Equal(got, want) {
			t.Fatalf("the graph made %v, the launches %v", got, want)
		}
	}
	noError(t, g.Close())
	noError(t, g.Close())
	noError(t, m.Replay(g))
	if err := m.Sync(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("replay of a closed graph: %v", err)
	}
	noError(t, m.Sync())
}

func TestRecordErrors(t *testing.T) {
	m := openTest(t, 0)
	p := allocTest(t, m, 16)
	mine := errors.New("mine")
	if _, err := m.Record(func() error { return errors.Join(setScalars(m, p, 1, [4]uint32{}), mine) }); !errors.Is(err, mine) {
		t.Errorf("an error of what is recorded: %v", err)
	}
	for name, f := range map[string]func() error{
		"Sync":       m.Sync,
		"ToDevice":   func() error { return m.ToDevice(p, make([]byte, 4)) },
		"FromDevice": func() error { return m.FromDevice(make([]byte, 4), p) },
		"Alloc":      func() error { _, err := m.Alloc(4); return err },
		"Replay":     func() error { return m.Replay(&cudaGraph{machine: m}) },
		"Record":     func() error { _, err := m.Record(func() error { return nil }); return err },
	} {
		if _, err := m.Record(f); !errors.Is(err, errRecording) {
			t.Errorf("%s while recording: %v", name, err)
		}
	}
	tooMany := [3]int{2048, 1, 1}
	_, err := m.Record(func() error { return m.Launch("copy_state", tooMany, tooMany, uint64(p), uint64(p), 0, 4) })
	if err == nil || !strings.Contains(err.Error(), "launch copy_state") {
		t.Errorf("a launch that the driver refuses: %v", err)
	}
	if _, err := m.Record(func() error { return m.Fill(p, 1, 4) }); err != nil {
		t.Errorf("after errors nothing can be recorded: %v", err)
	}
	other := openTest(t, 0)
	g, err := other.Record(func() error { return nil })
	noError(t, err)
	if err := m.Replay(g); err == nil {
		t.Error("another device's graph was replayed")
	}
}

func TestLaunchErrors(t *testing.T) {
	m := openTest(t, 0)
	one := [3]int{1, 1, 1}
	if err := m.Launch("no_such", one, one); err == nil || !strings.Contains(err.Error(), "no such kernel, only") {
		t.Errorf("a kernel that is not there: %v", err)
	}
	if err := m.Launch("copy_state", one, one, 1, 2, 3); err == nil || !strings.Contains(err.Error(), "takes 4 arguments, not 3") {
		t.Errorf("too few arguments: %v", err)
	}
	if err := m.Launch("copy_state", one, [3]int{1, 0, 1}, 1, 2, 3, 4); err == nil {
		t.Error("no threads were launched")
	}
	noError(t, m.Sync())
	// What only the driver knows is wrong comes from the next call, once.
	p := allocTest(t, m, 16)
	noError(t, m.Fill(p, 3, 4))
	noError(t, m.Launch("copy_state", one, [3]int{2048, 1, 1}, uint64(p), uint64(p), 0, 4))
	noError(t, m.Fill(p, 4, 4)) // left out
	if err := m.Sync(); err == nil || !strings.Contains(err.Error(), "launch copy_state, grid [1 1 1], block [2048 1 1]") {
		t.Errorf("a block that is too large: %v", err)
	}
	if got := readWords(t, m, p, 4); !slices.Equal(got, []uint32{3, 3, 3, 3}) {
		t.Errorf("work after a failed launch was done: %v", got)
	}
}

func TestOutOfMemory(t *testing.T) {
	fakeOnly(t)
	t.Setenv("FAKECUDA_MEMORY", "1000000")
	m := openTest(t, 0)
	p := allocTest(t, m, 600000)
	if _, err := m.Alloc(500000); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("more than there is: %v, want ErrOutOfMemory", err)
	}
	if free, total, err := m.FreeMemory(); err != nil || free != 400000 || total != 1000000 {
		t.Errorf("free %d of %d, %v", free, total, err)
	}
	m.Free(p)
	allocTest(t, m, 1000000)
	if _, err := m.Alloc(0); err == nil {
		t.Error("no bytes were allocated")
	}
}

func TestInjectedOutOfMemory(t *testing.T) {
	fakeOnly(t)
	inject(t, "FAKECUDA_FAIL", "alloc:2")
	m := openTest(t, 0)
	allocTest(t, m, 4)
	if _, err := m.Alloc(4); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("the second: %v, want ErrOutOfMemory", err)
	}
	allocTest(t, m, 4)
}

// A lost device stays lost until it is closed, and works when opened again.
func TestDeviceLost(t *testing.T) {
	fakeOnly(t)
	for name, lose := range map[string]func(*cudaMachine, Pointer) error{
		"launch":  func(m *cudaMachine, p Pointer) error { return setScalars(m, p, 1, [4]uint32{}) },
		"address": func(m *cudaMachine, p Pointer) error { return setScalars(m, p+1<<20, 1, [4]uint32{}) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "launch" {
				inject(t, "FAKECUDA_FAIL", "launch:2")
			}
			m := openTest(t, 0)
			p := allocTest(t, m, 16)
			g, err := m.Record(func() error { return setScalars(m, p, 1, [4]uint32{1, 2, 3, 4}) })
			noError(t, err)
			noError(t, m.Replay(g))
			noError(t, m.Sync())
			noError(t, lose(m, p))
			if err := m.Sync(); !errors.Is(err, ErrDeviceLost) {
				t.Errorf("Sync: %v, want ErrDeviceLost", err)
			}
			for what, f := range map[string]func() error{
				"Sync again": m.Sync,
				"FromDevice": func() error { return m.FromDevice(make([]byte, 4), p) },
				"Alloc":      func() error { _, err := m.Alloc(4); return err },
				"Record":     func() error { _, err := m.Record(func() error { return m.Fill(p, 1, 1) }); return err },
				"Graph":      g.Close,
			} {
				if err := f(); !errors.Is(err, ErrDeviceLost) || strings.Count(err.Error(), string(ErrDeviceLost)) != 1 {
					t.Errorf("%s: %v, want ErrDeviceLost once", what, err)
				}
			}
			m.Free(p)
			noError(t, m.Close())
			again := openTest(t, 0)
			q := allocTest(t, again, 16)
			noError(t, setScalars(again, q, 1, [4]uint32{1, 2, 3, 4}))
			if got := readWords(t, again, q, 4); !slices.Equal(got, []uint32{1, 2, 3, 4}) {
				t.Errorf("opened again it makes %v", got)
			}
		})
	}
}

func TestWrongDevice(t *testing.T) {
	fakeOnly(t)
	inject(t, "FAKECUDA_WRONG", "2")
	m := openTest(t, 0)
	p := allocTest(t, m, 16)
	for i, want := range []uint32{1, 1 ^ 1<<23, 1} {
		noError(t, setScalars(m, p, 1, [4]uint32{1, 2, 3, 4}))
		if got := readWords(t, m, p, 4); !slices.Equal(got, []uint32{want, 2, 3, 4}) {
			t.Errorf("launch %d made %v, want %v first", i+1, got, want)
		}
	}
}

// Two devices, each with its goroutine, do not get in each other's way.
func TestTwoDevices(t *testing.T) {
	fakeOnly(t)
	t.Setenv("FAKECUDA_DEVICES", "2")
	inject(t, "FAKECUDA_FAIL", "launch:100@1")
	ms := [2]*cudaMachine{openTest(t, 0), openTest(t, 1)}
	errs := make(chan error)
	for i, m := range ms {
		p := allocTest(t, m, 16)
		go func() {
			var err error
			for j := 0; j < 200 && err == nil; j++ {
				err = errors.Join(setScalars(m, p, 1, [4]uint32{uint32(i), 2, 3, uint32(j)}), m.Sync())
			}
			errs <- err
		}()
	}
	a, b := <-errs, <-errs
	if (a == nil) == (b == nil) || !errors.Is(errors.Join(a, b), ErrDeviceLost) {
		t.Errorf("errors %v and %v, want ErrDeviceLost on one device", a, b)
	}
	noError(t, ms[0].Sync())
	if err := ms[1].Sync(); !errors.Is(err, ErrDeviceLost) {
		t.Errorf("the lost device says %v", err)
	}
}

func TestClose(t *testing.T) {
	m := openTest(t, 0)
	p := allocTest(t, m, 1<<20)
	noError(t, m.Fill(p, 1, 1<<18))
	g, err := m.Record(func() error { return m.Fill(p, 2, 1) })
	noError(t, err)
	noError(t, m.Close())
	noError(t, m.Close())
	noError(t, g.Close())
	m.Free(p)
	for what, err := range map[string]error{
		"Fill": m.Fill(p, 1, 1), "Launch": setScalars(m, p, 1, [4]uint32{}), "Replay": m.Replay(g), "Sync": m.Sync(), "ToDevice": m.ToDevice(p, []byte{1}),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", what, err)
		}
	}
	// All was given back.
	again := openTest(t, 0)
	if free, total, err := again.FreeMemory(); err != nil || free != total {
		if devices, _ := Devices(); devices[0].Name == "Fake GPU" {
			t.Errorf("free %d of %d, %v", free, total, err)
		}
	}
}

// Close says what nobody has asked for yet.
func TestCloseReportsErrors(t *testing.T) {
	fakeOnly(t)
	m, err := openCUDA(0, kernels.PTX)
	noError(t, err)
	noError(t, m.Launch("set_scalars", [3]int{1, 1, 1}, [3]int{4096, 1, 1}, 0, 0, 0, 0, 0, 0, 0))
	if err := m.Close(); err == nil || !strings.Contains(err.Error(), "launch set_scalars") {
		t.Errorf("Close after a launch that the driver refused: %v", err)
	}
	inject(t, "FAKECUDA_FAIL", "launch:1")
	m, err = openCUDA(0, kernels.PTX)
	noError(t, err)
	noError(t, setScalars(m, allocTest(t, m, 16), 1, [4]uint32{}))
	if err := m.Close(); !errors.Is(err, ErrDeviceLost) || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("Close after a launch that failed: %v, want ErrDeviceLost in one line", err)
	}
}

func TestEntries(t *testing.T) {
	const ptx = `.version 6.0
.visible .entry none()
{ }
.visible .entry three(
	.param .u64 three_param_0,
	.param .u64 .ptr .align 1 three_param_1,
	.param .f32 three_param_2
)
.entry bare
{ }`
	got := entries(ptx)
	if len(got) != 3 || got["none"] != 0 || got["three"] != 3 || got["bare"] != 0 {
		t.Errorf("entries %v", got)
	}
	if len(entries(kernels.PTX)) == 0 {
		t.Error("none in the kernels")
	}
	for name, n := range entries(kernels.PTX) {
		if n > len(command{}.arguments) {
			t.Errorf("%s takes %d arguments, a launch carries %d", name, n, len(command{}.arguments))
		}
	}
}

func BenchmarkLaunch(b *testing.B) {
	m := openTest(b, 0)
	p := allocTest(b, m, 16)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		noError(b, setScalars(m, p, 1, [4]uint32{1, 2, 3, 4}))
		if i%64 == 0 {
			noError(b, m.Sync())
		}
	}
}

func BenchmarkSync(b *testing.B) {
	m := openTest(b, 0)
	for b.Loop() {
		noError(b, m.Sync())
	}
}
