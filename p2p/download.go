package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// How far sync runs ahead of the chain. Headers prove nothing, so they only name what to fetch, in bounded number; what
// is fetched waits in memory until the blocks before it were executed.
const (
	// maxHeadersAhead bounds the headers whose blocks are not executed yet, 72 bytes each. It is also the deepest fork
	// that can be followed: the chain keeps as many unverified blocks.
	maxHeadersAhead = 4096
	// maxBlocksAhead and maxBytesAhead bound the blocks being fetched or waiting. 2,048 blocks without transactions are
	// some 1.5 MiB, and minutes of work for all but the smallest tasks; the bytes are for blocks that are full. A batch on
	// its way counts as maxBatchBytes, and two more of the oldest batch are always allowed.
	maxBlocksAhead = 32 * maxBatch
	maxBytesAhead  = 16 << 20
	// fetchesPerBatch is how many peers may be asked for one batch: a second one if the first takes too long.
	fetchesPerBatch = 2
	// leadPatience and lonePatience are for how many times Stall a lead is followed while no block of its chain becomes our
	// tip: the first, which is as long as one answer may take, where another peer is ahead of us too, the second where none
	// is. Time in which our machine executes does not count. By default these are 30 seconds and two minutes.
	leadPatience = 6
	lonePatience = 4 * leadPatience
)

// download is one sync: the lead's headers, and their blocks from all peers that have them, executed in order. One
// goroutine runs its loop and owns its fields; requests and execution run beside it.
type download struct {
	s      *Service
	ctx    context.Context
	lead   peer.ID
	target Status

	events chan func() // what the work beside the loop found out, for the loop to run
	beside sync.WaitGroup

	headers  int         // that came
	last     chain.State // what the last of them claims
	asking   bool        // for headers
	complete bool        // there will be no more headers
	moved    bool        // because the lead has gone over to another chain
	stopped  error       // because of this

	wanted  []wanted // headers whose blocks are in no batch yet
	batches []*batch // oldest first, each following the one before
	byPeer  map[peer.ID]*helper
	flying  int // requests for blocks
	waiting int // bytes of fetched blocks

	excuse error // the lead's last one for not delivering blocks

	executing bool
	taken     int       // blocks
	waitsFrom time.Time // when its blocks last raised our work, or it began, later by the time in which others were executed
	failed    error     // ends it
}

// wanted is a block that is known by its header.
type wanted struct {
	id     chain.Hash
	height uint64
	work   chain.Work // in all, as its header claims: a peer that reports less does not have it
}

// batch is a run of blocks that one peer is asked for.
type batch struct {
	wanted  []wanted
	fetches map[peer.ID]fetch
	blocks  []*chain.Block // nil until they came
	bytes   int
	from    peer.ID
}

type fetch struct {
	began  time.Time
	cancel context.CancelFunc
}

// helper is what is remembered of a peer during a download.
type helper struct {
	busy     bool
	failures int        // in a row
	lacks    chain.Hash // tip of the peer at which it did not know a block: it is not asked before it has another
}

