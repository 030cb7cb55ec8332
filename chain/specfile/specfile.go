// Package specfile reads and writes network specs as TOML, and holds those that come with the program.
package specfile

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/pelletier/go-toml/v2"
)

//go:embed *.toml
var embedded embed.FS

// maxSize bounds a spec file; the largest spec that makes sense is some kilobytes.
const maxSize = 1 << 20

// Names are the networks that come with the program.
func Names() []string {
	entries, err := embedded.ReadDir(".")
	if err != nil {
		panic(err) // the embedded folder is always there
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// Load gives the network of that name, or else of that file.
func Load(nameOrFile string) (*chain.Network, error) {
	spec, err := LoadSpec(nameOrFile)
	if err != nil {
		return nil, err
	}
	n, err := spec.Build()
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", nameOrFile, err)
	}
	return n, nil
}

// LoadSpec gives the spec of that name, or else of that file, unchecked.
func LoadSpec(nameOrFile string) (chain.Spec, error) {
	if slices.Contains(Names(), nameOrFile) {
		b, err := embedded.ReadFile(nameOrFile + ".toml")
		if err != nil {
			return chain.Spec{}, err
		}
		return Parse(b)
	}
	f, err := os.Open(nameOrFile)
	if errors.Is(err, os.ErrNotExist) && !strings.ContainsAny(nameOrFile, "/.") {
		return chain.Spec{}, fmt.Errorf("there is no network %q: built in are %s; else name a file", nameOrFile, strings.Join(Names(), ", "))
	}
	if err != nil {
		return chain.Spec{}, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return chain.Spec{}, fmt.Errorf("%s: %w", nameOrFile, err)
	}
	if len(b) > maxSize {
		return chain.Spec{}, fmt.Errorf("%s: %w: more than %d bytes", nameOrFile, chain.ErrSpec, maxSize)
	}
	s, err := Parse(b)
	if err != nil {
		return s, fmt.Errorf("%s: %w", nameOrFile, err)
	}
	return s, nil
}

// The file's form. Durations are written like "10s", difficulties as strings since they may exceed 64 bits.
type file struct {
	Name              string        `toml:"name"`
	GenesisTime       any           `toml:"genesis_time"` // a time with its zone, in whole milliseconds
	GenesisDifficulty chain.Uint128 `toml:"genesis_difficulty"`
	MinDifficulty     chain.Uint128 `toml:"min_difficulty"`
	Interval          duration      `toml:"interval"`
	HalfLife          duration      `toml:"half_life"`
	MaxFuture         duration      `toml:"max_future"`
	MaxBlockBytes     uint32        `toml:"max_block_bytes"`
	MaxBlockTxs       uint32        `toml:"max_block_txs"`
	MaxTaskBlocks     uint32        `toml:"max_task_blocks"`
	PlateauBlocks     uint32        `toml:"plateau_blocks"`
	VerifyRate        uint64        `toml:"verify_rate"`
	FinalityDepth     uint32        `toml:"finality_depth"`
	SnapshotInterval  uint32        `toml:"snapshot_interval"`
	InitialReward     uint64        `toml:"initial_reward"`
	HalvingInterval   uint64        `toml:"halving_interval"`
	Allocation        []allocation  `toml:"allocation,omitempty"`
	DataSets          []dataSet     `toml:"data_set"`
	Tasks             []task        `toml:"task"`
}

type allocation struct {
	Address chain.Address `toml:"address"`
	Balance uint64        `toml:"balance"`
}

type dataSet struct {
	Name       string    `toml:"name"`
	Kind       string    `toml:"kind"`
	Seed       uint64    `toml:"seed,omitempty"`
	Count      uint32    `toml:"count"`
	Images     fileRoot  `toml:"images,inline"`
	Labels     fileRoot  `toml:"labels,inline"`
	Train      [2]uint32 `toml:"train"`
	Evaluation [2]uint32 `toml:"evaluation"`
	Test       [2]uint32 `toml:"test"`
}

type fileRoot struct {
	Root   chain.Hash `toml:"root"`
	Length uint64     `toml:"length"`
}

type task struct {
	Name       string    `toml:"name"`
	Data       string    `toml:"data"`
	TrialSteps uint32    `toml:"trial_steps"`
	Batch      int       `toml:"batch"`
	Input      [3]int    `toml:"input"`
	Loss       string    `toml:"loss"`
	Optimizer  optimizer `toml:"optimizer,inline"`
	Layers     []layer   `toml:"layer"`
}

type optimizer struct {
	Kind         string  `toml:"kind"`
	LearningRate float64 `toml:"learning_rate"`
	Beta1        float64 `toml:"beta1,omitempty"`
	Beta2        float64 `toml:"beta2,omitempty"`
	Epsilon      float64 `toml:"epsilon,omitempty"`
	Momentum     float64 `toml:"momentum,omitempty"`
}

type layer struct {
	Kind       string `toml:"kind"`
	Units      int    `toml:"units,omitempty"`
	Kernel     []int  `toml:"kernel,omitempty"` // rows, columns; the window of a pool
	Stride     int    `toml:"stride,omitempty"`
	Padding    string `toml:"padding,omitempty"`
	Activation string `toml:"activation,omitempty"`
}

// duration is whole milliseconds, written like "10s".
type duration uint64

func (d duration) MarshalText() ([]byte, error) {
	return []byte((time.Duration(d) * time.Millisecond).String()), nil
}

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	if v < 0 || v%time.Millisecond != 0 {
		return fmt.Errorf("%q is not a whole number of milliseconds", text)
	}
	*d = duration(v.Milliseconds())
	return nil
}

