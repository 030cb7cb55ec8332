package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/node"
	"github.com/descentnet/minerd/store"
	"github.com/spf13/cobra"
)

// fsckFlags are the settings of `minerd fsck`.
type fsckFlags struct {
	network, dataDir, datasetDir string
	threads                      int
	deep, repair                 bool
}

func fsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check the chain of a stopped node from genesis on, and mend it with --repair",
		Long: `Check the chain of a stopped node: the database's files, and of all blocks from genesis on the rules, states, ledger
and indices, and the stored model states against their roots. Each fault is a line that says what can be done.
The exit status is 0 where there are none, or all were mended and no block was lost; 1 where there are some, or the check
could not be made; 2 where --repair mended the chain and blocks were lost, or something could not be read.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := fsck(cmd, &f)
			if err == nil && lossy(r) {
				os.Exit(2)
			}
			return err
		},
	}
	fs := cmd.Flags()
	addDirFlags(cmd, &f.network, &f.dataDir)
	fs.StringVar(&f.datasetDir, "dataset-dir", "", "folder with the IDX files of a network that trains on them (default: those that were fetched from peers)")
	fs.IntVar(&f.threads, "threads", 0, "threads that training uses (default: all cores)")
	fs.BoolVar(&f.deep, "deep", false, "train every block again")
	fs.BoolVar(&f.repair, "repair", false, "mend what can be mended, and as the last resort cut the chain back to its last good block")
	return cmd
}

func fsck(cmd *cobra.Command, f *fsckFlags) (r store.Report, err error) {
	log, err := newLogger("error", "console")
	if err != nil {
		return r, err
	}
	net, err := specfile.Load(f.network)
	if err != nil {
		return r, err
	}
	if f.threads < 0 || f.threads > 1024 {
		return r, fmt.Errorf("--threads %d: allowed are 0 (all cores) to 1024", f.threads)
	}
	dir, err := dataDirOf(f.dataDir, net)
	if err != nil {
		return r, err
	}
	trainer, closeTrainer, err := node.OpenTrainer(net, f.datasetDir, dir, node.CPU(f.threads))
	if err != nil {
		return r, err
	}
	defer closeTrainer()
	out := cmd.OutOrStdout()
	r, err = store.Check(cmd.Context(), dir, store.CheckOptions{
		Network: net, Trainer: trainer, Deep: f.deep, Repair: f.repair, Logger: log,
		Fault:    func(fault store.Fault) { fmt.Fprintln(out, "fault:", fault) },
		Note:     func(s string) { fmt.Fprintln(out, "note:", s) },
		Progress: progress(cmd.ErrOrStderr(), f.deep, time.Now),
	})
	if err != nil {
		return r, err
	}
	fmt.Fprintf(out, "checked      %d blocks (%d beside the best chain, %d trained again), %d tasks, %d model states\n",
		r.Blocks, r.Beside, r.Executed, r.Tasks, r.Models)
	fmt.Fprintf(out, "tip          height %d, %s\nledger root  %s\nmodel root   %s\n", r.Tip.Height, r.Tip.ID, r.LedgerRoot, r.Tip.ModelRoot)
	switch {
	case r.Faults == 0:
		fmt.Fprintln(out, "no faults")
	case r.Repaired:
		fmt.Fprintln(out, mended(r))
	default:
		return r, fmt.Errorf("%s in %s; with --repair the chain is mended", faults(r.Faults), dir)
	}
	return r, nil
}

// lossy says that a repair could not keep all that was there.
func lossy(r store.Report) bool { return r.Lost > 0 || r.Unread }

// mended is the last line after a repair.
func mended(r store.Report) string {
	blocks := fmt.Sprintf("%d blocks", r.Lost)
	if r.Lost == 1 {
		blocks = "1 block"
	}
	switch {
	case r.Unread && r.Lost > 0:
		return fmt.Sprintf("%s, mended, at least %s lost: not everything could be read", faults(r.Faults), blocks)
	case r.Unread:
		return faults(r.Faults) + ", mended, but not everything could be read: blocks may be lost"
	case r.Lost > 0:
		return fmt.Sprintf("%s, mended, %s lost", faults(r.Faults), blocks)
	}
	return faults(r.Faults) + ", all mended"
}

func faults(n int) string {
	if n == 1 {
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

// progress prints how far the check is, every few seconds.
func progress(w io.Writer, deep bool, now func() time.Time) func(done, of int) {
	const every = 5 * time.Second
	what := "checked"
	if deep {
		what = "trained again"
	}
	began := now()
	last := began
	return func(done, of int) {
		t := now()
		if t.Sub(last) < every {
			return
		}
		last = t
		rate := float64(done) / t.Sub(began).Seconds()
		left := time.Duration(float64(of-done) / rate * float64(time.Second))
		fmt.Fprintf(w, "%s %d of %d blocks, %.1f per second, %v left\n", what, done, of, rate, left.Round(time.Second))
	}
}
