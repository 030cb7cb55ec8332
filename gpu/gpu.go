// Package gpu trains on CUDA devices and lists them. A build without the tag cuda
// needs no C compiler and has neither; one with it still starts where there is no
// driver, which it opens when a device is first asked for.
package gpu

import "fmt"

// Device is a CUDA device that could train.
type Device struct {
	Index         int    // the driver's ordinal, as in --device
	Name          string // the driver's name, such as "NVIDIA H200"
	UUID          string // stays the same when ordinals move; as nvidia-smi writes it
	Major, Minor  int    // compute capability
	MemoryBytes   uint64 // total device memory
	SMs           int    // streaming multiprocessors
	ClockMHz      int    // highest clock of these
	PCIBusID      string // such as "0000:3b:00.0"
	DriverVersion string // the newest version of CUDA that the driver knows, such as "12.4"
}

// String is one line about the device.
func (d Device) String() string {
	return fmt.Sprintf("cuda:%d  %s, %.1f GiB, %d SMs, compute capability %d.%d, CUDA %s, PCI %s, %s",
		d.Index, d.Name, float64(d.MemoryBytes)/(1<<30), d.SMs, d.Major, d.Minor, d.DriverVersion, d.PCIBusID, d.UUID)
}

// Error is the kind of fault for which a device cannot be used; compare with
// errors.Is.
type Error string

func (e Error) Error() string { return string(e) }

// The kinds of fault, each with what to do about it.
const (
	// ErrNotBuilt is the answer of a binary that has no CUDA in it.
	ErrNotBuilt = Error("built without CUDA: build with -tags cuda (make cuda) to train on a GPU")
	// ErrNoDriver is for a computer without a driver that can be opened and starts.
	ErrNoDriver = Error("no working CUDA driver: install NVIDIA's and see whether nvidia-smi runs, or name its libcuda.so.1 in CUDA_DRIVER")
	// ErrNoDevice is for a driver that has no device, or not the one asked for.
	ErrNoDevice = Error("no such CUDA device: see what nvidia-smi -L lists and whether CUDA_VISIBLE_DEVICES hides it")
	// ErrDeviceLost is for a device on which nothing works any more. The machine
	// must be closed; one opened after that may work.
	ErrDeviceLost = Error("CUDA device lost: look for Xid in the kernel's log and at nvidia-smi; restart, and if it comes again reset the device")
	// ErrOutOfMemory is for an allocation that does not fit.
	ErrOutOfMemory = Error("out of device memory: run fewer trials at a time, or end what else uses the device (see nvidia-smi)")
	// ErrClosed is for the use of a machine after Close.
	ErrClosed = Error("CUDA device closed")
)
