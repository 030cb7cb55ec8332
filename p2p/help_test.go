package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/descentnet/minerd/chain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testNetwork = chain.Hash{0: 0xab, 31: 1}

// badNonce marks the blocks that fakeChain calls invalid.
const badNonce = 666

// makeBlock is a block that fakeChain takes, of work 1.
func makeBlock(parent *chain.Block, nonce uint64) *chain.Block {
	b := &chain.Block{}
	b.Version = chain.Version
	b.Network = testNetwork
	b.Difficulty = chain.U128(1)
	b.Nonce = nonce
	b.EarlyRoots = []chain.Hash{{1}, {2}}
	b.EarlyRoot = chain.EarlyRoot(b.EarlyRoots)
	if parent != nil {
		b.Parent = parent.Header.ID()
		b.Height = parent.Height + 1
	}
	return b
}

func makeChain(n int, nonce uint64) []*chain.Block {
	blocks := []*chain.Block{makeBlock(nil, 0)}
	for range n {
		blocks = append(blocks, makeBlock(blocks[len(blocks)-1], nonce))
	}
	return blocks
}

// fakeChain is the simplest chain there is: blocks are valid unless marked, and the longest branch is best.
type fakeChain struct {
	mu      sync.Mutex
	best    []*chain.Block // from genesis
	all     map[chain.Hash]*chain.Block
	batches []int // lengths of what Ingest got
	fault   error // answer of Ingest, if set

	headerFault error // answer of CheckHeader, if set
	offered     chan *chain.Block
}

func newFakeChain(blocks []*chain.Block) *fakeChain {
	c := &fakeChain{best: slices.Clone(blocks), all: map[chain.Hash]*chain.Block{}, offered: make(chan *chain.Block, 1000)}
	for _, b := range blocks {
		c.all[b.Header.ID()] = b
	}
	return c
}

func (c *fakeChain) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	tip := c.best[len(c.best)-1]
	return Status{Network: testNetwork, Tip: tip.Header.ID(), Height: tip.Height, Work: chain.Work{}.Add(chain.U128(tip.Height))}
}

func (c *fakeChain) check(b *chain.Block) error {
	if b.Nonce == badNonce {
		return &chain.InvalidError{Kind: chain.ErrTicket}
	}
	if c.all[b.Parent] == nil {
		return chain.ErrOrphan
	}
	return nil
}

func (c *fakeChain) Offer(_ peer.ID, b *chain.Block) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered <- b
	return c.check(b)
}

// add takes a block as verified.
func (c *fakeChain) add(b *chain.Block) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addLocked(b)
}

func (c *fakeChain) addLocked(b *chain.Block) error {
	if err := c.check(b); err != nil {
		return err
	}
	c.all[b.Header.ID()] = b
	if b.Height < uint64(len(c.best)) {
		return nil
	}
	branch := []*chain.Block{b}
	for branch[0].Height > 0 {
		branch = append([]*chain.Block{c.all[branch[0].Parent]}, branch...)
	}
	c.best = branch
	return nil
}

func (c *fakeChain) Locator() []chain.Hash {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []chain.Hash
	for i, step := len(c.best)-1, 1; i > 0; i -= step {
		ids = append(ids, c.best[i].Header.ID())
		if len(ids) > 10 {
			step *= 2
		}
	}
	return append(ids, c.best[0].Header.ID())
}

func (c *fakeChain) After(locator []chain.Hash, max int) ([]*chain.Block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range locator {
		if b := c.all[id]; b != nil && b.Height < uint64(len(c.best)) && c.best[b.Height] == b {
			rest := c.best[b.Height+1:]
			return slices.Clone(rest[:min(max, len(rest))]), nil
		}
	}
	return nil, chain.ErrNotFound
}

func (c *fakeChain) Block(id chain.Hash) (*chain.Block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.all[id]; b != nil {
		return b, nil
	}
	return nil, chain.ErrNotFound
}

func (c *fakeChain) StateAfter(id chain.Hash) (chain.State, error) {
	b, err := c.Block(id)
	if err != nil {
		return chain.State{}, err
	}
	return chain.State{ID: id, Height: b.Height, Work: chain.Work{}.Add(chain.U128(b.Height))}, nil
}

