package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/node"
	"go.uber.org/zap"
)

const deviceHelp = "what to train on: auto (CUDA devices, or the CPU where there are none), cpu, cuda (all of them), all, or a list such as cuda:0,cuda:2,cpu"

// trainOn gives the devices that a list names. A device that does not pass the known-answer test is left out with an
// error in the log; with none left, that is the error. threads are the CPU's, steps those of the network's longest trials.
func trainOn(list string, threads, trials, steps int, log *zap.Logger) ([]node.Device, error) {
	names, err := deviceNames(list, gpu.Devices)
	if err != nil {
		return nil, err
	}
	if list == "auto" && names[0] == "cpu" {
		if _, err := gpu.Devices(); !errors.Is(err, gpu.ErrNotBuilt) {
			log.Info("no CUDA device can be used: training on the CPU", zap.Error(err))
		}
	}
	var devices []node.Device
	var failed []error
	for _, name := range names {
		if name == "cpu" {
			devices = append(devices, node.CPU(threads))
			continue
		}
		index, err := strconv.Atoi(strings.TrimPrefix(name, "cuda:"))
		if err != nil {
			return nil, err
		}
		if err := gpu.Check(index); err != nil {
			log.Error("device is not used", zap.String("device", name), zap.Error(err))
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		found, err := gpu.Devices()
		if err != nil {
			return nil, err
		}
		uuid := found[index].UUID // NVML may count in another order
		devices = append(devices, node.Device{
			Name:      name,
			Engine:    func(net *nn.Net) (nn.Engine, error) { return gpu.NewEngine(net, index, trials, steps) },
			Single:    func(net *nn.Net) (nn.Engine, error) { return gpu.NewEngine(net, index, 1, steps) },
			Telemetry: func() (gpu.Telemetry, error) { return gpu.ReadTelemetry(uuid) },
		})
	}
	if len(devices) == 0 && list == "auto" {
		return []node.Device{node.CPU(threads)}, nil
	}
	if len(devices) == 0 {
		return nil, fmt.Errorf("--device %s: no device can be used: %w", list, errors.Join(failed...))
	}
	return devices, nil
}

// deviceNames reads a list of devices: cpu and cuda:N, each once. present lists the CUDA devices; it is not asked where
// none is named.
func deviceNames(list string, present func() ([]gpu.Device, error)) ([]string, error) {
	var names []string
	add := func(name string) error {
		if slices.Contains(names, name) {
			return fmt.Errorf("--device %s: %s is named twice", list, name)
		}
		names = append(names, name)
		return nil
	}
	for _, name := range strings.Split(list, ",") {
		if name == "cpu" {
			if err := add(name); err != nil {
				return nil, err
			}
			continue
		}
		number, numbered := strings.CutPrefix(name, "cuda:")
		if name != "auto" && name != "cuda" && name != "all" && !numbered {
			return nil, fmt.Errorf("--device %q: there are auto, cpu, cuda, all, cuda:NUMBER and lists of these", list)
		}
		found, err := present()
		switch {
		case (name == "auto" || name == "all") && (err != nil || len(found) == 0):
			err = add("cpu")
		case err != nil:
			err = fmt.Errorf("--device %s: %w", list, err)
		case numbered:
			i, bad := strconv.Atoi(number)
			if bad != nil || i < 0 || strconv.Itoa(i) != number || i >= len(found) {
				return nil, fmt.Errorf("--device %s: %s is not there; CUDA devices found: %d, counted from 0", list, name, len(found))
			}
			err = add(name)
		default:
			for i := range found {
				err = errors.Join(err, add(fmt.Sprint("cuda:", i)))
			}
			if name == "all" {
				err = errors.Join(err, add("cpu"))
			}
			if name == "cuda" && len(found) == 0 {
				err = fmt.Errorf("--device %s: the driver has no device", list)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}
