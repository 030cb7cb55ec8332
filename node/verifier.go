package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"go.uber.org/zap"
)

// Bounds of the blocks that wait. A block is at most 60 KiB, so the queue holds at most 4 MiB.
const (
	maxQueued        = 64
	maxQueuedPerPeer = 16
	maxHeld          = 64 // orphans and blocks from the future
	maxHeldPerPeer   = 8
	heldIntervals    = 10 // how far ahead a block from the future may be to be held
)

var (
	// errQueueFull says that a block was not taken because too many wait already.
	errQueueFull = errors.New("too many blocks wait for verification")
	// errOvertaken says that a block was not judged because the best chain has got ahead of it.
	errOvertaken = errors.New("the best chain has got ahead of the block")
)

// source is where a block came from: a peer's id, or ours.
type source string

const ours source = ""

// queued is a block that waits to be verified.
type queued struct {
	block   *chain.Block
	id      chain.Hash
	from    source
	arrival chain.Arrival
}

// verifier executes blocks one after the other, away from gossip's validators. Blocks that extend the tip go first,
// then the oldest of a peer other than the one served last.
type verifier struct {
	manager *chain.Manager
	gate    *gate
	now     func() time.Time
	log     *zap.Logger
	// blame hears who sent an invalid block by gossip; what came by sync, sync holds against its peer itself.
	blame func(from source, why error)
	// settled hears of every block that was judged, on the goroutine that judged it.
	settled func(b *chain.Block, from source, added chain.Added, took time.Duration, err error)
	// deviceFailed is told why verifying on the device it used is not possible any more. It says whether there is another.
	deviceFailed func(error) bool

	one turn // held while a block is verified: one at a time, from gossip or from sync

	mu    sync.Mutex
	queue []queued
	held  map[chain.Hash]queued // orphans and blocks from the future, by id
	wake  chan struct{}
	turn  source // peer that was served last
}

func millis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// offer checks a block as far as that costs little and puts it in the queue: nil if it is queued or known, else why
// not. Orphans and blocks from the future are held and looked at again.
func (v *verifier) offer(from source, b *chain.Block) error {
	q := queued{block: b, id: b.Header.ID(), from: from, arrival: v.manager.Arrive(string(from))}
	known, err := v.manager.Precheck(b, millis(v.now()))
	if known {
		return nil
	}
	if errors.Is(err, chain.ErrOrphan) || errors.Is(err, chain.ErrFuture) {
		v.hold(q)
		return err
	}
	if err != nil {
		return err
	}
	return v.enqueue(q)
}

// hold keeps a block that may be judged later: not one that is far from the tip in time or height.
func (v *verifier) hold(q queued) {
	net := v.manager.Network()
	tip, _ := v.manager.Best()
	if q.block.Time > millis(v.now())+heldIntervals*net.Interval || q.block.Height > tip.Height+orphanWindow || q.block.Height+orphanWindow < tip.Height {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	theirs := 0
	for _, o := range v.held {
		if o.from == q.from {
			theirs++
		}
	}
	if len(v.held) < maxHeld && theirs < maxHeldPerPeer {
		v.held[q.id] = q
	}
}

func (v *verifier) enqueue(q queued) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	mine := 0
	for _, o := range v.queue {
		if o.id == q.id {
			return nil
		}
		if o.from == q.from {
			mine++
		}
	}
	if len(v.queue) >= maxQueued || mine >= maxQueuedPerPeer {
		return errQueueFull
	}
	v.queue = append(v.queue, q)
	select {
	case v.wake <- struct{}{}:
	default:
	}
	return nil
}

