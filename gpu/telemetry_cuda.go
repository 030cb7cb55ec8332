//go:build cuda

package gpu

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// nvmlVariable is the environment variable that names NVIDIA's management library where it is in no usual place.
const nvmlVariable = "NVML_LIBRARY"

// nvmlPlaces are where the library is looked for, as the driver's is.
var nvmlPlaces = []string{
	"libnvidia-ml.so.1",
	"/usr/local/nvidia/lib64/libnvidia-ml.so.1",
	"/usr/local/nvidia/lib/libnvidia-ml.so.1",
	"/usr/lib/wsl/lib/libnvidia-ml.so.1",
	"/run/opengl-driver/lib/libnvidia-ml.so.1",
}

// openNVML opens and initialises the library once in a process: later calls return what the first did.
var openNVML = sync.OnceValues(func() (nvml.Interface, error) {
	places := nvmlPlaces
	if named := os.Getenv(nvmlVariable); named != "" {
		places = []string{named}
	}
	var why []string
	for _, place := range places {
		lib := nvml.New(nvml.WithLibraryPath(place))
		r := lib.Init()
		if r == nvml.SUCCESS {
			return lib, nil
		}
		if r != nvml.ERROR_LIBRARY_NOT_FOUND || len(places) == 1 {
			why = append(why, fmt.Sprintf("%s: %s", place, r))
		}
	}
	if len(why) == 0 {
		return nil, ErrNoTelemetry
	}
	return nil, fmt.Errorf("%w: %s", ErrNoTelemetry, strings.Join(why, "; "))
})

// ReadTelemetry asks the device with the UUID that Devices gives. Its error is ErrNoTelemetry where that will not
// change, or says why the device did not answer this time. Any goroutine may call it. A device that hangs may let it hang.
func ReadTelemetry(uuid string) (Telemetry, error) {
	lib, err := openNVML()
	if err != nil {
		return Telemetry{}, err
	}
	// Asked for every time: a handle does not outlive a reset of its device.
	d, r := lib.DeviceGetHandleByUUID(uuid)
	if r != nvml.SUCCESS {
		return Telemetry{}, fmt.Errorf("telemetry of %s: %w", uuid, r)
	}
	var t Telemetry
	for _, value := range []struct {
		symbol string // of the library; a call of one that it lacks would end the process
		read   func() nvml.Return
	}{
		{"nvmlDeviceGetTemperature", func() nvml.Return {
			v, r := d.GetTemperature(nvml.TEMPERATURE_GPU) //nolint:staticcheck // older drivers lack its successor
			return set(&t.Temperature, int(v), r)
		}},
		{"nvmlDeviceGetPowerUsage", func() nvml.Return {
			v, r := d.GetPowerUsage() // mW
			return set(&t.Power, float64(v)/1000, r)
		}},
		{"nvmlDeviceGetClockInfo", func() nvml.Return {
			v, r := d.GetClockInfo(nvml.CLOCK_SM)
			return set(&t.SMClock, int(v), r)
		}},
		{"nvmlDeviceGetClockInfo", func() nvml.Return {
			v, r := d.GetClockInfo(nvml.CLOCK_MEM)
			return set(&t.MemoryClock, int(v), r)
		}},
		{"nvmlDeviceGetMemoryInfo", func() nvml.Return {
			v, r := d.GetMemoryInfo()
			return set(&t.MemoryUsed, v.Used, r)
		}},
		{"nvmlDeviceGetUtilizationRates", func() nvml.Return {
			v, r := d.GetUtilizationRates()
			return set(&t.Utilization, int(v.Gpu), r)
		}},
		{"nvmlDeviceGetCurrentClocksThrottleReasons", func() nvml.Return {
			v, r := d.GetCurrentClocksThrottleReasons() //nolint:staticcheck // older drivers lack its successor
			return set(&t.Throttle, throttle(v), r)
		}},
	} {
		if lib.Extensions().LookupSymbol(value.symbol) != nil {
			continue
		}
		if r := value.read(); r != nvml.SUCCESS && !slices.Contains(notTold, r) {
			return Telemetry{}, fmt.Errorf("telemetry of %s: %s: %w", uuid, value.symbol, r)
		}
	}
	return t, nil
}

// notTold are the answers of a device that does not tell a value, or not to us.
var notTold = []nvml.Return{nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NO_PERMISSION, nvml.ERROR_FUNCTION_NOT_FOUND, nvml.ERROR_NO_DATA}

func set[T any](to *T, value T, r nvml.Return) nvml.Return {
	if r == nvml.SUCCESS {
		*to = value
	}
	return r
}

// throttle takes NVML's bits to ours. The others, such as that of an idle device, are no slowdown.
func throttle(reasons uint64) (t Throttle) {
	if reasons&(nvml.ClocksEventReasonSwThermalSlowdown|nvml.ClocksThrottleReasonHwThermalSlowdown) != 0 {
		t |= ThrottleThermal
	}
	if reasons&(nvml.ClocksEventReasonSwPowerCap|nvml.ClocksThrottleReasonHwPowerBrakeSlowdown) != 0 {
		t |= ThrottlePower
	}
	if reasons&nvml.ClocksThrottleReasonHwSlowdown != 0 && t == 0 {
		t |= ThrottleHardware
	}
	return t
}
