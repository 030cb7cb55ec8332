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
	// maxBans bounds each of the lists below; an entry takes some 500 bytes with its reason, all of them 6 MiB at most.
	maxBans = 4096
	// sharedBan is how long a range is banned that unrelated nodes share: enough for the ids at hand to be of no use, and
	// short for the others. Other ranges are banned for as long as an id.
	sharedBan = time.Minute
)

// ban says until when somebody is kept out, and why.
type ban struct {
	reason       string
	since, until time.Time
}

// banList knows whom we do not talk to, and whom we do not call. It is the host's connection gater.
type banList struct {
	now       func() time.Time
	standings *standings
	named     map[peer.ID]bool // by the operator: no ban of a range is for them

	mu      sync.Mutex
	banned  map[peer.ID]ban
	ranges  map[string]ban
	shunned map[peer.ID]time.Time // not dialled, but let in: it may have changed
	strikes map[peer.ID]int
	dirty   bool          // there are bans that are not in the file
	changed chan struct{} // of capacity one: wakes who writes the file
}

func newBanList(now func() time.Time, t *standings) *banList {
	return &banList{
		now: now, standings: t, named: map[peer.ID]bool{},
		banned: map[peer.ID]ban{}, ranges: map[string]ban{}, shunned: map[peer.ID]time.Time{}, strikes: map[peer.ID]int{},
		changed: make(chan struct{}, 1),
	}
}

func (l *banList) newBan(reason string, d time.Duration) ban {
	now := l.now()
	return ban{cutTo(reason, maxReason), now, now.Add(d)}
}

func (l *banList) ban(p peer.ID, reason string, d time.Duration) ban {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.newBan(reason, d)
	putBan(l.banned, p, b)
	delete(l.strikes, p)
	l.touch()
	return b
}

func (l *banList) banRange(name, reason string, d time.Duration) ban {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.newBan(reason, d)
	putBan(l.ranges, name, b)
	l.touch()
	return b
}

func (l *banList) touch() {
	l.dirty = true
	poke(l.changed)
}

// putBan makes room by dropping the ban that runs out first.
func putBan[K comparable](m map[K]ban, k K, b ban) {
	if _, again := m[k]; !again && len(m) >= maxBans {
		var first K
		found := false
		for q, o := range m {
			if !found || o.until.Before(m[first].until) {
				first, found = q, true
			}
		}
		delete(m, first)
	}
	m[k] = b
}

func (l *banList) shun(p peer.ID, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if len(l.shunned) >= maxBans {
		for q, t := range l.shunned {
			if now.After(t) {
				delete(l.shunned, q)
			}
		}
		if len(l.shunned) >= maxBans {
			clear(l.shunned) // identities cost nothing, so a list full of them protects nobody
		}
	}
	l.shunned[p] = now.Add(d)
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

func (l *banList) isBanned(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now().Before(l.banned[p].until)
}

// isRangeBanned says whether a peer is kept out for its range: not if it is named by the operator, or good.
func (l *banList) isRangeBanned(p peer.ID, from ma.Multiaddr) bool {
	name, _ := addressRange(from)
	l.mu.Lock()
	out := l.now().Before(l.ranges[name].until) && !l.named[p]
	l.mu.Unlock()
	return out && !l.standings.of(p).Good
}

// noDialBefore is when the peer may be called again; zero if now.
func (l *banList) noDialBefore(p peer.ID) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := l.banned[p].until
	if t := l.shunned[p]; t.After(until) {
		until = t
	}
	if !l.now().Before(until) {
		return time.Time{}
	}
	return until
}

// InterceptPeerDial is for the host.
func (l *banList) InterceptPeerDial(p peer.ID) bool { return l.noDialBefore(p).IsZero() }

// InterceptAddrDial is for the host.
func (l *banList) InterceptAddrDial(p peer.ID, a ma.Multiaddr) bool { return !l.isRangeBanned(p, a) }

// InterceptAccept is for the host. A range is looked at later, when the peer is known: it may be a good one.
func (l *banList) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured is for the host.
func (l *banList) InterceptSecured(_ network.Direction, p peer.ID, c network.ConnMultiaddrs) bool {
	if l.isBanned(p) || l.isRangeBanned(p, c.RemoteMultiaddr()) {
		return false
	}
	l.standings.meet(p, c.RemoteMultiaddr())
	return true
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

// ban keeps a peer out that did what no honest one does, and its address range if too many ids of it did.
func (s *Service) ban(p peer.ID, reason error) {
	if p == s.host.ID() {
		return
	}
	again := s.bans.isBanned(p) // gossip and sync may find out at the same time
	b := s.bans.ban(p, reason.Error(), s.cfg.Timing.Ban)
	name, shared := s.standings.rangeOf(p)
	if !again {
		s.log.Warn("peer banned", zap.Stringer("peer_id", p), zap.String("addr_range", name), zap.Duration("for", s.cfg.Timing.Ban),
			zap.Time("until", b.until), zap.NamedError("reason", reason))
		if s.standings.offend(p, reason, s.cfg.Timing.Ban) {
			s.banRange(name, shared, reason)
		}
	}
	// The gater keeps it out; the connection that is there must be closed as well.
	if err := s.host.Network().ClosePeer(p); err != nil && !errors.Is(err, network.ErrReset) {
		s.log.Debug("closing a connection failed", zap.Stringer("peer_id", p), zap.Error(err))
	}
}

// banRange lets no more strangers of a range in. Those that are connected stay: they may have nothing to do with it.
func (s *Service) banRange(name string, shared bool, last error) {
	d := s.cfg.Timing.Ban
	if shared {
		d = min(d, sharedBan)
	}
	b := s.bans.banRange(name, "many peers of it were banned, the last for: "+last.Error(), d)
	s.log.Warn("address range banned", zap.String("addr_range", name), zap.Bool("shared", shared), zap.Duration("for", d),
		zap.Time("until", b.until), zap.NamedError("reason", last))
}

// keepBans writes the file of bans when there are new ones, at most once in banFilePause; Close does it at the end.
func (s *Service) keepBans() {
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.bans.changed:
		}
		s.saveBans()
		if !sleep(s.life, banFilePause) {
			return
		}
	}
}

func (s *Service) saveBans() {
	if err := s.bans.save(s.banFile); err != nil {
		s.log.Warn("bans not saved; they end with this process", zap.Error(err))
	}
}

// banFilePause keeps a stream of bans from being a stream of synced writes.
const banFilePause = time.Second
