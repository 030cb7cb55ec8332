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
	// failuresToDrop is after how many failures in a row a peer is left out of the sync at hand, and disconnected if these
	// are its own fault.
	failuresToDrop = 3
	// movesAllowed is how often a lead may go over to another chain before one of its blocks brings us forward. Honest ones
	// do so once in a reorganisation, and hardly ever twice in the second that an answer takes.
	movesAllowed = 3
	// orphanPause is for how long a peer that sends blocks without parents is not asked for these again.
	orphanPause = time.Second
)

var (
	// errEmptyPromise says that a peer reported more work than its blocks have.
	errEmptyPromise = errors.New("peer reported more work than it delivers")
	errFruitless    = fmt.Errorf("%d headers of a peer claim no more work than our chain has", maxHeadersAhead)
	// errUndelivered says that a peer gave headers and nobody the blocks.
	errUndelivered = errors.New("no peer gives the blocks of a peer's headers")
	// errNoProgress says that a peer was followed for long, and none of its blocks became our tip.
	errNoProgress = errors.New("blocks of a peer's chain come too slowly to get ahead of ours")
	// errMoved says that a peer went over to another chain between two answers.
	errMoved = errors.New("peer has gone over to another chain meanwhile")
	// errSlow says that another peer was faster with the same blocks.
	errSlow = errors.New("another peer delivered first")
)

// ingestError is what the chain said of a block or its header, as opposed to what went wrong on the way.
type ingestError struct {
	height uint64
	from   peer.ID
	err    error
}

func (e *ingestError) Error() string { return fmt.Sprintf("block at height %d: %v", e.height, e.err) }

func (e *ingestError) Unwrap() error { return e.err }

