package p2p

import (
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

// helloProtocol is the one protocol that all networks share.
const helloProtocol protocol.ID = "/minerd/hello/1"

// ErrForeign says that a peer is of another network.
var ErrForeign = errors.New("peer is of another network")

func foreignError(network chain.Hash, name string, ours hello) error {
	return fmt.Errorf("%w: %s (%q), ours is %s (%q)", ErrForeign, shortNetwork(network), name, shortNetwork(ours.network), ours.name)
}

// noteForeign says once per peer that it is of another network, and keeps it from being called for a while.
func (s *Service) noteForeign(p peer.ID, theirs hello) {
	s.bans.shun(p, s.cfg.Timing.Shun)
	if s.once.first("foreign " + string(p)) {
		s.log.Warn("peer is of another network, disconnecting",
			zap.Stringer("peer_id", p), zap.String("agent", theirs.agent),
			zap.String("peer_network", theirs.network.String()), zap.String("peer_network_name", theirs.name),
			zap.String("our_network", s.cfg.Network.String()), zap.String("our_network_name", s.cfg.NetworkName))
	}
}

// noteStranger does the same for a peer that speaks libp2p and is no minerd.
func (s *Service) noteStranger(p peer.ID) {
	s.bans.shun(p, s.cfg.Timing.Shun)
	if s.once.first("stranger " + string(p)) {
		s.log.Warn("peer is not a minerd node, disconnecting", zap.Stringer("peer_id", p), zap.String("agent", s.agentOf(p)))
	}
}

// isStranger is true for a peer that has listed its protocols, and hello is not among them.
func (s *Service) isStranger(p peer.ID) bool {
	all, err := s.host.Peerstore().GetProtocols(p)
	if err != nil || len(all) == 0 {
		return false
	}
	ours, err := s.host.Peerstore().SupportsProtocols(p, helloProtocol)
	return err == nil && len(ours) == 0
}

// agentOf is what the peer calls itself.
func (s *Service) agentOf(p peer.ID) string {
	v, err := s.host.Peerstore().Get(p, "AgentVersion")
	if text, ok := v.(string); ok && err == nil {
		return cut(text)
	}
	return ""
}
