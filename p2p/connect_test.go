package p2p

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"

	"github.com/descentnet/minerd/chain"
)

func TestForeignPeerIsToldAndLeft(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.Network = chain.Hash{0xcd}
		cfg.NetworkName = "other"
		cfg.Timing.Shun = 50 * time.Millisecond // so that it comes again
		calling(a)(cfg)
	})
	const warning = "peer is of another network, disconnecting"
	const again = "peer not greeted"
	eventually(t, "it came again", func() bool { return b.logged(again) >= 3 })
	for _, c := range []struct {
		us, them      *node
		name, theirID string
	}{{a, b, "other", b.cfg.Network.String()}, {b, a, "test", a.cfg.Network.String()}} {
		entries := c.us.logs.FilterMessage(warning).All()
		if len(entries) != 1 || entries[0].Level != zapcore.WarnLevel {
			t.Fatalf("%d warnings, want 1", len(entries))
		}
		fields := entries[0].ContextMap()
		if fields["peer_id"] != c.them.ID().String() || fields["peer_network_name"] != c.name || fields["peer_network"] != c.theirID {
			t.Errorf("warning says %v", fields)
		}
		if len(c.us.Peers()) > 0 {
			t.Error("it counts as a peer")
		}
	}
	if a.bans.isBanned(b.ID()) {
		t.Error("a peer of another network was banned: it could not come back with the right one")
	}
	if a.bans.noDialBefore(b.ID()).IsZero() {
		t.Error("a peer of another network would be called again at once")
	}
}

func TestStrangerIsLeft(t *testing.T) {
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), withoutMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.Bootstrap = []string{h.Addrs()[0].String() + "/p2p/" + h.ID().String()}
	})
	eventually(t, "the log says so", func() bool { return b.logged("peer is not a minerd node, disconnecting") == 1 })
	eventually(t, "it is gone", func() bool { return !b.connected(h.ID()) })
}

func TestReconnectAfterRestart(t *testing.T) {
	blocks := makeChain(2, 0)
	a := startNode(t, newFakeChain(blocks[:1]), nil)
	b := startNode(t, newFakeChain(blocks[:1]), calling(a))
	eventually(t, "connected", func() bool { return meshed(a, b) })
	listen := []string{a.listenAddrs()[0].String()}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is seen", func() bool { return len(b.Peers()) == 0 && b.logged("peer disconnected") == 1 })
	again := startNode(t, newFakeChain(blocks), func(cfg *Config) {
		cfg.Key, cfg.Listen = a.cfg.Key, listen
	})
	eventually(t, "connected again", func() bool { return meshed(again, b) })
	eventually(t, "and of use", func() bool { return b.chain.height() == 2 })
}

func TestStarBecomesMesh(t *testing.T) {
	two := func(cfg *Config) { cfg.MinPeers = 2 }
	hub := startNode(t, newFakeChain(makeChain(0, 0)), two)
	var rays []*node
	for range 3 {
		rays = append(rays, startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { two(cfg); calling(hub)(cfg) }))
	}
	for _, r := range rays {
		eventually(t, "a ray knows another ray", func() bool { return len(r.Peers()) >= 2 })
	}
}

func TestAddressBookBringsNodesTogether(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	withBook := func(cfg *Config) { cfg.AddressBook = path }
	a := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { withBook(cfg); calling(a)(cfg) })
	eventually(t, "connected", func() bool { return a.knows(b) && b.knows(a) })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = startNode(t, newFakeChain(makeChain(0, 0)), withBook) // no bootstrap peer
	eventually(t, "the known peer is called", func() bool { return b.knows(a) })
	if n := b.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n > 0 {
		t.Errorf("%d warnings", n)
	}
}

func TestDamagedAddressBook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peers.json")
	for _, content := range []string{"", "{", `{"peers":[{"id":"x","addrs":[]}]}`, `{"peers":[{"addrs":["/ip4/127.0.0.1/tcp/1"]}]}`, strings.Repeat(" ", maxBookFile+1)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		n := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.AddressBook = path })
		if got := n.logged("address book is damaged, starting with an empty one"); got != 1 {
			t.Errorf("%.20q: %d warnings, want 1", content, got)
		}
	}
}

func TestAddressBookIsBounded(t *testing.T) {
	b := newAddressBook(filepath.Join(t.TempDir(), "peers.json"), "")
	addr := []ma.Multiaddr{ma.StringCast("/ip4/192.0.2.1/tcp/1")}
	id := func() peer.ID {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for range maxKnown {
		b.heardOf(peer.AddrInfo{ID: id(), Addrs: addr})
	}
	if len(b.entries) != maxHearsay {
		t.Errorf("%d entries by hearsay, want %d", len(b.entries), maxHearsay)
	}
	first := id()
	b.met(first, addr)
	for range maxKnown - 1 {
		b.met(id(), addr)
	}
	if len(b.entries) != maxKnown || b.entries[first] == nil {
		t.Errorf("%d entries, want %d with all that were met", len(b.entries), maxKnown)
	}
	if err := b.save(); err != nil {
		t.Fatal(err)
	}
	again := newAddressBook(b.path, first)
	if err := again.load(); err != nil {
		t.Fatal(err)
	}
	if len(again.entries) != maxKnown-1 {
		t.Errorf("%d entries after loading, want %d without ourselves", len(again.entries), maxKnown-1)
	}
	heard := id()
	delete(again.entries, heard)
	again.heardOf(peer.AddrInfo{ID: heard, Addrs: addr})
	for range hearsayAttempts {
		again.failed(heard, time.Now(), fast)
	}
	if again.entries[heard] != nil {
		t.Error("hearsay that leads nowhere is kept")
	}
}

func TestWatchdogReconnects(t *testing.T) {
	mute := newNode(t, newFakeChain(makeChain(0, 0)), nil) // it answers and is in no topic, until it is started
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.Timing.Watchdog = 300 * time.Millisecond
		calling(mute)(cfg)
	})
	eventually(t, "it is reconnected", func() bool {
		return b.logged("peer has lost our gossip topic, reconnecting") > 0 && b.logged("peer connected") > 1
	})
	if err := mute.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well", func() bool { return meshed(mute, b) })
}

