package chain_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

const day = 24 * 3600 * 1000

func TestBadSpecs(t *testing.T) {
	type spec = chain.Spec
	d := func(change func(*chain.DataSet)) func(*spec) {
		return func(s *spec) { change(&s.DataSets[0]) }
	}
	m := func(change func(*chain.Template)) func(*spec) {
		return func(s *spec) { change(&s.Templates[1]) }
	}
	above := chain.Uint128{Hi: 1 << 32, Lo: 1}
	for _, c := range []struct {
		names  string // what the error must name
		change func(*spec)
	}{
		{`name "": allowed`, func(s *spec) { s.Name = "" }},
		{`x": allowed are 1 to 64`, func(s *spec) { s.Name = strings.Repeat("x", 65) }},
		{`name "../up": allowed`, func(s *spec) { s.Name = "../up" }},
		{`name ".hidden": allowed`, func(s *spec) { s.Name = ".hidden" }},
		{`name "two words": allowed`, func(s *spec) { s.Name = "two words" }},
		{"genesis_time = 0", func(s *spec) { s.GenesisTime = 0 }},
		{"genesis_time", func(s *spec) { s.GenesisTime = 1<<50 + 1 }},
		{"interval = 99", func(s *spec) { s.Interval = 99 }},
		{"interval", func(s *spec) { s.Interval = day + 1 }},
		{"half_life", func(s *spec) { s.HalfLife = s.Interval - 1 }},
		{"half_life", func(s *spec) { s.HalfLife = 10000*day + 1 }},
		{"max_future = 0", func(s *spec) { s.MaxFuture = 0 }},
		{"max_future", func(s *spec) { s.MaxFuture = s.Interval + 1 }},
		{"max_block_bytes", func(s *spec) { s.MaxBlockBytes = chain.HeaderSize + 8 + 32*12 - 1 }},
		{"max_block_bytes", func(s *spec) { s.MaxBlockBytes = 61441 }},
		{"max_block_txs", func(s *spec) { s.MaxBlockTxs = 4097 }},
		{"max_task_blocks = 0", func(s *spec) { s.MaxTaskBlocks = 0 }},
		{"max_task_blocks", func(s *spec) { s.MaxTaskBlocks = 1<<30 + 1 }},
		{"plateau_blocks = 0", func(s *spec) { s.PlateauBlocks = 0 }},
		{"plateau_blocks", func(s *spec) { s.PlateauBlocks = 1<<30 + 1 }},
		{"verify_rate = 0", func(s *spec) { s.VerifyRate = 0 }},
		{"verify_rate", func(s *spec) { s.VerifyRate = 1<<60 + 1 }},
		{"finality_depth = 0", func(s *spec) { s.FinalityDepth = 0 }},
		{"finality_depth", func(s *spec) { s.FinalityDepth = 1<<30 + 1 }},
		{"snapshot_interval = 0", func(s *spec) { s.SnapshotInterval = 0 }},
		{"snapshot_interval", func(s *spec) { s.SnapshotInterval = 1<<30 + 1 }},
		{"initial_reward", func(s *spec) { s.InitialReward, s.HalvingInterval = 1<<60+1, 1 }},
		{"halving_interval = 0", func(s *spec) { s.HalvingInterval = 0 }},
		{"halving_interval", func(s *spec) { s.InitialReward, s.HalvingInterval = 0, 1<<40+1 }},
		{"data_sets = 0", func(s *spec) { s.DataSets = nil }},
		{"data_sets = 17", func(s *spec) { s.DataSets = slices.Repeat(s.DataSets, 17) }},
		{"templates = 0", func(s *spec) { s.Templates = nil }},
		{"templates = 17", func(s *spec) { s.Templates = slices.Repeat(s.Templates[:1], 17) }},
		{"difficulty above", func(s *spec) { s.GenesisDifficulty = above }},
		{"difficulty above", func(s *spec) { s.MinDifficulty = above }},
		{"initial_reward * halving_interval", func(s *spec) { s.InitialReward, s.HalvingInterval = 1<<31+1, 1<<30 }},
		{"initial_reward * halving_interval", func(s *spec) { s.InitialReward, s.HalvingInterval = 1<<60, 1<<40 }},
		{"allocation 0", func(s *spec) { s.Allocation[0].Balance = 0 }},
		{"allocation 0", func(s *spec) { s.Allocation[0].Balance = 1<<62 + 1 }},
		{"allocation 0", func(s *spec) { s.Allocation[0].Balance = 1<<64 - 1 }},
		{"allocation 1", func(s *spec) { s.Allocation[1].Balance = 1 << 62 }},
		{"allocation 1", func(s *spec) { s.Allocation[1].Balance = -s.Allocation[0].Balance }},
		{"allocation 1", func(s *spec) { s.Allocation[1].Address = s.Allocation[0].Address }},
		{"allocation 1", func(s *spec) { slices.Reverse(s.Allocation) }},
		{`two data sets of the name "squares"`, func(s *spec) { s.DataSets = slices.Repeat(s.DataSets, 2) }},
		{`name "": allowed`, d(func(d *chain.DataSet) { d.Name = "" })},
		{`x": allowed are 1 to 64`, d(func(d *chain.DataSet) { d.Name = strings.Repeat("x", 65) })},
		{`kind "web"`, d(func(d *chain.DataSet) { d.Kind = "web" })},
		{"seed", d(func(d *chain.DataSet) { d.Kind = chain.IDX })},
		{"0 samples", d(func(d *chain.DataSet) { d.Count = 0 })},
		{"1048577 samples", d(func(d *chain.DataSet) { d.Count = 1<<20 + 1 })},
		{"16777217 samples", d(func(d *chain.DataSet) { d.Kind, d.Seed, d.Count = chain.IDX, 0, 1<<24+1 })},
		{"train split 0..0", d(func(d *chain.DataSet) { d.Train.To = 0 })},
		{"train split 9..3", d(func(d *chain.DataSet) { d.Train = chain.Range{From: 9, To: 3} })},
		{"evaluation split 128..128", d(func(d *chain.DataSet) { d.Evaluation.To = 128 })},
		{"test split 192..257", d(func(d *chain.DataSet) { d.Test.To = 257 })},
		{"evaluation split 127..192", d(func(d *chain.DataSet) { d.Evaluation.From = 127 })},
		{"test split 191..256", d(func(d *chain.DataSet) { d.Test.From = 191 })},
		{"test split 0..128", d(func(d *chain.DataSet) { d.Test = d.Train })},
		{`name "": allowed`, m(func(t *chain.Template) { t.Name = "" })},
		{`x": allowed are 1 to 64`, m(func(t *chain.Template) { t.Name = strings.Repeat("x", 65) })},
		{`template "two": there is no data set "circles"`, m(func(t *chain.Template) { t.Data = "circles" })},
		{"63 steps", m(func(t *chain.Template) { t.TrialSteps = 63 })},
		{"4097 steps", m(func(t *chain.Template) { t.TrialSteps = 4097 })},
		{"batch of 15", m(func(t *chain.Template) { t.Model.Batch = 15 })},
		{"batch of 257", m(func(t *chain.Template) { t.Model.Batch = 257 })},
		{"layer 1", m(func(t *chain.Template) { t.Model.Layers[1].Units = 0 })},
		{"learning_rate", m(func(t *chain.Template) { t.Model.Optimizer.LearningRate = 0 })},
		{"kernel 8x1", m(func(t *chain.Template) {
			t.Model.Input = nn.Shape{Rows: 9, Cols: 9, Channels: 1}
			t.Model.Layers = slices.Insert(t.Model.Layers, 0, nn.Layer{Kind: nn.Conv2D, Units: 1, KernelRows: 8, KernelCols: 1, Stride: 1})
		})},
		{"stride 2", m(func(t *chain.Template) {
			t.Model.Layers = slices.Insert(t.Model.Layers, 0, nn.Layer{Kind: nn.Conv2D, Units: 1, KernelRows: 1, KernelCols: 2, Stride: 2})
		})},
		{"verify_rate", m(func(t *chain.Template) {
			t.TrialSteps = 4096
			t.Model.Layers[1].Units = 200
		})},
	} {
		s := testSpec()
		c.change(&s)
		if _, err := s.Build(); !errors.Is(err, chain.ErrSpec) || !strings.Contains(fmt.Sprint(err), c.names) {
			t.Errorf("want an error with %q, got %v", c.names, err)
		}
	}
}

