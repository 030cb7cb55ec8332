package p2p

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestPrivateNetworks(t *testing.T) {
	key := func() pnet.PSK {
		k, err := CreatePrivateNetworkKey(filepath.Join(t.TempDir(), "swarm.key"))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	with := func(k pnet.PSK) func(*Config) {
		return func(cfg *Config) {
			cfg.PrivateKey, cfg.Listen = k, []string{"/ip4/127.0.0.1/tcp/0"}
			cfg.Timing.Dial = time.Second // noise may look like the beginning of something long
		}
	}
	ours := key()
	a := startNode(t, newFakeChain(makeChain(1, 0)), with(ours))
	join := func(k pnet.PSK) *node {
		return startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { with(k)(cfg); calling(a)(cfg) })
	}
	same, other, none := join(ours), join(key()), join(nil)
	eventually(t, "a block came", func() bool { return same.chain.height() == 1 })
	for _, c := range []struct {
		n    *node
		hint string
	}{{other, "another private network key"}, {none, "may be of a private network"}} {
		eventually(t, "a stranger says why", func() bool {
			for _, e := range c.n.logs.FilterMessage("bootstrap peer not reached, trying on").All() {
				if strings.Contains(fmt.Sprint(e.ContextMap()["hint"]), c.hint) {
					return true
				}
			}
			return false
		})
		if len(c.n.host.Network().Peers()) > 0 {
			t.Error("a stranger is connected")
		}
	}
	if peers := a.host.Network().Peers(); len(peers) != 1 {
		t.Errorf("connected are %v", peers)
	}
	if Fingerprint(ours) == Fingerprint(other.cfg.PrivateKey) {
		t.Error("two keys with one fingerprint")
	}
	said := a.logs.FilterMessage("private network: only nodes with the same key connect").All()
	if len(said) != 1 || said[0].ContextMap()["key_fingerprint"] != Fingerprint(ours) {
		t.Errorf("its log says %v of the key", said)
	}
}

func TestPrivateNetworkKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "swarm.key")
	if _, err := LoadPrivateNetworkKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	made, err := CreatePrivateNetworkKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	if read, err := LoadPrivateNetworkKey(path); err != nil || string(read) != string(made) {
		t.Errorf("another key was read (%v)", err)
	}
	if _, err := CreatePrivateNetworkKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key was overwritten: %v", err)
	}
	const header, hex = "/key/swarm/psk/1.0.0/\n", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	for _, good := range []string{
		header + "/base16/\n" + hex + "\n", header + "/base16/\n" + hex,
		"/key/swarm/psk/1.0.0/\r\n/base16/\r\n" + hex + "\r\n",
		header + "/base64/\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
		header + "/bin/\n\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f",
	} {
		key, err := parsePrivateNetworkKey([]byte(good))
		if err != nil || fmt.Sprintf("%x", []byte(key)) != hex {
			t.Errorf("%q: %x, %v", good, []byte(key), err)
		}
	}
	for bad, why := range map[string]string{
		"":  "does not begin",
		hex: "does not begin",
		"/key/swarm/psk/2.0.0/\n/base16/\n" + hex: "does not begin",
		header:                                          "ends after",
		header + "/base16/":                             "ends after",
		header + "/base58/\n" + hex:                     "encoding",
		header + "/base16/\n" + hex[:62]:                "62 bytes",
		header + "/base16/\n" + hex + "ff":              "66 bytes",
		header + "/base16/\n" + "xy" + hex[2:]:          "hex",
		header + "/bin/\n" + hex:                        "64 bytes",
		header + "/bin/\n" + hex[:32] + "\n":            "33 bytes",
		header + strings.Repeat(" ", maxPrivateKeyFile): "longer",
	} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadPrivateNetworkKey(path)
		if !errors.Is(err, ErrPrivateNetworkKey) || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.60q: %v, want %q", bad, err, why)
		}
		if err != nil && strings.Contains(err.Error(), hex[2:20]) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
}

func TestExternalAddressIsTold(t *testing.T) {
	external := []string{"/ip4/192.0.2.7/tcp/27182", "/dns/node.example.org/udp/27182/quic-v1"}
	a := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.External = external })
	listen := a.listenAddrs()[0].String() + "/p2p/" + a.ID().String()
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.Bootstrap = []string{listen} })
	eventually(t, "connected", func() bool { return a.knows(b) && b.knows(a) })
	for who, addrs := range map[string][]ma.Multiaddr{"the node": a.host.Addrs(), "its peer": b.host.Peerstore().Addrs(a.ID())} {
		for _, want := range external {
			if !slices.ContainsFunc(addrs, ma.StringCast(want).Equal) {
				t.Errorf("%s does not know %s, but %v", who, want, addrs)
			}
		}
	}
	if got := a.Addrs(); len(got) != len(external) {
		t.Errorf("told are %v", got)
	}
}