// Parse reads a spec. Unknown keys are errors. All errors are chain.ErrSpec and say where.
func Parse(b []byte) (chain.Spec, error) {
	var f file
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		var strict *toml.StrictMissingError
		var bad *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			row, _ := strict.Errors[0].Position()
			return chain.Spec{}, fmt.Errorf("%w: line %d: unknown key %q", chain.ErrSpec, row, strings.Join(strict.Errors[0].Key(), "."))
		case errors.As(err, &bad):
			row, _ := bad.Position()
			return chain.Spec{}, fmt.Errorf("%w: line %d: %w", chain.ErrSpec, row, err)
		}
		return chain.Spec{}, fmt.Errorf("%w: %w", chain.ErrSpec, err)
	}
	s, err := f.spec()
	if err != nil {
		return s, fmt.Errorf("%w: %w", chain.ErrSpec, err)
	}
	return s, nil
}

func (f *file) spec() (chain.Spec, error) {
	// A time without a zone would be read in the local one, and the network id with it.
	genesis, ok := f.GenesisTime.(time.Time)
	if !ok || genesis.Location() == time.Local || genesis.Nanosecond()%int(time.Millisecond) != 0 || genesis.UnixMilli() < 0 {
		return chain.Spec{}, fmt.Errorf("genesis_time %v: needed is a time after 1970 with its zone and whole milliseconds, such as 2026-11-01T00:00:00Z", f.GenesisTime)
	}
	s := chain.Spec{
		Name:              f.Name,
		GenesisTime:       uint64(genesis.UnixMilli()),
		GenesisDifficulty: f.GenesisDifficulty,
		MinDifficulty:     f.MinDifficulty,
		Interval:          uint64(f.Interval),
		HalfLife:          uint64(f.HalfLife),
		MaxFuture:         uint64(f.MaxFuture),
		MaxBlockBytes:     f.MaxBlockBytes,
		MaxBlockTxs:       f.MaxBlockTxs,
		MaxTaskBlocks:     f.MaxTaskBlocks,
		PlateauBlocks:     f.PlateauBlocks,
		VerifyRate:        f.VerifyRate,
		FinalityDepth:     f.FinalityDepth,
		SnapshotInterval:  f.SnapshotInterval,
		InitialReward:     f.InitialReward,
		HalvingInterval:   f.HalvingInterval,
	}
	for _, a := range f.Allocation {
		s.Allocation = append(s.Allocation, chain.Allocation(a))
	}
	for _, d := range f.DataSets {
		s.DataSets = append(s.DataSets, chain.DataSet{
			Name: d.Name, Kind: d.Kind, Seed: d.Seed, Count: d.Count,
			Images: chain.File(d.Images), Labels: chain.File(d.Labels),
			Train:      chain.Range{From: d.Train[0], To: d.Train[1]},
			Evaluation: chain.Range{From: d.Evaluation[0], To: d.Evaluation[1]},
			Test:       chain.Range{From: d.Test[0], To: d.Test[1]},
		})
	}
	for _, t := range f.Tasks {
		m, err := t.model()
		if err != nil {
			return s, fmt.Errorf("task %q: %w", t.Name, err)
		}
		s.Templates = append(s.Templates, chain.Template{Name: t.Name, Data: t.Data, TrialSteps: t.TrialSteps, Model: m})
	}
	return s, nil
}

var (
	layerKinds  = []nn.LayerKind{nn.Conv2D, nn.MaxPool2D, nn.Flatten, nn.Dense}
	paddings    = []nn.Padding{nn.Valid, nn.Same}
	activations = []nn.Activation{nn.Linear, nn.ReLU}
	losses      = []nn.LossKind{nn.SoftmaxCrossEntropy, nn.MeanSquaredError}
	optimizers  = []nn.OptimizerKind{nn.Adam, nn.SGD}
)

// named finds the value that is written as name.
func named[T fmt.Stringer](what, name string, values []T) (T, error) {
	var all []string
	for _, v := range values {
		if v.String() == name {
			return v, nil
		}
		all = append(all, v.String())
	}
	var none T
	return none, fmt.Errorf("%s %q: there are %s", what, name, strings.Join(all, ", "))
}

