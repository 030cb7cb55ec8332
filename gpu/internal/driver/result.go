//go:build cuda

package driver

// #include "shim.h"
import "C"

import (
	"fmt"
	"reflect"
)

// Result is a CUresult other than CUDA_SUCCESS; compare with errors.Is.
type Result int

// The Results that callers tell apart. Those of IllegalAddress to Unknown are
// "sticky": every later call in the context returns them too.
const (
	OutOfMemory         Result = C.CUDA_ERROR_OUT_OF_MEMORY
	NoDevice            Result = C.CUDA_ERROR_NO_DEVICE
	PrimaryContextInUse Result = C.CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE

	IllegalAddress      Result = C.CUDA_ERROR_ILLEGAL_ADDRESS
	LaunchTimeout       Result = C.CUDA_ERROR_LAUNCH_TIMEOUT
	ContextIsDestroyed  Result = C.CUDA_ERROR_CONTEXT_IS_DESTROYED
	Assert              Result = C.CUDA_ERROR_ASSERT
	HardwareStackError  Result = C.CUDA_ERROR_HARDWARE_STACK_ERROR
	IllegalInstruction  Result = C.CUDA_ERROR_ILLEGAL_INSTRUCTION
	MisalignedAddress   Result = C.CUDA_ERROR_MISALIGNED_ADDRESS
	InvalidAddressSpace Result = C.CUDA_ERROR_INVALID_ADDRESS_SPACE
	InvalidPC           Result = C.CUDA_ERROR_INVALID_PC
	LaunchFailed        Result = C.CUDA_ERROR_LAUNCH_FAILED
	ECCUncorrectable    Result = C.CUDA_ERROR_ECC_UNCORRECTABLE
	NVLinkUncorrectable Result = C.CUDA_ERROR_NVLINK_UNCORRECTABLE
	DeviceUnavailable   Result = 46  // from CUDA 11.7 on: the header has it not
	Contained           Result = 226 // from CUDA 12.8 on: a fault that ended this process's work alone
	MPSClientTerminated Result = 809 // from CUDA 11.8 on
	ExternalDevice      Result = 911 // from CUDA 12.0 on
	Unknown             Result = C.CUDA_ERROR_UNKNOWN
)

// check is nil for CUDA_SUCCESS, else a Result.
func check(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return Result(r)
}

// Check turns an error of gorgonia.org/cu, whose type has no name outside it and
// whose text is a bare word, into a Result. Other errors, and nil, stay as they are.
func Check(err error) error {
	if err == nil {
		return nil
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Int {
		return Result(v.Int())
	}
	return err
}

// Error is the driver's name, number and text for the Result.
func (r Result) Error() string {
	var name, text *C.char
	if C.cuGetErrorName(C.CUresult(r), &name) != C.CUDA_SUCCESS || C.cuGetErrorString(C.CUresult(r), &text) != C.CUDA_SUCCESS {
		return fmt.Sprintf("CUDA error %d", int(r))
	}
	return fmt.Sprintf("%s (%d, %s)", C.GoString(name), int(r), C.GoString(text))
}
