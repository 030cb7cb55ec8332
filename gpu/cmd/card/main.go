// Command card measures a CUDA device and checks it: the known-answer test, a long training run against the CPU with
// every root compared, steps per second by the number of trials at once against what the card could do, and PyTorch on
// the same card where it is installed. It prints a table for docs/performance.md.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
)

//go:embed train.py
var trainScript string

var (
	device = flag.Int("device", 0, "number of the CUDA device")
	data   = flag.String("data", "", "folder with IDX files of 28x28 digits (default: synthetic digits)")
	steps  = flag.Int("steps", 10_000, "training steps that are compared with the CPU's")
	widths = flag.String("trials", "1,2,4,8,16,32,64,128,256", "numbers of trials at once to measure")
	rounds = flag.Int("rounds", 5, "rounds; figures are medians over them")
	python = flag.String("python", "python3", "Python that has PyTorch; none leaves PyTorch out")
)

// trialSteps is the length of a trial on the built-in networks.
const trialSteps = 128

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "card:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	devices, err := gpu.Devices()
	if err != nil {
		return err
	}
	if *device < 0 || *device >= len(devices) {
		return fmt.Errorf("there is no device %d: %d were found", *device, len(devices))
	}
	fmt.Println(devices[*device])
	began := time.Now()
	if err := gpu.Check(*device); err != nil {
		return err
	}
	fmt.Printf("known answer ok; kernels translated and run in %v\n", time.Since(began).Round(time.Millisecond))

	samples, err := loadSamples()
	if err != nil {
		return err
	}
	net, err := nn.DefaultModel().Build()
	if err != nil {
		return err
	}
	if err := compare(ctx, net, samples); err != nil {
		return err
	}
	if err := measure(ctx, net, samples); err != nil {
		return err
	}
	if *python == "none" {
		return nil
	}
	cmd := exec.CommandContext(ctx, *python, "-c", trainScript, strconv.Itoa(*device))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Println("pytorch: not measured:", err)
	}
	return ctx.Err()
}

func loadSamples() (nn.Samples, error) {
	if *data == "" {
		d := dataset.Synthetic(1, 8000)
		return d.Samples(0, 8000), nil
	}
	d, err := dataset.Open(*data, "")
	if errors.Is(err, dataset.ErrAmbiguous) {
		d, err = dataset.Open(*data, "train")
	}
	if err != nil {
		return nn.Samples{}, err
	}
	return d.Samples(0, d.Count()), nil
}

func batchSeed(trial int) func(uint32) [32]byte {
	return func(s uint32) [32]byte {
		return [32]byte{byte(trial), byte(trial >> 8), byte(trial >> 16), byte(s), byte(s >> 8)}
	}
}

