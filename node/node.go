// Package node puts the parts of a minerd node together and owns their start and stop.
package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/store"
	"go.uber.org/zap"
)

// Config of a Node.
type Config struct {
	Network    *chain.Network
	DataDir    string // "" keeps everything in memory
	DatasetDir string // folder of the IDX files of networks that need them; "" has them come from peers, into DataDir
	Mine       bool
	Payout     chain.Address
	Nonce      uint64 // first nonce of the miner; random
	// Devices to train on, one miner on each; the first verifies too, and the CPU if that fails. None is the CPU.
	Devices []Device
	Threads int // of the CPU; 0 is all cores
	Models  chain.ModelLimits
	Peers   *PeersConfig // nil runs without a network
	Version string
	Log     *zap.Logger
	Now     func() time.Time
	// Measure times this machine at the start and warns if it is slower than the network needs.
	Measure bool
	// ReportEvery is the time between the miner's rate lines.
	ReportEvery time.Duration
	// MaxTemperature is the temperature in °C above which a device that tells its own pauses; 0 is none.
	MaxTemperature int
	// FreeSpace is the number of bytes that are free for the chain; nil asks the system about DataDir.
	FreeSpace func() (uint64, error)
}

// freeSpace tells the number of bytes that are free where the chain is kept.
func (c *Config) freeSpace() func() (uint64, error) {
	if c.FreeSpace != nil {
		return c.FreeSpace
	}
	return func() (uint64, error) { return freeSpace(c.DataDir) }
}

// Node is a running node.
type Node struct {
	cfg      Config
	log      *zap.Logger
	store    closableStore
	manager  *chain.Manager
	checking *trainer // of the verifier
	workers  []*worker
	gate     gate
	disk     *diskGuard // nil where everything is kept in memory
	files    library    // of the data sets
	verifier *verifier
	peers    peers
}

type closableStore interface {
	chain.Store
	Close() error
}

// memoryStore is a store that goes with the process.
type memoryStore struct{ *store.Memory }

func (memoryStore) Close() error { return nil }

