//go:build cuda

package gpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/descentnet/minerd/gpu/internal/ptx"
	"github.com/descentnet/minerd/gpu/kernels"
)

// A launchTest is a kernel with its arguments: of the types below, int, float32 or nil.
type launchTest struct {
	kernel      string
	grid, block [3]int
	arguments   []any
}

type (
	arenaAt  int // a word of trial 0's arena
	sharedAt int // a byte of what all trials share
)

const (
	testTrials = 2
	testWords  = 16384 // of a trial's arena
	testShared = 4096  // bytes: zeros for the step's base, then small integers, then bytes and floats
)

// launchTests are all kernels in two shapes each: one smaller than the tiles in which they work, one larger.
func launchTests() []launchTest {
	var list []launchTest
	add := func(kernel string, grid, block [3]int, arguments ...any) {
		list = append(list, launchTest{kernel, grid, block, arguments})
	}
	const (
		base, index, labels, floats                      = sharedAt(0), sharedAt(64), sharedAt(1024), sharedAt(2048)
		a, b, c, d                                       = arenaAt(0), arenaAt(4096), arenaAt(8192), arenaAt(12288)
		stride, offset, steps, crossEntropy, meanSquared = testWords, 1, 3, 1, 2
	)
	for large := range 2 {
		batch := 2 + 3*large
		rows, cols, channels, units := 5+large, 7-large, 1+7*large, 3+2*large
		outputs := 10 + 30*large
		taps := 9 * channels

		g, bl := kernels.Gather(batch, 30+300*large, testTrials)
		add("gather", g, bl, a, stride, labels, index, base, offset, steps, batch, 30+300*large)

		shape := []any{rows, cols, channels, rows, cols, units, 3, 3, 1, 1, 1}
		g, bl = kernels.ConvForward(batch, rows, cols, units, testTrials)
		add("conv_forward", g, bl, append(append([]any{a, b, c, stride, batch}, shape...), large)...)
		g, bl = kernels.ConvInputGradient(batch, rows, cols, channels, testTrials)
		add("conv_input_gradient", g, bl, append([]any{a, b, c, d, stride, batch}, shape...)...)
		g, bl = kernels.ConvWeightGradient(batch-1, rows, cols, units, taps, testTrials)
		add("conv_weight_gradient", g, bl, append([]any{a, b, c, stride, 1, batch - 1}, shape...)...)
		window := []any{rows / 2, cols / 3, 2, 3 - large} // a run of four rows of a tile is a window, and is not
		g, bl = kernels.ConvPoolForward(batch, rows/2, cols/3, 2*(3-large), units, testTrials)
		add("conv_pool_forward", g, bl, append(append(append([]any{a, d, b, c, stride, batch}, shape...), large), window...)...)
		g, bl = kernels.ConvInputGradient(batch, rows, cols, channels, testTrials)
		add("conv_pool_input_gradient", g, bl, append(append([]any{a, b, c, d, nil, stride, batch}, shape...), window...)...)
		g, bl = kernels.ConvWeightGradient(batch-1, rows, cols, units, taps, testTrials)
		add("conv_pool_weight_gradient", g, bl, append(append([]any{a, b, d, c, stride, 1, batch - 1}, shape...), window...)...)
		count := (taps + 1) * units
		g, bl = kernels.ConvUpdate(count, testTrials)
		add("conv_update_adam", g, bl, a, b, c, c+2048, d, stride, 3, count, 1-large, large, floats, base, offset)
		add("conv_update_sgd", g, bl, a, b, c, d, stride, 3, count, large, 1, floats, base, offset)

		g, bl = kernels.PoolForward(batch, rows/2, cols/2, channels, testTrials)
		add("pool_forward", g, bl, a, b, c, stride, batch, rows, cols, channels, rows/2, cols/2, 2, 2)
		g, bl = kernels.PoolInputGradient(batch, rows, cols, channels, testTrials)
		add("pool_input_gradient", g, bl, a, b, c, d, stride, batch, rows, cols, channels, rows/2, cols/2, 2, 2)

		inputs := 20 + 280*large // one fold block and two
		g, bl = kernels.DenseForward(batch, inputs, 10, testTrials)
		add("dense_forward", g, bl, a, b, c, stride, batch, inputs, 10)
		g, bl = kernels.DenseFinish(batch, 80, testTrials)
		add("dense_finish", g, bl, a, b, c, stride, batch, 80, 3, large)
		g, bl = kernels.DenseInputGradient(batch, inputs, testTrials)
		add("dense_input_gradient", g, bl, a, b, c, nil, stride, batch, inputs, 10)
		g, bl = kernels.DenseUpdate(inputs, 10, testTrials)
		add("dense_update_adam", g, bl, a, b, c, d, d+2048, stride, batch, inputs, 10, floats, base, offset)
		add("dense_update_sgd", g, bl, a, b, d, d+2048, stride, batch, inputs, 10, floats, base, offset)

		g, bl = kernels.Loss(batch, testTrials)
		add("loss", g, bl, a, b, c, d, stride, labels, index, base, offset, steps, batch, outputs, crossEntropy+large, 1, float32(0.5))
		add("loss", g, bl, a, nil, c, d, stride, labels, index, base, offset, steps, batch, outputs, meanSquared-large, 0, float32(0.5))
		add("dense_loss", g, bl, a, b, c, d, d+2048, stride, 3, labels, index, base, offset, steps, batch, outputs, crossEntropy+large, 1, float32(0.5))
		add("dense_loss", g, bl, a, b, nil, c, d, stride, 1, labels, index, base, offset, steps, batch, outputs, meanSquared-large, 0, float32(0.5))
		g, bl = kernels.MeanLosses(steps+40*large, testTrials)
		add("mean_losses", g, bl, a, b, stride, steps+40*large, batch)

		g, bl = kernels.CopyState(100+200*large, testTrials)
		add("copy_state", g, bl, a, floats, stride, 100+200*large)
		g, bl = kernels.SetScalars(testTrials)
		add("set_scalars", g, bl, a, stride, 1+3*large, 1, 2, 3, 4)

		leaves := 1 + 2*large
		g, bl = kernels.ShaLeaves(4096*leaves-8, testTrials)
		add("sha_leaves", g, bl, d, d+2048, a, stride, 4096*leaves-8, 1000*leaves)
		g, bl = kernels.ShaTree(testTrials)
		add("sha_tree", g, bl, d, a, b, stride, leaves)
	}
	return list
}

