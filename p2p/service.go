// Package p2p is a node's side of the network: the libp2p host, gossip of blocks, sync by request, and staying
// connected. It knows no rules; what a block is worth is for the Chain to say.
package p2p

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

// Status is what a node believes.
type Status struct {
	Network chain.Hash
	Tip     chain.Hash // of the best verified chain, as are the next two
	Height  uint64
	Work    chain.Work
}

// Chain is what the network side needs of the node's chain. Its methods may be called at the same time. Status,
// Locator, After and Block may be called as soon as New has returned, the others once Start was called.
type Chain interface {
	Status() Status
	// Offer takes a block from gossip and answers at once, without training: nil if it is queued for verification or
	// known, else the reason why not.
	Offer(from peer.ID, b *chain.Block) error
	// Locator lists ids of the best chain, from the tip back in growing steps to genesis.
	Locator() []chain.Hash
	// After gives up to max blocks of the best chain that follow the first id of the locator that is on it;
	// chain.ErrNotFound if none is.
	After(locator []chain.Hash, max int) ([]*chain.Block, error)
	// Block gives a verified block; chain.ErrNotFound for any other id.
	Block(id chain.Hash) (*chain.Block, error)
	// StateAfter gives the state of the chain after a verified block; chain.ErrNotFound for any other id.
	StateAfter(id chain.Hash) (chain.State, error)
	// CheckHeader holds a header against the state that it follows, as far as that is possible without its body and its
	// training, and gives the state that it claims.
	CheckHeader(from peer.ID, before chain.State, h *chain.Header) (chain.State, error)
	// CheckBody checks that a block's body is well-formed and belongs to its header.
	CheckBody(b *chain.Block) error
	// Ingest takes blocks got by request, each the parent of the next, and returns when all are judged: nil, or the
	// error of the first that was refused or could not be judged, with the number taken before it.
	Ingest(ctx context.Context, from peer.ID, blocks []*chain.Block) (int, error)
}

// Config says how a service is to be. Key, Network and Log must be set.
type Config struct {
	Key         crypto.PrivKey
	Listen      []string // multiaddrs; none means TCP and QUIC at DefaultPort, IPv4 and IPv6
	Bootstrap   []string // multiaddrs ending in /p2p/ID; called for as long as the service runs
	MDNS        bool     // find nodes of the local network
	Network     chain.Hash
	NetworkName string
	// Content is for others to fetch, nil for none. With ContentOnly, the service is there to Fetch itself: it takes no part
	// in gossip and sync of blocks, and of the Chain only Status is asked for more than an error.
	Content     Content
	ContentOnly bool
	Version     string
	AddressBook string // file of known peers, beside which bans are kept; "" for none
	MinPeers    int    // with fewer, known peers are called; 0 means 8
	Log         *zap.Logger
	Timing      Timing
	Transports  []libp2p.Option // in place of TCP and QUIC, for simulated links
	Reach
}

// Timing holds how long things take; what is zero gets its default.
type Timing struct {
	StatusPoll time.Duration // how often each peer is asked for its status: 10 s
	PeersPoll  time.Duration // how often each peer is asked for other peers, and the address book is saved: 60 s
	Watchdog   time.Duration // how often topic membership is looked at: 5 s
	BackoffMin time.Duration // between attempts to reach a peer: 1 s, doubling
	BackoffMax time.Duration // up to 30 s
	Request    time.Duration // for a message of a peer to come or go: 10 s
	Stall      time.Duration // for a message during sync, and for a batch before another peer is asked too: 5 s
	Dial       time.Duration // for a connection: 10 s
	Discover   time.Duration // between searches in the hash table, and at first between advertisements: 1 min
	Ban        time.Duration // of a peer that sent an invalid block: 10 min
	Shun       time.Duration // before a peer of another network is called again: 2 min
	Progress   time.Duration // between lines of progress during sync: 10 s
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&t.StatusPoll, 10 * time.Second},
		{&t.PeersPoll, time.Minute},
		{&t.Watchdog, 5 * time.Second},
		{&t.BackoffMin, time.Second},
		{&t.BackoffMax, 30 * time.Second},
		{&t.Request, 10 * time.Second},
		{&t.Stall, 5 * time.Second},
		{&t.Dial, 10 * time.Second},
		{&t.Discover, time.Minute},
		{&t.Ban, 10 * time.Minute},
		{&t.Shun, 2 * time.Minute},
		{&t.Progress, 10 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	return t
}

