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

// selftest runs the known-answer test on each engine with one thread and with all, and prints a line for each run.
func selftest(w io.Writer, engines []nn.EngineMaker, threads int) error {
	runs, failed := 0, 0
	for _, e := range engines {
		counts := []int{1}
		if e.Threaded && threads > 1 {
			counts = append(counts, threads)
		}
		for _, n := range counts {
			result := "ok"
			if err := nn.KnownAnswer(func(net *nn.Net) (nn.Engine, error) { return e.New(net, n) }); err != nil {
				result = fmt.Sprintf("FAILED: %v", err)
				failed++
			}
			runs++
			fmt.Fprintf(w, "%-8sthreads %-4d%s\n", e.Name, n, result)
		}
	}
	if _, err := gpu.Devices(); err != nil {
		fmt.Fprintf(w, "cuda    %v\n", err)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d self-tests failed", failed, runs)
	}
	return nil
}
