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

// Bounds of the blocks that wait. A block is at most 60 KiB, so the queue holds at most 4 MiB, and so do those held. A
// peer id costs nothing, so all strangers of an address range together have the room of one peer.
const (
	maxQueued        = 64
	maxQueuedPerPeer = 16
	maxSidePerPeer   = 4  // of these, blocks that do not extend the tip: a quarter, as of the time
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

// standing is what the network side knows of a source.
type standing struct {
	account string    // what its blocks count for: its address range, or itself
	good    bool      // its blocks have proved good of late
	ready   time.Time // none of its blocks is run before
}

// queued is a block that waits to be verified.
type queued struct {
	block   *chain.Block
	id      chain.Hash
	from    source
	account string // of the source when the block came
	arrival chain.Arrival
}

// verifier executes blocks one after the other, away from gossip's validators. Blocks that extend the tip go first, of
// these and of the others those of good peers, then those of an account other than the one served last, then the oldest.
type verifier struct {
	manager *chain.Manager
	gate    *gate
	now     func() time.Time
	log     *zap.Logger
	// blame hears who sent an invalid block by gossip; what came by sync, sync holds against its peer itself.
	blame func(from source, why error)
	// credit hears who was the first to send a block by gossip that proved good.
	credit func(from source)
	// standing is asked for what is known of a source; nil where each is a stranger with an address of its own.
	standing func(from source) standing
	// settled hears of every block that was judged, on the goroutine that judged it.
	settled func(b *chain.Block, from source, added chain.Added, took time.Duration, err error)
	// deviceFailed is told why verifying on the device it used is not possible any more. It says whether there is another.
	deviceFailed func(error) bool

	one turn // held while a block is verified: one at a time, from gossip or from sync

	mu    sync.Mutex
	queue []queued
	held  map[chain.Hash]queued // orphans and blocks from the future, by id
	wake  chan struct{}
	last  string // account that was served last
	share timeShare
	moved chan struct{} // closed when the queue or the share has changed; nil if nobody waits for it
}

// of is the standing of a source.
func (v *verifier) of(from source) standing {
	switch {
	case from == ours:
		return standing{good: true}
	case v.standing == nil:
		return standing{account: string(from)}
	}
	return v.standing(from)
}

func millis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// offer checks a block as far as that costs little and puts it in the queue: nil if it is queued or known, else why
// not. Orphans and blocks from the future are held and looked at again.
func (v *verifier) offer(from source, b *chain.Block) error {
	account := v.of(from).account
	q := queued{block: b, id: b.Header.ID(), from: from, account: account, arrival: v.manager.Arrive(account)}
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
		if o.account == q.account {
			theirs++
		}
	}
	if len(v.held) < maxHeld && theirs < maxHeldPerPeer {
		v.held[q.id] = q
	}
}

// enqueue puts a block in the queue, within the room of its account. Where the queue is full, the account with the most
// blocks gives up its newest for an account that has fewer.
func (v *verifier) enqueue(q queued) error {
	tip, _ := v.manager.Best()
	v.mu.Lock()
	defer v.mu.Unlock()
	count, side := map[string]int{}, 0
	for _, o := range v.queue {
		if o.id == q.id {
			return nil
		}
		count[o.account]++
		if o.account == q.account && o.block.Parent != tip.ID {
			side++
		}
	}
	if count[q.account] >= maxQueuedPerPeer || q.from != ours && q.block.Parent != tip.ID && side >= maxSidePerPeer {
		return errQueueFull
	}
	if len(v.queue) >= maxQueued {
		victim := -1
		for i, o := range v.queue {
			if o.from != ours && (victim < 0 || count[o.account] >= count[v.queue[victim].account]) {
				victim = i
			}
		}
		if count[v.queue[victim].account] <= count[q.account]+1 {
			return errQueueFull
		}
		v.queue = slices.Delete(v.queue, victim, victim+1)
		v.tell()
	}
	v.push(q)
	return nil
}

// push puts a block in the queue. v.mu must be held.
func (v *verifier) push(q queued) {
	v.queue = append(v.queue, q)
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// again puts a block back whose verification was put off. It was in the queue, so that there is room for it.
func (v *verifier) again(q queued) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.push(q)
}

