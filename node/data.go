package node

import (
	"errors"
	"fmt"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
)

// ErrNoData says that a network's data set is on disk and no folder was named.
var ErrNoData = errors.New("the network trains on files that must be given")

// splits are the samples of a template's data set, by chain.Split.
type splits [3]nn.Samples

// loadData obtains the data sets of a network and checks them against the roots in its spec. dir is the folder of the
// IDX files, "" if none was named.
func loadData(n *chain.Network, dir string) ([]splits, error) {
	loaded := map[string]*dataset.Data{}
	var out []splits
	for i := range n.Templates {
		t := &n.Templates[i]
		d := loaded[t.Data.Name]
		if d == nil {
			var err error
			if d, err = obtain(t.Data, dir); err != nil {
				return nil, fmt.Errorf("data set %q of network %s: %w", t.Data.Name, n.Name, err)
			}
			loaded[t.Data.Name] = d
		}
		var s splits
		for j, r := range []chain.Range{t.Data.Train, t.Data.Evaluation, t.Data.Test} {
			s[j] = d.Samples(int(r.From), int(r.To))
			if err := t.Net.CheckSamples(s[j]); err != nil {
				return nil, fmt.Errorf("data set %q for task %q: %w", t.Data.Name, t.Name, err)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// obtain draws the data set or reads it from dir, where each pair of files is tried.
func obtain(want chain.DataSet, dir string) (*dataset.Data, error) {
	id := dataset.Identity{
		Images: dataset.File{Root: want.Images.Root, Length: int(want.Images.Length)},
		Labels: dataset.File{Root: want.Labels.Root, Length: int(want.Labels.Length)},
		Count:  int(want.Count),
	}
	if want.Kind == chain.Synthetic {
		d := dataset.Synthetic(want.Seed, int(want.Count))
		return d, d.Match(id)
	}
	if dir == "" {
		return nil, fmt.Errorf("%w: name their folder with --dataset-dir", ErrNoData)
	}
	d, err := dataset.Open(dir, "")
	if errors.Is(err, dataset.ErrAmbiguous) {
		return openMatching(id, dir, err)
	}
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