func (t *task) model() (nn.Model, error) {
	m := nn.Model{
		Input: nn.Shape{Rows: t.Input[0], Cols: t.Input[1], Channels: t.Input[2]},
		Batch: t.Batch,
		Optimizer: nn.Optimizer{
			LearningRate: float32(t.Optimizer.LearningRate),
			Beta1:        float32(t.Optimizer.Beta1), Beta2: float32(t.Optimizer.Beta2), Epsilon: float32(t.Optimizer.Epsilon),
			Momentum: float32(t.Optimizer.Momentum),
		},
	}
	var err, err2 error
	m.Loss, err = named("loss", t.Loss, losses)
	m.Optimizer.Kind, err2 = named("optimizer", t.Optimizer.Kind, optimizers)
	if err := errors.Join(err, err2); err != nil {
		return m, err
	}
	for i, l := range t.Layers {
		b, err := l.layer()
		if err != nil {
			return m, fmt.Errorf("layer %d: %w", i, err)
		}
		m.Layers = append(m.Layers, b)
	}
	return m, nil
}

func (l *layer) layer() (b nn.Layer, err error) {
	var err2, err3 error
	b.Kind, err = named("kind", l.Kind, layerKinds)
	if l.Padding != "" {
		b.Padding, err2 = named("padding", l.Padding, paddings)
	}
	if l.Activation != "" {
		b.Activation, err3 = named("activation", l.Activation, activations)
	}
	b.Units, b.Stride = l.Units, l.Stride
	if b.Kind == nn.Conv2D && l.Stride == 0 {
		b.Stride = 1
	}
	switch len(l.Kernel) {
	case 0:
	case 2:
		b.KernelRows, b.KernelCols = l.Kernel[0], l.Kernel[1]
	default:
		err = errors.Join(err, errors.New("kernel is [rows, columns]"))
	}
	return b, errors.Join(err, err2, err3)
}

// Format writes a spec so that Parse reads it back.
func Format(s chain.Spec) ([]byte, error) {
	f := file{
		Name:              s.Name,
		GenesisTime:       time.UnixMilli(int64(s.GenesisTime)).UTC(),
		GenesisDifficulty: s.GenesisDifficulty,
		MinDifficulty:     s.MinDifficulty,
		Interval:          duration(s.Interval),
		HalfLife:          duration(s.HalfLife),
		MaxFuture:         duration(s.MaxFuture),
		MaxBlockBytes:     s.MaxBlockBytes,
		MaxBlockTxs:       s.MaxBlockTxs,
		MaxTaskBlocks:     s.MaxTaskBlocks,
		PlateauBlocks:     s.PlateauBlocks,
		VerifyRate:        s.VerifyRate,
		FinalityDepth:     s.FinalityDepth,
		SnapshotInterval:  s.SnapshotInterval,
		InitialReward:     s.InitialReward,
		HalvingInterval:   s.HalvingInterval,
	}
	for _, a := range s.Allocation {
		f.Allocation = append(f.Allocation, allocation(a))
	}
	for _, d := range s.DataSets {
		f.DataSets = append(f.DataSets, dataSet{
			Name: d.Name, Kind: d.Kind, Seed: d.Seed, Count: d.Count,
			Images: fileRoot(d.Images), Labels: fileRoot(d.Labels),
			Train:      [2]uint32{d.Train.From, d.Train.To},
			Evaluation: [2]uint32{d.Evaluation.From, d.Evaluation.To},
			Test:       [2]uint32{d.Test.From, d.Test.To},
		})
	}
	for _, t := range s.Templates {
		f.Tasks = append(f.Tasks, formatTask(t))
	}
	var b bytes.Buffer
	err := toml.NewEncoder(&b).Encode(f)
	return b.Bytes(), err
}

func formatTask(t chain.Template) task {
	m := t.Model
	o := m.Optimizer
	f := task{
		Name: t.Name, Data: t.Data, TrialSteps: t.TrialSteps, Batch: m.Batch,
		Input: [3]int{m.Input.Rows, m.Input.Cols, m.Input.Channels},
		Loss:  m.Loss.String(),
		Optimizer: optimizer{
			Kind: o.Kind.String(), LearningRate: shortest(o.LearningRate),
			Beta1: shortest(o.Beta1), Beta2: shortest(o.Beta2), Epsilon: shortest(o.Epsilon), Momentum: shortest(o.Momentum),
		},
	}
	for _, l := range m.Layers {
		w := layer{Kind: l.Kind.String(), Units: l.Units, Stride: l.Stride}
		if l.KernelRows > 0 {
			w.Kernel = []int{l.KernelRows, l.KernelCols}
		}
		if l.Kind == nn.Conv2D {
			w.Padding = l.Padding.String()
		}
		if l.Activation != nn.Linear {
			w.Activation = l.Activation.String()
		}
		f.Layers = append(f.Layers, w)
	}
	return f
}

// shortest is the float64 with the fewest digits that is x as a float32: 0.001 rather than 0.0010000000474974513.
func shortest(x float32) float64 {
	v, err := strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
	if err != nil {
		panic(err) // FormatFloat writes what ParseFloat reads
	}
	return v
}
