package p2p

import (
	"errors"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/descentnet/minerd/chain"
)

// A peer id costs nothing, an address does. So what strangers may use is counted by the range that they call from: an
// IPv4 /24 or IPv6 /48, which is what one customer is usually given. All private addresses are one range and all of
// this machine another, since whoever has one of them can have all.
const (
	ipv4Range, ipv6Range = 24, 48

	// A block that a peer was the first to send, and that proved good, adds 1 to its score, up to maxScore; it halves every
	// scoreHalves. A peer is good from goodScore on: one block counts for an hour, maxScore of them for five. Only so many
	// ids can be good at a time as there were blocks in five hours.
	maxScore    = 16
	goodScore   = 0.5
	scoreHalves = time.Hour

	// After its n-th offence a range waits 2^(n-1) s before more blocks of its strangers are run, up to the length of a ban:
	// then all its ids together cost what one does, a forged block for each ban. That takes ten offences.
	firstPause = time.Second
	// offencesLast is how long a range must give no offence for its count to start anew.
	offencesLast = time.Hour
	// idsToBanRange is how many ids of a range must have been banned for the range to be. One owner's few machines that
	// compute wrongly are below it.
	idsToBanRange = 8
	// suspectRanges is from how many ranges blocks must be refused by training, with none found good in between, for this
	// machine to be suspected itself: then no range is held to account for such a block.
	suspectRanges = 3

	// maxStandings bounds the peers that are remembered, some 250 bytes each; maxRanges the ranges with offences, each at
	// most 900 bytes: 2 MiB in all.
	maxStandings = 4096
	maxRanges    = 1024
)

// addressRange is the range that an address belongs to. shared says that unrelated nodes may well be in it.
func addressRange(a ma.Multiaddr) (name string, shared bool) {
	if a == nil {
		return "unknown", true
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return "unknown", true
	}
	addr, _ := netip.AddrFromSlice(ip)
	addr = addr.Unmap()
	switch {
	case addr.IsLoopback():
		return "loopback", true
	case addr.IsPrivate(), addr.IsLinkLocalUnicast():
		return "private", true
	}
	bits := ipv6Range
	if addr.Is4() {
		bits = ipv4Range
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return "unknown", true
	}
	return prefix.String(), carrierNAT.Contains(addr)
}

// carrierNAT is the range of RFC 6598, from which many customers of one provider may call.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// isRange says whether a name is one that addressRange gives.
func isRange(name string) bool {
	p, err := netip.ParsePrefix(name)
	return err == nil && p == p.Masked() || name == "loopback" || name == "private" || name == "unknown"
}

// Standing is what a peer's past and address are worth to it.
type Standing struct {
	// Account is what its use of this node is counted under: its address range, or its own id where it is good and the
	// range is one that unrelated nodes share.
	Account string
	Good    bool      // its blocks have proved good of late
	Ready   time.Time // no block of its is to be run before
}

// standings remembers what peers and address ranges have done.
type standings struct {
	now func() time.Time

	mu     sync.Mutex
	peers  map[peer.ID]*standing
	ranges map[string]*offender
	// refused are the ranges of the blocks that training has refused since one was last found good.
	refused map[string]bool
}

type standing struct {
	addrRange string
	shared    bool
	score     float64 // as of scored
	scored    time.Time
	seen      time.Time
}

// offender is a range from which invalid blocks came.
type offender struct {
	ids      map[peer.ID]bool // at most 2*idsToBanRange of those that were banned
	offences int
	last     time.Time
	ready    time.Time
}

func newStandings(now func() time.Time) *standings {
	return &standings{now: now, peers: map[peer.ID]*standing{}, ranges: map[string]*offender{}, refused: map[string]bool{}}
}

// meet notes where a peer is connected from.
func (t *standings) meet(p peer.ID, from ma.Multiaddr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(p)
	e.addrRange, e.shared = addressRange(from)
}

