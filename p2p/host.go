package p2p

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	"github.com/libp2p/go-libp2p/x/rate"
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
	// dialSlack is for calls that are on their way, which count as connections: our own and those of the hash table, each
	// to several addresses at once.
	dialSlack = 64
	// streamsPerPeer at one protocol of ours, each way: those that we serve at once, and some that we tell to wait.
	streamsPerPeer = 4 * streamsServed
)

// newHost makes a host with the limits of cfg and further options.
func newHost(cfg Config, gater connmgr.ConnectionGater, more ...libp2p.Option) (host.Host, error) {
	limits := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&limits)
	concrete := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns:         rcmgr.LimitVal(cfg.MaxPeers + cfg.MaxInbound + dialSlack),
			ConnsInbound:  rcmgr.LimitVal(cfg.MaxInbound),
			ConnsOutbound: rcmgr.LimitVal(cfg.MaxPeers + dialSlack),
		},
		ProtocolPeerDefault: rcmgr.ResourceLimits{StreamsInbound: streamsPerPeer},
	}.Build(limits.AutoScale())
	perIP := cfg.MaxPeersPerIP
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(concrete),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: perIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: perIP}, {PrefixLength: 48, ConnCount: 4 * perIP}},
		),
		rcmgr.WithConnRateLimiters(connRates(perIP)))
	if err != nil {
		return nil, err
	}
	conns, err := connmanager.NewConnManager(max(1, cfg.MaxPeers*2/3), cfg.MaxPeers, connmanager.WithGracePeriod(time.Minute))
	if err != nil {
		return nil, errors.Join(err, resources.Close())
	}
	transports := cfg.Transports
	if len(transports) == 0 {
		transports = []libp2p.Option{
			// Without SO_REUSEPORT, since with it a second process of the same user opens the same port without an error.
			libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
		}
		if cfg.PrivateKey == nil {
			transports = append(transports, libp2p.Transport(quic.NewTransport))
		}
	}
	if cfg.PrivateKey != nil {
		more = append(more, libp2p.PrivateNetwork(cfg.PrivateKey))
	}
	return libp2p.New(
		libp2p.Identity(cfg.Key),
		libp2p.UserAgent(agent(cfg.Version)),
		libp2p.NoListenAddrs, // see listen
		libp2p.ChainOptions(transports...),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(gater),
		libp2p.ChainOptions(more...),
		// After a hundred dials in vain, as an outage of minutes brings about, libp2p would take UDP and IPv6 for blocked and
		// try one dial in a hundred. Ours are few, and paused for by us.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		withoutMetrics(),
	)
}

// withoutMetrics keeps libp2p off Prometheus' default registry. Its event bus counts even where metrics are disabled,
// so it gets a registry that nobody reads; the order of the two options matters.
func withoutMetrics() libp2p.Option {
	return libp2p.ChainOptions(libp2p.PrometheusRegisterer(prometheus.NewRegistry()), libp2p.DisableMetrics())
}

// connRates lets twice as many connections as are allowed with one address be made in a burst, and then so many in 40 s, as
// libp2p's own limits do for its 8. Below those our own attempts at a peer that is down would be too many.
func connRates(perIP int) *rate.Limiter {
	perIP = max(perIP, 8)
	limit := func(n int) rate.Limit { return rate.Limit{RPS: float64(n) / 40, Burst: 2 * n} }
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, // no limit
			{Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: limit(perIP)}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: limit(perIP)}, {PrefixLength: 48, Limit: limit(4 * perIP)}},
			GracePeriod:      time.Minute,
		},
	}
}

// listen opens all addresses. libp2p itself is content with one of them.
func listen(h host.Host, cfg Config, log *zap.Logger) error {
	addrs, chosen := cfg.Listen, len(cfg.Listen) > 0
	if !chosen {
		addrs = DefaultListen()
		if cfg.PrivateKey != nil {
			addrs = slices.DeleteFunc(addrs, func(a string) bool { return strings.Contains(a, "quic") })
		}
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
