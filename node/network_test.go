package node

import (
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A peer that was given up is not waited for because it claims yet more, others are, and it is again once the chain has
// what it claimed.
func TestGivenUpPeers(t *testing.T) {
	work := func(n uint64) chain.Work { return chain.Work{}.Add(chain.U128(n)) }
	claims := func(p peer.ID, n uint64) p2p.PeerInfo { return p2p.PeerInfo{ID: p, Status: p2p.Status{Work: work(n)}} }
	var g givenUp
	waitsFor := func(ours uint64, ahead ...p2p.PeerInfo) int { return len(g.rest(ahead, work(ours))) }
	if n := waitsFor(10, claims("a", 20)); n != 1 {
		t.Errorf("%d peers are waited for before any was given up", n)
	}
	g.set([]p2p.PeerInfo{claims("a", 20)}, work(10))
	for claim := uint64(11); claim < 100; claim++ {
		if n := waitsFor(10, claims("a", claim)); n != 0 {
			t.Fatalf("%d peers are waited for after the only one has changed its claim to %d", n, claim)
		}
	}
	if n := waitsFor(10, claims("a", 30), claims("b", 20)); n != 1 {
		t.Errorf("%d peers are waited for, want the other one", n)
	}
	g.set([]p2p.PeerInfo{claims("a", 30), claims("b", 20)}, work(10))
	if n := waitsFor(20, claims("a", 30), claims("b", 30)); n != 2 {
		t.Errorf("%d peers are waited for at the work that they claimed, want both", n)
	}
	g.set([]p2p.PeerInfo{claims("a", 30)}, work(20))
	if n := waitsFor(20, claims("a", 40), claims("b", 30)); n != 1 || len(g.claimed) != 1 {
		t.Errorf("%d peers are waited for and %d given up, want one each", n, len(g.claimed))
	}
}
