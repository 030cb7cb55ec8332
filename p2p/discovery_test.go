package p2p

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/routing"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

const tableProtocol = "/minerd/ab00000000000000/kad/1.0.0"

// tellNobody makes a node that knows no other peers when asked, so that they can be found by the hash table alone.
func tellNobody(n *node) {
	n.host.SetStreamHandler(n.syncProtocol, n.stream(n.syncProtocol, func(ctx context.Context, p peer.ID, m *messages) error {
		var req minerdv1.Request
		if err := m.receive(&req, maxRequest); err != nil {
			return err
		}
		if _, ok := req.GetKind().(*minerdv1.Request_Peers); ok {
			return m.send(&minerdv1.Response{Kind: &minerdv1.Response_Peers{Peers: peersMessage(nil)}})
		}
		return n.answer(ctx, p, m, &req)
	}))
}

// startLine starts nodes each of which knows the one before alone.
func startLine(t *testing.T, count int, change func(*Config)) []*node {
	t.Helper()
	var line []*node
	for i := range count {
		n := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
			cfg.MinPeers = count - 1
			change(cfg)
			if i > 0 {
				calling(line[i-1])(cfg)
			}
		})
		tellNobody(n)
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		line = append(line, n)
	}
	return line
}

func TestHashTableJoinsALine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	line := startLine(t, 5, func(cfg *Config) { cfg.DHT = true })
	for _, n := range line {
		eventually(t, "everybody is found", func() bool { return len(n.Peers()) == len(line)-1 })
	}
	for _, n := range line {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, before)
}

// Without the table the same line stays one.
func TestNoHashTable(t *testing.T) {
	line := startLine(t, 3, func(*Config) {})
	eventually(t, "the middle has both", func() bool { return len(line[1].Peers()) == 2 })
	for _, n := range line {
		if protocols := n.host.Mux().Protocols(); slices.ContainsFunc(protocols, isTable) {
			t.Errorf("it speaks %v", protocols)
		}
		if n.table != nil {
			t.Error("there is a table")
		}
	}
	if line[0].knows(line[2]) {
		t.Error("the ends found each other")
	}
}

func isTable(p protocol.ID) bool { return strings.Contains(string(p), "/kad/") }

func TestHashTablesOfNetworksAreApart(t *testing.T) {
	a := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.DHT = true })
	b := newNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.DHT, cfg.Network = true, chain.Hash{0xcd} })
	connect(t, b.host, a)
	eventually(t, "they have told each other what they speak", func() bool {
		theirs, err := b.host.Peerstore().GetProtocols(a.ID())
		return err == nil && slices.Contains(theirs, protocol.ID(tableProtocol))
	})
	if b.table.name == a.table.name {
		t.Error("two networks advertise under one name")
	}
	if n := a.table.dht.RoutingTable().Size() + b.table.dht.RoutingTable().Size(); n > 0 {
		t.Errorf("%d peers of another network in the tables", n)
	}
}

// A node that cannot be called asks the table and answers nobody.
func TestReachabilityDecidesTheMode(t *testing.T) {
	n := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.DHT = true })
	emitter, err := n.host.EventBus().Emitter(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		t.Fatal(err)
	}
	defer emitter.Close()
	serves := func() bool { return slices.Contains(n.host.Mux().Protocols(), protocol.ID(tableProtocol)) }
	if !serves() {
		t.Error("it does not serve though nothing is known of its reachability")
	}
	tell := func(r network.Reachability) {
		if err := emitter.Emit(event.EvtLocalReachabilityChanged{Reachability: r}); err != nil {
			t.Fatal(err)
		}
	}
	tell(network.ReachabilityPrivate)
	eventually(t, "it serves no more", func() bool { return !serves() })
	tell(network.ReachabilityPublic)
	eventually(t, "it serves again", serves)
	tell(network.ReachabilityPublic)
	tell(network.ReachabilityUnknown)
	eventually(t, "all is logged", func() bool {
		return n.logged("it is not known whether this node can be called from outside") == 1
	})
	private := "this node cannot be called from outside: it calls others, and is called by way of relays if there are any"
	if n.logged(private) != 1 || n.logged("this node is publicly reachable") != 1 {
		t.Errorf("log: %v", n.logs.FilterLevelExact(zap.InfoLevel).All())
	}
}

// The store of records keeps those of one name, which must be what libp2p makes of it, and a bounded number.
func TestProvidersAreBounded(t *testing.T) {
	p := newProviders("name")
	n := newNode(t, newFakeChain(makeChain(0, 0)), nil)
	m, err := records.NewProviderManager(n.ID(), n.host.Peerstore(), dssync.MutexWrap(p))
	if err != nil {
		t.Fatal(err)
	}
	find := routing.NewRoutingDiscovery(recordKeys{m})
	for range 2 * maxProviders {
		id, err := peer.IDFromPrivateKey(newKey(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"name", "other"} {
			if _, err := find.Advertise(context.WithValue(t.Context(), recordKeys{}, id), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := m.Close(); err != nil { // writes what it holds back
		t.Fatal(err)
	}
	if len(p.keys) != maxProviders {
		t.Errorf("%d records, want %d", len(p.keys), maxProviders)
	}
	for key := range p.keys {
		if has, err := p.Has(t.Context(), key); err != nil || !has {
			t.Fatalf("%s is counted and not there (%v)", key, err)
		}
	}
	if err := p.Put(t.Context(), ds.NewKey(records.ProvidersKeyPrefix+"OTHER/X"), nil); err != nil || len(p.keys) != maxProviders {
		t.Errorf("a record of another name was kept (%v)", err)
	}
}

// recordKeys is the table as far as advertising goes: it puts records for the peer of the context into a store.
type recordKeys struct{ store *records.ProviderManager }

func (r recordKeys) Provide(ctx context.Context, c cid.Cid, _ bool) error {
	id, _ := ctx.Value(recordKeys{}).(peer.ID)
	return r.store.AddProvider(ctx, c.Hash(), peer.AddrInfo{ID: id})
}

func (r recordKeys) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	return nil
}

func TestToldAddrs(t *testing.T) {
	loopback, public := ma.StringCast("/ip4/127.0.0.1/tcp/1"), ma.StringCast("/ip4/8.8.8.8/tcp/1")
	for _, c := range [][2][]ma.Multiaddr{{{loopback, public}, {public}}, {{loopback}, {loopback}}, {nil, nil}} {
		if got := toldAddrs(c[0]); !slices.EqualFunc(got, c[1], ma.Multiaddr.Equal) {
			t.Errorf("of %v are told %v, want %v", c[0], got, c[1])
		}
	}
}
