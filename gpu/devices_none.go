//go:build !cuda

package gpu

// Devices returns the CUDA devices of this machine in the driver's order. This
// build has no CUDA, so it always answers ErrNotBuilt.
func Devices() ([]Device, error) { return nil, ErrNotBuilt }

func openCUDA(int, string) (machine, error) { return nil, ErrNotBuilt }
