package p2p

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/descentnet/minerd/chain"
)

// clock is one that tests move.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time { return c.t }

func (c *clock) pass(d time.Duration) { c.t = c.t.Add(d) }

var errForged = &chain.InvalidError{Kind: chain.ErrTrainedRoot, Step: 128}
var errProved = &chain.InvalidError{Kind: chain.ErrTicket}

func addr(ip string) ma.Multiaddr {
	if strings.Contains(ip, ":") {
		return ma.StringCast("/ip6/" + ip + "/udp/1/quic-v1")
	}
	return ma.StringCast("/ip4/" + ip + "/tcp/1")
}

// conn is a connection from an address.
type conn struct {
	network.ConnMultiaddrs
	from ma.Multiaddr
}

func (c conn) RemoteMultiaddr() ma.Multiaddr { return c.from }

func TestAddressRange(t *testing.T) {
	for _, c := range []struct {
		ip, name string
		shared   bool
	}{
		{"198.51.100.7", "198.51.100.0/24", false},
		{"198.51.100.255", "198.51.100.0/24", false},
		{"::ffff:198.51.100.7", "198.51.100.0/24", false},
		{"2001:db8:1:2:3::4", "2001:db8:1::/48", false},
		{"2001:db8:1:ffff::1", "2001:db8:1::/48", false},
		{"127.0.0.1", "loopback", true},
		{"127.1.2.3", "loopback", true},
		{"::1", "loopback", true},
		{"10.1.2.3", "private", true},
		{"192.168.7.7", "private", true},
		{"fd00::1", "private", true},
		{"fe80::1", "private", true},
		{"100.64.9.1", "100.64.9.0/24", true},
	} {
		name, shared := addressRange(addr(c.ip))
		if name != c.name || shared != c.shared || !isRange(name) {
			t.Errorf("%s is of %q (shared %v), want %q (%v)", c.ip, name, shared, c.name, c.shared)
		}
	}
	for _, a := range []ma.Multiaddr{nil, ma.StringCast("/dns4/example.org/tcp/1")} {
		if name, shared := addressRange(a); name != "unknown" || !shared {
			t.Errorf("%v is of %q (shared %v)", a, name, shared)
		}
	}
}

// TestAdversaryThousandIDs: ids without end from one range get the forged blocks of about one id run, and soon none of
// the range gets in.
func TestAdversaryThousandIDs(t *testing.T) {
	const ban = 10 * time.Minute
	c := newClock()
	s := newStandings(c.now)
	l := newBanList(c.now, s)
	run, refused, crowd := 0, 0, false
	var perPeriod []int
	for period := range 18 { // three hours, in which a forged block of an id that nobody knows is always at hand
		before := run
		for step := range 600 {
			p := peer.ID(fmt.Sprintf("id %d %d", period, step))
			if !l.InterceptSecured(network.DirInbound, p, conn{from: addr("198.51.100.7")}) {
				refused++
			} else if !c.now().Before(s.of(p).Ready) {
				run++
				l.ban(p, errForged.Error(), ban)
				if s.offend(p, errForged, ban) {
					crowd = true
					l.banRange("198.51.100.0/24", "many", ban)
				}
			}
			c.pass(time.Second)
		}
		perPeriod = append(perPeriod, run-before)
	}
	t.Logf("adversary=%q offered=%d run=%d per_ban=%v kept_out=%d", "an id for every forged block, one range", 18*600, run, perPeriod, refused)
	if !crowd {
		t.Error("the range was never banned")
	}
	for i, n := range perPeriod {
		if limit := 1; i > 0 && n > limit || i == 0 && n > 10 {
			t.Errorf("in ban period %d, %d forged blocks were run, want what one id gets, after ten in all", i, n)
		}
	}
	// Others have not been touched.
	l.InterceptSecured(network.DirInbound, "other", conn{from: addr("203.0.113.1")})
	if got := s.of("other"); !got.Ready.IsZero() || got.Account != "203.0.113.0/24" {
		t.Errorf("another range has standing %+v", got)
	}
}