// launchSlot is an argument as it is launched, with the addresses of one memory.
func launchSlot(argument any, arena, shared uint64) uint64 {
	switch v := argument.(type) {
	case arenaAt:
		return arena + 4*uint64(v)
	case sharedAt:
		return shared + uint64(v)
	case int:
		return uint64(v)
	case float32:
		return uint64(math.Float32bits(v))
	default:
		return 0
	}
}

// The device does what the PTX says: every kernel leaves the same bytes as in the interpreter of package ptx. With the
// fake for a driver this compares what two compilers made of the kernels' source, and whether the PTX is of that source.
func TestKernelsAgainstInterpreter(t *testing.T) {
	m := openTest(t, 0)
	module, err := ptx.Parse(kernels.PTX)
	noError(t, err)
	missing := module.Kernels()
	const arenaBytes = 4 * testTrials * testWords
	arena, shared := allocTest(t, m, arenaBytes), allocTest(t, m, testShared)
	for i, l := range launchTests() {
		t.Run(fmt.Sprint(l.kernel, i), func(t *testing.T) {
			missing = slices.DeleteFunc(missing, func(k string) bool { return k == l.kernel })
			r := rand.New(rand.NewPCG(uint64(i), 1))
			before, beside := make([]byte, arenaBytes), make([]byte, testShared)
			for at := 0; at < arenaBytes; at += 4 {
				v := math.Float32bits(float32(r.NormFloat64()))
				switch region := at / 4 % testWords / 4096; {
				case l.kernel == "pool_input_gradient" && region == 2, l.kernel == "sha_tree" && region == 1:
					v = uint32(r.IntN(4)) // an index within a window; a flag
				case strings.HasPrefix(l.kernel, "conv_pool_") && strings.HasSuffix(l.kernel, "gradient") && region == 2:
					v = uint32(r.IntN(1<<32)) & 0x03030303 // four of them
				}
				binary.LittleEndian.PutUint32(before[at:], v)
			}
			for at := 64; at < testShared; at += 4 {
				switch {
				case at < 1024:
					binary.LittleEndian.PutUint32(beside[at:], uint32(r.IntN(3)))
				case at < 2048:
					beside[at] = byte(r.IntN(10))
				default:
					binary.LittleEndian.PutUint32(beside[at:], math.Float32bits(r.Float32()))
				}
			}

			var mem ptx.Memory
			arena2, err := mem.Alloc(arenaBytes)
			noError(t, err)
			shared2, err := mem.Alloc(testShared)
			noError(t, err)
			noError(t, mem.Write(arena2, before))
			noError(t, mem.Write(shared2, beside))
			noError(t, m.ToDevice(arena, before))
			noError(t, m.ToDevice(shared, beside))
			var here, there []uint64
			for _, a := range l.arguments {
				here = append(here, launchSlot(a, uint64(arena), uint64(shared)))
				there = append(there, launchSlot(a, arena2, shared2))
			}
			noError(t, m.Launch(l.kernel, l.grid, l.block, here...))
			got, want := make([]byte, arenaBytes), make([]byte, arenaBytes)
			noError(t, m.FromDevice(got, arena))
			noError(t, module.Launch(&mem, l.kernel, l.grid, l.block, there, ptx.Forward))
			noError(t, mem.Read(want, arena2))
			if slices.Equal(want, before) {
				t.Error("the kernel wrote nothing")
			}
			for at := 0; at < arenaBytes; at += 4 {
				g, w := binary.LittleEndian.Uint32(got[at:]), binary.LittleEndian.Uint32(want[at:])
				if g != w {
					t.Fatalf("trial %d, word %d: %#x on the device, %#x in the interpreter", at/4/testWords, at/4%testWords, g, w)
				}
			}
		})
	}
	if len(missing) > 0 {
		t.Errorf("not tested: %v", missing)
	}
}