// Service is a running node's network side.
type Service struct {
	cfg       Config
	chain     Chain
	log       *zap.Logger
	bootstrap []peer.AddrInfo
	host      host.Host
	gossip    *pubsub.PubSub
	topic     atomic.Pointer[pubsub.Topic] // nil before Start
	table     *table                       // nil without a DHT

	syncProtocol protocol.ID
	peers        *peerTable
	bans         *banList
	book         *addressBook
	banFile      string // "" for none
	standings    *standings
	quotas       quotas
	requests     *budget // of ranges
	gossiped     *budget
	once         onceSet
	connections  notice // told of every connection made or lost
	progress     syncProgress
	uploads      uploads
	syncWake     chan struct{} // somebody may be ahead of us
	dialWake     chan struct{} // there may be somebody to call

	life    context.Context
	end     context.CancelFunc
	work    group
	mu      sync.Mutex
	started bool
	release []func() error // what Close undoes, in reverse
}

// ErrNotStarted says that a service is not started yet or closed already.
var ErrNotStarted = errors.New("p2p service is not running")

// New opens the host and answers peers that connect. Nobody is called, and no blocks are taken, before Start.
func New(cfg Config, c Chain) (*Service, error) {
	if cfg.Key == nil || cfg.Log == nil || cfg.Network == (chain.Hash{}) {
		return nil, errors.New("p2p: a service needs a key, a log and a network id")
	}
	if cfg.MinPeers == 0 {
		cfg.MinPeers = 8
	}
	cfg.Timing = cfg.Timing.withDefaults()
	cfg.Reach = cfg.Reach.withDefaults()
	if err := cfg.check(cfg.Listen); err != nil {
		return nil, fmt.Errorf("p2p: %w", err)
	}
	cfg.MinPeers = min(cfg.MinPeers, cfg.MaxPeers)
	routeLibp2pLog(cfg.Log)
	s := &Service{
		cfg: cfg, chain: c, log: cfg.Log,
		syncProtocol: protocol.ID("/minerd/" + shortNetwork(cfg.Network) + "/sync/1"),
		peers:        newPeerTable(),
		standings:    newStandings(time.Now),
		banFile:      BanFile(cfg.AddressBook),
		requests:     newRequestBudget(),
		gossiped:     newGossipBudget(),
		syncWake:     make(chan struct{}, 1),
		dialWake:     make(chan struct{}, 1),
	}
	s.bans = newBanList(time.Now, s.standings)
	for _, text := range cfg.Bootstrap {
		info, err := peer.AddrInfoFromString(text)
		if err != nil {
			return nil, fmt.Errorf("bootstrap address %q: %w; it must look like /ip4/192.0.2.1/tcp/%d/p2p/PEER_ID", text, err, DefaultPort)
		}
		s.bootstrap = append(s.bootstrap, *info)
		s.bans.named[info.ID] = true
	}
	self, err := peer.IDFromPrivateKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("peer key: %w", err)
	}
	s.book = newAddressBook(cfg.AddressBook, self)
	if err := s.book.load(); err != nil {
		s.log.Warn("address book is damaged, starting with an empty one", zap.Error(err))
	}
	if err := s.bans.load(s.banFile, cfg.Timing.Ban); err != nil {
		s.log.Warn("file of bans is damaged, starting without", zap.Error(err))
	}
	s.life, s.end = context.WithCancel(context.Background())
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open makes host and gossip, and listens last, so that whoever connects is answered.
func (s *Service) open() error {
	options, err := s.reachOptions()
	if err != nil {
		return err
	}
	h, err := newHost(s.cfg, crowdGate{s.bans, s}, options...)
	if err != nil {
		return fmt.Errorf("p2p host: %w", err)
	}
	s.host = h
	s.release = append(s.release, h.Close)
	for _, b := range s.bootstrap {
		h.ConnManager().Protect(b.ID, "bootstrap")
	}
	if err := s.openGossip(); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	h.SetStreamHandler(helloProtocol, s.stream(helloProtocol, s.serveHello))
	h.SetStreamHandler(s.syncProtocol, s.stream(s.syncProtocol, s.serveSync))
	if s.cfg.DHT {
		if err := s.openTable(); err != nil {
			return fmt.Errorf("hash table: %w", err)
		}
	}
	if s.cfg.NoListen {
		return nil
	}
	return listen(h, s.cfg, s.log)
}

