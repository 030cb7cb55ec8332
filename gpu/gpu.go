// Package gpu lists the CUDA devices of this machine. The training engine over
// them belongs here too; the default build has neither, so that it needs no C
// compiler and no driver.
package gpu

// Device is a CUDA device that could train.
type Device struct {
	Index       int    // the driver's ordinal, as in --device
	Name        string // the driver's name, such as "NVIDIA H200"
	UUID        string // stays the same when ordinals move
	MemoryBytes uint64 // total device memory
}

// Error is the kind of fault for which no device can be used; compare with
// errors.Is.
type Error string

func (e Error) Error() string { return string(e) }

// ErrNotBuilt is the answer of a binary that has no CUDA in it.
const ErrNotBuilt = Error("built without CUDA: this version trains on the CPU alone")
