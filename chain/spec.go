package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strings"

	"github.com/descentnet/minerd/nn"
)

// Spec is a network's genesis parameters. The hash of its canonical encoding is the network id. Times are in
// milliseconds.
type Spec struct {
	Name              string
	GenesisTime       uint64 // Unix milliseconds
	GenesisDifficulty Uint128
	MinDifficulty     Uint128
	Interval          uint64 // that blocks are meant to take
	HalfLife          uint64 // in which the difficulty reacts
	MaxFuture         uint64 // a block further ahead of the local clock waits
	MaxBlockBytes     uint32
	MaxBlockTxs       uint32
	MaxTaskBlocks     uint32 // after which a task ends
	PlateauBlocks     uint32 // blocks in a row that keep, after which a task ends
	VerifyRate        uint64 // multiply-accumulates per second of the slowest supported verifier
	FinalityDepth     uint32
	SnapshotInterval  uint32
	InitialReward     uint64 // of an advancing block
	HalvingInterval   uint64 // blocks after which the reward halves
	Allocation        []Allocation
	DataSets          []DataSet
	Templates         []Template
}

// Allocation is a balance at genesis.
type Allocation struct {
	Address Address
	Balance uint64
}

// Kinds of data sets.
const (
	Synthetic = "synthetic" // drawn by the program from Seed
	IDX       = "idx"       // IDX files
)

// DataSet names training data by their roots. Splits are index ranges.
type DataSet struct {
	Name                    string
	Kind                    string
	Seed                    uint64 // Synthetic
	Count                   uint32
	Images, Labels          File
	Train, Evaluation, Test Range
}

// File is an uncompressed IDX file: its Merkle root in leaves of 4 KiB and its length.
type File struct {
	Root   Hash
	Length uint64
}

// Range is the samples From up to, not including, To.
type Range struct{ From, To uint32 }

// Len is the number of samples.
func (r Range) Len() int { return int(r.To) - int(r.From) }

// Template is a task to be trained: a model, its data set and the length of a trial.
type Template struct {
	Name       string
	Data       string // name of the data set
	TrialSteps uint32
	Model      nn.Model
}

// ErrSpec is the kind of a network spec that is refused.
var ErrSpec = errors.New("bad network spec")

// Bounds of a spec.
const (
	minTrialSteps = 64 // below it the first step's work, which trials of one parent may share, is more than 1 %
	maxTrialSteps = 4096
	minBatch      = 16
	maxBatch      = 256
	maxSamples    = 1 << 24
	maxDrawn      = 1 << 20 // samples of a synthetic data set: 0.8 GB
	maxNameLength = 64
)

// Network is a spec that was checked, with what follows from it.
type Network struct {
	Spec
	ID        Hash
	Templates []NetTemplate
	genesis   Ledger
}

// NetTemplate is a template with its net, data set and cost.
type NetTemplate struct {
	Template
	Net  *nn.Net
	Data DataSet
	Cost Uint128 // multiply-accumulates of one trial
}

// Build checks the spec. Its errors are ErrSpec.
func (s Spec) Build() (*Network, error) {
	n := &Network{Spec: s}
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	n.ID = tagged(tagNetwork, s.encode())
	for _, a := range s.Allocation {
		n.genesis = n.genesis.Set(a.Address, Account{Balance: a.Balance})
	}
	return n, nil
}

