package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
)

// ErrDiskFull says that a block was not verified because there is too little space to keep it. It is a local fault.
var ErrDiskFull = errors.New("too little space on the disk")

const (
	// compactionBytes is what the database may need for a while beyond what it holds: it writes new tables before it
	// deletes the old ones, at most five tables of 16 MiB from the top level and, at the same time, one of 4 MiB with the
	// ten that it overlaps further down; 124 MiB.
	compactionBytes = 128 << 20
	diskPoll        = 5 * time.Second
)

// How much space there is.
type diskState int

const (
	diskOK diskState = iota
	diskLow
	diskFull
)

// diskGuard watches the free space where the chain is kept. A nil one never complains.
type diskGuard struct {
	free func() (uint64, error) // bytes
	log  *zap.Logger
	// Below low the operator is warned; below full no block is taken and none is mined.
	low, full uint64

	mu    sync.Mutex
	state diskState
}

// newDiskGuard derives the limits. A block takes 60 KiB twice, as it is written when it is verified and when it becomes
// the tip, and its model state: the file of the next is written before one is deleted, and a miner's own block may come
// on top. So full is a compaction and two states, and low twice that.
func newDiskGuard(net *chain.Network, free func() (uint64, error), log *zap.Logger) *diskGuard {
	state := 0
	for i := range net.Templates {
		state = max(state, net.Templates[i].Net.StateSize())
	}
	full := uint64(compactionBytes + 2*state)
	return &diskGuard{free: free, log: log, low: 2 * full, full: full}
}

// look measures the free space and tells of a change. A state is left for a better one only with an eighth more than its
// limit, so that one does not follow the other again and again.
func (g *diskGuard) look() diskState {
	if g == nil {
		return diskOK
	}
	free, err := g.free()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.log.Debug("free space is not known", zap.Error(err))
		return g.state
	}
	limit := func(l uint64, now diskState) uint64 {
		if g.state >= now {
			return l + l/8
		}
		return l
	}
	was := g.state
	switch {
	case free < limit(g.full, diskFull):
		g.state = diskFull
	case free < limit(g.low, diskLow):
		g.state = diskLow
	default:
		g.state = diskOK
	}
	if g.state == was {
		return g.state
	}
	fields := []zap.Field{zap.Uint64("free_mib", free>>20), zap.Uint64("warn_below_mib", g.low>>20), zap.Uint64("stop_below_mib", g.full>>20)}
	switch {
	case g.state == diskFull:
		g.log.Error("the disk is full: no block is accepted or mined until there is space again", fields...)
	case g.state == diskOK:
		g.log.Info("there is enough space on the disk again", fields...)
	case was == diskFull:
		g.log.Warn("there is space on the disk again, but little: blocks are accepted", fields...)
	default:
		g.log.Warn("there is little space left on the disk", fields...)
	}
	return g.state
}

// check is ErrDiskFull where there is no space for a block.
func (g *diskGuard) check() error {
	if g.look() < diskFull {
		return nil
	}
	return fmt.Errorf("%w: less than %d MiB are free where the chain is kept; it goes on when there is more", ErrDiskFull, g.full>>20)
}

// run looks now and then, so that the operator learns of it also when no blocks come.
func (g *diskGuard) run(ctx context.Context) error {
	tick := time.NewTicker(diskPoll)
	defer tick.Stop()
	for {
		g.look()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// wait returns when there is space for a block, or with ctx's error.
func (g *diskGuard) wait(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for g.look() == diskFull {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return ctx.Err()
}

// sparing verifies no block while there is no space to keep it.
type sparing struct {
	chain.Trainer
	disk *diskGuard
}

// Train runs a trial. One whose roots are asked for is a block's; any other makes a model state anew that a valid block
// has led to.
func (s sparing) Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	if t.OnRoot != nil {
		if err := s.disk.check(); err != nil {
			return nil, err
		}
	}
	return s.Trainer.Train(ctx, template, start, t)
}
