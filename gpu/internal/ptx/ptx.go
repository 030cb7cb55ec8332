// Package ptx runs PTX, the assembly language of CUDA devices, on the CPU: an interpreter of what clang makes of our
// kernels, so that the default tests run the shipped kernels bit for bit on a machine without a GPU.
//
// It is also the lint against arithmetic that the consensus rules forbid. Parse accepts binary32 arithmetic only with an
// explicit .rn (the driver's assembler may contract a mul and an add that have none), no flush to zero, no approximations,
// no saturation, no other float types and no atomics, and refuses every instruction, modifier and type that it does not know.
//
// What it checks at run time is what a device leaves undefined: accesses outside an allocation or not aligned, memory that
// is used after it was freed, threads that do not meet at a barrier, integer division by zero, and races between threads.
// A launch without a race gives the same bytes in every order of its threads. Warps do not exist here: instructions that
// exchange values inside one (shfl, vote, match) are refused, as are function calls.
//
// Fresh memory, shared and local memory and registers begin with all bits set, which makes a float that was never written
// a NaN. A NaN that arithmetic makes has the bits 0x7fffffff, as on NVIDIA devices; neg and abs, whose NaN the PTX manual
// leaves open, give the same.
package ptx

import "slices"

// Error is a kind of fault; compare with errors.Is.
type Error string

func (e Error) Error() string { return string(e) }

// The kinds of fault that Parse and Launch report.
const (
	ErrSyntax      = Error("not the PTX that this package reads")
	ErrUnknown     = Error("unknown or unsupported")
	ErrForbidden   = Error("forbidden by the consensus arithmetic")
	ErrLaunch      = Error("wrong launch")
	ErrAddress     = Error("bad address")
	ErrMisaligned  = Error("misaligned address")
	ErrDivergence  = Error("barrier not reached by every thread")
	ErrRace        = Error("race")
	ErrDivision    = Error("undefined integer division")
	ErrOutOfMemory = Error("out of device memory")
)

// Module is a parsed PTX text. It does not change: launches on different memories may run at the same time.
type Module struct {
	kernels map[string]*kernel
	globals []variable // one allocation each, made when a memory first sees the module
	consts  []variable
}

// A variable is a module's array or scalar in global or constant memory, with its first bytes.
type variable struct {
	name    string
	data    []byte
	address uint64 // of constant memory
}

// A kernel is one entry of a module, decoded for the interpreter.
type kernel struct {
	name    string
	params  []typ
	code    []instr
	regs    int      // registers at the beginning of a thread's frame
	presets []preset // what follows them there
	shared  []sharedArray
	local   int // bytes of local memory of a thread
	localAt uint64
	maxntid [3]int // 0: no limit given
	reqntid bool   // maxntid is the very size
	granule [numSpaces]uint
}

type sharedArray struct {
	name        string
	size, align int
}

// A preset is a frame's value that no instruction writes: immediates, arguments and special registers are read like
// registers, which keeps the interpreter's operands to one kind.
type preset struct {
	kind  presetKind
	value uint64 // the immediate, or an index of the parameter, special register or global variable
}

type presetKind byte

const (
	immediate presetKind = iota
	parameter
	special
	globalAddress
)

// Kernels are the names of the module's kernels, sorted.
func (m *Module) Kernels() []string {
	names := make([]string, 0, len(m.kernels))
	for name := range m.kernels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
