package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/descentnet/minerd/nn"
)

//go:embed train.py
var trainScript string

const (
	torchName  = "pytorch"
	torchTuned = "pytorch-tuned"
	noPython   = "none"
)

// findTorch gives a Python that can import torch: the one asked for, or the first of the usual ones.
func findTorch(ctx context.Context, python string) (string, error) {
	tries := []string{python}
	if python == "" {
		tries = []string{"python3", "/usr/bin/python3"}
	}
	for _, p := range tries {
		if exec.CommandContext(ctx, p, "-c", "import torch").Run() == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s cannot import torch", strings.Join(tries, ", "))
}

// torchCommand trains the model with PyTorch, as it comes or tuned. Tuned, an OpenBLAS that Debian installed is put
// before the BLAS that the system would load.
func torchCommand(ctx context.Context, python string, net *nn.Net, threads int, tuned bool) *exec.Cmd {
	cmd := exec.CommandContext(ctx, python, "-c", trainScript, torchSpec(net, threads, tuned))
	n := strconv.Itoa(threads)
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS="+n, "OPENBLAS_NUM_THREADS="+n)
	if tuned {
		if found, _ := filepath.Glob("/usr/lib/*/openblas-pthread/libblas.so.3"); len(found) > 0 {
			cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+filepath.Dir(found[0]))
		}
	}
	return cmd
}

// torchSpec describes the model for train.py.
func torchSpec(net *nn.Net, threads int, tuned bool) string {
	type layer struct {
		Kind    string `json:"kind"`
		Units   int    `json:"units"`
		Rows    int    `json:"rows"`
		Cols    int    `json:"cols"`
		Stride  int    `json:"stride"`
		Padding string `json:"padding"`
		ReLU    bool   `json:"relu"`
		Out     [3]int `json:"out"` // channels, rows, columns
	}
	layers := make([]layer, len(net.Layers))
	for i, l := range net.Layers {
		layers[i] = layer{l.Kind.String(), l.Units, l.KernelRows, l.KernelCols, l.Stride, l.Padding.String(), l.Activation == nn.ReLU,
			[3]int{l.Out.Channels, l.Out.Rows, l.Out.Cols}}
	}
	in, adam := net.Model.Input, net.Model.Optimizer
	spec, err := json.Marshal(map[string]any{
		"threads": threads, "tuned": tuned, "batch": net.Model.Batch, "images": dataSize,
		"input": []int{in.Rows, in.Cols, in.Channels}, "layers": layers, "params": net.Params, "classes": net.Outputs,
		"rate": adam.LearningRate, "betas": []float32{adam.Beta1, adam.Beta2}, "epsilon": adam.Epsilon,
	})
	if err != nil {
		panic(err) // numbers and strings alone
	}
	return string(spec)
}