// compare trains trial after trial on the device and on the CPU, each on from its own last state.
func compare(ctx context.Context, net *nn.Net, samples nn.Samples) error {
	card, err := gpu.NewEngine(net, *device, 1, trialSteps)
	if err != nil {
		return err
	}
	defer card.Close()
	cpu, err := nn.NewEngine(net, runtime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	defer cpu.Close()
	cardState := net.Init([32]byte{1})
	cpuState := cardState
	var cardTime, cpuTime time.Duration
	for done, trial := 0, 0; done < *steps; trial++ {
		t := nn.Trial{Steps: min(trialSteps, *steps-done), BatchSeed: batchSeed(trial), EarlyRoots: true}
		began := time.Now()
		got, err := card.Train(ctx, cardState, samples, t)
		if err != nil {
			return err
		}
		cardTime += time.Since(began)
		began = time.Now()
		want, err := cpu.Train(ctx, cpuState, samples, t)
		if err != nil {
			return err
		}
		cpuTime += time.Since(began)
		done += t.Steps
		if got.Root != want.Root || got.LogitsDigest != want.LogitsDigest || !slices.Equal(got.EarlyRoots, want.EarlyRoots) || !slices.Equal(got.BatchLosses, want.BatchLosses) {
			return fmt.Errorf("after %d steps the device has root %v, logits %v; the CPU %v, %v", done, got.Root, got.LogitsDigest, want.Root, want.LogitsDigest)
		}
		cardState, cpuState = got.State, want.State
	}
	gotLoss, gotCorrect, err := card.Evaluate(ctx, cardState, samples)
	if err != nil {
		return err
	}
	wantLoss, wantCorrect, err := cpu.Evaluate(ctx, cpuState, samples)
	if err != nil {
		return err
	}
	if gotLoss != wantLoss || gotCorrect != wantCorrect {
		return fmt.Errorf("evaluation: the device gives %v, %d correct; the CPU %v, %d", gotLoss, gotCorrect, wantLoss, wantCorrect)
	}
	fmt.Printf("%d steps of the default model: all roots, logits and losses are the CPU's (%s); loss %g, %d of %d correct; device %v, CPU %v, early roots and copies of the state included\n",
		*steps, cpu.Name(), gotLoss, gotCorrect, samples.Len(), cardTime.Round(time.Millisecond), cpuTime.Round(time.Millisecond))
	return nil
}

// measure prints steps per second by the number of trials at once.
func measure(ctx context.Context, net *nn.Net, samples nn.Samples) error {
	limits, err := gpu.Limits(*device)
	if err != nil {
		return err
	}
	// Each step reads and writes the weights and both moments, and reads the weights twice more.
	bytes := float64(8 * 4 * net.Params)
	flops := 2 * float64(net.Model.Batch) * float64(net.TrainMulAdds)
	fmt.Printf("limits: %.1f TFLOP/s in binary32 by cores and clock, %.0f GB/s copied from memory to memory\n", limits.Flops/1e12, limits.CopyBytes/1e9)
	fmt.Printf("a step: %.0f MFLOP of products, %.1f MB of state\n\n", flops/1e6, bytes/1e6)
	fmt.Println("| trials at once | steps/s | best | TFLOP/s | % of peak | state GB/s | % of copy rate | steps/s of one trial |")
	fmt.Println("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	start := net.Init([32]byte{1})
	for _, word := range strings.Split(*widths, ",") {
		width, err := strconv.Atoi(word)
		if err != nil || width < 1 {
			return fmt.Errorf("--trials %s: %q is no number of trials", *widths, word)
		}
		e, err := gpu.NewEngine(net, *device, width, trialSteps)
		if err != nil {
			return err
		}
		rates, err := rates(ctx, e.(nn.ManyTrainer), start, samples, width)
		e.Close()
		if errors.Is(err, gpu.ErrOutOfMemory) {
			fmt.Printf("%d trials do not fit: %v\n", width, err)
			break
		}
		if err != nil {
			return err
		}
		median, best := rates[len(rates)/2], rates[len(rates)-1]
		fmt.Printf("| %d | %.0f | %.0f | %.2f | %.1f | %.0f | %.1f | %.0f |\n", width, median, best, median*flops/1e12, 100*median*flops/limits.Flops,
			median*bytes/1e9, 100*median*bytes/limits.CopyBytes, median/float64(width))
	}
	fmt.Println()
	return nil
}

// rates are steps per second of all trials together, rising.
func rates(ctx context.Context, e nn.ManyTrainer, start *nn.State, samples nn.Samples, width int) ([]float64, error) {
	var rates []float64
	for round := -1; round < *rounds; round++ { // the first warms up
		began := time.Now()
		done := 0
		for time.Since(began) < 500*time.Millisecond {
			trials := make([]nn.Trial, width)
			for i := range trials {
				trials[i] = nn.Trial{Steps: trialSteps, BatchSeed: batchSeed(round*1000 + done + i)}
			}
			if _, err := e.TrainMany(ctx, start, samples, trials); err != nil {
				return nil, err
			}
			done += width * trialSteps
		}
		if round >= 0 {
			rates = append(rates, float64(done)/time.Since(began).Seconds())
		}
	}
	slices.Sort(rates)
	return rates, nil
}