// syncWith follows the lead's chain until it has no more headers and all blocks are executed, or until that fails.
func (s *Service) syncWith(ctx context.Context, lead peer.ID, target Status) error {
	ctx, cancel := context.WithCancel(ctx)
	began := time.Now()
	d := &download{
		s: s, ctx: ctx, lead: lead, target: target,
		events: make(chan func()), byPeer: map[peer.ID]*helper{}, waitsFrom: began,
	}
	s.progress.set(d.describe(began))
	tick := time.NewTicker(s.cfg.Timing.Stall / 10) // for what no event tells: time that passes, peers that come
	defer func() {
		tick.Stop()
		cancel()
		d.beside.Wait()
		s.progress.end()
	}()
	for {
		now := time.Now()
		d.askHeaders()
		d.fillBatches()
		d.fetch(now)
		d.execute()
		over, err := d.over()
		if !over && d.slow(now) {
			over, err = true, errNoProgress
		}
		if over {
			return d.finish(began, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event := <-d.events:
			event()
		case <-tick.C:
			d.forgetGone()
			s.progress.set(d.describe(now))
		}
	}
}

// run does work beside the loop; what it returns is then done by the loop.
func (d *download) run(work func() (then func())) {
	d.beside.Go(func() {
		then := work()
		select {
		case d.events <- then:
		case <-d.ctx.Done():
		}
	})
}

// ahead is the number of blocks in batches.
func (d *download) ahead() (n int) {
	for _, b := range d.batches {
		n += len(b.wanted)
	}
	return n
}

// worthwhile says whether the blocks should be fetched: if their headers claim more work than our chain has. Of a branch
// that is complete and no longer than a batch they are in any case: the next block may make it the best one, and who
// sends a forged one is found out.
func (d *download) worthwhile() bool {
	return d.headers > 0 && (d.last.Work.Cmp(d.s.chain.Status().Work) > 0 || d.complete && d.headers <= maxBatch)
}

// askHeaders asks the lead for more headers while there is room for a whole answer.
func (d *download) askHeaders() {
	if d.asking || d.complete || len(d.wanted)+d.ahead()+maxHeaders > maxHeadersAhead {
		return
	}
	d.asking = true
	locator := d.s.chain.Locator()
	begun, last := d.headers > 0, d.last
	if begun && (len(locator) == 0 || locator[0] != last.ID) { // it is not on our best chain yet
		locator = append([]chain.Hash{last.ID}, locator...)
	}
	d.run(func() func() {
		headers, err := d.s.askHeaders(d.ctx, d.lead, locator)
		if err != nil {
			err = fmt.Errorf("get headers: %w", err)
		}
		moved := begun && len(headers) > 0 && headers[0].Parent != last.ID
		var named []wanted
		if err == nil && !moved {
			named, last, err = d.s.checkHeaders(d.lead, begun, last, headers)
		}
		return func() {
			d.asking = false
			if len(named) > 0 {
				d.headers += len(named)
				d.last = last
				d.wanted = append(d.wanted, named...)
			}
			d.complete = err != nil || moved || len(headers) < maxHeaders
			d.moved, d.stopped = moved, err
			if chain.VerdictOf(err) == chain.Invalid {
				d.failed = err
			}
		}
	})
}

// checkHeaders holds headers against the rules, the first against last or, where nothing has begun, against the verified
// block that it follows. It gives those that may be good, what the last of them claims, and why the others are not.
func (s *Service) checkHeaders(from peer.ID, begun bool, last chain.State, headers []*chain.Header) ([]wanted, chain.State, error) {
	var named []wanted
	for _, h := range headers {
		if !begun {
			var err error
			if last, err = s.chain.StateAfter(h.Parent); err != nil {
				return nil, last, &ingestError{h.Height, from, fmt.Errorf("state before it: %w", err)}
			}
			begun = true
		}
		next, err := s.chain.CheckHeader(from, last, h)
		if err != nil {
			return named, last, &ingestError{h.Height, from, fmt.Errorf("header: %w", err)}
		}
		last = next
		named = append(named, wanted{next.ID, next.Height, next.Work})
	}
	return named, last, nil
}

// fillBatches cuts batches from the headers, within bounds.
func (d *download) fillBatches() {
	if !d.worthwhile() {
		return
	}
	for len(d.wanted) > 0 && d.ahead()+maxBatch <= maxBlocksAhead {
		n := min(maxBatch, len(d.wanted))
		d.batches = append(d.batches, newBatch(d.wanted[:n]))
		d.wanted = d.wanted[n:]
	}
}

func newBatch(blocks []wanted) *batch {
	return &batch{wanted: slices.Clone(blocks), fetches: map[peer.ID]fetch{}}
}

func (b *batch) ids() []chain.Hash {
	ids := make([]chain.Hash, len(b.wanted))
	for i, w := range b.wanted {
		ids[i] = w.id
	}
	return ids
}

func (b *batch) last() wanted { return b.wanted[len(b.wanted)-1] }

// wants says whether another peer should be asked for the batch: nobody is, or the one that is takes too long.
func (b *batch) wants(now time.Time, stall time.Duration) bool {
	if b.blocks != nil || len(b.fetches) >= fetchesPerBatch {
		return false
	}
	for _, f := range b.fetches {
		if now.Sub(f.began) < stall {
			return false
		}
	}
	return true
}

func (d *download) helper(p peer.ID) *helper {
	h := d.byPeer[p]
	if h == nil {
		h = &helper{}
		d.byPeer[p] = h
	}
	return h
}

// has says whether the peer should have the batch: the lead, whose headers are newer than its last report, or one that
// reports as much work.
func (d *download) has(p *peerState, b *batch) bool {
	return (p.info.ID == d.lead || p.info.Status.Work.Cmp(b.last().work) >= 0) && d.helper(p.info.ID).lacks != p.info.Status.Tip
}

// forgetGone drops what is remembered of peers that are not connected any more.
func (d *download) forgetGone() {
	for p, h := range d.byPeer {
		if !h.busy && !d.s.peers.has(p) {
			delete(d.byPeer, p)
		}
	}
}

// fetch gives every idle peer the oldest batch that it has and that nobody else is quick with. One that has just failed
// gets the newest, which is waited for last.
func (d *download) fetch(now time.Time) {
	if !d.worthwhile() {
		return
	}
	for _, p := range d.s.peers.snapshot() {
		h := d.helper(p.info.ID)
		if h.busy || now.Before(p.retryAt) {
			continue
		}
		for i := range d.batches {
			if h.failures > 0 {
				i = len(d.batches) - 1 - i
			}
			b := d.batches[i]
			room := i == 0 || d.waiting+(d.flying+1)*maxBatchBytes <= maxBytesAhead
			if room && b.wants(now, d.s.cfg.Timing.Stall) && d.has(&p, b) {
				d.ask(p.info, b, now)
				break
			}
		}
	}
}

// ask asks a peer for a batch.
func (d *download) ask(info PeerInfo, b *batch, now time.Time) {
	p := info.ID
	ctx, cancel := context.WithCancel(d.ctx)
	b.fetches[p] = fetch{now, cancel}
	d.helper(p).busy = true
	d.flying++
	ids := b.ids()
	d.run(func() func() {
		blocks, err := d.s.askBlocks(ctx, p, ids)
		cancel()
		return func() {
			delete(b.fetches, p)
			d.helper(p).busy = false
			d.flying--
			switch {
			case err == nil && b.blocks == nil:
				d.delivered(p, b, blocks)
			case err == nil: // another peer was faster by a moment
			case b.blocks == nil || isForgery(err):
				d.undelivered(info, err)
			case time.Since(now) >= d.s.cfg.Timing.Stall: // else this peer came in late, and the first had it after all
				d.undelivered(info, errSlow)
			}
		}
	})
}

// delivered takes the blocks of a batch. Where the peer sent the first of them alone, the rest are a batch of their own.
func (d *download) delivered(p peer.ID, b *batch, blocks []*chain.Block) {
	d.helper(p).failures = 0
	for _, f := range b.fetches {
		f.cancel()
	}
	if n := len(blocks); n < len(b.wanted) {
		d.batches = slices.Insert(d.batches, slices.Index(d.batches, b)+1, newBatch(b.wanted[n:]))
		b.wanted = b.wanted[:n]
	}
	b.blocks, b.from = blocks, p
	for _, block := range blocks {
		b.bytes += block.Size()
	}
	d.waiting += b.bytes
}

// undelivered notes a failure of a peer's. That it does not know a block is none, except of the lead's, which named it.
func (d *download) undelivered(p PeerInfo, err error) {
	var failure *FailureError
	if errors.As(err, &failure) && failure.Code == minerdv1.Failure_CODE_NOT_FOUND && p.ID != d.lead {
		d.helper(p.ID).lacks = p.Status.Tip
		return
	}
	d.helper(p.ID).failures++
	if p.ID == d.lead {
		d.excuse = err
	}
	d.s.progress.fail(err)
	d.s.fetchFailed(p.ID, err)
}

// execute gives the chain the oldest batch once it is there.
func (d *download) execute() {
	if d.executing || len(d.batches) == 0 || d.batches[0].blocks == nil {
		return
	}
	d.executing = true
	b, before, began := d.batches[0], d.s.chain.Status().Work, time.Now()
	d.run(func() func() {
		n, err := d.s.chain.Ingest(d.ctx, b.from, b.blocks)
		raised := n > 0 && d.raised(b.wanted[n-1], before)
		return func() {
			d.executing = false
			d.batches = d.batches[1:]
			d.waiting -= b.bytes
			d.taken += n
			if err != nil {
				d.failed = &ingestError{b.wanted[min(n, len(b.wanted)-1)].height, b.from, err}
			}
			if !raised {
				d.waitsFrom = d.waitsFrom.Add(time.Since(began))
				return
			}
			d.waitsFrom = time.Now()
			d.s.peers.trust(d.lead)
			d.s.peers.served(b.from)
		}
	})
}

// raised says whether a block that was ingested has brought us forward: it has more work than our chain had before, and
// is at the end of our chain now. That our chain has grown meanwhile says nothing, since the miner and gossip go on.
func (d *download) raised(last wanted, before chain.Work) bool {
	return last.work.Cmp(before) > 0 && slices.Contains(d.s.chain.Locator(), last.id)
}

// slow says whether the lead has been followed for too long without getting ahead. Of a branch that forks deep below our
// tip nothing is executed before it claims more work than our chain, so that forged blocks could come one by one for hours.
func (d *download) slow(now time.Time) bool {
	waited, stall := now.Sub(d.waitsFrom), d.s.cfg.Timing.Stall
	switch {
	case d.executing || waited < leadPatience*stall:
		return false
	case waited >= lonePatience*stall:
		return true
	}
	return slices.ContainsFunc(d.s.peers.snapshot(), func(p peerState) bool {
		return p.info.ID != d.lead && !p.doubted && !now.Before(p.retryAt) && d.s.ahead(p.info.Status)
	})
}

// over says whether there is nothing left to do, or no way to do it.
func (d *download) over() (over bool, err error) {
	switch {
	case d.failed != nil:
		return true, d.failed
	case d.asking || d.executing:
		return false, nil
	case !d.worthwhile():
		if !d.complete {
			return true, errFruitless // else more headers would have been asked for
		}
		return true, nil
	case len(d.batches) == 0: // and so nothing is wanted
		return d.complete, nil
	}
	head := d.batches[0]
	if head.blocks != nil || len(head.fetches) > 0 {
		return false, nil
	}
	for _, p := range d.s.peers.snapshot() {
		if d.has(&p, head) && d.helper(p.info.ID).failures < failuresToDrop {
			return false, nil // it is busy with another batch, or left alone for a while
		}
	}
	if d.excuse != nil {
		return true, fmt.Errorf("%w: %w", errUndelivered, d.excuse)
	}
	return true, errUndelivered
}

// finish says what came of it: err, or the reason why the lead has not kept its promise.
func (d *download) finish(began time.Time, err error) error {
	now := d.s.chain.Status()
	short := d.target.Work.Cmp(now.Work) > 0
	switch {
	case err != nil:
		return err
	case short && d.stopped != nil:
		return d.stopped
	case short && d.moved:
		return errMoved
	case short:
		// Perhaps it went back to a shorter chain meanwhile; then its next status says so.
		return errEmptyPromise
	}
	if d.taken > 0 {
		say := d.s.log.Debug
		if d.taken > 1 {
			say = d.s.log.Info
		}
		say("synced", zap.Stringer("peer_id", d.lead), zap.Int("blocks", d.taken), zap.Uint64("height", now.Height),
			zap.Duration("elapsed", time.Since(began).Round(time.Millisecond)))
	}
	return nil
}
