package main

import (
	"fmt"
	"runtime"

	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "minerd %s %s %s/%s\n", programVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

func devicesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "devices",
		Short: "List what this machine can train on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "cpu     %s engine, %d cores\n", nn.Engines()[0].Name, runtime.NumCPU())
			devices, err := gpu.Devices()
			if err != nil {
				fmt.Fprintf(cmd.OutOrStdout(), "cuda    %v\n", err)
				return nil
			}
			for _, d := range devices {
				fmt.Fprintln(cmd.OutOrStdout(), d)
			}
			return nil
		},
	}
}
