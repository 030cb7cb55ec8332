// Package miner mines blocks: it trains trial after trial on the best chain until a ticket wins.
package miner

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
)

// Chain is what the miner needs of the chain.
type Chain interface {
	// NewJob gives the best chain's next block to train for. now is in Unix milliseconds.
	NewJob(ctx context.Context, now uint64) (*chain.Job, error)
	// Submit takes a mined block, what its training gave, and the trained state. best says whether it is the tip now:
	// another may have come first.
	Submit(ctx context.Context, b *chain.Block, x *chain.Execution, trained *nn.State) (best bool, err error)
	// Ready waits until the node is caught up with its peers.
	Ready(ctx context.Context) error
	// Behind says whether it is not any more.
	Behind() bool
	// StandBack waits while a block is being verified.
	StandBack(ctx context.Context) error
}

// Trainer is what the miner trains on.
type Trainer interface {
	chain.Trainer
	// Width is the number of trials of a template that are best trained at once.
	Width(template int) (int, error)
	// TrainMany trains up to Width trials from start, as nn.ManyTrainer does.
	TrainMany(ctx context.Context, template int, start *nn.State, trials []nn.Trial) ([]nn.Outcome, error)
}

// Config of a Miner.
type Config struct {
	Network *chain.Network
	Chain   Chain
	Trainer Trainer // its own: the miner trains while others verify
	Payout  chain.Address
	Nonce   uint64           // of the first claim; random, so that two miners with one address differ
	Now     func() time.Time // the clock that goes into blocks
	// ReportEvery is the time between the lines that tell the rate.
	ReportEvery time.Duration
	// ReportAlso gives further fields of these lines; nil for none.
	ReportAlso func() []zap.Field
	Log        *zap.Logger
}

// Stats counts what the miner has done.
type Stats struct {
	Steps      uint64 // training steps, also of winning trials that are run again; verification not counted
	Trials     uint64
	Wins       uint64 // tickets that won
	Advancing  uint64 // of the submitted blocks
	Keeping    uint64
	StaleSteps uint64 // steps dropped because another block came first
	Faults     uint64 // winning trials that gave something else when run again
}

// Miner is a mining loop.
type Miner struct {
	cfg   Config
	nonce uint64
	wrong int // faults since the last winning trial that gave the same twice

	steps, trials, wins, advancing, keeping, stale, faults atomic.Uint64
}

// errStale says that another chain is best now, so that the work at hand is worth nothing.
var errStale = errors.New("another block came first")

// ErrFaults says that winning trials, several in a row, gave something else when run again. Run may be called again, best
// with an engine that has just proved right.
var ErrFaults = errors.New("training the same trial twice keeps giving two results")

// maxFaults in a row are taken for chance.
const maxFaults = 2

// New makes a miner.
func New(cfg Config) *Miner { return &Miner{cfg: cfg, nonce: cfg.Nonce} }

// Stats are the counts so far.
func (m *Miner) Stats() Stats {
	return Stats{
		Steps: m.steps.Load(), Trials: m.trials.Load(), Wins: m.wins.Load(), Advancing: m.advancing.Load(),
		Keeping: m.keeping.Load(), StaleSteps: m.stale.Load(), Faults: m.faults.Load(),
	}
}

// Run mines until ctx is done, whose error it returns, or until a fault that mining cannot go on with, ErrFaults among them.
func (m *Miner) Run(ctx context.Context) error {
	done := make(chan struct{})
	reports := make(chan struct{})
	go func() {
		defer close(reports)
		m.report(done)
	}()
	defer func() {
		close(done)
		<-reports
	}()
	for {
		if err := m.cfg.Chain.Ready(ctx); err != nil {
			return err
		}
		job, err := m.cfg.Chain.NewJob(ctx, m.now())
		if err != nil {
			return fmt.Errorf("mining: %w", err)
		}
		if err := m.mine(ctx, job); err != nil && !errors.Is(err, errStale) {
			return fmt.Errorf("mining: %w", err)
		}
	}
}

func (m *Miner) now() uint64 { return uint64(m.cfg.Now().UnixMilli()) }

// mine trains trials of the job until it has submitted a block or the job is stale.
func (m *Miner) mine(ctx context.Context, job *chain.Job) error {
	width, err := m.cfg.Trainer.Width(job.Base.Template)
	if err != nil {
		return err
	}
	claims, trials := make([]chain.Claim, width), make([]nn.Trial, width)
	for !m.cfg.Chain.Behind() {
		now := max(m.now(), job.Parent.Time+1)
		for i := range claims {
			claims[i] = job.Claim
			claims[i].Payout = m.cfg.Payout
			claims[i].Nonce = m.nonce
			claims[i].Time = now
			trials[i] = m.cfg.Network.Trial(job.Base.Template, claims[i].ID())
			m.nonce++
		}
		outcomes, err := m.train(ctx, job, trials)
		if err != nil {
			return err
		}
		m.trials.Add(uint64(len(outcomes)))
		for i, o := range outcomes {
			if o.Err != nil {
				continue // this nonce's batches make the model diverge: no ticket
			}
			if chain.Wins(chain.Ticket(claims[i].ID(), o.Root, o.LogitsDigest), job.Target) {
				m.wins.Add(1)
				return m.win(ctx, job, claims[i], trials[i], o)
			}
		}
	}
	return nil
}

