package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/p2p/host/autorelay"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"
)

// Reach says how a node is found and reached, and by how many. The zero value finds nobody by itself and has the default
// limits.
type Reach struct {
	DHT          bool     // find nodes of the network by a distributed hash table, and serve it
	NAT          bool     // ask the router for a port mapping
	RelayService bool     // relay short connections between others, once found publicly reachable
	NoListen     bool     // accept no connections
	External     []string // multiaddrs that others are told, in place of those that were found out
	PrivateKey   pnet.PSK // only nodes with the same key connect; nil for all
	// MaxPeers is how many peers may be connected; 0 means 96. Down to two thirds of it, those worth least are closed.
	MaxPeers int
	// MaxInbound is how many connections others may have opened; 0 means two thirds of MaxPeers.
	MaxInbound int
	// MaxPeersPerIP is how many connections there may be with one IPv4 address or IPv6 /56, either way and attempts
	// included, with loopback excepted; 0 means 64.
	MaxPeersPerIP int
}

const (
	// A node needs some 12 peers for gossip; an idle one takes about 1 MiB of memory with its buffers.
	defaultMaxPeers = 96
	// defaultPeersPerIP is for many nodes behind one address; libp2p's own 8 is soon used up in an office or a container
	// host.
	defaultPeersPerIP = 64
	// relaysUsed is how many relays a node that cannot be reached reserves a place at, so that it may lose one.
	relaysUsed = 2
)

func (r Reach) withDefaults() Reach {
	if r.MaxPeers == 0 {
		r.MaxPeers = defaultMaxPeers
	}
	if r.MaxInbound == 0 {
		r.MaxInbound = max(1, r.MaxPeers*2/3)
	}
	if r.MaxPeersPerIP == 0 {
		r.MaxPeersPerIP = defaultPeersPerIP
	}
	return r
}

// check says what does not go together.
func (r Reach) check(listen []string) error {
	switch {
	case r.MaxPeers < 1:
		return fmt.Errorf("at most %d peers: needed is one or more", r.MaxPeers)
	case r.MaxInbound < 1 || r.MaxInbound > r.MaxPeers:
		return fmt.Errorf("at most %d inbound connections: allowed are 1 to %d, the number of peers", r.MaxInbound, r.MaxPeers)
	case r.MaxPeersPerIP < 1:
		return fmt.Errorf("at most %d peers per address: needed is one or more", r.MaxPeersPerIP)
	case r.PrivateKey != nil && len(r.PrivateKey) != privateKeyLen:
		return fmt.Errorf("private network key of %d bytes, needed are %d", len(r.PrivateKey), privateKeyLen)
	case r.NoListen && len(listen) > 0:
		return fmt.Errorf("listen addresses %q, though the node is not to listen", listen)
	case r.NoListen && len(r.External) > 0:
		return fmt.Errorf("external addresses %q, though the node is not to listen", r.External)
	case r.NoListen && r.RelayService:
		return errors.New("a relay must be reachable, though the node is not to listen")
	}
	for _, text := range listen {
		if a, err := ma.NewMultiaddr(text); err == nil && r.PrivateKey != nil && isQUIC(a) {
			return fmt.Errorf("listen address %q: QUIC is not possible with a private network key, listen on TCP alone", text)
		}
	}
	return nil
}

// external parses the external addresses.
func (r Reach) external() ([]ma.Multiaddr, error) {
	var out []ma.Multiaddr
	for _, text := range r.External {
		a, err := ma.NewMultiaddr(text)
		if err == nil {
			err = checkExternal(a, r.PrivateKey != nil)
		}
		if err != nil {
			return nil, fmt.Errorf("external address %q: %w; it must look like /ip4/192.0.2.1/tcp/%d or /dns/example.org/tcp/%d",
				text, err, DefaultPort, DefaultPort)
		}
		out = append(out, a)
	}
	return out, nil
}

func checkExternal(a ma.Multiaddr, private bool) error {
	names := a.Protocols()
	code := func(i int) int {
		if i < len(names) {
			return names[i].Code
		}
		return 0
	}
	hosts := []int{ma.P_IP4, ma.P_IP6, ma.P_DNS, ma.P_DNS4, ma.P_DNS6}
	tcp := len(names) == 2 && code(1) == ma.P_TCP
	quic := len(names) == 3 && code(1) == ma.P_UDP && code(2) == ma.P_QUIC_V1
	switch {
	case code(len(names)-1) == ma.P_P2P:
		return errors.New("the peer id at its end does not belong there")
	case !slices.Contains(hosts, code(0)) || !tcp && !quic:
		return errors.New("not a host with a TCP port, or a UDP port and quic-v1")
	case quic && private:
		return errors.New("QUIC is not possible with a private network key")
	case manet.IsIPUnspecified(a):
		return errors.New("nobody can call an unspecified address")
	}
	if port, err := a.ValueForProtocol(code(1)); err != nil || port == "0" {
		return errors.New("the port is missing")
	}
	return nil
}

