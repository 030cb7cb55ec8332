package p2p

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// PeerInfo describes a connected peer of our network.
type PeerInfo struct {
	ID        peer.ID
	Addrs     []ma.Multiaddr // of its connections
	Agent     string
	Status    Status // as last reported
	Direction network.Direction
	Since     time.Time
}

// peerState is a peer that has told its network and a status.
type peerState struct {
	info   PeerInfo
	orphan bool // it sent a block whose parent we lack
	// doubted: it reports more work and did not deliver. Its word does not stop the miner until it does.
	doubted  bool
	failures int       // to deliver, in a row, whoever's fault
	faults   int       // those of them that are its own
	moves    int       // to other chains while we followed it, since its chain last brought us forward
	retryAt  time.Time // nothing is asked for before
}

// peerTable holds the connected peers of our network.
type peerTable struct {
	mu sync.Mutex
	m  map[peer.ID]*peerState
}

func newPeerTable() *peerTable { return &peerTable{m: map[peer.ID]*peerState{}} }

func (t *peerTable) add(info PeerInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[info.ID] = &peerState{info: info}
}

func (t *peerTable) remove(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, p)
}

// update takes a new status, and says whether the peer is one of ours.
func (t *peerTable) update(p peer.ID, status Status) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.m[p]
	if e == nil {
		return false
	}
	e.info.Status = status
	return true
}

func (t *peerTable) noteOrphan(p peer.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.m[p]; e != nil {
		e.orphan = true
	}
}

func (t *peerTable) has(p peer.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[p] != nil
}

func (t *peerTable) list() []PeerInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []PeerInfo
	for _, e := range t.m {
		out = append(out, e.info)
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return a.Since.Compare(b.Since) })
	return out
}

// snapshot is a copy of all entries, those that have not failed first, and of these the oldest connection.
func (t *peerTable) snapshot() []peerState {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []peerState
	for _, e := range t.m {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b peerState) int {
		return cmp.Or(cmp.Compare(a.failures, b.failures), a.info.Since.Compare(b.info.Since))
	})
	return out
}

// best is the status with the most work among peers that are not doubted, and the number of all peers.
func (t *peerTable) best() (best Status, peers int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := false
	for _, e := range t.m {
		if !e.doubted && (!found || e.info.Status.Work.Cmp(best.Work) > 0) {
			best, found = e.info.Status, true
		}
	}
	return best, len(t.m)
}

// Peers lists the connected peers of our network, the oldest connection first.
func (s *Service) Peers() []PeerInfo {
	list := s.peers.list()
	for i := range list {
		for _, c := range s.host.Network().ConnsToPeer(list[i].ID) {
			list[i].Addrs = append(list[i].Addrs, c.RemoteMultiaddr())
		}
	}
	return list
}

// Behind says whether a connected peer reports more total work than our chain has, the best such report (or the best
// of all if none is better), and how many peers there are. A peer that does not deliver what it reports is left out
// until it does.
func (s *Service) Behind() (behind bool, best Status, peers int) {
	best, peers = s.peers.best()
	return s.ahead(best), best, peers
}

// ahead says whether a status is of more work than our chain has.
func (s *Service) ahead(theirs Status) bool { return theirs.Work.Cmp(s.chain.Status().Work) > 0 }

// peersFor is what a peer is told of others: some that are connected and, if we can tell, can be reached from where
// the peer is.
func (s *Service) peersFor(asker peer.ID, from ma.Multiaddr) []peer.AddrInfo {
	var out []peer.AddrInfo
	for _, p := range s.peers.list() {
		if p.ID == asker {
			continue
		}
		if addrs := usefulAddrs(s.host.Peerstore().Addrs(p.ID), from); len(addrs) > 0 {
			out = append(out, peer.AddrInfo{ID: p.ID, Addrs: addrs})
		}
		if len(out) == maxPeersSent {
			break
		}
	}
	return out
}

// usefulAddrs keeps up to maxAddrs addresses that mean something to a peer that is connected from the given one:
// loopback addresses only for a peer on this machine, private ones only for a peer on a private network.
func usefulAddrs(addrs []ma.Multiaddr, from ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		switch {
		case manet.IsIPUnspecified(a) || manet.IsIP6LinkLocal(a):
		case manet.IsIPLoopback(a) && !manet.IsIPLoopback(from):
		case manet.IsPrivateAddr(a) && manet.IsPublicAddr(from):
		default:
			out = append(out, a)
		}
		if len(out) == maxAddrs {
			break
		}
	}
	return out
}