// Open makes a node ready to run: it opens the store, loads the data, opens the network, and begins the chain if there
// is none. Data that are not here are fetched from peers first, for as long as that takes. What it opened, Close closes.
func Open(ctx context.Context, cfg Config) (n *Node, err error) {
	if len(cfg.Devices) == 0 {
		cfg.Devices = []Device{CPU(cfg.Threads)}
	}
	n = &Node{cfg: cfg, log: cfg.Log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if cfg.DataDir == "" {
		n.store = memoryStore{store.NewMemory()}
	} else {
		s, err := store.Open(cfg.DataDir, store.Options{Network: cfg.Network.ID, NetworkName: cfg.Network.Name, Logger: cfg.Log.Named("store")})
		if err != nil {
			return n, err
		}
		n.store = s
		n.disk = newDiskGuard(cfg.Network, cfg.freeSpace(), cfg.Log.Named("store"))
	}
	data, err := n.loadOrFetch(ctx)
	if err != nil {
		return n, err
	}
	n.checking = newTrainer(cfg.Network, data, cfg.Devices[0].single())
	was, wasErr := n.store.Tip()
	if n.manager, err = chain.OpenManager(ctx, cfg.Network, n.store, sparing{n.checking, n.disk}, cfg.Models); err != nil {
		if errors.Is(err, chain.ErrCorrupt) {
			err = fmt.Errorf("%w; `minerd fsck --repair` mends what can be mended", err)
		}
		return n, fmt.Errorf("opening the chain: %w", err)
	}
	if tip, _ := n.manager.Best(); wasErr == nil && tip.ID != was.ID {
		n.log.Info("verified blocks were adopted that a crash had kept off the best chain", zap.Uint64("from_height", was.Height),
			zap.Stringer("from_id", was.ID), zap.Uint64("height", tip.Height), zap.Stringer("block_id", tip.ID))
	}
	n.verifier = &verifier{
		manager: n.manager, gate: &n.gate, now: cfg.Now, log: cfg.Log.Named("verify"), settled: n.settled, deviceFailed: n.verifyOnCPU,
		blame: func(from source, why error) { n.peers.Blame(from, why) },
		one:   newTurn(), held: map[chain.Hash]queued{}, wake: make(chan struct{}, 1),
	}
	n.verifier.credit = func(from source) { n.peers.Credit(from) }
	n.verifier.standing = func(from source) standing { return n.peers.Standing(from) }
	n.peers = alone{}
	if cfg.Peers != nil {
		if n.peers, err = openPeers(cfg, n); err != nil {
			return n, err
		}
	}
	if cfg.Mine {
		for i, d := range cfg.Devices {
			n.workers = append(n.workers, n.newWorker(d, newTrainer(cfg.Network, data, d), cfg.Nonce+uint64(i)<<48))
		}
	}
	return n, nil
}

// OpenTrainer loads a network's data and makes a trainer on the device, for who checks a chain without running a node.
// datasetDir is the folder of the IDX files of networks that need them, "" where those are meant that came from peers
// into dataDir; ErrNoData says that they are missing.
func OpenTrainer(net *chain.Network, datasetDir, dataDir string, d Device) (t chain.Trainer, closeTrainer func(), err error) {
	data, _, err := loadData(net, foldersOf(datasetDir, dataDir))
	if err != nil {
		return nil, nil, err
	}
	own := newTrainer(net, data, d)
	return own, own.Close, nil
}

// Manager is the node's chain.
func (n *Node) Manager() *chain.Manager { return n.manager }

// Run runs the node until ctx is done, or until a part of it fails for good.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	defer cancel(nil)
	n.started()
	if n.cfg.Measure {
		if err := n.measure(ctx); err != nil {
			return err
		}
	}
	part("verifier", func(ctx context.Context) error { n.verifier.run(ctx); return nil })
	part("follower", n.follow)
	part("peers", n.peers.Run)
	if n.disk != nil {
		part("disk", n.disk.run)
	}
	for _, w := range n.workers {
		part("miner", w.run)
	}
	<-ctx.Done()
	n.log.Info("shutting down")
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Close ends what Open began. It may be called on a node whose Open failed.
func (n *Node) Close() error {
	var errs []error
	if n.peers != nil {
		errs = append(errs, n.peers.Close())
	}
	for _, w := range n.workers {
		w.trainer.Close()
	}
	if n.checking != nil {
		n.checking.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

func (n *Node) engineName() string {
	name, err := n.checking.engineName(0)
	if err != nil {
		return err.Error()
	}
	return name
}

func (n *Node) started() {
	tip, _ := n.manager.Best()
	fields := []zap.Field{
		zap.String("version", n.cfg.Version), zap.String("network", n.cfg.Network.Name), zap.Stringer("network_id", n.cfg.Network.ID),
		zap.Uint64("height", tip.Height), zap.Stringer("block_id", tip.ID), zap.Uint32("task", tip.TaskNumber), zap.Float32("loss", lossOf(tip)),
	}
	if n.cfg.DataDir != "" {
		dir, err := filepath.Abs(n.cfg.DataDir)
		if err != nil {
			dir = n.cfg.DataDir
		}
		fields = append(fields, zap.String("data_dir", dir))
	}
	n.log.Info("node started", append(fields, n.peers.Describe()...)...)
}

// measure warns where this machine is slower than what the network counts on.
func (n *Node) measure(ctx context.Context) error {
	var rate, steps float64
	err := n.onVerifier(func() (err error) {
		rate, steps, err = n.checking.measure(ctx, 0)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("timing this machine: %w", err)
	}
	need := float64(n.cfg.Network.VerifyRate)
	fields := []zap.Field{
		zap.String("engine", n.engineName()), zap.Float64("steps_per_s", round(steps)),
		zap.Float64("rate", round(rate)), zap.Float64("verify_rate", need),
	}
	if rate < need {
		n.log.Warn("this machine is slower than the network's verify_rate: it may not keep up with the chain", fields...)
	} else {
		n.log.Info("this machine is fast enough to verify", fields...)
	}
	return nil
}

// mineable is the node as the miner on a device sees it.
type mineable struct {
	n      *Node
	device string
}

func (m mineable) NewJob(ctx context.Context, now uint64) (*chain.Job, error) {
	var job *chain.Job
	err := m.n.onVerifier(func() (err error) { // it may train, on what verifies and not on the miner's device
		job, err = m.n.manager.NewJob(ctx, now)
		return err
	})
	return job, err
}

// StandBack waits while blocks are verified on the miner's own device.
func (m mineable) StandBack(ctx context.Context) error {
	if m.n.checking.name.Load() != m.device {
		return ctx.Err()
	}
	return m.n.gate.wait(ctx)
}

// Ready waits until there is space for a block, the node has caught up, and the clock with the chain: a block that is
// ahead of the others' clocks would not be taken.
func (m mineable) Ready(ctx context.Context) error {
	n := m.n
	if err := n.disk.wait(ctx); err != nil {
		return err
	}
	if err := n.peers.CaughtUp(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for said := false; ; {
		tip, _ := n.manager.Best()
		now := millis(n.cfg.Now())
		if tip.Time < now+n.cfg.Network.MaxFuture {
			return ctx.Err()
		}
		if !said {
			said = true
			n.log.Warn("mining waits: the chain is ahead of this machine's clock, which may be wrong",
				zap.Time("chain_time", time.UnixMilli(int64(tip.Time))), zap.Time("clock", time.UnixMilli(int64(now))))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Behind says whether the work at hand is likely worth nothing.
func (m mineable) Behind() bool { return m.n.peers.Behind() || m.n.disk.look() == diskFull }

// Submit takes our own block: it was just run twice, so nothing is run again. One that cannot be judged for a local
// reason is queued and tried again.
func (m mineable) Submit(ctx context.Context, b *chain.Block, x *chain.Execution, trained *nn.State) (best bool, err error) {
	n := m.n
	n.manager.Remember(b.Claim.ID(), x, trained)
	began := n.cfg.Now()
	arrival := n.manager.Arrive("")
	added, err := n.manager.Add(ctx, b, millis(began), arrival)
	n.settled(b, ours, added, n.cfg.Now().Sub(began), err)
	if err == nil {
		return !added.Side, nil
	}
	if chain.VerdictOf(err) == chain.Invalid {
		return false, err
	}
	return false, n.verifier.enqueue(queued{block: b, id: b.Header.ID(), from: ours, arrival: arrival})
}