func TestNoListen(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(1, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.NoListen, cfg.Listen = true, nil
		calling(a)(cfg)
	})
	eventually(t, "a block came", func() bool { return b.chain.height() == 1 })
	if addrs := b.listenAddrs(); len(addrs) > 0 {
		t.Errorf("it listens on %v", addrs)
	}
}

// A node takes no more inbound connections than it may, and calls nobody once it has enough peers.
func TestPeerLimits(t *testing.T) {
	hub := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.MaxPeers, cfg.MaxInbound = 3, 2 })
	over := make(chan int, 100)
	hub.host.Network().Notify(&network.NotifyBundle{ConnectedF: func(n network.Network, _ network.Conn) {
		if in := len(n.Conns()); in > 2 {
			over <- in
		}
	}})
	if err := hub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var rays []*node
	for range 4 {
		rays = append(rays, startNode(t, newFakeChain(makeChain(0, 0)), calling(hub)))
	}
	refused := func() (n int) {
		for _, r := range rays {
			if r.logged("bootstrap peer not reached, trying on") >= 3 {
				n++
			}
		}
		return n
	}
	eventually(t, "two are in and two are refused", func() bool { return len(hub.Peers()) == 2 && refused() >= 2 })
	select {
	case n := <-over:
		t.Errorf("%d connections at once, allowed are 2", n)
	default:
	}

	full := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.MaxPeers = 1; calling(rays[0])(cfg) })
	eventually(t, "it has its one peer", func() bool { return full.knows(rays[0]) })
	if (crowdGate{full.bans, full.Service}).InterceptPeerDial(rays[1].ID()) {
		t.Error("it would call another peer")
	}
	if !(crowdGate{full.bans, full.Service}).InterceptPeerDial(rays[0].ID()) {
		t.Error("it would not call its bootstrap peer")
	}
}

// The limit per address holds, for connections and for how fast they may come, and not for loopback.
func TestPeersPerIP(t *testing.T) {
	n := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.MaxPeersPerIP = 3 })
	open := func(addr string) (network.ConnManagementScope, error) {
		return n.host.Network().ResourceManager().OpenConnection(network.DirInbound, true, ma.StringCast(addr))
	}
	for _, c := range []struct {
		addr string
		most int
	}{{"/ip4/192.0.2.1/tcp/1", 3}, {"/ip4/192.0.2.2/tcp/1", 3}, {"/ip6/2001:db8::1/tcp/1", 3}, {"/ip4/127.0.0.1/tcp/1", 20}} {
		opened := 0
		for range 20 {
			if scope, err := open(c.addr); err == nil {
				opened++
				defer scope.Done()
			}
		}
		if opened != c.most {
			t.Errorf("%s: %d connections, want %d", c.addr, opened, c.most)
		}
	}
	const again = "/ip4/192.0.2.3/tcp/1"
	came := 0
	for range 20 {
		if scope, err := open(again); err == nil {
			came++
			scope.Done()
		}
	}
	if came != 16 {
		t.Errorf("%d connections one after another, want a burst of 16", came)
	}
}