// What is remembered stays bounded whoever comes, and the good are forgotten last.
func TestStandingsAreBounded(t *testing.T) {
	c := newClock()
	s := newStandings(c.now)
	s.meet("good", addr("192.168.1.1"))
	s.credit("good")
	for i := range 2 * maxStandings {
		p := peer.ID(fmt.Sprint("id ", i))
		s.meet(p, addr(fmt.Sprintf("20.%d.%d.1", i/256, i%256)))
		s.offend(p, errProved, time.Minute)
		c.pass(time.Millisecond)
	}
	if len(s.peers) > maxStandings || len(s.ranges) > maxRanges {
		t.Errorf("%d peers and %d ranges are remembered", len(s.peers), len(s.ranges))
	}
	if got := s.of("good"); !got.Good {
		t.Errorf("the good peer was forgotten: %+v", got)
	}
	l := newBanList(c.now, s)
	for i := range 2 * maxBans {
		l.ban(peer.ID(fmt.Sprint("id ", i)), "reason", time.Minute)
		l.banRange(fmt.Sprintf("20.%d.%d.0/24", i/256, i%256), "reason", time.Minute)
		c.pass(time.Millisecond)
	}
	if len(l.banned) > maxBans || len(l.ranges) > maxBans {
		t.Errorf("%d bans of ids, %d of ranges", len(l.banned), len(l.ranges))
	}
	if !l.isBanned(peer.ID(fmt.Sprint("id ", 2*maxBans-1))) || l.isBanned("id 0") {
		t.Error("not the newest bans are kept")
	}
}

func TestScore(t *testing.T) {
	c := newClock()
	s := newStandings(c.now)
	s.meet("a", addr("127.0.0.1"))
	s.meet("b", addr("198.51.100.7"))
	if got := s.of("a"); got.Good || got.Account != "loopback" {
		t.Errorf("a stranger has %+v", got)
	}
	s.credit("a")
	s.credit("b")
	if got := s.of("a"); !got.Good || got.Account != "a" {
		t.Errorf("a good peer of a shared range has %+v", got)
	}
	if got := s.of("b"); !got.Good || got.Account != "198.51.100.0/24" {
		t.Errorf("a good peer of another range has %+v", got)
	}
	c.pass(scoreHalves + time.Second)
	if s.of("a").Good {
		t.Error("one block counts for more than an hour")
	}
	for range 1000 {
		s.credit("a")
	}
	c.pass(5*scoreHalves - time.Second)
	if !s.of("a").Good {
		t.Error("many blocks count for less than five hours")
	}
	c.pass(2 * time.Second)
	if s.of("a").Good {
		t.Error("many blocks count for more than five hours")
	}
	s.credit("a")
	s.offend("a", errProved, time.Minute)
	if s.of("a").Good {
		t.Error("good after a forged block")
	}
}

// A range pays for its strangers only, and for an hour.
func TestPauseOfRange(t *testing.T) {
	c := newClock()
	s := newStandings(c.now)
	for _, p := range []peer.ID{"bad", "stranger", "good"} {
		s.meet(p, addr("198.51.100.7"))
	}
	s.credit("good")
	start := c.now()
	for n, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		s.offend("bad", errProved, 10*time.Minute)
		if got := s.of("stranger").Ready.Sub(start); got != want {
			t.Errorf("after offence %d the range waits %v, want %v", n+1, got, want)
		}
	}
	if got := s.of("good"); !got.Ready.IsZero() {
		t.Errorf("a good peer waits: %+v", got)
	}
	c.pass(offencesLast)
	s.offend("bad", errProved, 10*time.Minute)
	if got := s.of("stranger").Ready.Sub(c.now()); got != time.Second {
		t.Errorf("an hour later the range waits %v, want a second", got)
	}
}

// One machine that offends again and again does not get its range banned; eight ids do. Who is good or was named by the
// operator is let in all the same.
func TestBanOfRange(t *testing.T) {
	c := newClock()
	s := newStandings(c.now)
	l := newBanList(c.now, s)
	for range 50 {
		if s.offend("one", errProved, time.Minute) {
			t.Fatal("one id gets its range banned")
		}
		c.pass(10 * time.Minute)
	}
	from := conn{from: addr("198.51.100.7")}
	l.InterceptSecured(network.DirInbound, "good", from)
	s.credit("good")
	l.named["named"] = true
	for i := range idsToBanRange {
		p := peer.ID(fmt.Sprint("id ", i))
		l.InterceptSecured(network.DirInbound, p, from)
		if got, want := s.offend(p, errProved, time.Minute), i == idsToBanRange-1; got != want {
			t.Fatalf("after %d ids the range is banned: %v, want %v", i+1, got, want)
		}
	}
	l.banRange("198.51.100.0/24", "many", 10*time.Minute)
	for p, want := range map[peer.ID]bool{"good": true, "named": true, "stranger": false} {
		if got := l.InterceptSecured(network.DirInbound, p, from); got != want {
			t.Errorf("%s is let in: %v, want %v", p, got, want)
		}
		if got := l.InterceptAddrDial(p, from.from); got != want {
			t.Errorf("%s may be called: %v, want %v", p, got, want)
		}
	}
	if !l.InterceptSecured(network.DirInbound, "stranger", conn{from: addr("198.51.101.7")}) {
		t.Error("a stranger of another range is kept out")
	}
	c.pass(10 * time.Minute)
	if !l.InterceptSecured(network.DirInbound, "stranger", from) {
		t.Error("the ban of a range does not end")
	}
}

