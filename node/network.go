package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// PeersConfig is how a node meets others.
type PeersConfig struct {
	Key         crypto.PrivKey
	Listen      []string // multiaddresses; none is the default ports
	Bootstrap   []string // multiaddresses with /p2p/ID
	MDNS        bool
	AddressBook string // file in which known peers are kept
	Timing      p2p.Timing
	Transports  []libp2p.Option // in place of TCP and QUIC, for simulated links
	Reach       p2p.Reach
}

// How long the miner waits for others.
const (
	catchUpPoll = 250 * time.Millisecond
	firstPeer   = 10 * time.Second // after the start, where peers are named or known
	sayAfter    = time.Second
	noProgress  = time.Minute // with peers that claim more work and do not show it
)

// givenUp holds the peers that claimed more work and did not show it, each with what it claimed. Whatever such a peer
// claims later is not waited for, until our chain has the work that it did not show. It may be read and set at the same time.
type givenUp struct {
	mu      sync.Mutex
	claimed map[peer.ID]chain.Work
}

// set gives up on the peers that are ahead of our work. Others are forgotten, so that there are no more than connections.
func (g *givenUp) set(ahead []p2p.PeerInfo, ours chain.Work) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.claimed
	g.claimed = map[peer.ID]chain.Work{}
	for _, p := range ahead {
		claimed := before[p.ID]
		if claimed.Cmp(ours) <= 0 {
			claimed = p.Status.Work
		}
		g.claimed[p.ID] = claimed
	}
}

// rest gives the peers among those ahead of our work that were not given up.
func (g *givenUp) rest(ahead []p2p.PeerInfo, ours chain.Work) []p2p.PeerInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ahead), func(p p2p.PeerInfo) bool {
		return g.claimed[p.ID].Cmp(ours) > 0
	})
}

// network is the node's libp2p side.
type network struct {
	service *p2p.Service
	chain   peerChain
	log     *zap.Logger
	expects bool // peers are named or known from before
	met     bool // one of them, or it was waited for long enough; the miner's
	givenUp givenUp
}

// p2pConfig is the config of the network side, without what the node has for others.
func p2pConfig(cfg Config) p2p.Config {
	p := cfg.Peers
	return p2p.Config{
		Key: p.Key, Listen: p.Listen, Bootstrap: p.Bootstrap, MDNS: p.MDNS, AddressBook: p.AddressBook,
		Network: cfg.Network.ID, NetworkName: cfg.Network.Name, Version: cfg.Version, Log: cfg.Log.Named("p2p"), Timing: p.Timing, Transports: p.Transports, Reach: p.Reach,
	}
}

func openPeers(cfg Config, n *Node) (peers, error) {
	c := peerChain{n.manager, n.store, n.verifier, cfg.Log.Named("p2p")}
	p := cfg.Peers
	pc := p2pConfig(cfg)
	pc.Content = n.files
	s, err := p2p.New(pc, c)
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(p.AddressBook)
	return &network{service: s, chain: c, log: cfg.Log.Named("p2p"), expects: len(p.Bootstrap) > 0 || err == nil}, nil
}

// Run serves peers until ctx is done. Until the node has caught up for the first time, no finality applies.
func (n *network) Run(ctx context.Context) error {
	n.chain.manager.SetSyncing(true)
	if err := n.service.Start(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if behind, _, known := n.service.Behind(); known > 0 && !behind {
			n.chain.manager.SetSyncing(false)
		}
	}
}

func (n *network) Publish(b *chain.Block) {
	if err := n.service.Publish(context.Background(), b); err != nil {
		n.log.Warn("block could not be passed on; peers will ask for it", zap.Uint64("height", b.Height), zap.Error(err))
	}
}

// Behind says whether a peer has more work than we do.
func (n *network) Behind() bool {
	ours, _ := n.chain.manager.Best()
	return len(n.givenUp.rest(n.service.Ahead(), ours.Work)) > 0
}

