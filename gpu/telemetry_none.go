//go:build !cuda

package gpu

// ReadTelemetry asks the device with the UUID that Devices gives. This build has no CUDA, so it always answers
// ErrNotBuilt.
func ReadTelemetry(string) (Telemetry, error) { return Telemetry{}, ErrNotBuilt }
