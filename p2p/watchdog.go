package p2p

import (
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// ticksUnsubscribed is after how many looks in a row a peer outside the topic is reconnected.
const ticksUnsubscribed = 2

// watchTopic heals connections whose two sides have lost each other's subscriptions, as happens after a partition:
// pubsub then sends nothing over them for minutes, though they work. Such a peer is disconnected and called again.
func (s *Service) watchTopic() {
	if s.cfg.ContentOnly {
		return
	}
	missing := map[peer.ID]int{}
	for sleep(s.life, jitter(s.cfg.Timing.Watchdog)) {
		subscribed := map[peer.ID]bool{}
		for _, p := range s.gossip.ListPeers(s.topicName()) {
			subscribed[p] = true
		}
		next := map[peer.ID]int{}
		for _, info := range s.peers.list() {
			if !subscribed[info.ID] && s.speaksGossip(info.ID) {
				next[info.ID] = missing[info.ID] + 1
			}
		}
		missing = next
		for p, ticks := range missing {
			if ticks >= ticksUnsubscribed {
				delete(missing, p)
				s.reconnect(p)
			}
		}
	}
}

func (s *Service) speaksGossip(p peer.ID) bool {
	all, err := s.host.Peerstore().GetProtocols(p)
	if err != nil {
		return false
	}
	for _, id := range all {
		if strings.HasPrefix(string(id), "/meshsub/") {
			return true
		}
	}
	return false
}

func (s *Service) reconnect(p peer.ID) {
	s.log.Info("peer has lost our gossip topic, reconnecting", zap.Stringer("peer_id", p))
	info := s.host.Peerstore().PeerInfo(p) // closing the connection lets its addresses expire
	s.disconnect(p)
	if err := s.dial(s.life, info); err != nil {
		s.log.Debug("reconnecting failed", zap.Stringer("peer_id", p), zap.Error(err))
		poke(s.dialWake)
	}
}
