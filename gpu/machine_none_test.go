//go:build !cuda

package gpu

import (
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
)

func testMachine(t testing.TB, order ptx.Order) machine { return newInterpreter(t, order) }
