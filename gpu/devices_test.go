package gpu

import (
	"errors"
	"fmt"
	"testing"
)

func TestDevicesWithoutCUDA(t *testing.T) {
	devices, err := Devices()
	if len(devices) != 0 {
		t.Errorf("devices = %v, want none", devices)
	}
	// A caller wraps the answer with what it was doing; it must still see the kind.
	if wrapped := fmt.Errorf("listing devices: %w", err); !errors.Is(wrapped, ErrNotBuilt) {
		t.Errorf("error = %v, want ErrNotBuilt", err)
	}
	const want = "built without CUDA: this version trains on the CPU alone"
	if err == nil || err.Error() != want {
		t.Errorf("message = %v, want %q", err, want)
	}
}