func isQUIC(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_UDP)
	return err == nil
}

// reachOptions are the services of libp2p that make a node reachable. A node that others have not found to be publicly
// reachable reserves a place at peers that relay, if it has such peers.
func (s *Service) reachOptions() ([]libp2p.Option, error) {
	external, err := s.cfg.external()
	if err != nil {
		return nil, err
	}
	options := []libp2p.Option{
		libp2p.EnableRelay(),
		libp2p.EnableHolePunching(),
		libp2p.EnableAutoRelayWithPeerSource(s.relays,
			autorelay.WithMinCandidates(1), autorelay.WithNumRelays(relaysUsed), autorelay.WithMinInterval(s.cfg.Timing.Discover/2)),
	}
	if len(s.cfg.Transports) == 0 {
		options = append(options, libp2p.EnableNATService())
	}
	if s.cfg.NAT && !s.cfg.NoListen {
		options = append(options, libp2p.NATManager(func(n network.Network) basichost.NATManager {
			return newPortMapper(basichost.NewNATManager(n), s.log)
		}))
	}
	if s.cfg.RelayService {
		options = append(options, libp2p.EnableRelayService()) // with libp2p's limits: 2 min and 128 KiB a connection
	}
	if len(external) > 0 {
		options = append(options, libp2p.AddrsFactory(func([]ma.Multiaddr) []ma.Multiaddr { return slices.Clone(external) }))
	}
	return options, nil
}

// relays offers up to n peers that relay, to a node that cannot be called.
func (s *Service) relays(_ context.Context, n int) <-chan peer.AddrInfo {
	found := make(chan peer.AddrInfo, n)
	defer close(found)
	for _, p := range s.peers.list() {
		if len(found) == n {
			break
		}
		if hop, err := s.host.Peerstore().SupportsProtocols(p.ID, proto.ProtoIDv2Hop); err == nil && len(hop) > 0 {
			found <- s.host.Peerstore().PeerInfo(p.ID)
		}
	}
	return found
}

// watchReachability logs what others find out about us.
func (s *Service) watchReachability(sub event.Subscription) {
	defer sub.Close()
	for last := network.ReachabilityUnknown; ; {
		select {
		case <-s.life.Done():
			return
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			now := e.(event.EvtLocalReachabilityChanged).Reachability
			if now == last {
				continue
			}
			switch now {
			case network.ReachabilityPublic:
				s.log.Info("this node is publicly reachable", zap.Stringers("addrs", s.Addrs()))
			case network.ReachabilityPrivate:
				s.log.Info("this node cannot be called from outside: it calls others, and is called by way of relays if there are any")
			default:
				s.log.Debug("it is not known whether this node can be called from outside")
			}
			last = now
		}
	}
}

// crowdGate keeps the node from calling further peers once it has enough. Bootstrap peers are always called.
type crowdGate struct {
	connmgr.ConnectionGater
	s *Service
}

// InterceptPeerDial is for the host.
func (g crowdGate) InterceptPeerDial(p peer.ID) bool {
	s := g.s
	if len(s.host.Network().Peers()) >= s.cfg.MaxPeers && !slices.ContainsFunc(s.bootstrap, func(b peer.AddrInfo) bool { return b.ID == p }) {
		return false
	}
	return g.ConnectionGater.InterceptPeerDial(p)
}

// portMapper logs the port mappings that the router gives.
type portMapper struct {
	basichost.NATManager
	log *zap.Logger

	mu   sync.Mutex
	told map[string]string // per listen address, of which there are few
}

func newPortMapper(m basichost.NATManager, log *zap.Logger) *portMapper {
	return &portMapper{NATManager: m, log: log, told: map[string]string{}}
}

// GetMapping is for the host, which asks for every listen address whenever it looks at its addresses.
func (m *portMapper) GetMapping(listen ma.Multiaddr) ma.Multiaddr {
	mapped := m.NATManager.GetMapping(listen)
	if mapped == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told[string(listen.Bytes())] != string(mapped.Bytes()) {
		m.told[string(listen.Bytes())] = string(mapped.Bytes())
		m.log.Info("the router forwards a port to this node", zap.Stringer("listen_addr", listen), zap.Stringer("external_addr", mapped))
	}
	return mapped
}
