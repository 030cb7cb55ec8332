package p2p

import (
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What an account may use of this node: an account is an address range, or a good peer of a shared one (see Standing).
const (
	// A range may ask for as much as rangePeers peers may, each of which is held to its own share besides: it may be an
	// office, or a machine with many containers.
	rangePeers = 8

	// Gossip costs a decoder's work and a check without training, some 50 µs, even where nothing comes of it. An account
	// may send gossipRate bytes a second, in which a message counts at least gossipLeast: 16 full blocks or 256 empty ones,
	// some 1 % of a core. A network with the shortest interval has 10 blocks a second. gossipBurst is 64 full blocks.
	gossipRate  = 1 << 20
	gossipBurst = 4 << 20
	gossipLeast = 4 << 10

	// chargeEvery is how many bytes of blocks a request pays for; what is longer counts as more requests. With requestRate
	// a peer gets 1 MiB a second: 17 of the largest blocks, or 1,300 without transactions.
	chargeEvery = 64 << 10
)

// newRequestBudget is for requests of ranges, newGossipBudget for gossip.
func newRequestBudget() *budget {
	return &budget{rate: rangePeers * requestRate, burst: rangePeers * requestBurst}
}

func newGossipBudget() *budget { return &budget{rate: gossipRate, burst: gossipBurst} }

// budget is a token bucket for each account: at most maxQuotas of them, of some 150 bytes each.
type budget struct {
	rate, burst float64 // tokens per second, tokens at once

	mu        sync.Mutex
	byAccount map[string]*quota
}

// take takes tokens, or says that the account has too few.
func (b *budget) take(account string, tokens float64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.byAccount[account]
	if q == nil {
		if len(b.byAccount) >= maxQuotas {
			b.sweep(now)
		}
		if len(b.byAccount) >= maxQuotas {
			return false
		}
		if b.byAccount == nil {
			b.byAccount = map[string]*quota{}
		}
		q = &quota{last: now}
		b.byAccount[account] = q
	}
	b.recover(q, now)
	if q.spent+tokens > b.burst {
		return false
	}
	q.spent += tokens
	return true
}

// charge takes tokens also where there are too few; then the account has to wait longer, but never more than a burst.
func (b *budget) charge(account string, tokens float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.byAccount[account]; q != nil {
		q.spent = min(q.spent+tokens, 2*b.burst)
	}
}

// sweep forgets accounts that have their full share again.
func (b *budget) sweep(now time.Time) {
	for account, q := range b.byAccount {
		if b.recover(q, now); q.spent == 0 {
			delete(b.byAccount, account)
		}
	}
}

func (b *budget) recover(q *quota, now time.Time) {
	q.spent = max(0, q.spent-b.rate*now.Sub(q.last).Seconds())
	q.last = now
}

// enter takes a place for a request of the peer's, which must be left again, or gives errBusy.
func (s *Service) enter(p peer.ID) error {
	now := time.Now()
	if err := s.quotas.enter(p, now); err != nil {
		return err
	}
	if !s.requests.take(s.standings.of(p).Account, 1, now) {
		s.quotas.leave(p)
		return fmt.Errorf("%w from one address range, allowed are %d a second", errBusy, rangePeers*requestRate)
	}
	return nil
}

// charge takes more requests of a peer's share, and of its range's.
func (s *Service) charge(p peer.ID, requests int) {
	s.quotas.charge(p, requests)
	s.requests.charge(s.standings.of(p).Account, float64(requests))
}

// mayGossip says whether a gossiped message of that many bytes is within the share of who sent it.
func (s *Service) mayGossip(from peer.ID, bytes int) bool {
	return s.gossiped.take(s.standings.of(from).Account, float64(max(bytes, gossipLeast)), time.Now())
}
