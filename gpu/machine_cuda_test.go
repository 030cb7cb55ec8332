//go:build cuda

package gpu

import (
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
)

func testMachine(t testing.TB, _ ptx.Order) machine { return openTest(t, 0) }