// TestLocalFaultsBanNobody: nothing but a proof of a broken rule, or a training result, is held against a peer, and a
// machine that refuses blocks from everywhere by training suspects itself rather than whole ranges.
func TestLocalFaultsBanNobody(t *testing.T) {
	n := newNode(t, newFakeChain(makeChain(1, 0)), nil)
	for i, err := range []error{
		nil, errLocal, chain.ErrOrphan, chain.ErrFuture, chain.ErrFinality, chain.ErrSideFull, chain.ErrPostponed, chain.ErrCorrupt,
		chain.ErrNotFound, os.ErrPermission, &chain.InvalidError{Kind: chain.ErrVersion}, fmt.Errorf("store: %w", errLocal),
	} {
		for range 2 * idsToBanRange {
			n.Blame(peer.ID(fmt.Sprint("peer ", i)), err)
		}
	}
	if len(n.bans.banned)+len(n.bans.ranges)+len(n.standings.ranges) > 0 {
		t.Errorf("banned: %v %v, offenders %v", n.bans.banned, n.bans.ranges, n.standings.ranges)
	}
	c := newClock()
	s := newStandings(c.now)
	for i := range 100 {
		p := peer.ID(fmt.Sprint("peer ", i))
		s.meet(p, addr(fmt.Sprintf("20.0.%d.1", i%5)))
		if s.offend(p, errForged, time.Minute) {
			t.Fatal("a range is banned for what may be this machine's fault")
		}
	}
	if len(s.ranges) >= suspectRanges {
		t.Errorf("%d ranges are held to account", len(s.ranges))
	}
	s.credit("anybody") // the machine is well
	s.meet("forger", addr("20.0.4.1"))
	s.offend("forger", errForged, time.Minute)
	if s.of("forger").Ready.IsZero() {
		t.Error("a range is not held to account once this machine has found a block good")
	}
}