// next takes the block to verify now; see verifier. Blocks of those who have to wait are left.
func (v *verifier) next() (q queued, ok bool) {
	tip, _ := v.manager.Best()
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	pick, best := -1, 0
	for i, o := range v.queue {
		s := v.of(o.from)
		if now.Before(s.ready) {
			continue
		}
		rank := 1
		if o.block.Parent == tip.ID {
			rank += 4
		}
		if s.good {
			rank += 2
		}
		if o.account != v.last {
			rank++
		}
		if rank > best {
			pick, best = i, rank
		}
	}
	if pick < 0 {
		return q, false
	}
	q = v.queue[pick]
	v.queue = slices.Delete(v.queue, pick, pick+1)
	v.last = q.account
	return q, true
}

// tipWaits says whether a block in the queue extends the tip and may be run.
func (v *verifier) tipWaits(now time.Time) bool {
	tip, _ := v.manager.Best()
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.queue, func(q queued) bool {
		return q.block.Parent == tip.ID && !now.Before(v.of(q.from).ready)
	})
}

// putOff says whether work on a branch beside the tip must wait: it has had its share of the time, and work on the tip
// waits. For running and blocks see timeShare.spent.
func (v *verifier) putOff(running time.Duration, blocks int) bool {
	now := v.now()
	v.mu.Lock()
	spent := v.share.spent(now, v.interval(), running, blocks)
	v.mu.Unlock()
	return spent && v.tipWaits(now)
}

func (v *verifier) interval() time.Duration {
	return time.Duration(v.manager.Network().Interval) * time.Millisecond
}

// took notes the time of work in which so many blocks were run.
func (v *verifier) took(d time.Duration, blocks int, side bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.share.add(v.now(), v.interval(), d, blocks, side)
	v.tell()
}

// tell wakes who waits for the queue or the share to change. v.mu must be held.
func (v *verifier) tell() {
	if v.moved != nil {
		close(v.moved)
		v.moved = nil
	}
}

// awaitShare returns once a block may be run that came by sync: at once where it extends the tip.
func (v *verifier) awaitShare(ctx context.Context, b *chain.Block) error {
	for {
		v.mu.Lock()
		if v.moved == nil {
			v.moved = make(chan struct{})
		}
		moved := v.moved
		v.mu.Unlock()
		tip, changed := v.manager.Best()
		if b.Parent == tip.ID || !v.putOff(0, 0) {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-changed:
		}
	}
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
	added, err := v.judge(ctx, q.block, q.from, q.arrival)
	if errors.Is(err, chain.ErrPostponed) {
		v.again(q)
		return
	}
	if errors.Is(err, chain.ErrOrphan) || errors.Is(err, chain.ErrFuture) {
		v.hold(q)
	}
	if chain.VerdictOf(err) == chain.Invalid {
		v.forget(q.from)
		v.blame(q.from, err)
	}
	if err == nil {
		if len(added.Verified) > 0 && q.from != ours {
			v.credit(q.from)
		}
		v.release()
	}
}

// forget drops all that waits from a peer.
func (v *verifier) forget(from source) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.queue = slices.DeleteFunc(v.queue, func(q queued) bool { return q.from == from })
	maps.DeleteFunc(v.held, func(_ chain.Hash, q queued) bool { return q.from == from })
	v.tell()
}

// verify judges a block that did not come through the queue; it takes turns with those that did.
func (v *verifier) verify(ctx context.Context, b *chain.Block, from source, arrival chain.Arrival) error {
	for {
		if err := v.awaitShare(ctx, b); err != nil {
			return err
		}
		if _, err := v.judge(ctx, b, from, arrival); !errors.Is(err, chain.ErrPostponed) {
			return err
		}
	}
}

// judge gives a block to the manager, with the miner standing back meanwhile. chain.ErrPostponed says that a part of its
// branch was run and the rest must wait for work on the tip.
func (v *verifier) judge(ctx context.Context, b *chain.Block, from source, arrival chain.Arrival) (added chain.Added, err error) {
	v.gate.close()
	defer v.gate.open()
	if err := v.one.take(ctx); err != nil {
		return added, err
	}
	defer v.one.give()
	ctx, done := v.whileItMatters(ctx, b)
	defer done()
	began := v.now()
	tip, _ := v.manager.Best()
	goOn := func(executed int) bool { return !v.putOff(v.now().Sub(began), executed) }
	added, err = v.manager.AddWhile(ctx, b, millis(began), arrival, goOn)
	if deviceFailed(err) && v.deviceFailed(err) {
		added, err = v.manager.AddWhile(ctx, b, millis(began), arrival, goOn)
	}
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errOvertaken) {
		err = fmt.Errorf("%w: %w", errOvertaken, err)
	}
	took := v.now().Sub(began)
	v.took(took, added.Executed, b.Parent != tip.ID)
	v.settled(b, from, added, took, err)
	return added, err
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
	v.tell() // also because somebody's wait may have begun
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
