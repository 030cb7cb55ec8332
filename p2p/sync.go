package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

const (
	// failuresToDrop is after how many failed syncs in a row a peer is disconnected.
	failuresToDrop = 3
	// maxFruitless is how many blocks of a peer are taken without more work in our chain: a branch that forks deep
	// brings nothing before it is longer than ours.
	maxFruitless = 4096
	// orphanPause is for how long a peer that sends blocks without parents is not asked for these again.
	orphanPause = time.Second
)

var (
	// errEmptyPromise says that a peer reported more work than its blocks have.
	errEmptyPromise = errors.New("peer reported more work than it delivers")
	errFruitless    = fmt.Errorf("%d blocks of a peer brought no more work", maxFruitless)
)

// ingestError is what the chain said of a block, as opposed to what went wrong on the way.
type ingestError struct {
	height uint64
	err    error
}

func (e *ingestError) Error() string { return fmt.Sprintf("block at height %d: %v", e.height, e.err) }

func (e *ingestError) Unwrap() error { return e.err }

// syncLoop fetches blocks for as long as somebody is ahead, from one peer at a time.
func (s *Service) syncLoop() {
	for s.life.Err() == nil {
		p, target, wait := s.peers.pickSource(s.chain.Status(), time.Now())
		if p != "" {
			s.finishSync(p, s.syncWith(s.life, p, target))
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-s.life.Done():
		case <-s.syncWake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pickSource gives the peer to sync with: one that sent an orphan, else one that reports more work than ours; those
// that have not failed go first. With none, it says how long to wait for one that has failed.
func (t *peerTable) pickSource(ours Status, now time.Time) (p peer.ID, target Status, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = time.Hour
	var best *peerState
	for _, e := range t.m {
		if !e.orphan && e.info.Status.Work.Cmp(ours.Work) <= 0 {
			continue
		}
		if now.Before(e.retryAt) {
			wait = min(wait, e.retryAt.Sub(now))
			continue
		}
		if best == nil || preferred(e, best) {
			best = e
		}
	}
	if best == nil {
		return "", Status{}, wait
	}
	return best.info.ID, best.info.Status, 0
}

func preferred(a, b *peerState) bool {
	if a.failures != b.failures {
		return a.failures < b.failures
	}
	if a.orphan != b.orphan {
		return a.orphan
	}
	return a.info.Status.Work.Cmp(b.info.Status.Work) > 0
}

// syncWith takes blocks from a peer until it has no more.
func (s *Service) syncWith(ctx context.Context, p peer.ID, target Status) error {
	started := time.Now()
	from := s.chain.Status()
	defer s.reportProgress(p, from.Height, target)()
	work, taken, fruitless := from.Work, 0, 0
	var last chain.Hash // of the blocks got; it need not be on our best chain
	for {
		locator := s.chain.Locator()
		if taken > 0 && (len(locator) == 0 || locator[0] != last) {
			locator = append([]chain.Hash{last}, locator...)
		}
		blocks, more, err := s.askBlocks(ctx, p, locator)
		if err != nil {
			return fmt.Errorf("get blocks: %w", err)
		}
		if len(blocks) > 0 {
			n, err := s.chain.Ingest(ctx, p, blocks)
			taken += n
			if err != nil {
				return &ingestError{blocks[min(n, len(blocks)-1)].Height, err}
			}
			last = blocks[len(blocks)-1].Header.ID()
		}
		now := s.chain.Status()
		if fruitless += len(blocks); now.Work.Cmp(work) > 0 {
			work, fruitless = now.Work, 0
			s.peers.trust(p)
		}
		switch {
		case len(blocks) > 0 && more && fruitless <= maxFruitless:
			continue
		case len(blocks) > 0 && more:
			return errFruitless
		case target.Work.Cmp(now.Work) > 0:
			// Perhaps it went back to a shorter chain meanwhile; then its next status says so.
			return errEmptyPromise
		}
		if taken > 0 {
			say := s.log.Debug
			if taken > 1 {
				say = s.log.Info
			}
			say("synced", zap.Stringer("peer_id", p), zap.Int("blocks", taken), zap.Uint64("height", now.Height),
				zap.Duration("elapsed", time.Since(started).Round(time.Millisecond)))
		}
		return nil
	}
}

// finishSync draws the conclusions about the peer. Only an invalid block is held against it; what we could not judge
// for reasons of our own is tried again, with it or another.
func (s *Service) finishSync(p peer.ID, err error) {
	if s.life.Err() != nil {
		return
	}
	if err == nil {
		s.peers.synced(p, time.Now())
		return
	}
	if chain.VerdictOf(err) == chain.Invalid {
		s.log.Debug("peer sent an invalid block", zap.Stringer("peer_id", p), zap.Error(err))
		s.ban(p, err)
		s.peers.remove(p) // its session does so too, once it has noticed
		return
	}
	failures, wait := s.peers.syncFailed(p, err, time.Now(), s.cfg.Timing)
	s.log.Info("sync interrupted, trying on", zap.Stringer("peer_id", p), zap.Int("failures", failures),
		zap.Duration("retry_in", wait.Round(time.Millisecond)), zap.Error(err))
	if failures >= failuresToDrop && isPeersFault(err) {
		s.disconnect(p)
		s.peers.remove(p)
	}
}

// isPeersFault is true where a peer did not deliver, and false where it is over a limit or we could not use what came.
func isPeersFault(err error) bool {
	return !isIngest(err) && (errors.Is(err, ErrGarbage) || isTimeout(err) || errors.Is(err, context.DeadlineExceeded))
}

func isIngest(err error) bool {
	var judged *ingestError
	return errors.As(err, &judged)
}

// isEmpty says whether the peer's report of more work is to be doubted after such a failure at once: it did not
// deliver, or what it delivers is a chain that we do not take. After other failures to deliver, such as being busy, it
// is after failuresToDrop of them, so that no peer can stop the miner by excuses.
func isEmpty(err error) bool {
	return isPeersFault(err) || errors.Is(err, errEmptyPromise) || errors.Is(err, errFruitless) ||
		errors.Is(err, chain.ErrFinality) || errors.Is(err, chain.ErrFuture) || errors.Is(err, chain.ErrSideFull)
}

// trust ends doubts in a peer whose blocks have brought us forward.
func (t *peerTable) trust(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		e.doubted, e.failures = false, 0
	}
}

func (t *peerTable) synced(p peer.ID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		if e.orphan {
			e.retryAt = now.Add(orphanPause)
		}
		e.orphan, e.doubted, e.failures = false, false, 0
	}
}

func (t *peerTable) syncFailed(p peer.ID, err error, now time.Time, timing Timing) (failures int, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[p]
	if e == nil {
		return 0, 0
	}
	e.failures++
	e.orphan = false
	e.doubted = e.doubted || isEmpty(err) || !isIngest(err) && e.failures >= failuresToDrop
	wait = timing.backoff(e.failures)
	e.retryAt = now.Add(wait)
	return e.failures, wait
}

// reportProgress logs how sync goes on until the returned function is called.
func (s *Service) reportProgress(p peer.ID, from uint64, target Status) (stop func()) {
	ctx, cancel := context.WithCancel(s.life)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for before := from; sleep(ctx, s.cfg.Timing.Progress); {
			height := s.chain.Status().Height
			s.log.Info("syncing", zap.Uint64("height", height), zap.Uint64("target_height", target.Height), zap.Stringer("peer_id", p),
				zap.Float64("blocks_per_second", (float64(height)-float64(before))/s.cfg.Timing.Progress.Seconds()))
			before = height
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