// badTime marks the headers that CheckHeader calls invalid.
const badTime = 777

func (c *fakeChain) CheckHeader(_ peer.ID, before chain.State, h *chain.Header) (chain.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.headerFault != nil {
		return chain.State{}, c.headerFault
	}
	if h.Time == badTime {
		return chain.State{}, &chain.InvalidError{Kind: chain.ErrTime}
	}
	return chain.State{ID: h.ID(), Height: h.Height, Work: before.Work.Add(h.Difficulty)}, nil
}

func (c *fakeChain) CheckBody(b *chain.Block) error {
	if chain.EarlyRoot(b.EarlyRoots) != b.EarlyRoot {
		return &chain.InvalidError{Kind: chain.ErrEarlyRoots}
	}
	return nil
}

func (c *fakeChain) Ingest(_ context.Context, _ peer.ID, blocks []*chain.Block) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches = append(c.batches, len(blocks))
	if c.fault != nil {
		return 0, c.fault
	}
	for i, b := range blocks {
		if err := c.addLocked(b); err != nil {
			return i, err
		}
	}
	return len(blocks), nil
}

func (c *fakeChain) height() uint64 { return c.Status().Height }

func (c *fakeChain) setFault(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = err
}

// node is a service with its chain and its log.
type node struct {
	*Service
	chain *fakeChain
	logs  *observer.ObservedLogs
	cfg   Config
}

func newKey(t *testing.T) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// fast is for tests: what is waited for comes soon, what must not happen has time.
var fast = Timing{
	StatusPoll: 200 * time.Millisecond, // below what the token bucket allows
	PeersPoll:  time.Second,
	Watchdog:   time.Hour,
	BackoffMin: 20 * time.Millisecond,
	BackoffMax: 200 * time.Millisecond,
	Request:    5 * time.Second,
	Stall:      5 * time.Second,
	Dial:       5 * time.Second,
	Discover:   200 * time.Millisecond,
	Progress:   time.Hour,
}

func testConfig(t *testing.T) (Config, *observer.ObservedLogs) {
	core, logs := observer.New(zapcore.DebugLevel)
	return Config{
		Key:         newKey(t),
		Listen:      []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"},
		Network:     testNetwork,
		NetworkName: "test",
		Version:     "1.2.3",
		MinPeers:    1,
		Log:         zap.New(core),
		Timing:      fast,
	}, logs
}

// newNode makes a service that is not started; change may be nil.
func newNode(t *testing.T, c Chain, change func(*Config)) *node {
	t.Helper()
	cfg, logs := testConfig(t)
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	fake, _ := c.(*fakeChain)
	return &node{s, fake, logs, cfg}
}

func startNode(t *testing.T, c Chain, change func(*Config)) *node {
	t.Helper()
	n := newNode(t, c, change)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

// calling makes a node call another.
func calling(others ...*node) func(*Config) {
	return func(cfg *Config) {
		for _, n := range others {
			cfg.Bootstrap = append(cfg.Bootstrap, n.Addrs()[0].String())
		}
	}
}

// listenAddrs are the addresses that the node has opened; libp2p's list has an entry for relays as well.
func (n *node) listenAddrs() []ma.Multiaddr {
	return slices.DeleteFunc(n.host.Network().ListenAddresses(), isRelayed)
}

// eventually waits for a condition; it fails the test if it does not come true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (n *node) knows(other *node) bool { return n.peers.has(other.ID()) }

// meshed is true once both know each other and that they follow the topic.
func meshed(a, b *node) bool {
	return a.knows(b) && b.knows(a) &&
		slices.Contains(a.gossip.ListPeers(a.topicName()), b.ID()) &&
		slices.Contains(b.gossip.ListPeers(b.topicName()), a.ID())
}

func (n *node) logged(message string) int { return n.logs.FilterMessage(message).Len() }

// receive waits for a block that was offered.
func (c *fakeChain) receive(t *testing.T) *chain.Block {
	t.Helper()
	select {
	case b := <-c.offered:
		return b
	case <-time.After(20 * time.Second):
		t.Fatal("no block came")
		return nil
	}
}

var errLocal = errors.New("device lost")
