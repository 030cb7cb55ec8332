package specfile

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
)

// The built-in networks' ids are pinned: a change of one is another network.
func TestBuiltIn(t *testing.T) {
	ids := map[string]string{
		"devnet":   "d6be3e8f86c77d09a1a1e56883f6cdff725f4d2c7e15dde50e698834f31e5a29",
		"mnist10k": "3d5497d08e5633953dd2f07f298417f2a3a9eb35cd686bc2d5eef8da26d820db",
		"simnet":   "31d9f76264358d947f59639e6f3ff3181be11d720dafce6883886390b7af55ae",
	}
	if len(Names()) != len(ids) {
		t.Fatalf("built in are %v", Names())
	}
	for _, name := range Names() {
		n, err := Load(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if n.ID.String() != ids[name] {
			t.Errorf("%s has the id %v, pinned is %s", name, n.ID, ids[name])
		}
		if n.Name != name {
			t.Errorf("%s calls itself %q", name, n.Name)
		}
		for _, d := range n.DataSets {
			if d.Kind != chain.Synthetic {
				continue
			}
			want := dataset.Identity{
				Images: dataset.File{Root: d.Images.Root, Length: int(d.Images.Length)},
				Labels: dataset.File{Root: d.Labels.Root, Length: int(d.Labels.Length)},
				Count:  int(d.Count),
			}
			if err := dataset.Synthetic(d.Seed, int(d.Count)).Match(want); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, name := range []string{"devnet", "mnist10k"} {
		if s, err := LoadSpec(name); err != nil || !reflect.DeepEqual(s.Templates[0].Model, nn.DefaultModel()) {
			t.Errorf("%s does not train the default model: %+v, %v", name, s.Templates, err)
		}
	}
}

func TestFormatParses(t *testing.T) {
	for _, name := range Names() {
		s, err := LoadSpec(name)
		if err != nil {
			t.Fatal(err)
		}
		s.Allocation = []chain.Allocation{{Address: chain.Address{1}, Balance: 7}}
		s.Templates[0].Model.Optimizer = nn.Optimizer{Kind: nn.SGD, LearningRate: 0.1, Momentum: 0.9}
		b, err := Format(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(b)
		if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
		if !reflect.DeepEqual(back, s) {
			t.Errorf("%s came back as %+v, was %+v", name, back, s)
		}
	}
}

func TestBadFiles(t *testing.T) {
	good, err := embedded.ReadFile("devnet.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, says string }{
		{`max_future = "10s"`, `max_futur = "10s"`, `line 7: unknown key "max_futur"`},
		{`units = 128`, `unit = 128`, `unknown key "task.layer.unit"`},
		{`interval = "10s"`, `interval = "ten"`, "line 5"},
		{`interval = "10s"`, `interval = "100us"`, "whole number of milliseconds"},
		{`2025-01-01T00:00:00Z`, `2025-01-01T00:00:00`, "genesis_time"},
		{`2025-01-01T00:00:00Z`, `2025-01-01T00:00:00.0001Z`, "genesis_time"},
		{`2025-01-01T00:00:00Z`, `"today"`, "genesis_time"},
		{`kind = "flatten"`, `kind = "flat"`, "layer 2: kind \"flat\": there are conv2d"},
		{`kernel = [3, 3]`, `kernel = [3]`, "kernel is [rows, columns]"},
		{`activation = "relu"`, `activation = "gelu"`, `activation "gelu"`},
		{`softmax_cross_entropy`, `hinge`, `loss "hinge"`},
		{`kind = "adam"`, `kind = "adamw"`, `optimizer "adamw"`},
		{`genesis_difficulty = "173000000000"`, `genesis_difficulty = "-1"`, "whole number from 0"},
		{`root = "dffe`, `root = "xyz`, "64 hexadecimal digits"},
		{`name = "devnet"`, `name = `, "line 3"},
	} {
		text := strings.Replace(string(good), c.old, c.new, 1)
		if text == string(good) {
			t.Errorf("%q is not in the file", c.old)
		}
		if _, err := Parse([]byte(text)); !errors.Is(err, chain.ErrSpec) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.new, err)
		}
	}
	if _, err := Load("devnte"); err == nil || !strings.Contains(err.Error(), "built in are devnet, mnist10k, simnet") {
		t.Errorf("a name that is none: %v", err)
	}
	large := filepath.Join(t.TempDir(), "large.toml")
	if err := os.WriteFile(large, make([]byte, maxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(large); !errors.Is(err, chain.ErrSpec) {
		t.Errorf("a file beyond the limit: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range Names() {
		b, err := embedded.ReadFile(name + ".toml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		n, err := s.Build()
		if err != nil {
			if !errors.Is(err, chain.ErrSpec) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		out, err := Format(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := parseAndBuild(out)
		if err != nil || back.ID != n.ID {
			t.Errorf("came back as %v (%v), was %v", back, err, n.ID)
		}
	})
}

// parseAndBuild parses and builds.
func parseAndBuild(b []byte) (*chain.Network, error) {
	s, err := Parse(b)
	if err != nil {
		return nil, err
	}
	return s.Build()
}
