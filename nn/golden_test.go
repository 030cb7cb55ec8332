package nn

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// testdata/golden.json holds what fixed trials give, bit by bit; a change in it is a change of consensus. To write it
// anew with the plain engine, which defines it:
//
//	go test ./nn -run Golden -update
//
// and then put the new roots into goldenRoots below.
var update = flag.Bool("update", false, "write testdata/golden.json anew")

// The most important roots once more, so that editing the file alone fails.
var goldenRoots = map[string]string{
	"default/root_0":      "f14debdc5dd2b0bde2f0b1ee13b62d4f6b0a34e08ab661a8d95d7a4e12435b42",
	"default/root_1":      "c774a8206889343cdb8578bd8e46787abb47504d3bd16b8f47b5b4cb49ef3fc4",
	"default/root_20":     "dbb33e49eb73014215a449a0185b3b10308a9cb30e4c2dee5cf7c7e6635e3084",
	"default/logits_20":   "51a91867a68f7dbf18e8cbe62b89097920f2ebca018af30904d06051c49029cf",
	"small/root_64":       "b594873a330656bd4cffca80dae8bb0c7202bd298c25661df04241c12f3eb633",
	"small/logits_64":     "754060ef5f99dc0359dc4dc2b6b19e9792d5eeb562a4818be477a34639df3805",
	"small/eval_loss":     "3fac673f 1.3469008",
	"medium/root_16":      "d7821afa52ba1958919a9e90d222057db69dc8f891c361e2a273336d93320657",
	"medium/logits_16":    "26bd85ff81db67157dca9e7e1d1b6e71e8c3889e5cf633e6a4da6bdc267daf58",
	"long sums/root_4":    "a8540eb684f8e69d5ef808508a3fcbef56d9ade5c801a434949480481ea4e9a4",
	"long sums/eval_loss": "3f883f97 1.0644406",
}

// goldenTrial is one trial whose every output is recorded.
type goldenTrial struct {
	name    string
	model   Model
	steps   int
	samples int
}

func goldenTrials() []goldenTrial {
	conv := func(units, kernel, stride int, p Padding, a Activation) Layer {
		return Layer{Kind: Conv2D, Units: units, KernelRows: kernel, KernelCols: kernel, Stride: stride, Padding: p, Activation: a}
	}
	pool := func(rows, cols int) Layer { return Layer{Kind: MaxPool2D, KernelRows: rows, KernelCols: cols} }
	dense := func(units int, a Activation) Layer { return Layer{Kind: Dense, Units: units, Activation: a} }
	flat := Layer{Kind: Flatten}
	return []goldenTrial{
		{"default", DefaultModel(), 20, 200},
		{"small", Model{
			Input:  Shape{8, 8, 1},
			Layers: []Layer{conv(4, 3, 1, Valid, ReLU), pool(2, 2), flat, dense(8, ReLU), dense(4, Linear)},
			Loss:   SoftmaxCrossEntropy, Optimizer: Optimizer{Kind: Adam, LearningRate: 0.003, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7},
			Batch: 8,
		}, 64, 100},
		{"medium", Model{
			Input:  Shape{16, 15, 3},
			Layers: []Layer{conv(8, 5, 2, Same, ReLU), conv(12, 3, 1, Same, Linear), pool(3, 2), flat, dense(5, ReLU), dense(5, Linear)},
			Loss:   MeanSquaredError, Optimizer: Optimizer{Kind: SGD, LearningRate: 0.02, Momentum: 0.9},
			Batch: 16,
		}, 16, 60},
		// More than 256 positions a sample, taps of the second convolution both ways, inputs and samples.
		{"long sums", Model{
			Input:  Shape{18, 20, 2},
			Layers: []Layer{conv(6, 2, 1, Valid, ReLU), conv(6, 7, 3, Same, ReLU), flat, dense(264, ReLU), dense(3, Linear)},
			Loss:   SoftmaxCrossEntropy, Optimizer: Optimizer{Kind: Adam, LearningRate: 0.002, Beta1: 0.8, Beta2: 0.99, Epsilon: 1e-5},
			Batch: 3,
		}, 4, 40},
		{"long batch", Model{
			Input:  Shape{1, 1, 12},
			Layers: []Layer{dense(7, ReLU), dense(3, Linear)},
			Loss:   SoftmaxCrossEntropy, Optimizer: Optimizer{Kind: SGD, LearningRate: 0.5, Momentum: 0},
			Batch: 600,
		}, 8, 700},
	}
}

