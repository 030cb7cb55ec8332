package gpu

// machine is what the engine needs of a CUDA device. All calls come one at a
// time. Work is done in the order in which it was asked for; "enqueued" work may
// still be under way when the method returns, and its error comes from a later
// call.
type machine interface {
	// Alloc returns uninitialised device memory, aligned to 256 bytes.
	Alloc(bytes int) (Pointer, error)
	// Free gives back what Alloc returned, once the work before it is done.
	Free(Pointer)
	// ToDevice copies src to the device. src may be reused when it returns.
	ToDevice(dst Pointer, src []byte) error
	// FromDevice fills dst after all work before it.
	FromDevice(dst []byte, src Pointer) error
	// Fill sets 32-bit words of device memory; enqueued.
	Fill(dst Pointer, word uint32, words int) error
	// Launch runs a kernel of the module; enqueued. Each argument is one 8-byte
	// slot, little-endian, in the order of the kernel's parameters.
	Launch(kernel string, grid, block [3]int, args ...uint64) error
	// Record makes a graph of the Launches and Fills that enqueue asks for.
	// None of them runs meanwhile, and nothing else may be asked for.
	Record(enqueue func() error) (Graph, error)
	// Replay runs a graph; enqueued.
	Replay(Graph) error
	// Sync waits for all work and returns its first error.
	Sync() error
	// FreeMemory returns the device memory that is left and that there is, in bytes.
	FreeMemory() (free, total int, err error)
	// Close waits for what is under way and frees all that the machine holds.
	// A second Close does nothing.
	Close() error
}

// Pointer is an address in device memory.
type Pointer uint64

// Graph is recorded work of the machine that returned it.
type Graph interface {
	// Close frees it, once the work before it is done. The machine's Close does
	// so too; a second Close does nothing.
	Close() error
}