// syncLoop fetches blocks for as long as somebody is ahead: one chain at a time, that of the peer it picks.
func (s *Service) syncLoop() {
	if s.cfg.ContentOnly {
		return
	}
	for s.life.Err() == nil {
		lead, target, wait := s.peers.pickLead(s.chain.Status(), time.Now(), s.standings.of)
		if lead != "" {
			s.finishSync(lead, s.syncWith(s.life, lead, target))
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

// pickLead gives the peer whose chain to follow: one that sent an orphan, else one that reports more work than ours;
// those that have not failed go first. With none, it says how long to wait for one that has failed. A peer whose range
// has to wait is doubted meanwhile, so that it does not keep the miner waiting.
func (t *peerTable) pickLead(ours Status, now time.Time, standing func(peer.ID) Standing) (p peer.ID, target Status, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = time.Hour
	var best *peerState
	for _, e := range t.m {
		if !e.orphan && e.info.Status.Work.Cmp(ours.Work) <= 0 {
			continue
		}
		if ready := standing(e.info.ID).Ready; now.Before(ready) {
			e.doubted = true
			wait = min(wait, ready.Sub(now))
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

// finishSync draws the conclusions about the peers. Only an invalid block is held against them; what we could not judge
// for reasons of our own is tried again, with these or others.
func (s *Service) finishSync(lead peer.ID, err error) {
	if s.life.Err() != nil {
		return
	}
	s.progress.fail(err)
	if err == nil {
		s.peers.synced(lead, time.Now())
		return
	}
	if errors.Is(err, errMoved) && s.peers.moved(lead) <= movesAllowed {
		s.log.Debug("peer is asked again", zap.Stringer("peer_id", lead), zap.Error(err))
		return
	}
	if chain.VerdictOf(err) == chain.Invalid {
		s.dropLiar(lead, err)
		// Who served the block had it as verified, and so lies as well.
		var judged *ingestError
		if errors.As(err, &judged) && judged.from != lead {
			s.dropLiar(judged.from, err)
		}
		return
	}
	failures, drop, wait := s.peers.syncFailed(lead, err, time.Now(), s.cfg.Timing)
	say := s.log.Info
	if errors.Is(err, chain.ErrFuture) && !s.once.first("future "+string(lead)) {
		say = s.log.Debug // where our clock is behind, every block is from the future with every peer, and several times
	}
	say("sync interrupted, trying on", zap.Stringer("peer_id", lead), zap.Int("failures", failures),
		zap.Duration("retry_in", wait.Round(time.Millisecond)), zap.Error(err))
	if drop {
		s.disconnect(lead)
		s.peers.remove(lead)
	}
}

// dropLiar bans a peer that vouched for what is invalid.
func (s *Service) dropLiar(p peer.ID, err error) {
	s.ban(p, err)
	s.peers.remove(p) // its session does so too, once it has noticed
}

// fetchFailed draws the conclusions about a peer that did not deliver blocks: it is left alone for a while, or for good
// if what it sent is forged.
func (s *Service) fetchFailed(p peer.ID, err error) {
	if isForgery(err) {
		s.dropLiar(p, err)
		return
	}
	failures, drop, wait := s.peers.fetchFailed(p, err, time.Now(), s.cfg.Timing)
	s.log.Debug("blocks not delivered", zap.Stringer("peer_id", p), zap.Int("failures", failures),
		zap.Duration("retry_in", wait.Round(time.Millisecond)), zap.Error(err))
	if drop {
		s.disconnect(p)
		s.peers.remove(p)
	}
}

// isForgery says whether a peer sent what no honest one does: it would not have taken it for a block itself.
func isForgery(err error) bool {
	return chain.VerdictOf(err) == chain.Invalid || errors.Is(err, errNotAsked)
}

// isPeersFault is true where a peer did not deliver, and false where it is over a limit or we could not use what came.
func isPeersFault(err error) bool {
	return !isIngest(err) && !isBusy(err) &&
		(errors.Is(err, ErrGarbage) || errors.Is(err, errUndelivered) || isTimeout(err) || errors.Is(err, context.DeadlineExceeded))
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
		errors.Is(err, errNoProgress) || errors.Is(err, errMoved) ||
		errors.Is(err, chain.ErrFinality) || errors.Is(err, chain.ErrFuture) || errors.Is(err, chain.ErrSideFull)
}

// trust ends doubts in a peer whose chain has brought us forward.
func (t *peerTable) trust(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		e.doubted, e.failures, e.faults, e.moves = false, 0, 0, 0
	}
}

// moved counts that a lead went over to another chain, and gives how often it did so.
func (t *peerTable) moved(p peer.ID) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[p]
	if e == nil {
		return 0
	}
	e.moves++
	return e.moves
}

// served forgets the failures of a peer whose blocks have brought us forward on another's chain.
func (t *peerTable) served(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		e.forgive()
	}
}

// synced notes that there is nothing more to get from a peer. That alone ends no doubts in it: what it promised may have
// come from others, or from our miner.
func (t *peerTable) synced(p peer.ID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		if e.orphan {
			e.retryAt = now.Add(orphanPause)
		}
		e.orphan = false
		e.forgive()
	}
}

// syncFailed notes that following a peer has failed. It gives the number of failures in a row, whether the peer is to be
// dropped for them, and for how long it is left alone.
func (t *peerTable) syncFailed(p peer.ID, err error, now time.Time, timing Timing) (failures int, drop bool, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[p]
	if e == nil {
		return 0, false, 0
	}
	e.orphan = false
	drop, wait = e.fail(err, now, timing)
	e.doubted = e.doubted || isEmpty(err) || !isIngest(err) && e.failures >= failuresToDrop
	return e.failures, drop, wait
}

// fetchFailed notes that a peer has not delivered blocks of another's chain. It gives what syncFailed does.
func (t *peerTable) fetchFailed(p peer.ID, err error, now time.Time, timing Timing) (failures int, drop bool, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[p]
	if e == nil {
		return 0, false, 0
	}
	drop, wait = e.fail(err, now, timing)
	return e.failures, drop, wait
}

func (e *peerState) fail(err error, now time.Time, timing Timing) (drop bool, wait time.Duration) {
	e.failures++
	wait = timing.backoff(e.failures)
	e.retryAt = now.Add(wait)
	if isPeersFault(err) {
		e.faults++
		drop = e.faults >= failuresToDrop
	}
	return drop, wait
}

// forgive forgets the failures of a peer, unless it is doubted.
func (e *peerState) forgive() {
	if !e.doubted {
		e.failures, e.faults = 0, 0
	}
}

// Ahead lists the connected peers that report more total work than our chain has. One that does not deliver what it
// reports is left out until it does.
func (s *Service) Ahead() []PeerInfo {
	var out []PeerInfo
	for _, p := range s.peers.snapshot() {
		if !p.doubted && s.ahead(p.info.Status) {
			out = append(out, p.info)
		}
	}
	return out
}