func TestPortInUse(t *testing.T) {
	a := newNode(t, newFakeChain(makeChain(0, 0)), nil)
	for _, used := range a.listenAddrs() {
		cfg, _ := testConfig(t)
		cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0", used.String()}
		_, err := New(cfg, newFakeChain(makeChain(0, 0)))
		if !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), used.String()) {
			t.Errorf("%s: %v, want %v with the address", used, err, ErrPortInUse)
		}
	}
}

func TestBadConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"listen":            func(cfg *Config) { cfg.Listen = []string{"127.0.0.1:80"} },
		"foreign address":   func(cfg *Config) { cfg.Listen = []string{"/ip4/192.0.2.1/tcp/0"} },
		"bootstrap":         func(cfg *Config) { cfg.Bootstrap = []string{"/ip4/192.0.2.1/tcp/1"} },
		"bootstrap garbage": func(cfg *Config) { cfg.Bootstrap = []string{"x"} },
		"no key":            func(cfg *Config) { cfg.Key = nil },
		"no network":        func(cfg *Config) { cfg.Network = chain.Hash{} },
	} {
		cfg, _ := testConfig(t)
		change(&cfg)
		if _, err := New(cfg, newFakeChain(makeChain(0, 0))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTransports(t *testing.T) {
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"} {
		t.Run(listen, func(t *testing.T) {
			if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
				l.Close()
			} else if strings.HasPrefix(listen, "/ip6") {
				t.Skipf("needs a machine with IPv6: %v", err)
			}
			on := func(cfg *Config) { cfg.Listen = []string{listen} }
			a := startNode(t, newFakeChain(makeChain(1, 0)), on)
			b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { on(cfg); calling(a)(cfg) })
			eventually(t, "a block came", func() bool { return b.chain.height() == 1 })
		})
	}
}

// Loopback and private addresses are of use only to those who are as near.
func TestUsefulAddrs(t *testing.T) {
	loopback, private, public := ma.StringCast("/ip4/127.0.0.1/tcp/1"), ma.StringCast("/ip4/10.0.0.1/tcp/1"), ma.StringCast("/ip4/8.8.8.8/tcp/1")
	all := []ma.Multiaddr{ma.StringCast("/ip6/fe80::1/tcp/1"), ma.StringCast("/ip4/0.0.0.0/tcp/1"), loopback, private, public}
	for _, c := range []struct {
		from ma.Multiaddr
		want []ma.Multiaddr
	}{{loopback, all[2:]}, {private, all[3:]}, {public, all[4:]}} {
		if got := usefulAddrs(all, c.from); !slices.EqualFunc(got, c.want, ma.Multiaddr.Equal) {
			t.Errorf("from %s: %v, want %v", c.from, got, c.want)
		}
	}
	if got := usefulAddrs(slices.Repeat([]ma.Multiaddr{public}, 20), public); len(got) != maxAddrs {
		t.Errorf("%d addresses, want %d", len(got), maxAddrs)
	}
}

func TestDefaultListen(t *testing.T) {
	for _, text := range DefaultListen() {
		if _, err := ma.NewMultiaddr(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestMetricsStayOffTheDefaultRegistry(t *testing.T) {
	n := newNode(t, newFakeChain(makeChain(0, 0)), nil)
	startNode(t, newFakeChain(makeChain(0, 0)), calling(n))
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.Contains(f.GetName(), "libp2p") || strings.Contains(f.GetName(), "rcmgr") {
			t.Errorf("metric %s", f.GetName())
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "peer.key")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	second, err := LoadOrCreateKey(path)
	if err != nil || !first.Equals(second) {
		t.Errorf("another key at the second time (%v)", err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%d files, want the key alone", len(files))
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, raw[:20], []byte("no key")} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateKey(path); !errors.Is(err, ErrKeyFile) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.10q: %v, want %v with the path", damaged, err, ErrKeyFile)
		}
	}
	if _, err := LoadOrCreateKey(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("a key below a file")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	a := startNode(t, newFakeChain(makeChain(100, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(a))
	eventually(t, "at work", func() bool { return meshed(a, b) && b.chain.height() > 0 })
	for _, n := range []*node{b, a} {
		for range 2 { // the second does nothing
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := a.Start(t.Context()); !errors.Is(err, ErrNotStarted) {
		t.Errorf("start after close: %v", err)
	}
	goleak.VerifyNone(t, before)
}

// connect makes a bare connection between two hosts.
func connect(t *testing.T, from host.Host, to *node) {
	t.Helper()
	ctx := network.WithForceDirectDial(t.Context(), "test")
	if err := from.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
}
