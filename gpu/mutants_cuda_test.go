//go:build cuda

package gpu

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var mutants = flag.Bool("mutants", false, "build the fake driver of changed kernels and see that the tests notice (some minutes)")

// Each of these changes must be noticed by whole trials of known and drawn models.
var mutations = []struct{ what, file, from, to string }{
	{"shorter blocks of folds", "fold.cuh", "FOLD_BLOCK = 256", "FOLD_BLOCK = 128"},
	{"two roundings for one", "fold.cuh", "__fmaf_rn(a.v[i], b.v[j], acc[r + i][j])", "__fadd_rn(__fmul_rn(a.v[i], b.v[j]), acc[r + i][j])"},
	{"a barrier less", "fold.cuh", "    __syncthreads();\n    const int next", "    const int next"},
	{"padding that is a term", "fold.cuh", "k < terms - k0", "k < T::SLICE"},
	{"no moment is cut", "optimizer.cuh", "v < MOMENT_CUT) v", "v < 0.0f) v"},
	{"pooling takes the last of equals", "pool.cuh", "q.v[j] > best.v[j]", "q.v[j] >= best.v[j]"},
	{"windows of an input that no window reaches", "pool.cuh", "code = inside ?", "code = true ?"},
	{"outputs that did not win have a gradient", "conv_weight_gradient.cu", "code[at] == (place & 255) ? value", "true ? value"},
	{"whoever is before the winner has its gradient", "conv_input_gradient.cu", "code[at] == here", "code[at] >= here"},
	{"pooling before the fold's last slice is read", "conv_pool_forward.cu", "__syncthreads(); // all have done", "// all have done"},
	{"the loss forgets the last layer's blocks", "dense.cuh", "block < blocks", "block < blocks - 1"},
	{"ReLU passes zeros' gradients", "dev.cuh", "activation > 0.0f ? g", "activation >= 0.0f ? g"},
	{"what lies outside is not zero", "conv.cuh", "return inside ? value : 0.0f", "return value"},
	{"no bias", "conv.cuh", "__fadd_rn(sum[i][j], bias.v[j])", "sum[i][j]"},
	{"not finite is overlooked", "sha.cu", "0x7f800000", "0x7fffffff"},
}

func TestMutants(t *testing.T) {
	if !*mutants {
		t.Skip("takes minutes: run it with -mutants")
	}
	fakeOnly(t)
	for _, m := range mutations {
		t.Run(m.what, func(t *testing.T) {
			dir := t.TempDir()
			if output, err := exec.Command("cp", "-r", "kernels", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			here, err := filepath.Abs("fake")
			noError(t, err)
			noError(t, os.Symlink(here, filepath.Join(dir, "fake"))) // kernels include a header of it
			file := filepath.Join(dir, "kernels", m.file)
			source, err := os.ReadFile(file)
			noError(t, err)
			changed := strings.ReplaceAll(string(source), m.from, m.to)
			if changed == string(source) {
				t.Fatalf("%s does not have %q any more", m.file, m.from)
			}
			noError(t, os.WriteFile(file, []byte(changed), 0o600))
			library := filepath.Join(dir, "libcuda.so.1")
			build := exec.Command("fake/build.sh", library)
			build.Env = append(os.Environ(), "KERNELS="+filepath.Join(dir, "kernels"))
			if output, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			for _, order := range []string{"forward", "backward", "shuffled"} {
				child := exec.Command(os.Args[0], "-test.run=^(TestKnownAnswer|TestPooledConvolutions|TestDrawn|TestOneOfManyDiverges)$", "-drawn=60")
				child.Env = append(os.Environ(), "CUDA_DRIVER="+library, "FAKECUDA_ORDER="+order)
				if err := child.Run(); err != nil {
					return // noticed
				}
			}
			t.Error("nothing noticed the change")
		})
	}
}