// readGolden are the recorded values.
func readGolden(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// goldenValues runs one trial and evaluation on an engine and names all they give.
func goldenValues(t *testing.T, newEngine func(*Net) Engine, g goldenTrial, steps int) map[string]string {
	t.Helper()
	net := build(t, g.model)
	data := drawSamples(net, "golden "+g.name, g.samples)
	start := net.Init(seedOf("golden " + g.name))
	e := newEngine(net)
	defer e.Close()
	v := map[string]string{}
	root, err := start.Root(1)
	if err != nil {
		t.Fatal(err)
	}
	v[g.name+"/root_0"] = root.String()
	r := train(t, e, start, data, Trial{Steps: steps, BatchSeed: batchSeeds("golden " + g.name), EarlyRoots: true})
	for i, root := range r.EarlyRoots {
		v[fmt.Sprintf("%s/root_%d", g.name, 1<<i)] = root.String()
	}
	v[fmt.Sprintf("%s/root_%d", g.name, steps)] = r.Root.String()
	if steps != g.steps {
		return v // a shorter trial: only its roots are recorded
	}
	v[fmt.Sprintf("%s/logits_%d", g.name, steps)] = r.LogitsDigest.String()
	for i, loss := range r.BatchLosses {
		v[fmt.Sprintf("%s/loss_%02d", g.name, i)] = goldenFloat(loss)
	}
	loss, correct, err := e.Evaluate(context.Background(), r.State, data)
	if err != nil {
		t.Fatal(err)
	}
	v[g.name+"/eval_loss"] = goldenFloat(loss)
	v[g.name+"/eval_correct"] = strconv.Itoa(correct)
	return v
}

// goldenFloat gives a value's bits, and for the reader its decimal form.
func goldenFloat(x float32) string { return fmt.Sprintf("%08x %g", bitsOf(x), x) }

// runGolden holds an engine to the recorded values: all of them, or with -short fewer steps of the default model.
func runGolden(t *testing.T, newEngine func(*Net) Engine) {
	want := readGolden(t)
	checked := 0
	for _, g := range goldenTrials() {
		t.Run(g.name, func(t *testing.T) {
			steps := g.steps
			if testing.Short() && g.name == "default" {
				steps = 2
			}
			got := goldenValues(t, newEngine, g, steps)
			for _, k := range slices.Sorted(maps.Keys(got)) {
				if w, ok := want[k]; !ok || got[k] != w {
					t.Errorf("%s is %s, recorded is %q", k, got[k], w)
				}
			}
			if n := countPrefix(want, g.name+"/"); steps == g.steps && n != len(got) {
				t.Errorf("%d values, recorded are %d", len(got), n)
			}
			checked += len(got)
		})
	}
	if checked == 0 {
		t.Error("nothing was checked")
	}
}

func countPrefix(m map[string]string, prefix string) (n int) {
	for k := range m {
		if strings.HasPrefix(k, prefix) {
			n++
		}
	}
	return n
}

func TestGolden(t *testing.T) {
	if *update {
		all := map[string]string{}
		for _, g := range goldenTrials() {
			maps.Copy(all, goldenValues(t, NewPlain, g, g.steps))
		}
		b, err := json.MarshalIndent(all, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join("testdata", "golden.json"), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	runGolden(t, NewPlain)
}

func TestGoldenRoots(t *testing.T) {
	recorded := readGolden(t)
	for _, k := range slices.Sorted(maps.Keys(goldenRoots)) {
		if recorded[k] != goldenRoots[k] {
			t.Errorf("%s is %q in the file, %q here", k, recorded[k], goldenRoots[k])
		}
	}
	for k := range recorded {
		known := slices.ContainsFunc(goldenTrials(), func(g goldenTrial) bool { return strings.HasPrefix(k, g.name+"/") })
		if !known {
			t.Errorf("%s is of no trial", k)
		}
	}
}
