package kernels

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The list of kernels is complete, and every one says how large its blocks may be.
func TestEntries(t *testing.T) {
	header, err := os.ReadFile("entries.h")
	if err != nil {
		t.Fatal(err)
	}
	names := func(re, text string) (names []string) {
		for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	listed, made := names(`(?m)^ENTRY\((\w+)\)$`, string(header)), names(`\.visible \.entry (\w+)\(`, PTX)
	if len(made) == 0 || !slices.Equal(listed, made) {
		t.Errorf("entries.h lists %v, the PTX has %v", listed, made)
	}
	if n := strings.Count(PTX, ".maxntid"); n != len(made) {
		t.Errorf("%d of %d kernels give the size of their blocks", n, len(made))
	}
}

// Consensus arithmetic, as far as the text shows it: binary32 alone, every operation rounded to nearest even by name,
// subnormals kept, nothing approximate. The interpreter refuses the same; this says it of the text that ships.
func TestArithmetic(t *testing.T) {
	forbidden := regexp.MustCompile(`\.(ftz|approx|full|sat|rz|rm|rp|f64|f16|f16x2|bf16|tf32)\b|` +
		`^(min|max|mad)\.f32|\bw?mma\b|^(atom|red|ex2|lg2|sin|cos|rcp|rsqrt)\b`)
	unrounded := regexp.MustCompile(`^(add|sub|mul|fma|div|sqrt|cvt)\.f32`)
	floats := 0
	for i, line := range strings.Split(PTX, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "@") {
			_, line, _ = strings.Cut(line, " ")
			line = strings.TrimSpace(line)
		}
		if forbidden.MatchString(line) || unrounded.MatchString(line) {
			t.Errorf("line %d: %s", i+1, line)
		}
		if strings.Contains(line, ".rn.f32") {
			floats++
		}
	}
	if floats < 100 {
		t.Errorf("%d float operations found: is this the PTX?", floats)
	}
}

// No array is left in local memory (all indices are known when loops are unrolled), nothing is called, and there are no
// global variables or constants to load.
func TestResources(t *testing.T) {
	for _, word := range []string{".local", "call", ".extern", ".const"} {
		if strings.Contains(PTX, word) {
			t.Errorf("the PTX has %q", word)
		}
	}
}

// The PTX is what build.sh makes of the sources, here and in any other folder.
func TestBuild(t *testing.T) {
	if _, err := exec.LookPath("clang-19"); err != nil {
		t.Skip("needs clang-19: apt-get install --no-install-recommends clang-19")
	}
	dir := t.TempDir()
	for _, pattern := range []string{"*.cu", "*.cuh", "build.sh"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			p, err := os.ReadFile(f)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), p, 0o700)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, err := exec.Command(filepath.Join(dir, "build.sh")).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	made, err := os.ReadFile(filepath.Join(dir, "kernels.ptx"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(made, []byte(PTX)) {
		t.Error("kernels.ptx is not what build.sh makes: run go generate ./gpu/kernels")
	}
}

// Another version of clang is refused with a word on what is needed.
func TestBuildRefusesAnotherClang(t *testing.T) {
	other := filepath.Join(t.TempDir(), "clang")
	if err := os.WriteFile(other, []byte("#!/bin/sh\necho 14.0.6\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("./build.sh", filepath.Join(t.TempDir(), "out.ptx"))
	cmd.Env = append(os.Environ(), "CLANG="+other)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is version 14.0.6, needed is 19") {
		t.Errorf("build.sh with clang 14: %v, %s", err, out)
	}
}

// The largest models and the most trials fit into a launch.
func TestGeometryLimits(t *testing.T) {
	const maxParams, maxBatch, maxValues, maxSide = 1 << 24, 4096, 1 << 27, 1 << 16
	each := func(name string, launch func() (grid, block [3]int)) {
		grid, block := launch()
		if grid[0] < 1 || grid[0] > 1<<31-1 || grid[1] != 1 || grid[2] != MaxTrials || block[0] < 1 || block[0] > 512 {
			t.Errorf("%s: grid %v, block %v", name, grid, block)
		}
	}
	each("gather", func() (g, b [3]int) { return Gather(1, maxValues, MaxTrials) })
	each("dense_forward", func() (g, b [3]int) { return DenseForward(8, maxParams-1, 1, MaxTrials) })
	each("dense_forward, wide", func() (g, b [3]int) { return DenseForward(8, 1, maxParams-1, MaxTrials) })
	each("dense_finish", func() (g, b [3]int) { return DenseFinish(maxBatch, maxValues/maxBatch, MaxTrials) })
	each("dense_input_gradient", func() (g, b [3]int) { return DenseInputGradient(8, maxParams-1, MaxTrials) })
	each("dense_update", func() (g, b [3]int) { return DenseUpdate(maxParams-1, 1, MaxTrials) })
	each("conv_forward", func() (g, b [3]int) { return ConvForward(1, 1<<13, 1<<13, 2, MaxTrials) })
	each("conv_pool_forward", func() (g, b [3]int) { return ConvPoolForward(1, 1<<12, 1<<12, 1, 8, MaxTrials) })
	each("conv_pool_forward, largest window", func() (g, b [3]int) { return ConvPoolForward(1, 1<<9, 1<<9, MaxPooledWindow, 1<<7, MaxTrials) })
	each("conv_input_gradient", func() (g, b [3]int) { return ConvInputGradient(maxBatch, 1, maxValues/maxBatch, 1, MaxTrials) })
	each("conv_weight_gradient", func() (g, b [3]int) { return ConvWeightGradient(maxBatch, 1, maxSide/2, 1, 49, MaxTrials) })
	each("conv_weight_gradient, wide", func() (g, b [3]int) { return ConvWeightGradient(8, 1, 1, 1<<12, 1<<12-1, MaxTrials) })
	each("conv_update", func() (g, b [3]int) { return ConvUpdate(maxParams, MaxTrials) })
	each("pool_forward", func() (g, b [3]int) { return PoolForward(maxBatch, 1, maxValues/maxBatch, 1, MaxTrials) })
	each("copy_state", func() (g, b [3]int) { return CopyState(3*maxParams+4, MaxTrials) })
	each("sha_leaves", func() (g, b [3]int) { return ShaLeaves(12*maxParams+16, MaxTrials) })
}
