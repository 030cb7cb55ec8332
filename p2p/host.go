package p2p

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	connmanager "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// DefaultPort is where a node listens unless told otherwise, for TCP and for QUIC.
const DefaultPort = 27182

// DefaultListen is where a node listens unless told otherwise.
func DefaultListen() []string {
	return []string{
		fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", DefaultPort),
		fmt.Sprintf("/ip4/0.0.0.0/udp/%d/quic-v1", DefaultPort),
		fmt.Sprintf("/ip6/::/tcp/%d", DefaultPort),
		fmt.Sprintf("/ip6/::/udp/%d/quic-v1", DefaultPort),
	}
}

// ErrPortInUse says that another program listens at an address of ours.
var ErrPortInUse = errors.New("port in use")

const (
	// Above lowConns + highConns/3, connections that are worth least are closed until lowConns are left. A node needs
	// some 12 for gossip; an idle one takes about 1 MiB of memory with its buffers.
	lowConns  = 64
	highConns = 96
	// connsPerIP is for many nodes behind one address; libp2p's own 8 is soon used up in an office or a container host.
	connsPerIP = 64
	// streamsPerPeer at one protocol of ours, each way: those that we serve at once, and some that we tell to wait.
	streamsPerPeer = 4 * streamsServed
)

func newHost(cfg Config, gater connmgr.ConnectionGater) (host.Host, error) {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	concrete := rcmgr.PartialLimitConfig{
		ProtocolPeerDefault: rcmgr.ResourceLimits{StreamsInbound: streamsPerPeer},
	}.Build(limits.AutoScale())
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(concrete),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: connsPerIP}, {PrefixLength: 48, ConnCount: 4 * connsPerIP}},
		))
	if err != nil {
		return nil, err
	}
	conns, err := connmanager.NewConnManager(lowConns, highConns, connmanager.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, errors.Join(err, resources.Close())
	}
	return libp2p.New(
		libp2p.Identity(cfg.Key),
		libp2p.UserAgent(agent(cfg.Version)),
		libp2p.NoListenAddrs, // see listen
		// Without SO_REUSEPORT, since with it a second process of the same user opens the same port without an error.
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		libp2p.Transport(quic.NewTransport),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(gater),
		libp2p.DisableRelay(),
		withoutMetrics(),
	)
}

// withoutMetrics keeps libp2p off Prometheus' default registry. Its event bus counts even where metrics are disabled,
// so it gets a registry that nobody reads; the order of the two options matters.
func withoutMetrics() libp2p.Option {
	return libp2p.ChainOptions(libp2p.PrometheusRegisterer(prometheus.NewRegistry()), libp2p.DisableMetrics())
}

// listen opens all addresses. libp2p itself is content with one of them.
func listen(h host.Host, addrs []string, log *zap.Logger) error {
	chosen := len(addrs) > 0
	if !chosen {
		addrs = DefaultListen()
	}
	opened := 0
	for _, text := range addrs {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			return fmt.Errorf("listen address %q: %w", text, err)
		}
		err = h.Network().Listen(a)
		switch {
		case err == nil:
			opened++
		case isInUse(err):
			return fmt.Errorf("%w: cannot listen on %s: another program, or another minerd, has it open", ErrPortInUse, text)
		case chosen:
			return fmt.Errorf("cannot listen on %s: %w", text, err)
		default: // such as a machine without IPv6
			log.Debug("not listening on a default address", zap.String("addr", text), zap.Error(err))
		}
	}
	if opened == 0 {
		return fmt.Errorf("cannot listen on any of %q", addrs)
	}
	return nil
}

// isInUse goes by the text as well, since libp2p does not wrap the errors of its listeners.
func isInUse(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), syscall.EADDRINUSE.Error())
}
