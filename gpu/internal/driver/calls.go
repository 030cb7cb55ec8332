//go:build cuda

package driver

// #include "shim.h"
import "C"

import (
	"unsafe"

	"gorgonia.org/cu"
)

// MaxArguments are the most that Launch takes.
const MaxArguments = C.SHIM_MAX_ARGUMENTS

// PCIBusID returns the place of a device on the bus, such as "0000:3b:00.0".
func PCIBusID(d cu.Device) (string, error) {
	var text [16]C.char
	err := check(C.cuDeviceGetPCIBusId(&text[0], C.int(len(text)), C.CUdevice(d)))
	return C.GoString(&text[0]), err
}

// HostAlloc returns page-locked host memory, which asynchronous copies need. It
// is freed with cu.MemFreeHost.
func HostAlloc(bytes int) ([]byte, error) {
	var p unsafe.Pointer
	if err := check(C.cuMemHostAlloc(&p, C.size_t(bytes), 0)); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(p), bytes), nil
}

// Launch enqueues a kernel on the stream. Each argument is read from its 8-byte
// slot, as many bytes of it as the kernel's parameter has. There must be as many
// as the kernel has parameters: the driver reads that many.
func Launch(f cu.Function, s cu.Stream, grid, block [3]uint32, arguments []uint64) error {
	return check(C.shim_launch(function(f), stream(s), (*C.uint)(&grid[0]), (*C.uint)(&block[0]),
		(*C.uint64_t)(unsafe.SliceData(arguments)), C.int(len(arguments))))
}

// BeginCapture makes what is enqueued on the stream from now on part of a graph
// instead of running it. Other threads' calls are not affected.
func BeginCapture(s cu.Stream) error {
	return check(C.cuStreamBeginCapture(stream(s), C.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
}

// Graph is recorded work, ready to be launched any number of times.
type Graph struct{ exec C.CUgraphExec }

// EndCapture ends what BeginCapture began and returns the graph.
func EndCapture(s cu.Stream) (Graph, error) {
	var g C.CUgraph
	if err := check(C.cuStreamEndCapture(stream(s), &g)); err != nil {
		return Graph{}, err
	}
	defer C.cuGraphDestroy(g)
	var ready Graph
	err := check(C.cuGraphInstantiateWithFlags(&ready.exec, g, 0))
	return ready, err
}

// Launch enqueues the whole graph on the stream.
func (g Graph) Launch(s cu.Stream) error { return check(C.cuGraphLaunch(g.exec, stream(s))) }

// Destroy frees the graph, which must not be running.
func (g Graph) Destroy() error { return check(C.cuGraphExecDestroy(g.exec)) }

// cu keeps its handles to itself; each type is a struct of the handle alone.
func stream(s cu.Stream) C.CUstream       { return *(*C.CUstream)(unsafe.Pointer(&s)) }
func function(f cu.Function) C.CUfunction { return *(*C.CUfunction)(unsafe.Pointer(&f)) }

// Either conversion is wrong, and does not compile, if cu adds a field.
var (
	_ [unsafe.Sizeof(C.CUstream(nil))]struct{}   = [unsafe.Sizeof(cu.Stream{})]struct{}{}
	_ [unsafe.Sizeof(C.CUfunction(nil))]struct{} = [unsafe.Sizeof(cu.Function{})]struct{}{}
)
