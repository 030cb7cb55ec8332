package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
	"github.com/spf13/cobra"
)

func selftestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "selftest",
		Short: "Check that every engine of this machine computes the bits that the network expects",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return selftest(cmd.OutOrStdout(), nn.Engines(), runtime.GOMAXPROCS(0))
		},
	}
}

// selftest runs the known-answer test on each engine with one thread and with all, and on each CUDA device, and prints a
// line for each run.
func selftest(w io.Writer, engines []nn.EngineMaker, threads int) error {
	runs, failed := 0, 0
	report := func(name, how string, err error) {
		result := "ok"
		if err != nil {
			result = fmt.Sprintf("FAILED: %v", err)
			failed++
		}
		runs++
		fmt.Fprintf(w, "%-8s%-12s%s\n", name, how, result)
	}
	for _, e := range engines {
		counts := []int{1}
		if e.Threaded && threads > 1 {
			counts = append(counts, threads)
		}
		for _, n := range counts {
			report(e.Name, fmt.Sprint("threads ", n), nn.KnownAnswer(func(net *nn.Net) (nn.Engine, error) { return e.New(net, n) }))
		}
	}
	devices, err := gpu.Devices()
	if err != nil {
		fmt.Fprintf(w, "cuda    %v\n", err)
	}
	for _, d := range devices {
		report(fmt.Sprintf("cuda:%d", d.Index), d.Name, gpu.Check(d.Index))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d self-tests failed", failed, runs)
	}
	return nil
}