func (n *Network) check() error {
	s := &n.Spec
	between := func(name string, v, lo, hi uint64) error {
		if v < lo || v > hi {
			return fmt.Errorf("%s = %d, allowed are %d to %d", name, v, lo, hi)
		}
		return nil
	}
	const day = 24 * 3600 * 1000
	if err := checkName(s.Name); err != nil {
		return err
	}
	if err := errors.Join(
		between("genesis_time", s.GenesisTime, 1, 1<<50),
		between("interval", s.Interval, 100, day),
		between("half_life", s.HalfLife, s.Interval, 10000*day),
		between("max_future", s.MaxFuture, 1, s.Interval),
		between("max_block_bytes", uint64(s.MaxBlockBytes), HeaderSize+8+32*12, maxBlockBytes),
		between("max_block_txs", uint64(s.MaxBlockTxs), 0, 4096),
		between("max_task_blocks", uint64(s.MaxTaskBlocks), 1, 1<<30),
		between("plateau_blocks", uint64(s.PlateauBlocks), 1, 1<<30),
		between("verify_rate", s.VerifyRate, 1, 1<<60),
		between("finality_depth", uint64(s.FinalityDepth), 1, 1<<30),
		between("snapshot_interval", uint64(s.SnapshotInterval), 1, 1<<30),
		between("initial_reward", s.InitialReward, 0, 1<<60),
		between("halving_interval", s.HalvingInterval, 1, 1<<40),
		between("number of data_sets", uint64(len(s.DataSets)), 1, 16),
		between("number of templates", uint64(len(s.Templates)), 1, 16),
	); err != nil {
		return err
	}
	if s.GenesisDifficulty.Cmp(maxDifficulty) > 0 || s.MinDifficulty.Cmp(maxDifficulty) > 0 {
		return errors.New("difficulty above 2^96")
	}
	// All rewards together are below 2*initial_reward*halving_interval.
	if hi, lo := bits.Mul64(s.InitialReward, s.HalvingInterval); hi > 0 || lo > 1<<61 {
		return errors.New("initial_reward * halving_interval is above 2^61: balances could overflow")
	}
	supply := uint64(0)
	for i, a := range s.Allocation {
		supply += a.Balance
		if a.Balance == 0 || a.Balance > 1<<62 || supply > 1<<62 || i > 0 && compareAddresses(s.Allocation[i-1].Address, a.Address) >= 0 {
			return fmt.Errorf("allocation %d: balances must be 1 to 2^62 in all, addresses in rising order", i)
		}
	}
	for i, d := range s.DataSets {
		if slices.ContainsFunc(s.DataSets[:i], func(e DataSet) bool { return e.Name == d.Name }) {
			return fmt.Errorf("two data sets of the name %q", d.Name)
		}
		if err := d.check(); err != nil {
			return fmt.Errorf("data set %q: %w", d.Name, err)
		}
	}
	for _, t := range s.Templates {
		nt, err := s.buildTemplate(t)
		if err != nil {
			return fmt.Errorf("template %q: %w", t.Name, err)
		}
		n.Templates = append(n.Templates, nt)
	}
	return nil
}

// checkName keeps names fit for paths and logs: a data directory is named after its network.
func checkName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if name == "" || len(name) > maxNameLength || name[0] == '.' || strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(letters, r) }) {
		return fmt.Errorf("name %.80q: allowed are 1 to %d letters, digits and ._- with no dot at the start", name, maxNameLength)
	}
	return nil
}

func (d DataSet) check() error {
	if err := checkName(d.Name); err != nil {
		return err
	}
	if d.Kind != Synthetic && d.Kind != IDX {
		return fmt.Errorf("kind %q, there are %q and %q", d.Kind, Synthetic, IDX)
	}
	if d.Kind != Synthetic && d.Seed != 0 {
		return errors.New("only a synthetic data set has a seed")
	}
	most := uint32(maxSamples)
	if d.Kind == Synthetic {
		most = maxDrawn
	}
	if d.Count < 1 || d.Count > most {
		return fmt.Errorf("%d samples, allowed are 1 to %d", d.Count, most)
	}
	splits := []Range{d.Train, d.Evaluation, d.Test}
	for i, name := range []string{"train", "evaluation", "test"} {
		r := splits[i]
		if r.From >= r.To || r.To > d.Count {
			return fmt.Errorf("%s split %d..%d is not within the %d samples, or empty", name, r.From, r.To, d.Count)
		}
		for _, o := range splits[:i] {
			if r.From < o.To && o.From < r.To {
				return fmt.Errorf("%s split %d..%d overlaps another", name, r.From, r.To)
			}
		}
	}
	return nil
}

func (s *Spec) buildTemplate(t Template) (nt NetTemplate, err error) {
	if err := checkName(t.Name); err != nil {
		return nt, err
	}
	i := slices.IndexFunc(s.DataSets, func(d DataSet) bool { return d.Name == t.Data })
	if i < 0 {
		return nt, fmt.Errorf("there is no data set %q", t.Data)
	}
	if t.TrialSteps < minTrialSteps || t.TrialSteps > maxTrialSteps {
		return nt, fmt.Errorf("%d steps per trial, allowed are %d to %d", t.TrialSteps, minTrialSteps, maxTrialSteps)
	}
	if t.Model.Batch < minBatch || t.Model.Batch > maxBatch {
		return nt, fmt.Errorf("batch of %d samples, allowed are %d to %d", t.Model.Batch, minBatch, maxBatch)
	}
	net, err := t.Model.Build()
	if err != nil {
		return nt, err
	}
	nt = NetTemplate{Template: t, Net: net, Data: s.DataSets[i]}
	// Products in big integers: a spec must not overflow its way past the limit.
	mul := func(a, b int64) *big.Int { return new(big.Int).Mul(big.NewInt(a), big.NewInt(b)) }
	step := mul(int64(t.Model.Batch), net.TrainMulAdds)
	step.Add(step, mul(8, int64(net.Params)))
	cost := step.Mul(step, big.NewInt(int64(t.TrialSteps)))
	nt.Cost = uint128(cost)
	check := new(big.Int).Add(cost, mul(int64(nt.Data.Evaluation.Len()), net.ForwardMulAdds))
	allowed := new(big.Int).Mul(new(big.Int).SetUint64(s.VerifyRate), new(big.Int).SetUint64(s.Interval))
	allowed.Div(allowed, big.NewInt(10*1000))
	if check.Cmp(allowed) > 0 {
		return nt, fmt.Errorf("a trial and an evaluation take %v multiply-accumulates, allowed are %v: what verify_rate does in a tenth of the interval", check, allowed)
	}
	return nt, nil
}

