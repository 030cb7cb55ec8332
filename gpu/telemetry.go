package gpu

import "strings"

// Telemetry is what a device tells about itself. A value that it does not tell is 0.
type Telemetry struct {
	Temperature int     // of the GPU, in °C
	Power       float64 // drawn now, in W
	SMClock     int     // in MHz
	MemoryClock int     // in MHz
	MemoryUsed  uint64  // by all processes, in bytes
	Utilization int     // percent of the time in which a kernel ran
	Throttle    Throttle
}

// Throttle is a set of reasons for which a device runs slower than it could.
type Throttle uint

// The reasons that are of interest.
const (
	ThrottleThermal  Throttle = 1 << iota // too hot
	ThrottlePower                         // at its power limit, or braked by the power supply
	ThrottleHardware                      // slowed down by its hardware, which does not say why
)

func (t Throttle) String() string {
	var names []string
	for i, name := range []string{"thermal", "power", "hardware"} {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// ErrNoTelemetry is for a computer without NVIDIA's management library.
const ErrNoTelemetry = Error("no telemetry: libnvidia-ml.so.1, which comes with NVIDIA's driver, cannot be used; name it in NVML_LIBRARY if it is in no usual place")
