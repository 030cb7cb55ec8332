package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/dataset"
	"github.com/spf13/cobra"
)

func networkCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "network", Short: "Make and show network specs"}
	cmd.AddCommand(networkShowCommand(), networkNewCommand())
	return cmd
}

func networkShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [NAME|FILE]",
		Short: "Print a network's spec and id",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "devnet"
			if len(args) > 0 {
				name = args[0]
			}
			n, err := specfile.Load(name)
			if err != nil {
				return err
			}
			b, err := specfile.Format(n.Spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "# network id %s\n", n.ID)
			for i := range n.Templates {
				t := &n.Templates[i]
				fmt.Fprintf(cmd.OutOrStdout(), "# task %q: %d parameters, %v multiply-accumulates per trial\n", t.Name, t.Net.Params, t.Cost)
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
}

func networkNewCommand() *cobra.Command {
	var dir, prefix, split, from, out, name string
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Write the spec of a network that trains on your IDX files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			spec, err := specfile.LoadSpec(from)
			if err != nil {
				return err
			}
			if _, err := spec.Build(); err != nil {
				return fmt.Errorf("--from %s: %w", from, err)
			}
			data, err := dataset.Open(dir, prefix)
			if err != nil {
				return fmt.Errorf("--dataset-dir: %w", err)
			}
			if err := retarget(&spec, data, split); err != nil {
				return err
			}
			spec.Name = name
			if name == "" {
				spec.Name = strings.TrimSuffix(filepath.Base(out), filepath.Ext(out))
			}
			n, err := spec.Build()
			if err != nil {
				return err
			}
			b, err := specfile.Format(spec)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return fmt.Errorf("-o: %w", err)
			}
			_, err = f.Write(b)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "wrote %s: network %q, id %s\n", out, n.Name, n.ID)
			return nil
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&dir, "dataset-dir", "", "folder with an IDX image file and an IDX label file")
	fs.StringVar(&prefix, "prefix", "", "start of the files' names, such as train or t10k, where the folder holds more than one pair")
	fs.StringVar(&split, "split", "", "number of images to train on, evaluate on and test on, such as 8000,1000,1000")
	fs.StringVar(&from, "from", "devnet", "network whose other settings are taken over")
	fs.StringVar(&name, "name", "", "name of the network (default: that of the file)")
	fs.StringVarP(&out, "output", "o", "", "file to write; it must not exist yet")
	for _, required := range []string{"dataset-dir", "split", "output"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // only for a flag that is not there
		}
	}
	return cmd
}

// retarget makes all tasks of a spec train on the data, cut in order as split says.
func retarget(spec *chain.Spec, data *dataset.Data, split string) error {
	var counts []uint32
	for _, s := range strings.Split(split, ",") {
		v, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
		if err != nil || v == 0 {
			return fmt.Errorf("--split %q: needed are three counts above zero, such as 8000,1000,1000", split)
		}
		counts = append(counts, uint32(v))
	}
	if len(counts) != 3 {
		return fmt.Errorf("--split %q: needed are three counts: train, evaluation, test", split)
	}
	if sum := uint64(counts[0]) + uint64(counts[1]) + uint64(counts[2]); sum > uint64(data.Count()) {
		return fmt.Errorf("--split %q: %d images in all, the files hold %d", split, sum, data.Count())
	}
	id := data.Identity()
	evaluation, test := counts[0]+counts[1], counts[0]+counts[1]+counts[2]
	set := chain.DataSet{
		Name: "files", Kind: chain.IDX, Count: uint32(data.Count()),
		Images:     chain.File{Root: id.Images.Root, Length: uint64(id.Images.Length)},
		Labels:     chain.File{Root: id.Labels.Root, Length: uint64(id.Labels.Length)},
		Train:      chain.Range{To: counts[0]},
		Evaluation: chain.Range{From: counts[0], To: evaluation},
		Test:       chain.Range{From: evaluation, To: test},
	}
	spec.DataSets = []chain.DataSet{set}
	for i := range spec.Templates {
		t := &spec.Templates[i]
		t.Data = set.Name
		in := &t.Model.Input
		in.Rows, in.Cols, in.Channels = data.Rows(), data.Cols(), data.Channels()
		if err := data.CheckLabels(t.Model.Layers[len(t.Model.Layers)-1].Units); err != nil {
			return fmt.Errorf("task %q: %w", t.Name, err)
		}
	}
	return nil
}
