// Package fake lets tests drive the CUDA engine where there is no GPU: by a
// libcuda.so.1 that a C++ compiler makes of the kernels' own source and that does
// the driver's work on the CPU. What it can be told to do, and to do wrong, by
// environment variables is written at the top of libcuda.cpp. A libnvidia-ml.so.1
// beside it tells of temperatures and the like.
package fake

import (
	"errors"
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
	use(t, "CUDA_DRIVER", buildDriver)
}

// Telemetry makes this process take the fake for NVIDIA's management library, which then tells what tell was last called
// with: lines as at the top of libnvml.cpp. A process opens its library once, so no test may read telemetry before.
func Telemetry(t testing.TB) (tell func(lines string)) {
	t.Helper()
	use(t, "NVML_LIBRARY", buildNVML)
	file := filepath.Join(t.TempDir(), "nvml")
	t.Setenv("FAKENVML", file)
	return func(lines string) {
		t.Helper()
		// All at once, as a device may be asked meanwhile.
		if err := errors.Join(os.WriteFile(file+".new", []byte(lines), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
}

// use builds a library and puts its path in an environment variable, or skips the test.
func use(t testing.TB, variable string, build func() (string, error)) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if path == "" {
		t.Skipf("no C++ compiler to build a fake library with: install g++, or name a library in %s", variable)
	}
	if err := os.Setenv(variable, path); err != nil { // for later tests too, so not t.Setenv
		t.Fatal(err)
	}
}

var (
	buildDriver = sync.OnceValues(func() (string, error) { return build("build.sh", "libcuda.so.1") })
	buildNVML   = sync.OnceValues(func() (string, error) { return build("build-nvml.sh", "libnvidia-ml.so.1") })
)

// build returns the library's path, or none if there is no compiler.
func build(script, name string) (string, error) {
	compiler := os.Getenv("CXX")
	if compiler == "" {
		compiler = "g++"
	}
	if _, err := exec.LookPath(compiler); err != nil {
		return "", nil
	}
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Dir(here)
	path := filepath.Join(dir, "..", "..", "bin", "cuda", "fake", name)
	command := exec.Command(filepath.Join(dir, script), path)
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the fake %s: %w: %s", name, err, strings.TrimSpace(string(output)))
	}
	return path, nil
}