// entry is the peer's; where there is no room, a stranger that was seen longest ago gives up its place, and with none
// the worst of the good.
func (t *standings) entry(p peer.ID) *standing {
	now := t.now()
	e := t.peers[p]
	if e == nil {
		if len(t.peers) >= maxStandings {
			var worst peer.ID
			for q, o := range t.peers {
				if w := t.peers[worst]; w == nil || o.scoreAt(now) < w.scoreAt(now) || o.scoreAt(now) == w.scoreAt(now) && o.seen.Before(w.seen) {
					worst = q
				}
			}
			delete(t.peers, worst)
		}
		e = &standing{addrRange: "unknown", shared: true, scored: now}
		t.peers[p] = e
	}
	e.seen = now
	return e
}

func (e *standing) scoreAt(now time.Time) float64 {
	if e.score == 0 {
		return 0
	}
	return e.score * math.Exp2(-max(0, now.Sub(e.scored).Seconds())/scoreHalves.Seconds())
}

func (e *standing) good(now time.Time) bool { return e.scoreAt(now) >= goodScore }

// of gives a peer's standing.
func (t *standings) of(p peer.ID) Standing {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, now := t.entry(p), t.now()
	s := Standing{Account: e.addrRange, Good: e.good(now)}
	if s.Good && e.shared {
		s.Account = string(p)
	}
	if r := t.ranges[e.addrRange]; r != nil && !s.Good {
		s.Ready = r.ready
	}
	return s
}

// rangeOf gives the range of a peer.
func (t *standings) rangeOf(p peer.ID) (name string, shared bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entry(p)
	return e.addrRange, e.shared
}

// credit notes a block of the peer's that proved good.
func (t *standings) credit(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, now := t.entry(p), t.now()
	e.score, e.scored = min(maxScore, e.scoreAt(now)+1), now
	clear(t.refused)
}

// offend notes that the peer was banned for the reason. It loses its score and its range has to wait. crowd says that so
// many ids of the range were banned that the range should be.
func (t *standings) offend(p peer.ID, reason error, longest time.Duration) (crowd bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, now := t.entry(p), t.now()
	e.score = 0
	if isComputed(reason) {
		if len(t.refused) < suspectRanges {
			t.refused[e.addrRange] = true
		}
		if len(t.refused) >= suspectRanges {
			return false
		}
	}
	r := t.ranges[e.addrRange]
	if r == nil || now.Sub(r.last) >= offencesLast {
		t.makeRoom(now)
		r = &offender{ids: map[peer.ID]bool{}}
		t.ranges[e.addrRange] = r
	}
	fresh := !r.ids[p]
	if fresh && len(r.ids) < 2*idsToBanRange {
		r.ids[p] = true
	}
	r.offences++
	r.last = now
	pause := longest
	if n := r.offences - 1; n < 32 {
		pause = min(longest, firstPause<<n)
	}
	r.ready = now.Add(pause)
	return fresh && len(r.ids) >= idsToBanRange
}

// isComputed says whether only training on this machine shows that a block is invalid.
func isComputed(reason error) bool {
	var fault *chain.InvalidError
	return errors.As(reason, &fault) && !fault.Proved()
}

// makeRoom drops the range whose last offence is oldest where there are too many.
func (t *standings) makeRoom(now time.Time) {
	if len(t.ranges) < maxRanges {
		return
	}
	oldest := ""
	for name, r := range t.ranges {
		if now.Sub(r.last) >= offencesLast {
			delete(t.ranges, name)
		} else if o := t.ranges[oldest]; o == nil || r.last.Before(o.last) {
			oldest = name
		}
	}
	if len(t.ranges) >= maxRanges {
		delete(t.ranges, oldest)
	}
}

// Standing says what a peer's past and address are worth to it.
func (s *Service) Standing(p peer.ID) Standing { return s.standings.of(p) }

// Credit notes a block that the peer was the first to send by gossip and that proved good. What came by request is not
// told here: everybody has those blocks to give.
func (s *Service) Credit(p peer.ID) { s.standings.credit(p) }
