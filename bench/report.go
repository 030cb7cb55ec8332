package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// trialSteps is how many training steps share one state root in the figure of hashing's cost: a trial of the devnet.
const trialSteps = 128

// row is what was measured of one engine, as JSON too. Zeros stand for what is not known.
type row struct {
	Model             string  `json:"model"`
	Engine            string  `json:"engine"`
	Threads           int     `json:"threads"`
	Batch             int     `json:"batch"`
	StepsPerSecond    float64 `json:"steps_per_s"`
	BestStepsPerS     float64 `json:"best_steps_per_s"` // of the best round: far above the median, something else ran
	GFlops            float64 `json:"gflops"`           // of the step's products
	PeakGFlops        float64 `json:"peak_gflops"`      // of the machine with so many threads
	PercentOfPeak     float64 `json:"percent_of_peak"`
	PercentOfRoofline float64 `json:"percent_of_roofline"`
	RSS               float64 `json:"rss_mb"` // the most that was ever resident
	EvalImages        float64 `json:"eval_images_per_s"`
	EvalPercentOfPeak float64 `json:"eval_percent_of_peak"`
	HashPercent       float64 `json:"hash_percent,omitempty"` // what a state root adds to a trial
	Ratio             float64 `json:"ratio,omitempty"`        // PyTorch: how many times faster the first engine is
	Rounds            int     `json:"rounds"`
}

// newRow works out the figures of a model's rounds.
func newRow(m benchModel, r *runner, roof limits, memory float64) row {
	step := median(r.rounds, func(m measured) float64 { return m.Step })
	images := median(r.rounds, func(m measured) float64 { return m.Images })
	root := median(r.rounds, func(m measured) float64 { return m.Root })
	out := row{
		Model: m.name, Engine: r.engine, Threads: r.threads, Batch: m.net.Model.Batch,
		StepsPerSecond: 1 / step,
		BestStepsPerS:  1 / slices.MinFunc(r.rounds, func(a, b measured) int { return cmp.Compare(a.Step, b.Step) }).Step,
		GFlops:         stepFlops(m.net) / step / 1e9,
		PeakGFlops:     roof.flops / 1e9,
		RSS:            memory,
		EvalImages:     images,
		HashPercent:    100 * root / (trialSteps * step),
		Rounds:         len(r.rounds),
	}
	if roof.flops > 0 {
		out.PercentOfPeak = 100 * out.GFlops / out.PeakGFlops
		out.PercentOfRoofline = 100 * roof.stepTime(m.net) / step
		out.EvalPercentOfPeak = 100 * images * imageFlops(m.net) / roof.flops
	}
	return out
}

// ratio is the median, over rounds that were run side by side, of how many times longer a step of a takes than one of b.
func ratio(a, b []measured) float64 {
	var r []float64
	for i := range min(len(a), len(b)) {
		r = append(r, a[i].Step/b[i].Step)
	}
	return median(r, func(x float64) float64 { return x })
}

func median[T any](rounds []T, figure func(T) float64) float64 {
	var v []float64
	for _, r := range rounds {
		v = append(v, figure(r))
	}
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func printJSON(w io.Writer, rows []row) error {
	e := json.NewEncoder(w)
	for _, r := range rows {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// printTable is the table for people; it is Markdown as well.
func printTable(w io.Writer, about []string, rows []row) error {
	for _, line := range about {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
	cells := [][]string{
		{"model", "engine", "threads", "batch", "steps/s", "best", "GFLOP/s", "% of peak", "% of roofline", "hashing %", "images/s", "% of peak", "MiB", "times slower"},
		nil,
	}
	number := func(x float64, digits int) string {
		if x == 0 {
			return ""
		}
		return fmt.Sprintf("%.*f", digits, x)
	}
	for _, r := range rows {
		cells = append(cells, []string{r.Model, r.Engine, fmt.Sprint(r.Threads), fmt.Sprint(r.Batch), number(r.StepsPerSecond, 1), number(r.BestStepsPerS, 1), number(r.GFlops, 1),
			number(r.PercentOfPeak, 1), number(r.PercentOfRoofline, 1), number(r.HashPercent, 1), number(r.EvalImages, 0),
			number(r.EvalPercentOfPeak, 1), number(r.RSS, 0), number(r.Ratio, 1)})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			width[i] = max(width[i], len(c))
		}
	}
	for _, n := range width {
		cells[1] = append(cells[1], strings.Repeat("-", n-1)+":") // Markdown: to the right
	}
	for _, line := range cells {
		for i, c := range line {
			fmt.Fprintf(w, "| %*s ", width[i], c)
		}
		if _, err := fmt.Fprintln(w, "|"); err != nil {
			return err
		}
	}
	return nil
}

// machine says where and when the figures were measured.
func machine() []string {
	cpu := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(info), "model name"); ok {
			after, _, _ = strings.Cut(after, "\n")
			cpu = strings.TrimLeft(after, "\t :")
		}
	}
	lines := []string{fmt.Sprintf("%s, %d cores, %s, %s", cpu, runtime.NumCPU(), runtime.Version(), time.Now().UTC().Format("2006-01-02"))}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		lines = append(lines, "load average before: "+strings.Join(strings.Fields(string(load))[:3], ", "))
	}
	return lines
}
