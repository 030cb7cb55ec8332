//go:build cuda

package gpu

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu/fake"
)

func TestReadTelemetry(t *testing.T) {
	fakeOnly(t)
	tell := fake.Telemetry(t)
	tell(`GPU-a temperature 71
GPU-a power 412500
GPU-a sm 1755
GPU-a memory 2619
GPU-a used 3221225472
GPU-a utilization 98
GPU-a reasons 36
GPU-b temperature 40
GPU-c temperature 50
GPU-c error 15
`)
	want := Telemetry{
		Temperature: 71, Power: 412.5, SMClock: 1755, MemoryClock: 2619, MemoryUsed: 3 << 30, Utilization: 98,
		Throttle: ThrottleThermal | ThrottlePower,
	}
	if got, err := ReadTelemetry("GPU-a"); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	// What a device does not support is not told, and no error.
	if got, err := ReadTelemetry("GPU-b"); err != nil || got != (Telemetry{Temperature: 40}) {
		t.Errorf("a device that tells its temperature alone: %+v, %v", got, err)
	}
	if got, err := ReadTelemetry("GPU-c"); err == nil || errors.Is(err, ErrNoTelemetry) || !strings.Contains(err.Error(), "GPU is lost") || got != (Telemetry{}) {
		t.Errorf("a lost device: %+v, %v", got, err)
	}
	if _, err := ReadTelemetry("GPU-d"); err == nil || errors.Is(err, ErrNoTelemetry) {
		t.Errorf("a device that is not there: %v", err)
	}
	tell("GPU-b temperature 41\n")
	if got, err := ReadTelemetry("GPU-b"); err != nil || got.Temperature != 41 {
		t.Errorf("read again: %+v, %v", got, err)
	}
}

// A real device tells what a real device could.
func TestTelemetryOfRealDevice(t *testing.T) {
	fake.Use(t)
	devices, err := Devices()
	if err != nil {
		t.Fatal(err)
	}
	if devices[0].Name == "Fake GPU" {
		t.Skip("not for the fake driver")
	}
	got, err := ReadTelemetry(devices[0].UUID)
	if errors.Is(err, ErrNoTelemetry) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", got)
	if got.Temperature < 5 || got.Temperature > 110 || got.Power < 1 || got.Power > 5000 || got.SMClock < 1 || got.SMClock > 10000 ||
		got.MemoryUsed < 1 || got.MemoryUsed > devices[0].MemoryBytes*5/4 {
		t.Errorf("%+v is not plausible", got)
	}
}

func TestThrottleReasons(t *testing.T) {
	for reasons, want := range map[uint64]string{
		0: "", 1: "", 2: "", 256: "", // idle, clocks that somebody set, display
		4: "power", 128: "power", 32: "thermal", 64: "thermal", 8: "hardware",
		8 | 64: "thermal", 8 | 128: "power", 4 | 32 | 1: "thermal, power",
	} {
		if got := throttle(reasons).String(); got != want {
			t.Errorf("%#x is %q, want %q", reasons, got, want)
		}
	}
}

// A process opens one library, so this test starts itself again.
func TestNoTelemetry(t *testing.T) {
	if os.Getenv("TELEMETRY_MISSING") != "" {
		for range 2 {
			if _, err := ReadTelemetry("GPU-a"); !errors.Is(err, ErrNoTelemetry) {
				t.Errorf("without the library: %v", err)
			}
		}
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestNoTelemetry$")
	child.Env = append(os.Environ(), "TELEMETRY_MISSING=1", "NVML_LIBRARY=/nonexistent/libnvidia-ml.so.1")
	if output, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}
