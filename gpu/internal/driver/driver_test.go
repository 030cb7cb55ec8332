//go:build cuda

package driver

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu/fake"
	"gorgonia.org/cu"
)

// A process has one driver, so what comes before Load and after is one test.
func TestLoad(t *testing.T) {
	fake.Use(t)
	if _, err := cu.NumDevices(); !errors.Is(err, cu.NotInitialized) {
		t.Errorf("before Load the driver says %v, want NotInitialized", err)
	}
	if got := NoDevice.Error(); got != "CUDA error 100" {
		t.Errorf("a Result without a driver to ask is %q", got)
	}
	if result, err := load("/nowhere/libcuda.so.1"); result != nil || err == nil || !strings.Contains(err.Error(), "/nowhere/libcuda.so.1") {
		t.Errorf("load of what is not there: %v, %v", result, err)
	}
	if result, err := load("libm.so.6"); result != nil || err == nil || !strings.Contains(err.Error(), "no cuInit") {
		t.Errorf("load of another library: %v, %v", result, err)
	}
	if err := Load(); err != nil {
		t.Fatal(err)
	}
	if n, err := cu.NumDevices(); err != nil || n < 1 {
		t.Errorf("%d devices, %v", n, err)
	}
	if _, err := cu.GetDevice(1 << 20); !errors.Is(Check(err), Result(cu.InvalidDevice)) {
		t.Errorf("a device that is not there: %v", err)
	}
	if got := OutOfMemory.Error(); !strings.HasPrefix(got, "CUDA_ERROR_OUT_OF_MEMORY (2, ") {
		t.Errorf("OutOfMemory is %q", got)
	}
	if err := Check(nil); err != nil {
		t.Errorf("Check(nil) = %v", err)
	}
	if err := errors.New("other"); !errors.Is(Check(err), err) {
		t.Errorf("Check(%v) = %v", err, Check(err))
	}
}

// The program must not need the driver to start.
func TestNotLinked(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libraries {
		if strings.Contains(l, "cuda") {
			t.Errorf("the program is linked with %s", l)
		}
	}
	symbols, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if strings.HasPrefix(s.Name, "cu") && len(s.Name) > 2 && s.Name[2] >= 'A' && s.Name[2] <= 'Z' {
			t.Errorf("the program wants %s from a library", s.Name)
		}
	}
}

// Another version of gorgonia.org/cu may call other functions: those that are
// missing here would not link, and those too many would go unnoticed.
func TestSymbols(t *testing.T) {
	if _, err := exec.LookPath("nm"); err != nil {
		t.Skip("no nm (binutils) to read what gorgonia.org/cu calls")
	}
	script := exec.Command("../../../scripts/cuda.sh", "symbols")
	script.Stderr = os.Stderr
	want, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("symbols.h")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("symbols.h is not what `scripts/cuda.sh symbols` prints: write that to it")
	}
}
