//go:build !amd64

package kernel

// No kernels are written for this architecture.
var available []*ISA