// CaughtUp waits while a peer has more work than we do, and after the start for a first peer to say what it has. Work
// that is claimed and not shown for a minute is not waited for any more. It is for one goroutine, the miner's.
func (n *network) CaughtUp(ctx context.Context) error {
	tick := time.NewTicker(catchUpPoll)
	defer tick.Stop()
	tip, _ := n.chain.manager.Best()
	began := time.Now()
	progress := began
	said := false
	for {
		_, best, known := n.service.Behind()
		ahead := n.service.Ahead()
		now, _ := n.chain.manager.Best()
		if now.ID != tip.ID {
			tip, progress = now, time.Now()
		}
		behind := len(n.givenUp.rest(ahead, now.Work)) > 0
		n.met = n.met || known > 0 || !n.expects || time.Since(began) > firstPeer
		switch {
		case n.met && !behind:
			if said {
				n.log.Info("mining goes on", zap.Uint64("height", now.Height))
			}
			return ctx.Err()
		case behind && time.Since(progress) > noProgress:
			n.log.Warn("a peer claims a longer chain and does not show it: mining goes on without", zap.Uint64("height", now.Height), zap.Uint64("peer_height", best.Height))
			n.givenUp.set(ahead, now.Work)
		case behind && !said && time.Since(began) > sayAfter:
			said = true
			n.log.Info("mining waits: a peer is ahead", zap.Uint64("height", now.Height), zap.Uint64("peer_height", best.Height))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (n *network) Blame(from source, why error) {
	if id, err := peer.Decode(string(from)); err == nil {
		n.service.Blame(id, why)
	}
}

func (n *network) Credit(from source) {
	if id, err := peer.Decode(string(from)); err == nil {
		n.service.Credit(id)
	}
}

func (n *network) Standing(from source) standing {
	id, err := peer.Decode(string(from))
	if err != nil {
		return standing{account: string(from)}
	}
	s := n.service.Standing(id)
	return standing{s.Account, s.Good, s.Ready}
}

func (n *network) Count() int { return len(n.service.Peers()) }

func (n *network) Describe() []zap.Field {
	var addrs []string
	for _, a := range n.service.Addrs() {
		addrs = append(addrs, a.String())
	}
	return []zap.Field{zap.Stringer("peer_id", n.service.ID()), zap.Strings("addrs", addrs)}
}

func (n *network) Close() error { return n.service.Close() }

// peerChain is the chain as the network side sees it.
type peerChain struct {
	manager  *chain.Manager
	store    chain.Store
	verifier *verifier
	log      *zap.Logger
}

func (c peerChain) Status() p2p.Status {
	tip, _ := c.manager.Best()
	return p2p.Status{Network: c.manager.Network().ID, Tip: tip.ID, Height: tip.Height, Work: tip.Work}
}

func (c peerChain) Offer(from peer.ID, b *chain.Block) error {
	err := c.verifier.offer(source(from.String()), b)
	if chain.VerdictOf(err) == chain.Invalid {
		logRefused(c.log, b, source(from.String()), 0, err)
	}
	return err
}

func (c peerChain) Locator() []chain.Hash {
	ids, err := c.manager.Locator()
	if err != nil {
		c.log.Error("the chain cannot be read", zap.Error(err))
	}
	return ids
}

func (c peerChain) After(locator []chain.Hash, most int) ([]*chain.Block, error) {
	return c.manager.After(locator, most)
}

func (c peerChain) Block(id chain.Hash) (*chain.Block, error) {
	v, err := c.store.Verified(id)
	return v.Block, err
}

func (c peerChain) StateAfter(id chain.Hash) (chain.State, error) {
	v, err := c.store.Verified(id)
	return v.State, err
}

// CheckHeader checks all that needs neither the body nor the model: form, height, time, difficulty, task, ticket, and
// the recorded loss and state root that follow from the headers before. Where a task begins whose start was never worked
// out here, the header's word on it is taken.
func (c peerChain) CheckHeader(from peer.ID, before chain.State, h *chain.Header) (chain.State, error) {
	after, err := c.checkHeader(before, h)
	if chain.VerdictOf(err) == chain.Invalid {
		logRefused(c.log, &chain.Block{Header: *h}, source(from.String()), 0, err)
	}
	return after, err
}

func (c peerChain) checkHeader(before chain.State, h *chain.Header) (chain.State, error) {
	net := c.manager.Network()
	base, err := net.Base(before, func(task uint32) (chain.TaskStart, error) {
		start, err := c.store.TaskStart(task)
		if errors.Is(err, chain.ErrNotFound) {
			return chain.TaskStart{Root: h.StateRoot, Loss: h.LossBefore}, nil
		}
		return start, err
	})
	if err != nil {
		return chain.State{}, err
	}
	// The rules look at blocks: one with an empty body for the form, one with the right number of early roots for the rest.
	form := &chain.Block{Header: *h}
	form.EarlyRoot, form.TxRoot = chain.EarlyRoot(nil), chain.TxRoot(nil)
	if err := net.CheckForm(form); err != nil {
		return chain.State{}, err
	}
	b := &chain.Block{Header: *h, EarlyRoots: make([]chain.Hash, chain.EarlyRootCount(net.Templates[base.Template].TrialSteps))}
	if err := net.CheckClaim(before, base, b); err != nil {
		return chain.State{}, err
	}
	if err := net.CheckOutcome(base, b); err != nil {
		return chain.State{}, err
	}
	if now := millis(c.verifier.now()); h.Time > now+net.MaxFuture {
		return chain.State{}, fmt.Errorf("%w: %d ms ahead, allowed are %d", chain.ErrFuture, h.Time-now, net.MaxFuture)
	}
	after, _ := net.Apply(before, base, chain.Ledger{}, b)
	return after, nil
}

func (c peerChain) CheckBody(b *chain.Block) error { return c.manager.Network().CheckForm(b) }

func (c peerChain) Ingest(ctx context.Context, from peer.ID, blocks []*chain.Block) (int, error) {
	account := c.verifier.of(source(from.String())).account
	for i, b := range blocks {
		err := c.verifier.verify(ctx, b, source(from.String()), c.manager.Arrive(account))
		if err != nil && !errors.Is(err, errOvertaken) { // that one is kept, and executed if the next ones make it worth it
			return i, err
		}
	}
	return len(blocks), nil
}

var _ p2p.Chain = peerChain{}
