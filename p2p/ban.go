package p2p

import (
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

const (
	// strikesToBan is how many gossiped blocks may be refused at sight before their sender is banned.
	strikesToBan = 2
	// maxBans bounds each of the lists below; an entry takes some 200 bytes.
	maxBans = 4096
)

// banList knows whom we do not talk to, and whom we do not call. It is the host's connection gater.
type banList struct {
	mu      sync.Mutex
	banned  map[peer.ID]time.Time // until when
	shunned map[peer.ID]time.Time // not dialled, but let in: it may have changed
	strikes map[peer.ID]int
}

func newBanList() *banList {
	return &banList{banned: map[peer.ID]time.Time{}, shunned: map[peer.ID]time.Time{}, strikes: map[peer.ID]int{}}
}

func (l *banList) ban(p peer.ID, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	putUntil(l.banned, p, time.Now().Add(d))
	delete(l.strikes, p)
}

func (l *banList) shun(p peer.ID, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	putUntil(l.shunned, p, time.Now().Add(d))
}

// strike counts a refused block and says whether it was one too many.
func (l *banList) strike(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.strikes) >= maxBans {
		clear(l.strikes)
	}
	l.strikes[p]++
	return l.strikes[p] >= strikesToBan
}

// putUntil makes room by dropping what has run out, and else everything: identities cost nothing, so a list full of
// them protects nobody.
func putUntil(m map[peer.ID]time.Time, p peer.ID, until time.Time) {
	if len(m) >= maxBans {
		for q, t := range m {
			if time.Now().After(t) {
				delete(m, q)
			}
		}
		if len(m) >= maxBans {
			clear(m)
		}
	}
	m[p] = until
}

func (l *banList) isBanned(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.banned[p])
}

// noDialBefore is when the peer may be called again; zero if now.
func (l *banList) noDialBefore(p peer.ID) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.banned[p]
	if t := l.shunned[p]; t.After(until) {
		until = t
	}
	if !time.Now().Before(until) {
		return time.Time{}
	}
	return until
}

// InterceptPeerDial is for the host.
func (l *banList) InterceptPeerDial(p peer.ID) bool { return l.noDialBefore(p).IsZero() }

// InterceptAddrDial is for the host.
func (l *banList) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept is for the host.
func (l *banList) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured is for the host.
func (l *banList) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !l.isBanned(p)
}

// InterceptUpgraded is for the host.
func (l *banList) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// Blame drops and bans a peer whose block proved invalid. For every other error it does nothing: what could not be
// judged is nobody's fault. Blocks that were taken from gossip are reported here after their verification.
func (s *Service) Blame(from peer.ID, err error) {
	if chain.VerdictOf(err) == chain.Invalid {
		s.ban(from, err)
	}
}

func (s *Service) ban(p peer.ID, reason error) {
	if p == s.host.ID() {
		return
	}
	s.bans.ban(p, s.cfg.Timing.Ban)
	s.log.Info("peer banned", zap.Stringer("peer_id", p), zap.Duration("for", s.cfg.Timing.Ban), zap.NamedError("reason", reason))
	// The gater keeps it out; the connection that is there must be closed as well.
	if err := s.host.Network().ClosePeer(p); err != nil && !errors.Is(err, network.ErrReset) {
		s.log.Debug("closing a connection failed", zap.Stringer("peer_id", p), zap.Error(err))
	}
}
