//go:build cuda

package gpu

import (
	"errors"
	"fmt"

	"github.com/descentnet/minerd/gpu/internal/driver"
	"gorgonia.org/cu"
)

// Devices returns the CUDA devices of this machine in the driver's order, at least
// one. Its error is ErrNoDriver, ErrNoDevice or the driver's own.
func Devices() ([]Device, error) {
	n, err := countDevices()
	if err != nil {
		return nil, err
	}
	list := make([]Device, n)
	for i := range list {
		if list[i], err = describe(i); err != nil {
			return nil, fmt.Errorf("CUDA device %d: %w", i, kindOf(err))
		}
	}
	return list, nil
}

// countDevices opens the driver if that has not been done.
func countDevices() (int, error) {
	if err := driver.Load(); errors.Is(err, driver.NoDevice) {
		return 0, kindOf(err)
	} else if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoDriver, err)
	}
	n, err := cu.NumDevices()
	if err == nil && n == 0 {
		return 0, ErrNoDevice
	}
	return n, kindOf(err)
}

func describe(ordinal int) (Device, error) {
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return Device{}, err
	}
	name, err := dev.Name()
	if err != nil {
		return Device{}, err
	}
	uuid, err := dev.UUID()
	if err != nil {
		return Device{}, err
	}
	memory, err := dev.TotalMem()
	if err != nil {
		return Device{}, err
	}
	a, err := dev.Attributes(cu.ComputeCapabilityMajor, cu.ComputeCapabilityMinor, cu.MultiprocessorCount)
	if err != nil {
		return Device{}, err
	}
	bus, err := driver.PCIBusID(dev)
	if err != nil {
		return Device{}, err
	}
	clock := 0 // for people: a driver that does not tell it any more does no harm
	if c, err := dev.Attributes(cu.ClockRate); err == nil {
		clock = c[0] / 1000
	}
	v := cu.Version() // 1000 major + 10 minor
	return Device{
		Index: ordinal, Name: name, UUID: "GPU-" + uuid.String(), Major: a[0], Minor: a[1], MemoryBytes: uint64(memory), SMs: a[2], ClockMHz: clock,
		PCIBusID: bus, DriverVersion: fmt.Sprintf("%d.%d", v/1000, v%1000/10),
	}, nil
}

// kindOf puts the kind of fault, if there is one for it, before the driver's error.
func kindOf(err error) error {
	err = driver.Check(err)
	var kind Error
	var result driver.Result
	if errors.As(err, &kind) || !errors.As(err, &result) {
		return err
	}
	switch result {
	case driver.NoDevice:
		return fmt.Errorf("%w: %w", ErrNoDevice, err)
	case driver.OutOfMemory:
		return fmt.Errorf("%w: %w", ErrOutOfMemory, err)
	case driver.IllegalAddress, driver.LaunchTimeout, driver.ContextIsDestroyed, driver.Assert, driver.HardwareStackError,
		driver.IllegalInstruction, driver.MisalignedAddress, driver.InvalidAddressSpace, driver.InvalidPC, driver.LaunchFailed,
		driver.ECCUncorrectable, driver.NVLinkUncorrectable, driver.DeviceUnavailable,
		driver.Contained, driver.MPSClientTerminated, driver.ExternalDevice, driver.Unknown:
		return fmt.Errorf("%w: %w", ErrDeviceLost, err)
	}
	return err
}