func TestBadReach(t *testing.T) {
	short := pnet.PSK{1}
	key := make(pnet.PSK, privateKeyLen)
	for want, change := range map[string]func(*Config){
		"at most -1 peers":             func(cfg *Config) { cfg.MaxPeers = -1 },
		"at most 5 inbound":            func(cfg *Config) { cfg.MaxPeers, cfg.MaxInbound = 4, 5 },
		"at most -1 peers per address": func(cfg *Config) { cfg.MaxPeersPerIP = -1 },
		"key of 1 bytes":               func(cfg *Config) { cfg.PrivateKey = short },
		"QUIC is not possible":         func(cfg *Config) { cfg.PrivateKey = key },
		"is not to listen":             func(cfg *Config) { cfg.NoListen = true },
		"not a host with a TCP port":   func(cfg *Config) { cfg.External = []string{"/ip4/192.0.2.1"} },
		"failed to parse":              func(cfg *Config) { cfg.External = []string{"192.0.2.1:80"} },
		"peer id at its end":           func(cfg *Config) { cfg.External = []string{"/ip4/192.0.2.1/tcp/1/p2p/" + peerIDText} },
		"unspecified":                  func(cfg *Config) { cfg.External = []string{"/ip4/0.0.0.0/tcp/1"} },
		"port is missing":              func(cfg *Config) { cfg.External = []string{"/dns4/example.org/tcp/0"} },
		"or a UDP port and quic-v1":    func(cfg *Config) { cfg.External = []string{"/ip4/192.0.2.1/udp/1"} },
		"/192.0.2.1/udp/1/quic-v1\": QUIC": func(cfg *Config) {
			cfg.PrivateKey, cfg.Listen, cfg.External = key, []string{"/ip4/127.0.0.1/tcp/0"}, []string{"/ip4/192.0.2.1/udp/1/quic-v1"}
		},
		"external addresses": func(cfg *Config) {
			cfg.NoListen, cfg.Listen, cfg.External = true, nil, []string{"/ip4/192.0.2.1/tcp/1"}
		},
		"a relay must be reachable": func(cfg *Config) { cfg.NoListen, cfg.Listen, cfg.RelayService = true, nil, true },
	} {
		cfg, _ := testConfig(t)
		change(&cfg)
		if _, err := New(cfg, newFakeChain(makeChain(0, 0))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

const peerIDText = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"

// fakeNAT maps every port to one address.
type fakeNAT struct{ to ma.Multiaddr }

func (f *fakeNAT) GetMapping(ma.Multiaddr) ma.Multiaddr { return f.to }
func (f *fakeNAT) HasDiscoveredNAT() bool               { return true }
func (f *fakeNAT) Close() error                         { return nil }

func TestPortMappingIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	nat := &fakeNAT{}
	m := newPortMapper(nat, zap.New(core))
	listen := ma.StringCast("/ip4/10.0.0.1/tcp/1")
	for i, to := range []ma.Multiaddr{nil, ma.StringCast("/ip4/192.0.2.1/tcp/5"), ma.StringCast("/ip4/192.0.2.1/tcp/6")} {
		nat.to = to
		for range 2 {
			if got := m.GetMapping(listen); (got == nil) != (to == nil) || to != nil && !got.Equal(to) {
				t.Errorf("mapped to %v, want %v", got, to)
			}
		}
		if logs.Len() != i {
			t.Errorf("%d lines after %d mappings", logs.Len(), i)
		}
	}
}

// A node that others found cannot be called reserves a place at a peer that relays, and is reached there. Over loopback
// libp2p makes no direct connection out of that, so the caller says that it could not.
func TestRelay(t *testing.T) {
	tell := func(n *node, r network.Reachability) {
		t.Helper()
		emitter, err := n.host.EventBus().Emitter(new(event.EvtLocalReachabilityChanged))
		if err != nil {
			t.Fatal(err)
		}
		defer emitter.Close()
		if err := emitter.Emit(event.EvtLocalReachabilityChanged{Reachability: r}); err != nil {
			t.Fatal(err)
		}
	}
	before := goleak.IgnoreCurrent()
	relay := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.RelayService = true })
	tell(relay, network.ReachabilityPublic)
	hop := protocol.ID(proto.ProtoIDv2Hop)
	eventually(t, "it relays", func() bool { return slices.Contains(relay.host.Mux().Protocols(), hop) })
	hidden := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.NoListen, cfg.Listen = true, nil
		calling(relay)(cfg)
	})
	eventually(t, "the relay is a peer", func() bool { return hidden.knows(relay) })
	tell(hidden, network.ReachabilityPrivate)
	eventually(t, "it has a place at the relay", func() bool {
		info := relay.host.ConnManager().GetTagInfo(hidden.ID())
		return info != nil && info.Tags["relay-reservation"] > 0
	})
	addr := relay.Addrs()[0].String() + "/p2p-circuit/p2p/" + hidden.ID().String()
	caller := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.Bootstrap = []string{addr}
		cfg.Timing.Dial = time.Second
	})
	const warning = "bootstrap peer not reached, trying on"
	eventually(t, "it is called", func() bool { return caller.logged(warning) > 0 })
	why := fmt.Sprint(caller.logs.FilterMessage(warning).All()[0].ContextMap()["error"])
	if !strings.Contains(why, "reached by way of a relay, but no direct connection could be made") {
		t.Errorf("it was logged: %s", why)
	}
	for _, n := range []*node{caller, hidden, relay} {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, before)
}
