package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu"
)

func TestDeviceNames(t *testing.T) {
	two := func() ([]gpu.Device, error) { return make([]gpu.Device, 2), nil }
	none := func() ([]gpu.Device, error) { return nil, gpu.ErrNoDriver }
	for _, c := range []struct {
		list    string
		present func() ([]gpu.Device, error)
		want    string // names, or what the error says
	}{
		{"auto", two, "cuda:0 cuda:1"},
		{"auto", none, "cpu"},
		{"cpu", nil, "cpu"},
		{"cuda", two, "cuda:0 cuda:1"},
		{"cuda", none, "no working CUDA driver"},
		{"all", two, "cuda:0 cuda:1 cpu"},
		{"all", none, "cpu"},
		{"cuda:1", two, "cuda:1"},
		{"cuda:1,cpu,cuda:0", two, "cuda:1 cpu cuda:0"},
		{"cuda:0", none, "no working CUDA driver"},
		{"cuda:2", two, "cuda:2 is not there; CUDA devices found: 2"},
		{"cuda:-1", two, "cuda:-1 is not there"},
		{"cuda:01", two, "cuda:01 is not there"},
		{"cuda:", two, "cuda: is not there"},
		{"cuda:0,cuda:0", two, "cuda:0 is named twice"},
		{"cuda,cuda:1", two, "cuda:1 is named twice"},
		{"", nil, `--device "": there are auto`},
		{"cpu,", nil, `--device "cpu,": there are auto`},
	} {
		names, err := deviceNames(c.list, c.present)
		if err == nil && slices.Equal(names, strings.Fields(c.want)) {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, %v; want %s", c.list, names, err, c.want)
		}
	}
}

// A device that is named and cannot be used is an error; with auto the CPU does instead.
func TestTrainOnNothing(t *testing.T) {
	if _, err := gpu.Devices(); err == nil {
		t.Skip("this machine has a CUDA device")
	}
	if _, err := trainOn("cuda", 1, 0, 0, nil); !errors.Is(err, gpu.ErrNotBuilt) && !errors.Is(err, gpu.ErrNoDriver) && !errors.Is(err, gpu.ErrNoDevice) {
		t.Errorf("cuda: %v", err)
	}
}