// train runs trials side by side, steps aside for verification, and gives up when the job is stale.
func (m *Miner) train(ctx context.Context, job *chain.Job, trials []nn.Trial) ([]nn.Outcome, error) {
	done, onStep := m.pace(ctx, job, len(trials))
	trials[0].OnStep = onStep
	outcomes, err := m.cfg.Trainer.TrainMany(ctx, job.Base.Template, job.Start, trials)
	if errors.Is(err, errStale) {
		m.stale.Add(*done)
	}
	return outcomes, err
}

// pace is what happens before every step of so many trials. It counts the steps done.
func (m *Miner) pace(ctx context.Context, job *chain.Job, trials int) (done *uint64, onStep func(int) error) {
	done = new(uint64)
	return done, func(step int) error {
		*done = uint64(step * trials)
		if err := m.cfg.Chain.StandBack(ctx); err != nil {
			return err
		}
		select {
		case <-job.Stale:
			return errStale
		default:
		}
		m.steps.Add(uint64(trials))
		return nil
	}
}

// win runs the winning trial once more, which gives the early roots and catches a machine that computes wrongly, and
// submits the block.
func (m *Miner) win(ctx context.Context, job *chain.Job, claim chain.Claim, trial nn.Trial, first nn.Outcome) error {
	trial.EarlyRoots = true
	done, onStep := m.pace(ctx, job, 1)
	trial.OnStep = onStep
	again, err := m.cfg.Trainer.Train(ctx, job.Base.Template, job.Start, trial)
	if errors.Is(err, errStale) {
		m.stale.Add(*done)
	}
	if err != nil && !errors.Is(err, nn.ErrNotFinite) {
		return err
	}
	if err != nil || again.Root != first.Root || again.LogitsDigest != first.LogitsDigest {
		return m.fault("training the same trial", claim)
	}
	var losses [2]uint32
	for i := range losses {
		if err := m.cfg.Chain.StandBack(ctx); err != nil {
			return err
		}
		loss, _, err := m.cfg.Trainer.Evaluate(ctx, job.Base.Template, again.State, chain.EvaluationSplit)
		if err != nil && !errors.Is(err, nn.ErrNotFinite) {
			return err
		}
		losses[i] = math.Float32bits(loss) // 0 where it is not finite
		if err != nil && i == 1 && losses[0] == losses[1] {
			return nil // no valid block can say so
		}
	}
	if losses[0] != losses[1] {
		return m.fault("evaluating the same model", claim)
	}
	m.wrong = 0
	x := &chain.Execution{
		Steps: trial.Steps, EarlyRoots: again.EarlyRoots, Complete: true,
		LogitsDigest: again.LogitsDigest, TrainedRoot: again.Root, LossAfter: losses[0],
	}
	b := chain.NewBlock(claim, job.Base, x)
	best, err := m.cfg.Chain.Submit(ctx, b, x, again.State)
	switch {
	case err != nil:
		return err
	case !best:
		m.stale.Add(uint64(trial.Steps))
	case b.Advances():
		m.advancing.Add(1)
	default:
		m.keeping.Add(1)
	}
	return nil
}

// fault counts and tells that doing the same thing twice gave two results.
func (m *Miner) fault(what string, claim chain.Claim) error {
	m.faults.Add(1)
	m.cfg.Log.Error(what+" twice gave two results: this machine computes wrongly; check memory, overclocking and temperature",
		zap.Uint64("height", claim.Height))
	if m.wrong++; m.wrong > maxFaults {
		m.wrong = 0
		return ErrFaults
	}
	return nil
}

// report logs the rate until done is closed.
func (m *Miner) report(done <-chan struct{}) {
	tick := time.NewTicker(m.cfg.ReportEvery)
	defer tick.Stop()
	last, at := m.Stats(), time.Now()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		s, now := m.Stats(), time.Now()
		fields := []zap.Field{
			zap.Float64("steps_per_s", math.Round(float64(s.Steps-last.Steps)/now.Sub(at).Seconds()*10)/10),
			zap.Uint64("trials", s.Trials), zap.Uint64("winning_tickets", s.Wins),
			zap.Uint64("blocks_advancing", s.Advancing), zap.Uint64("blocks_keeping", s.Keeping),
			zap.Uint64("stale_steps", s.StaleSteps), zap.Uint64("faults", s.Faults),
		}
		if m.cfg.ReportAlso != nil {
			fields = append(fields, m.cfg.ReportAlso()...)
		}
		m.cfg.Log.Info("mining rate", fields...)
		last, at = s, now
	}
}