// next takes the block to verify now: one that extends the tip if there is one, else the oldest of a peer other than the
// one served last, else the oldest.
func (v *verifier) next() (q queued, ok bool) {
	tip, _ := v.manager.Best()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.queue) == 0 {
		return q, false
	}
	pick := -1
	for i, o := range v.queue {
		if o.block.Parent == tip.ID {
			pick = i
			break
		}
		if pick < 0 || v.queue[pick].from == v.turn && o.from != v.turn {
			pick = i
		}
	}
	q = v.queue[pick]
	v.queue = append(v.queue[:pick], v.queue[pick+1:]...)
	v.turn = q.from
	return q, true
}

// run verifies until ctx is done.
func (v *verifier) run(ctx context.Context) {
	retry := time.NewTicker(time.Second) // for blocks from the future
	defer retry.Stop()
	for {
		for {
			q, ok := v.next()
			if !ok || ctx.Err() != nil {
				break
			}
			v.settle(ctx, q)
		}
		select {
		case <-ctx.Done():
			return
		case <-v.wake:
		case <-retry.C:
			v.release()
		}
	}
}

// settle verifies one block from the queue.
func (v *verifier) settle(ctx context.Context, q queued) {
	err := v.verify(ctx, q.block, q.from, q.arrival)
	if errors.Is(err, chain.ErrOrphan) || errors.Is(err, chain.ErrFuture) {
		v.hold(q)
	}
	if chain.VerdictOf(err) == chain.Invalid {
		v.forget(q.from)
		v.blame(q.from, err)
	}
	if err == nil {
		v.release()
	}
}

// forget drops all that waits from a peer.
func (v *verifier) forget(from source) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queue = slices.DeleteFunc(v.queue, func(q queued) bool { return q.from == from })
	maps.DeleteFunc(v.held, func(_ chain.Hash, q queued) bool { return q.from == from })
}

// verify gives a block to the manager, with the miner standing back meanwhile.
func (v *verifier) verify(ctx context.Context, b *chain.Block, from source, arrival chain.Arrival) error {
	v.gate.close()
	defer v.gate.open()
	if err := v.one.take(ctx); err != nil {
		return err
	}
	defer v.one.give()
	ctx, done := v.whileItMatters(ctx, b)
	defer done()
	began := v.now()
	added, err := v.manager.Add(ctx, b, millis(began), arrival)
	if deviceFailed(err) && v.deviceFailed(err) {
		added, err = v.manager.Add(ctx, b, millis(began), arrival)
	}
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errOvertaken) {
		err = fmt.Errorf("%w: %w", errOvertaken, err)
	}
	v.settled(b, from, added, v.now().Sub(began), err)
	return err
}

// whileItMatters ends the context with errOvertaken once the best chain has more work than a block on its tip can give
// it: the miner of this node does not wait for the verifier. The block is then kept aside, not executed. What it returns
// must be called.
func (v *verifier) whileItMatters(ctx context.Context, b *chain.Block) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	tip, changed := v.manager.Best()
	if b.Parent != tip.ID {
		return ctx, func() { cancel(nil) }
	}
	work := tip.Work.Add(b.Difficulty)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for best := tip; best.Work.Cmp(work) <= 0; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
			best, changed = v.manager.Best()
		}
		cancel(errOvertaken)
	}()
	return ctx, func() {
		cancel(nil)
		<-ended
	}
}

// release queues the held blocks that can be judged now.
func (v *verifier) release() {
	v.mu.Lock()
	held := v.held
	v.held = map[chain.Hash]queued{}
	v.mu.Unlock()
	for _, q := range held {
		known, err := v.manager.Precheck(q.block, millis(v.now()))
		switch {
		case known:
		case errors.Is(err, chain.ErrOrphan), errors.Is(err, chain.ErrFuture):
			v.hold(q)
		case err != nil:
			v.log.Debug("held block dropped", zap.Uint64("height", q.block.Height), zap.Error(err))
		default:
			if err := v.enqueue(q); err != nil {
				v.log.Debug("held block dropped", zap.Uint64("height", q.block.Height), zap.Error(err))
			}
		}
	}
}

// orphanWindow is how far from the tip an orphan is still waited for.
const orphanWindow = 64
