//go:build cuda

// Package driver opens the CUDA driver at run time, stands in for it at link
// time, and calls what gorgonia.org/cu does not.
package driver

/*
#cgo noescape shim_launch
#cgo nocallback shim_launch
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"
)

// Variable is the environment variable that names the driver library where it is
// in no usual place.
const Variable = "CUDA_DRIVER"

// places are where the driver library is looked for, in this order. The first is
// the loader's own search; the others are where containers, WSL and NixOS put it.
var places = []string{
	"libcuda.so.1",
	"/usr/local/nvidia/lib64/libcuda.so.1",
	"/usr/local/nvidia/lib/libcuda.so.1",
	"/usr/lib/wsl/lib/libcuda.so.1",
	"/run/opengl-driver/lib/libcuda.so.1",
}

// ErrNoLibrary is in the error of Load where no driver library could be opened.
var ErrNoLibrary = errors.New("no CUDA driver library")

// Load opens the driver library and initialises it. It does so once in a process:
// later calls return what the first did. Its error is ErrNoLibrary or a Result,
// such as the one for "no device". Nothing else of the driver, and nothing of
// gorgonia.org/cu, is of use before.
var Load = sync.OnceValue(func() error {
	list := places
	if named := os.Getenv(Variable); named != "" {
		list = []string{named}
	}
	var why []string
	for _, place := range list {
		result, err := load(place)
		if err == nil {
			return result
		}
		// One that is not there is only worth a word if all are not.
		if len(why) == 0 || !strings.Contains(err.Error(), "No such file") {
			why = append(why, err.Error())
		}
	}
	return fmt.Errorf("%w: %s", ErrNoLibrary, strings.Join(why, "; "))
})

// load returns cuInit's result, or why the library was not opened.
func load(place string) (result, err error) {
	path := C.CString(place)
	defer C.free(unsafe.Pointer(path))
	var r C.CUresult
	if message := C.shim_load(path, &r); message != nil {
		text := C.GoString(message)
		if !strings.Contains(text, place) {
			text = place + ": " + text
		}
		return nil, errors.New(text)
	}
	return check(r), nil
}
