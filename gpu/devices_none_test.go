//go:build !cuda

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
	const want = "built without CUDA: build with -tags cuda (make cuda) to train on a GPU"
	if err == nil || err.Error() != want {
		t.Errorf("message = %v, want %q", err, want)
	}
	if m, err := openCUDA(0, ""); m != nil || !errors.Is(err, ErrNotBuilt) {
		t.Errorf("openCUDA = %v, %v, want ErrNotBuilt", m, err)
	}
}