// bansIn gives how many bans of the file at path are in force.
func bansIn(t *testing.T, path string) int {
	t.Helper()
	bans, err := ReadBans(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(bans)
}

func TestBansSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	keep := func(cfg *Config) { cfg.AddressBook = filepath.Join(dir, "peers.json") }
	file := BanFile(filepath.Join(dir, "peers.json"))
	liar := newNode(t, newFakeChain(makeChain(1, 0)), nil)
	n := startNode(t, newFakeChain(makeChain(1, 0)), keep)
	n.Blame(liar.ID(), errForged)
	n.banRange("198.51.100.0/24", false, errForged)
	eventually(t, "the file is written while the node runs", func() bool {
		_, err := os.Stat(file)
		return err == nil && bansIn(t, file) > 0
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	bans, err := ReadBans(file)
	if err != nil || len(bans) != 2 {
		t.Fatalf("bans on disk: %v (%v), want two", bans, err)
	}
	for _, b := range bans {
		if !strings.Contains(b.Reason, errForged.Error()) || !b.Until.After(b.Since) {
			t.Errorf("ban on disk: %+v", b)
		}
	}
	again := newNode(t, newFakeChain(makeChain(1, 0)), keep)
	if !again.bans.isBanned(liar.ID()) || !again.bans.isRangeBanned("x", addr("198.51.100.9")) {
		t.Error("bans ended with the process")
	}
	if again.bans.isBanned(n.ID()) {
		t.Error("somebody else is banned")
	}
}

func TestBanFile(t *testing.T) {
	c := newClock()
	path := filepath.Join(t.TempDir(), "bans.json")
	p := newNode(t, newFakeChain(makeChain(1, 0)), nil).ID()
	open := func() *banList {
		l := newBanList(c.now, newStandings(c.now))
		if err := l.load(path, 10*time.Minute); err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	l.ban(p, "a\x1b[31mreason "+strings.Repeat("x", 1000), 10*time.Minute)
	if err := l.save(path); err != nil {
		t.Fatal(err)
	}
	if got := open().banned[p].reason; len(got) != maxReason || strings.ContainsRune(got, 0x1b) {
		t.Errorf("the reason became %q", got)
	}
	c.pass(10*time.Minute - time.Second)
	if !open().isBanned(p) {
		t.Error("the ban ended early")
	}
	c.pass(time.Second)
	if open().isBanned(p) {
		t.Error("the ban does not end")
	}
	c.pass(-365 * 24 * time.Hour) // the clock was wrong when the ban was made
	l = open()
	c.pass(10 * time.Minute)
	if l.isBanned(p) {
		t.Error("a ban from the future outlasts a new one")
	}
}

// A damaged file is no reason not to start, and is replaced at the next ban.
func TestDamagedBanFile(t *testing.T) {
	good := `{"bans":[{"range":"198.51.100.0/24","reason":"r","since":"2026-01-02T03:04:05Z","until":"2026-01-02T03:14:05Z"}]}`
	for name, content := range map[string]string{
		"empty":       "",
		"cut":         good[:len(good)/2],
		"binary":      "\x00\x01\x02",
		"bad peer":    `{"bans":[{"peer":"x","reason":"r"}]}`,
		"bad range":   strings.Replace(good, "198.51.100.0/24", "198.51.100.7/24", 1),
		"of nobody":   strings.Replace(good, "198.51.100.0/24", "", 1),
		"too many":    `{"bans":[` + strings.Repeat("{},", 2*maxBans) + `{}]}`,
		"of any size": strings.Repeat(" ", maxBanFile+1),
	} {
		dir := t.TempDir()
		keep := func(cfg *Config) { cfg.AddressBook = filepath.Join(dir, "peers.json") }
		path := BanFile(filepath.Join(dir, "peers.json"))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadBans(path); err == nil || !strings.Contains(err.Error(), "bans.json") {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
		n := startNode(t, newFakeChain(makeChain(1, 0)), keep)
		if n.logged("file of bans is damaged, starting without") != 1 {
			t.Errorf("%s: nothing in the log", name)
		}
		n.banRange("198.51.100.0/24", false, errForged)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if got := bansIn(t, path); got != 1 {
			t.Errorf("%s: %d bans in the new file, want 1", name, got)
		}
	}
}

// TestAdversaryGossipFlood: what a range gossips beyond its share is not looked at, however many ids it has.
func TestAdversaryGossipFlood(t *testing.T) {
	var b budget
	b.rate, b.burst = gossipRate, gossipBurst
	now := time.Now()
	taken := 0
	for range 10_000 {
		if b.take("198.51.100.0/24", gossipLeast, now) {
			taken++
		}
	}
	if want := gossipBurst / gossipLeast; taken != want {
		t.Errorf("%d messages at once, want %d", taken, want)
	}
	if !b.take("203.0.113.0/24", maxBlockMessage, now) {
		t.Error("another range has no share")
	}
	now = now.Add(time.Second)
	for taken = 0; b.take("198.51.100.0/24", maxBlockMessage, now); taken++ {
	}
	if want := gossipRate / maxBlockMessage; taken != want {
		t.Errorf("%d full blocks in the next second, want %d", taken, want)
	}
	for i := range 2 * maxQuotas {
		b.take(fmt.Sprint(i), 1, now)
	}
	if len(b.byAccount) > maxQuotas {
		t.Errorf("%d accounts are remembered", len(b.byAccount))
	}
}

// Ids of one range share what eight peers may ask.
func TestRequestsOfOneRange(t *testing.T) {
	s := &Service{standings: newStandings(time.Now), requests: &budget{burst: 4}}
	for i := range 10 {
		p := peer.ID(fmt.Sprint("id ", i))
		s.standings.meet(p, addr("198.51.100.7"))
		err := s.enter(p)
		if got, want := errors.Is(err, errBusy), i >= 4; got != want {
			t.Errorf("request %d: %v", i, err)
		}
		if err != nil && s.quotas.byPeer[p].active != 0 {
			t.Error("a refused request keeps its place")
		}
	}
	s.standings.meet("other", addr("203.0.113.1"))
	if err := s.enter("other"); err != nil {
		t.Errorf("another range: %v", err)
	}
}

// A peer whose range has to wait is not followed, and its word does not stop the miner.
func TestNoSyncWithRangeThatWaits(t *testing.T) {
	now := time.Now()
	table := newPeerTable()
	work := Status{Work: chain.Work{}.Add(chain.U128(5))}
	table.add(PeerInfo{ID: "liar", Status: work})
	standing := func(peer.ID) Standing { return Standing{Ready: now.Add(time.Minute)} }
	p, _, wait := table.pickLead(Status{}, now, standing)
	if p != "" || wait != time.Minute {
		t.Errorf("picked %q, waits %v", p, wait)
	}
	if best, _ := table.best(); best.Work != (chain.Work{}) {
		t.Error("its word counts")
	}
	if p, _, _ = table.pickLead(Status{}, now.Add(time.Minute), standing); p != "liar" {
		t.Errorf("a minute later %q is picked", p)
	}
}
