// Package kernels holds the CUDA kernels as PTX, the assembly text that a driver translates for the device at hand, and
// the launch geometry that goes with them.
package kernels

import _ "embed" // the PTX

//go:generate ./build.sh

// PTX is the text of all kernels, made from kernels.cu by build.sh.
//
//go:embed kernels.ptx
var PTX string
