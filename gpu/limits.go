package gpu

import (
	"fmt"
	"time"

	"github.com/descentnet/minerd/gpu/kernels"
)

// Rates are what a device can do at most, to compare measurements with.
type Rates struct {
	Flops     float64 // binary32 operations per second, two for each fused multiply-add: cores times highest clock
	CopyBytes float64 // bytes read plus bytes written per second of a kernel that copies memory, measured
}

// coresPerSM is the number of binary32 units of a streaming multiprocessor (CUDA C Programming Guide, table of arithmetic
// throughput by compute capability).
func coresPerSM(major, minor int) int {
	if major == 6 && minor == 0 || major == 7 || major == 8 && minor == 0 {
		return 64
	}
	return 128
}

// Limits measures a device and works out its rates.
func Limits(device int) (Rates, error) {
	devices, err := Devices()
	if err != nil {
		return Rates{}, err
	}
	if device < 0 || device >= len(devices) {
		return Rates{}, fmt.Errorf("%w: %d of %d", ErrNoDevice, device, len(devices))
	}
	d := devices[device]
	r := Rates{Flops: 2 * float64(d.SMs) * float64(coresPerSM(d.Major, d.Minor)) * float64(d.ClockMHz) * 1e6}
	m, err := openCUDA(device, kernels.PTX)
	if err != nil {
		return Rates{}, err
	}
	r.CopyBytes, err = copyRate(m)
	if closed := m.Close(); err == nil {
		err = closed
	}
	return r, err
}

// copyRate times dense_finish with one partial sum, which reads as much as it writes.
func copyRate(m machine) (float64, error) {
	const units, repeats, rounds = 1024, 20, 5
	free, _, err := m.FreeMemory()
	if err != nil {
		return 0, err
	}
	bytes := min(512<<20, free/4) // far more than caches hold
	batch := bytes / (4 * units)
	from, err := m.Alloc(bytes)
	if err != nil {
		return 0, err
	}
	defer m.Free(from)
	to, err := m.Alloc(bytes)
	if err != nil {
		return 0, err
	}
	defer m.Free(to)
	if err := m.Fill(from, 0, bytes/4); err != nil {
		return 0, err
	}
	grid, block := kernels.DenseFinish(batch, units, 1)
	best := 0.0
	for range rounds {
		if err := m.Sync(); err != nil {
			return 0, err
		}
		began := time.Now()
		for range repeats {
			if err := m.Launch("dense_finish", grid, block, uint64(to), uint64(from), uint64(from), 0, uint64(batch), units, 1, 0); err != nil {
				return 0, err
			}
		}
		if err := m.Sync(); err != nil {
			return 0, err
		}
		best = max(best, 2*4*float64(batch*units)*repeats/time.Since(began).Seconds())
	}
	return best, nil
}