// TestSpecEdges are the greatest and least values that are allowed.
func TestSpecEdges(t *testing.T) {
	type spec = chain.Spec
	for i, change := range []func(*spec){
		func(s *spec) { s.Name = strings.Repeat("x", 64) },
		func(s *spec) { s.GenesisTime, s.MaxFuture, s.VerifyRate = 1, 1, 1<<60 },
		func(s *spec) { s.GenesisTime, s.Interval, s.HalfLife, s.MaxFuture = 1<<50, day, 10000*day, day },
		func(s *spec) { s.Interval, s.HalfLife, s.MaxFuture, s.VerifyRate = 100, 100, 100, 1<<40 },
		func(s *spec) { s.MaxBlockBytes, s.MaxBlockTxs = chain.HeaderSize+8+32*12, 0 },
		func(s *spec) { s.MaxBlockBytes, s.MaxBlockTxs = 61440, 4096 },
		func(s *spec) { s.MaxTaskBlocks, s.PlateauBlocks, s.FinalityDepth, s.SnapshotInterval = 1, 1, 1, 1 },
		func(s *spec) {
			s.MaxTaskBlocks, s.PlateauBlocks, s.FinalityDepth, s.SnapshotInterval = 1<<30, 1<<30, 1<<30, 1<<30
		},
		func(s *spec) { s.InitialReward, s.HalvingInterval = 1<<60, 2 },
		func(s *spec) { s.InitialReward, s.HalvingInterval = 0, 1<<40 },
		func(s *spec) { s.GenesisDifficulty, s.MinDifficulty = chain.MaxDifficulty, chain.MaxDifficulty },
		func(s *spec) { s.Allocation = []chain.Allocation{{Balance: 1 << 62}} },
		func(s *spec) { s.Allocation = nil },
		func(s *spec) { s.DataSets[0].Kind, s.DataSets[0].Seed = chain.IDX, 0 },
		func(s *spec) { s.DataSets[0].Count = 1 << 20 },
		func(s *spec) { s.DataSets[0].Kind, s.DataSets[0].Seed, s.DataSets[0].Count = chain.IDX, 0, 1<<24 },
		func(s *spec) { s.Templates = slices.Repeat(s.Templates, 8) },
		func(s *spec) { s.Templates[0].TrialSteps, s.VerifyRate = 4096, 1<<40 },
		func(s *spec) { s.Templates[0].Model.Batch = 256; s.VerifyRate = 1 << 40 },
	} {
		s := testSpec()
		change(&s)
		if _, err := s.Build(); err != nil {
			t.Errorf("spec %d: %v", i, err)
		}
	}
}

