package main

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/descentnet/minerd/nn/kernel"
)

// The benchmark runs itself again for every row; under test, itself is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		main()
		return
	}
	os.Exit(m.Run())
}

// Multiply-adds counted by hand. Layers with weights count three times in training, the first of them twice.
func TestFlops(t *testing.T) {
	want := map[string]struct{ forward, train, params float64 }{
		"default": {
			26*26*32*9 + 5408*128 + 128*10,
			2*26*26*32*9 + 3*(5408*128+128*10),
			9*32 + 32 + 5408*128 + 128 + 128*10 + 10,
		},
		"vgg": {
			32*32*32*27 + 32*32*32*288 + 16*16*64*288 + 16*16*64*576 + 4096*256 + 256*10,
			2*32*32*32*27 + 3*(32*32*32*288+16*16*64*288+16*16*64*576+4096*256+256*10),
			28*32 + 289*32 + 289*64 + 577*64 + 4097*256 + 257*10,
		},
		"lenet5": {
			28*28*6*25 + 10*10*16*150 + 400*120 + 120*84 + 84*10,
			2*28*28*6*25 + 3*(10*10*16*150+400*120+120*84+84*10),
			26*6 + 151*16 + 401*120 + 121*84 + 85*10,
		},
		"mlp": {
			784*512 + 512*512 + 512*10,
			2*784*512 + 3*(512*512+512*10),
			785*512 + 513*512 + 513*10,
		},
	}
	for _, m := range models() {
		w, batch := want[m.name], float64(m.net.Model.Batch)
		if got := imageFlops(m.net); got != 2*w.forward {
			t.Errorf("%s: %g operations per image, by hand %g", m.name, got, 2*w.forward)
		}
		if got := stepFlops(m.net); got != 2*batch*w.train {
			t.Errorf("%s: %g operations per step, by hand %g", m.name, got, 2*batch*w.train)
		}
		if float64(m.net.Params) != w.params {
			t.Errorf("%s: %d parameters, by hand %g", m.name, m.net.Params, w.params)
		}
	}
}

func TestFigures(t *testing.T) {
	m := models()[0]
	roof := limits{flops: 100e9, adam: 5e9}
	// 2*32*2,469,888 operations and 693,962 parameters.
	roofTime := 158_072_832/100e9 + 693_962/5e9
	r := &runner{engine: "e", threads: 2, rounds: []measured{
		{Step: 99, Images: 1, Root: 1},
		{Step: 2 * roofTime, Images: 20_000, Root: 128 * 2 * roofTime / 50},
		{Step: 0.0001, Images: 1e9, Root: 0},
	}}
	got := newRow(m, r, roof, 12.5)
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"steps", got.StepsPerSecond, 1 / (2 * roofTime)},
		{"best steps", got.BestStepsPerS, 10_000},
		{"gflops", got.GFlops, 0.158072832 / (2 * roofTime)},
		{"peak", got.PeakGFlops, 100},
		{"percent of peak", got.PercentOfPeak, 0.158072832 / (2 * roofTime)},
		{"percent of roofline", got.PercentOfRoofline, 50},
		{"evaluation", got.EvalPercentOfPeak, 100 * 20_000 * 2 * 888_192 / 100e9},
		{"hashing", got.HashPercent, 2},
		{"memory", got.RSS, 12.5},
		{"ratio", ratio([]measured{{Step: 4}, {Step: 6}, {Step: 100}}, []measured{{Step: 2}, {Step: 2}, {Step: 1}}), 3},
		{"median of an even number", median([]float64{4, 1, 2, 8}, func(x float64) float64 { return x }), 3},
	} {
		if math.Abs(c.got-c.want) > 1e-9*c.want {
			t.Errorf("%s: %g, want %g", c.name, c.got, c.want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--models default,resnet", `--models: no model "resnet"; there are default, vgg, lenet5, mlp`},
		{"--threads 0", `--threads: "0" is not a number`},
		{"--threads 1,x", `--threads: "x" is not a number`},
		{"--threads 100000", `--threads: "100000" is not a number`},
		{"--rounds 0", "--rounds 0: at least 1"},
		{"--round 0s", "--round 0s: allowed"},
		{"--fast", "flag provided but not defined: -fast"},
		{"vgg", `unexpected argument "vgg"`},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
	threads, err := chooseThreads("", 6)
	if err != nil || !slices.Equal(threads, []int{1, 2, 4, 6}) {
		t.Errorf("default threads of 6 cores: %v, %v", threads, err)
	}
	if threads, err = chooseThreads("", 1); err != nil || !slices.Equal(threads, []int{1}) {
		t.Errorf("default threads of 1 core: %v, %v", threads, err)
	}
}

// A whole run, as short as can be.
func TestRun(t *testing.T) {
	var out strings.Builder
	args := strings.Fields("--models lenet5 --threads 1 --rounds 2 --round 1ms --python none --json")
	if err := run(context.Background(), args, nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if want := max(len(kernel.All()), 1); len(lines) != want {
		t.Fatalf("%d rows, want %d:\n%s", len(lines), want, out.String())
	}
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"model", "engine", "threads", "batch", "steps_per_s", "gflops", "peak_gflops", "percent_of_roofline", "rss_mb"} {
			if _, ok := fields[name]; !ok {
				t.Errorf("no %q in %s", name, line)
			}
		}
		if fields["model"] != "lenet5" || fields["batch"] != 32.0 || fields["steps_per_s"].(float64) <= 0 {
			t.Errorf("row %s", line)
		}
	}
}