// floor is the least difficulty of a task: no ticket wins with a chance above 1/8, else the fastest miner takes all.
func (n *Network) floor(t *NetTemplate) Uint128 {
	eight := new(big.Int).Lsh(t.Cost.Big(), 3)
	return maxU128(n.MinDifficulty, uint128(eight))
}

// encode is the spec's canonical encoding: fields in order, integers little-endian, strings and lists with their
// length (u32) before them.
func (s *Spec) encode() []byte {
	var e encoder
	e.str(s.Name)
	e.u64(s.GenesisTime)
	e.u128(s.GenesisDifficulty)
	e.u128(s.MinDifficulty)
	e.u64(s.Interval)
	e.u64(s.HalfLife)
	e.u64(s.MaxFuture)
	e.u32(s.MaxBlockBytes)
	e.u32(s.MaxBlockTxs)
	e.u32(s.MaxTaskBlocks)
	e.u32(s.PlateauBlocks)
	e.u64(s.VerifyRate)
	e.u32(s.FinalityDepth)
	e.u32(s.SnapshotInterval)
	e.u64(s.InitialReward)
	e.u64(s.HalvingInterval)
	e.u32(uint32(len(s.Allocation)))
	for _, a := range s.Allocation {
		e.b = append(e.b, a.Address[:]...)
		e.u64(a.Balance)
	}
	e.u32(uint32(len(s.DataSets)))
	for _, d := range s.DataSets {
		e.str(d.Name)
		e.str(d.Kind)
		e.u64(d.Seed)
		e.data(&d)
	}
	e.u32(uint32(len(s.Templates)))
	for _, t := range s.Templates {
		e.str(t.Name)
		e.str(t.Data)
		e.u32(t.TrialSteps)
		e.model(&t.Model)
	}
	return e.b
}

type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)     { e.b = append(e.b, v) }
func (e *encoder) u32(v uint32)   { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64)   { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) f32(v float32)  { e.u32(math.Float32bits(v)) }
func (e *encoder) u128(v Uint128) { e.u64(v.Lo); e.u64(v.Hi) }
func (e *encoder) hash(h Hash)    { e.b = append(e.b, h[:]...) }
func (e *encoder) str(s string)   { e.u32(uint32(len(s))); e.b = append(e.b, s...) }
func (e *encoder) ints(v ...int) {
	for _, x := range v {
		e.u32(uint32(x))
	}
}

// data encodes what of a data set is consensus: files and splits.
func (e *encoder) data(d *DataSet) {
	e.u32(d.Count)
	for _, f := range []File{d.Images, d.Labels} {
		e.hash(f.Root)
		e.u64(f.Length)
	}
	for _, r := range []Range{d.Train, d.Evaluation, d.Test} {
		e.u32(r.From)
		e.u32(r.To)
	}
}

// model encodes layers, loss, optimizer and batch.
func (e *encoder) model(m *nn.Model) {
	e.ints(m.Input.Rows, m.Input.Cols, m.Input.Channels, len(m.Layers))
	for _, l := range m.Layers {
		e.u8(uint8(l.Kind))
		e.ints(l.Units, l.KernelRows, l.KernelCols, l.Stride)
		e.u8(uint8(l.Padding))
		e.u8(uint8(l.Activation))
	}
	e.u8(uint8(m.Loss))
	o := m.Optimizer
	e.u8(uint8(o.Kind))
	for _, v := range []float32{o.LearningRate, o.Beta1, o.Beta2, o.Epsilon, o.Momentum} {
		e.f32(v)
	}
	e.ints(m.Batch)
}