// TestVerifyRateBound: a trial and an evaluation, 64*(16*128 + 8*68) + 64*64 = 169,984 multiply-accumulates for the first
// template and 263,296 for the second, must take at most a tenth of the interval, six seconds.
func TestVerifyRateBound(t *testing.T) {
	for rate, good := range map[uint64]bool{43_882: false, 43_883: true} {
		s := testSpec()
		s.VerifyRate = rate
		if _, err := s.Build(); (err == nil) != good {
			t.Errorf("verify_rate %d: %v", rate, err)
		}
	}
}

// leaves are the single fields of a value, with their names.
func leaves(v reflect.Value, name string) (names []string, fields []reflect.Value) {
	add := func(f reflect.Value, n string) {
		ns, fs := leaves(f, n)
		names, fields = append(names, ns...), append(fields, fs...)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			add(v.Field(i), name+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice:
		for i := range v.Len() {
			add(v.Index(i), fmt.Sprintf("%s[%d]", name, i))
		}
	default:
		return []string{name}, []reflect.Value{v}
	}
	return names, fields
}

// change gives a single field another value.
func change(t *testing.T, f reflect.Value) {
	switch f.Kind() {
	case reflect.String:
		f.SetString(f.String() + "x")
	case reflect.Float32:
		f.SetFloat(f.Float() + 0.5)
	case reflect.Int:
		f.SetInt(f.Int() + 1)
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		f.SetUint(f.Uint() + 1)
	case reflect.Array:
		last := f.Index(f.Len() - 1)
		last.SetUint(last.Uint() ^ 1)
	default:
		t.Fatalf("a field of kind %v", f.Kind())
	}
}

// TestNetworkIDCoversAll changes every single field, so that a new one that is not encoded is caught.
func TestNetworkIDCoversAll(t *testing.T) {
	base := testSpec()
	seen := map[string]string{string(base.Encode()): "the spec as it is"}
	names, _ := leaves(reflect.ValueOf(&base).Elem(), "Spec")
	if len(names) < 80 {
		t.Fatalf("only %d fields are found", len(names))
	}
	check := func(name string, s chain.Spec) {
		b := string(s.Encode())
		if seen[b] != "" {
			t.Errorf("%s: the encoding is that of %s", name, seen[b])
		}
		seen[b] = name
	}
	for i, name := range names {
		s := testSpec()
		_, fields := leaves(reflect.ValueOf(&s).Elem(), "")
		change(t, fields[i])
		check(name, s)
	}
	for name, cut := range map[string]func(*chain.Spec){
		"an allocation less": func(s *chain.Spec) { s.Allocation = s.Allocation[:1] },
		"a data set more":    func(s *chain.Spec) { s.DataSets = slices.Repeat(s.DataSets, 2) },
		"a template less":    func(s *chain.Spec) { s.Templates = s.Templates[:1] },
		"a layer less":       func(s *chain.Spec) { s.Templates[0].Model.Layers = s.Templates[0].Model.Layers[:1] },
	} {
		s := testSpec()
		cut(&s)
		check(name, s)
	}
	n := build(t, nil)
	if n.ID != hashOf("network", base.Encode()) {
		t.Error("the id is not H(\"network\", encoding)")
	}
}

func TestGoldenNetwork(t *testing.T) {
	w := newWorld(t, nil)
	seed := w.InitSeed(3)
	g := w.genesis()
	for name, v := range map[string]struct{ got, want string }{
		"network id":         {w.ID.String(), "35e52b5f176e41812a0b17dcbdb4bd2cf653286bf53f9e0bfae9d9b91097fc96"},
		"init seed":          {chain.Hash(seed).String(), "58b66a93f6fc0635865330af79670e5f64f731abad57d04396f07601cac70acc"},
		"task id":            {w.TaskID(3).String(), "47db99acc9fb4b7d8bad236915f296536e85fe0fc110ed7108f5a7eb924cc934"},
		"ledger at genesis":  {w.GenesisLedger().Root().String(), "8e03532b5364d6da37f695dc443d55d989ac106a98991eaa8f571fc0a99a3a46"},
		"genesis":            {g.id().String(), "a932caceffd60b22544b5ddd213b6781ce29345b6e8760ee816a11646891177c"},
		"model at genesis":   {g.state.ModelRoot.String(), "4d4c56225a6f9adc4ca6973cb86a1dc1be9dabe55c77540ee4ace84c6e2a1399"},
		"a block on genesis": {w.mine(g, how{}).id().String(), "8a0bcfcd5fc9ce27fa76177bec801d3f0b774329d6bf9049c0a27ee73396325d"},
	} {
		if v.got != v.want {
			t.Errorf("%s is %s, want %s", name, v.got, v.want)
		}
	}
	// An encoding spelled out: the head of the spec's.
	s := testSpec()
	head := append(u32(4), "test"...)
	if !bytes.HasPrefix(s.Encode(), head) {
		t.Errorf("encoding begins with %x", s.Encode()[:16])
	}
}

func TestTaskID(t *testing.T) {
	n := build(t, nil)
	seen := map[chain.Hash]string{}
	check := func(name string, id chain.Hash) {
		if seen[id] != "" {
			t.Errorf("%s: the id is that of %s", name, seen[id])
		}
		seen[id] = name
	}
	for task := range uint32(10) {
		check(fmt.Sprintf("task %d", task), n.TaskID(task))
	}
	other := build(t, func(s *chain.Spec) { s.Name = "other" })
	check("another network", other.TaskID(0))
	// Within one network id (and so one init seed) every field of the template counts but names and what follows from
	// the rest.
	parts := func(n *chain.Network) (names []string, fields []reflect.Value) {
		nt := &n.Templates[0]
		for name, p := range map[string]any{"Model": &nt.Model, "TrialSteps": &nt.TrialSteps, "Data": &nt.Data} {
			ns, fs := leaves(reflect.ValueOf(p).Elem(), name)
			names, fields = append(names, ns...), append(fields, fs...)
		}
		return names, fields
	}
	names, _ := parts(n)
	for _, name := range names {
		if slices.Contains([]string{"Data.Name", "Data.Kind", "Data.Seed"}, name) {
			continue
		}
		n := build(t, nil)
		ns, fields := parts(n)
		change(t, fields[slices.Index(ns, name)])
		check(name, n.TaskID(0))
	}
}
