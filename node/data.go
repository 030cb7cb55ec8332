package node

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
)

// ErrNoData says that files which a network trains on are not here, or damaged.
var ErrNoData = errors.New("the network trains on files that are not here")

// splits are the samples of a template's data set, by chain.Split.
type splits [3]nn.Samples

// dataFolders are where data sets are looked for; "" is nowhere.
type dataFolders struct {
	named string // by the operator, with the IDX files under their usual names
	kept  string // files that came from peers, each named by its root
}

func (c *Config) dataFolders() dataFolders { return foldersOf(c.DatasetDir, c.DataDir) }

func foldersOf(datasetDir, dataDir string) dataFolders {
	f := dataFolders{named: datasetDir}
	if dataDir != "" {
		f.kept = filepath.Join(dataDir, datasetsDir)
	}
	return f
}

// loadData obtains the data sets of a network and checks them against the roots in its spec. The files are for peers,
// too.
func loadData(n *chain.Network, dirs dataFolders) ([]splits, library, error) {
	loaded := map[string]*dataset.Data{}
	files := library{}
	var out []splits
	for i := range n.Templates {
		t := &n.Templates[i]
		d := loaded[t.Data.Name]
		if d == nil {
			var err error
			if d, err = obtain(t.Data, dirs); err != nil {
				return nil, nil, fmt.Errorf("data set %q of network %s: %w", t.Data.Name, n.Name, err)
			}
			loaded[t.Data.Name] = d
			files.add(t.Data.Images.Root, d.ImageFile())
			files.add(t.Data.Labels.Root, d.LabelFile())
		}
		var s splits
		for j, r := range []chain.Range{t.Data.Train, t.Data.Evaluation, t.Data.Test} {
			s[j] = d.Samples(int(r.From), int(r.To))
			if err := t.Net.CheckSamples(s[j]); err != nil {
				return nil, nil, fmt.Errorf("data set %q for task %q: %w", t.Data.Name, t.Name, err)
			}
		}
		out = append(out, s)
	}
	return out, files, nil
}

// obtain draws the data set or reads it: from the folder that was named, where each pair of files is tried, or what came
// from peers.
func obtain(want chain.DataSet, dirs dataFolders) (*dataset.Data, error) {
	id := dataset.Identity{
		Images: dataset.File{Root: want.Images.Root, Length: int(want.Images.Length)},
		Labels: dataset.File{Root: want.Labels.Root, Length: int(want.Labels.Length)},
		Count:  int(want.Count),
	}
	if want.Kind == chain.Synthetic {
		d := dataset.Synthetic(want.Seed, int(want.Count))
		return d, d.Match(id)
	}
	why := errors.New("name their folder with --dataset-dir")
	if dirs.named != "" {
		d, err := dataset.Open(dirs.named, "")
		switch {
		case errors.Is(err, dataset.ErrAmbiguous):
			return openMatching(id, dirs.named, err)
		case err == nil:
			return d, d.Match(id)
		case !errors.Is(err, dataset.ErrNoFiles):
			return nil, err
		}
		why = err
	}
	if dirs.kept == "" {
		return nil, fmt.Errorf("%w: %w", ErrNoData, why)
	}
	d, err := openKept(want, id, dirs.kept)
	if errors.Is(err, ErrNoData) {
		err = fmt.Errorf("%w; %w", err, why)
	}
	return d, err
}

// openKept reads files that came from peers.
func openKept(want chain.DataSet, id dataset.Identity, dir string) (*dataset.Data, error) {
	if err := checkSize(want); err != nil {
		return nil, err
	}
	images, err := readKept(filepath.Join(dir, want.Images.Root.String()), want.Images)
	if err != nil {
		return nil, err
	}
	labels, err := readKept(filepath.Join(dir, want.Labels.Root.String()), want.Labels)
	if err != nil {
		return nil, err
	}
	d, err := dataset.Parse(images, labels)
	if err != nil {
		return nil, err
	}
	return d, d.Match(id)
}

// openMatching looks for the wanted files in a folder with both parts of a data set.
func openMatching(id dataset.Identity, dir string, ambiguous error) (*dataset.Data, error) {
	for _, prefix := range []string{"train", "t10k", "test"} {
		d, err := dataset.Open(dir, prefix)
		if err == nil && d.Match(id) == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("none of the pairs of files matches the network's roots: %w", ambiguous)
}
