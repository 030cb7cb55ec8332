// Package fake lets tests drive the CUDA engine where there is no GPU: by a
// libcuda.so.1 that a C++ compiler makes of the kernels' own source and that does
// the driver's work on the CPU. What it can be told to do, and to do wrong, by
// environment variables is written at the top of libcuda.cpp.
package fake

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Use makes this process, and those it starts, take the fake for the CUDA driver,
// and builds it if that has to be done. It skips the test where no C++ compiler
// is. If CUDA_DRIVER names a driver already, even a real one, that one is used.
//
// A process opens its driver once, so no test may ask for a device before.
func Use(t testing.TB) {
	t.Helper()
	if os.Getenv("CUDA_DRIVER") != "" {
		return
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if path == "" {
		t.Skip("no C++ compiler to build the fake driver with: install g++, or name a driver in CUDA_DRIVER")
	}
	if err := os.Setenv("CUDA_DRIVER", path); err != nil { // for later tests too, so not t.Setenv
		t.Fatal(err)
	}
}

// build returns the library's path, or none if there is no compiler.
var build = sync.OnceValues(func() (string, error) {
	compiler := os.Getenv("CXX")
	if compiler == "" {
		compiler = "g++"
	}
	if _, err := exec.LookPath(compiler); err != nil {
		return "", nil
	}
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Dir(here)
	path := filepath.Join(dir, "..", "..", "bin", "cuda", "fake", "libcuda.so.1")
	command := exec.Command(filepath.Join(dir, "build.sh"), path)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the fake driver: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return path, nil
})
