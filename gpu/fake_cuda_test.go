//go:build cuda

package gpu

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/descentnet/minerd/gpu/fake"
)

const faultyPTX = `.version 6.0
.visible .entry rotate(.param .u64 a)
.visible .entry rotate_without_barrier(.param .u64 a)
.visible .entry rotate_some(.param .u64 a)
.visible .entry write_word(.param .u64 a, .param .u64 b)`

// The fake shows mistakes in kernels, of which it is built with some of its own for this test. A process has one
// driver, so this one starts itself again.
func TestFakeShowsMistakes(t *testing.T) {
	fakeOnly(t)
	if _, err := os.Stat("fake/build.sh"); err != nil {
		t.Skip("needs the source tree")
	}
	library := filepath.Join(t.TempDir(), "libcuda.so.1")
	build := exec.Command("fake/build.sh", library)
	build.Env = append(os.Environ(), "KERNELS=fake/testdata")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	for _, order := range []string{"forward", "backward", "shuffled"} {
		child := exec.Command(os.Args[0], "-test.run=^TestMistakes$", "-test.v")
		child.Env = append(os.Environ(), "CUDA_DRIVER="+library, "FAKECUDA_ORDER="+order, "FAKECUDA_MISTAKES=1")
		if output, err := child.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", order, err, output)
		}
	}
}

// TestMistakes is the other process of TestFakeShowsMistakes.
func TestMistakes(t *testing.T) {
	if os.Getenv("FAKECUDA_MISTAKES") == "" {
		t.Skip("run by TestFakeShowsMistakes")
	}
	fake.Use(t)
	one, warp := [3]int{1, 1, 1}, [3]int{32, 1, 1}
	run := func(t *testing.T, bytes int, kernel string, block [3]int, arguments ...uint64) (got []uint32, err error) {
		m, err := openCUDA(0, faultyPTX)
		noError(t, err)
		defer m.Close()
		p := allocTest(t, m, bytes)
		if fresh := readWords(t, m, p, bytes/4); slices.ContainsFunc(fresh, func(v uint32) bool { return v != 1<<32-1 }) {
			t.Errorf("fresh memory is not full of NaNs: %x", fresh)
		}
		noError(t, m.Launch(kernel, one, block, append([]uint64{uint64(p)}, arguments...)...))
		if err := m.Sync(); err != nil {
			return nil, err
		}
		got = readWords(t, m, p, bytes/4)
		m.Free(p)
		return got, m.Sync()
	}
	rotated := make([]uint32, 32)
	for i := range rotated {
		rotated[i] = uint32(i+1) % 32
	}
	if got, err := run(t, 128, "rotate", warp); err != nil || !slices.Equal(got, rotated) {
		t.Errorf("what is right: %v, %v", got, err)
	}
	if got, err := run(t, 128, "rotate_without_barrier", warp); err != nil || !slices.Contains(got, 1<<32-1) {
		t.Errorf("without a barrier: %v, %v, want a NaN from shared memory", got, err)
	}
	if got, err := run(t, 128, "rotate_some", warp); !errors.Is(err, ErrDeviceLost) {
		t.Errorf("a barrier for some: %v, %v, want ErrDeviceLost", got, err)
	}
	for name, at := range map[string]int64{"the next word": 25, "the last before the page": 63, "the page behind": 64, "the page before": -1024} {
		if _, err := run(t, 100, "write_word", one, uint64(at)); !errors.Is(err, ErrDeviceLost) {
			t.Errorf("a write to %s: %v, want ErrDeviceLost", name, err)
		}
	}
	if got, err := run(t, 100, "write_word", one, 24); err != nil || got[24] != 1 || got[23] != 1<<32-1 {
		t.Errorf("a write to the last word: %v, %v", got, err)
	}
}