// Start joins the network: it subscribes to blocks and calls peers. It goes on until ctx ends or Close is called.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.life.Err() != nil {
		return fmt.Errorf("start: %w, or was started twice", ErrNotStarted)
	}
	sub, err := s.host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged), eventbus.BufSize(256))
	if err != nil {
		return fmt.Errorf("p2p events: %w", err)
	}
	reachability, err := s.host.EventBus().Subscribe(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		return errors.Join(fmt.Errorf("p2p events: %w", err), sub.Close())
	}
	if err := s.joinGossip(); err != nil {
		return errors.Join(fmt.Errorf("gossip: %w", err), sub.Close(), reachability.Close())
	}
	if s.cfg.MDNS {
		if err := s.startMDNS(); err != nil {
			// A machine without multicast is no reason not to run.
			s.log.Warn("local discovery is off", zap.Error(err))
		}
	}
	s.started = true
	context.AfterFunc(ctx, s.end)
	s.work.run(func() { s.watchConnections(sub) })
	s.work.run(func() { s.watchReachability(reachability) })
	if s.table != nil {
		s.work.run(s.advertise)
		s.work.run(s.search)
	}
	s.work.run(s.syncLoop)
	s.work.run(s.reportSync)
	s.work.run(s.watchTopic)
	s.work.run(s.keepPeers)
	s.work.run(s.keepBook)
	s.work.run(s.keepBans)
	for _, b := range s.bootstrap {
		if b.ID != s.host.ID() {
			s.work.run(func() { s.keepConnected(b) })
		}
	}
	if s.cfg.PrivateKey != nil {
		s.log.Info("private network: only nodes with the same key connect", zap.String("key_fingerprint", Fingerprint(s.cfg.PrivateKey)))
	}
	s.log.Debug("listening", zap.Stringer("peer_id", s.host.ID()), zap.Stringers("addrs", s.Addrs()))
	return nil
}

// Close ends all that the service does, and waits for it.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	var err error
	for i := len(s.release) - 1; i >= 0; i-- {
		err = errors.Join(err, s.release[i]())
	}
	s.release = nil
	s.work.close()
	if s.started {
		err = errors.Join(err, s.book.save(), s.bans.save(s.banFile))
	}
	s.started = false
	return err
}

// ID is the node's peer id.
func (s *Service) ID() peer.ID { return s.host.ID() }

// Addrs is where others reach the node, each ending in /p2p/ID.
func (s *Service) Addrs() []ma.Multiaddr {
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: s.host.ID(), Addrs: s.host.Addrs()})
	if err != nil {
		return nil // only for an id that is no id
	}
	return addrs
}

func (s *Service) hello() hello {
	return hello{network: s.cfg.Network, name: s.cfg.NetworkName, agent: agent(s.cfg.Version)}
}

func agent(version string) string { return "minerd/" + version }

// shortNetwork stands for the network in protocol names: 64 bits, to tell networks apart and not to prove anything.
func shortNetwork(id chain.Hash) string { return hex.EncodeToString(id[:8]) }

// poke wakes the loop behind a channel of capacity one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d and says whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter is d give or take a quarter, so that nodes do not act in step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.75 + rand.Float64()/2))
}

// backoff is the pause after so many failures in a row.
func (t Timing) backoff(failures int) time.Duration {
	d := t.BackoffMax
	if failures < 32 {
		d = min(d, t.BackoffMin<<max(failures-1, 0))
	}
	return jitter(d)
}

// group waits for goroutines, and takes no more once it is closed.
type group struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// enter counts the caller in; with true it must call leave.
func (g *group) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.wg.Add(1)
	}
	return !g.closed
}

func (g *group) leave() { g.wg.Done() }

func (g *group) run(f func()) bool {
	if !g.enter() {
		return false
	}
	go func() {
		defer g.leave()
		f()
	}()
	return true
}

func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wg.Wait()
}

// notice tells any number of waiters that something happened.
type notice struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next tell.
func (n *notice) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch == nil {
		n.ch = make(chan struct{})
	}
	return n.ch
}

func (n *notice) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != nil {
		close(n.ch)
		n.ch = nil
	}
}
