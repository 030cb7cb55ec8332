package p2p

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// grow makes blocks the best chain, whatever was before.
func (c *fakeChain) grow(blocks []*chain.Block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.best = slices.Clone(blocks)
	for _, b := range blocks {
		c.all[b.Header.ID()] = b
	}
}

// quiet is for tests that say themselves when a peer's status is heard.
func quiet(cfg *Config) { cfg.Timing.StatusPoll = time.Hour }

// joinQuietly starts servers and a node that knows them all, all at genesis if their chains are. Nobody polls.
func joinQuietly(t *testing.T, mine Chain, change func(*Config), servers ...Chain) (b *node, others []*node) {
	t.Helper()
	for _, c := range servers {
		others = append(others, startNode(t, c, quiet))
	}
	b = startNode(t, mine, func(cfg *Config) {
		quiet(cfg)
		calling(others...)(cfg)
		if change != nil {
			change(cfg)
		}
	})
	for _, n := range others {
		eventually(t, "connected", func() bool { return b.knows(n) && n.knows(b) })
	}
	return b, others
}

// hear lets a node hear the status of others, all at once.
func (n *node) hear(others ...*node) {
	for _, o := range others {
		n.peers.update(o.ID(), o.Service.chain.Status())
	}
	poke(n.syncWake)
}

// servingChain answers requests for blocks as block says.
type servingChain struct {
	*fakeChain
	block func(inner *fakeChain, id chain.Hash) (*chain.Block, error)
	asked atomic.Int64
}

func (c *servingChain) Block(id chain.Hash) (*chain.Block, error) {
	c.asked.Add(1)
	return c.block(c.fakeChain, id)
}

// gatedChain executes nothing before the gate is opened.
type gatedChain struct {
	*fakeChain
	gate chan struct{}
	at   chan struct{} // gets word of each batch that comes to the gate
}

func newGated() *gatedChain {
	return &gatedChain{newFakeChain(makeChain(0, 0)), make(chan struct{}), make(chan struct{}, 100)}
}

func (c *gatedChain) Ingest(ctx context.Context, from peer.ID, blocks []*chain.Block) (int, error) {
	c.at <- struct{}{}
	select {
	case <-c.gate:
		return c.fakeChain.Ingest(ctx, from, blocks)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func TestStallingPeerIsReplaced(t *testing.T) {
	blocks := makeChain(640, 0)
	good := newFakeChain(blocks[:1])
	release := make(chan struct{})
	staller := &servingChain{fakeChain: newFakeChain(blocks[:1])}
	staller.block = func(c *fakeChain, id chain.Hash) (*chain.Block, error) {
		if staller.asked.Load() > 10 { // in the midst of a batch
			<-release
		}
		return c.Block(id)
	}
	mine := newFakeChain(blocks[:1])
	b, others := joinQuietly(t, mine, func(cfg *Config) { cfg.Timing.Stall = 200 * time.Millisecond }, good, staller)
	t.Cleanup(func() { close(release) }) // runs before the staller's Close
	good.grow(blocks)
	staller.grow(blocks)
	b.hear(others...)
	eventually(t, "caught up", func() bool { return mine.height() == 640 })
	if staller.asked.Load() == 0 {
		t.Error("the stalling peer was not asked: this tests nothing")
	}
	if b.bans.isBanned(others[1].ID()) {
		t.Error("a slow peer was banned")
	}
}

// A peer that sends other blocks than those asked for, or bodies that do not belong to their headers, is banned at once;
// its blocks get no further, and the same ids are fetched from others.
func TestForgedBodies(t *testing.T) {
	blocks := makeChain(300, 0)
	for name, forge := range map[string]func(*chain.Block){
		"another body":   func(b *chain.Block) { b.EarlyRoots = []chain.Hash{{6}, {6}} },
		"another block":  func(b *chain.Block) { b.Nonce++ },
		"not even block": func(b *chain.Block) { b.Transactions = [][]byte{make([]byte, 62000)} }, // too long to be read
	} {
		t.Run(name, func(t *testing.T) {
			good := newFakeChain(blocks[:1])
			forger := &servingChain{fakeChain: newFakeChain(blocks[:1]), block: func(c *fakeChain, id chain.Hash) (*chain.Block, error) {
				b, err := c.Block(id)
				if err != nil || b.Height%10 != 0 {
					return b, err
				}
				forged := *b
				forge(&forged)
				return &forged, nil
			}}
			mine := newFakeChain(blocks[:1])
			b, others := joinQuietly(t, mine, nil, good, forger)
			good.grow(blocks)
			forger.grow(blocks)
			b.hear(others...)
			eventually(t, "caught up", func() bool { return mine.Status() == good.Status() })
			eventually(t, "the forger is banned and gone", func() bool { return b.bans.isBanned(others[1].ID()) && !b.knows(others[1]) })
			if b.bans.isBanned(others[0].ID()) || !b.knows(others[0]) {
				t.Error("the good peer was dropped")
			}
		})
	}
}

// floodingChain has an endless chain: it makes up headers as they are asked for.
type floodingChain struct {
	*fakeChain
	headers atomic.Int64
	nonce   uint64
	known   sync.Map // id to block
	bodies  bool     // gives the blocks too
}

func (c *floodingChain) Status() Status {
	s := c.fakeChain.Status()
	s.Work = s.Work.Add(chain.U128(1 << 40))
	return s
}

func (c *floodingChain) After(locator []chain.Hash, n int) ([]*chain.Block, error) {
	last := c.best[0]
	if b, ok := c.known.Load(locator[0]); ok {
		last = b.(*chain.Block)
	}
	var out []*chain.Block
	for range n {
		last = makeBlock(last, c.nonce)
		c.known.Store(last.Header.ID(), last)
		out = append(out, last)
	}
	c.headers.Add(int64(n))
	return out, nil
}

func (c *floodingChain) Block(id chain.Hash) (*chain.Block, error) {
	if b, ok := c.known.Load(id); ok && c.bodies {
		return b.(*chain.Block), nil
	}
	return nil, chain.ErrNotFound
}

func TestHeadersFlood(t *testing.T) {
	flood := &floodingChain{fakeChain: newFakeChain(makeChain(0, 0))}
	flooder := startNode(t, flood, nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(flooder))
	eventually(t, "the flooder is dropped", func() bool {
		for _, e := range b.logs.FilterMessage("peer disconnected").All() {
			if e.ContextMap()["peer_id"] == flooder.ID().String() {
				return true
			}
		}
		return false
	})
	// It may have come again meanwhile.
	if most := int64(1+b.logged("sync interrupted, trying on")) * maxHeadersAhead; flood.headers.Load() > most {
		t.Errorf("%d headers were taken, at most %d should have been", flood.headers.Load(), most)
	}
	if flood.headers.Load() < maxHeaders {
		t.Errorf("%d headers were taken: this tests nothing", flood.headers.Load())
	}
	if b.chain.height() != 0 {
		t.Errorf("height %d", b.chain.height())
	}
}

func TestFloodOfInvalidBlocks(t *testing.T) {
	flood := &floodingChain{fakeChain: newFakeChain(makeChain(0, 0)), nonce: badNonce, bodies: true}
	flooder := startNode(t, flood, nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(flooder))
	eventually(t, "the flooder is banned and gone", func() bool { return b.bans.isBanned(flooder.ID()) && !b.knows(flooder) })
	if behind, _, peers := b.Behind(); behind || peers != 0 {
		t.Errorf("behind %v a banned peer", behind)
	}
}

func TestInvalidHeaderIsSeenBeforeItsBlock(t *testing.T) {
	blocks := makeChain(3, 0)
	bad := makeBlock(blocks[3], 0)
	bad.Time = badTime
	liar := &servingChain{fakeChain: newFakeChain(append(blocks, bad)), block: func(*fakeChain, chain.Hash) (*chain.Block, error) {
		return nil, chain.ErrNotFound
	}}
	l := startNode(t, liar, nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(l))
	eventually(t, "the liar is banned and gone", func() bool { return b.bans.isBanned(l.ID()) && !b.knows(l) })
	if n := liar.asked.Load(); n > 0 {
		t.Errorf("%d blocks were asked for", n)
	}
}

// Who serves an invalid block of another's chain has vouched for it as well.
func TestServerOfInvalidBlockIsDropped(t *testing.T) {
	blocks := makeChain(100, 0)
	blocks = append(blocks, makeBlock(blocks[100], badNonce))
	lead := &servingChain{fakeChain: newFakeChain(blocks[:1]), block: func(*fakeChain, chain.Hash) (*chain.Block, error) {
		return nil, errLocal
	}}
	server := newFakeChain(blocks[:1])
	mine := newFakeChain(blocks[:1])
	b, others := joinQuietly(t, mine, nil, lead, server)
	lead.grow(blocks)
	server.grow(blocks)
	b.peers.noteOrphan(others[0].ID()) // makes it the lead
	b.hear(others...)
	for _, n := range others {
		eventually(t, "a liar is banned and gone", func() bool { return b.bans.isBanned(n.ID()) && !b.knows(n) })
	}
	if mine.height() != 100 {
		t.Errorf("height %d, want 100", mine.height())
	}
}

// fork is a chain that follows blocks up to a height and then goes its own way.
func fork(blocks []*chain.Block, at, length int, nonce uint64) []*chain.Block {
	out := slices.Clone(blocks[:at+1])
	for len(out) <= length {
		out = append(out, makeBlock(out[len(out)-1], nonce))
	}
	return out
}

// A peer goes over to a longer branch while its chain is being fetched and executed.
func TestReorgDuringSync(t *testing.T) {
	old := makeChain(300, 0)
	longer := fork(old, 100, 400, 1)
	a := startNode(t, newFakeChain(old), nil)
	mine := newGated()
	b := startNode(t, mine, calling(a))
	<-mine.at
	a.chain.grow(longer)
	close(mine.gate)
	eventually(t, "the longer branch is taken", func() bool { return mine.Status() == a.chain.Status() })
	if b.bans.isBanned(a.ID()) {
		t.Error("a peer that changed its mind was banned")
	}
}

// movingChain goes over to another branch once it was asked for so many headers.
type movingChain struct {
	*fakeChain
	left   atomic.Int64
	branch []*chain.Block
}

func (c *movingChain) After(locator []chain.Hash, n int) ([]*chain.Block, error) {
	if c.left.Add(int64(-n)) == -int64(n) {
		c.grow(c.branch)
	}
	return c.fakeChain.After(locator, n)
}

// The same between two answers: what is known of the old branch is finished before the new one is followed.
func TestReorgBetweenHeaders(t *testing.T) {
	old := makeChain(maxHeaders+100, 0)
	moving := &movingChain{fakeChain: newFakeChain(old), branch: fork(old, 900, maxHeaders+200, 1)}
	moving.left.Store(maxHeaders)
	a := startNode(t, moving, nil)
	b := startNode(t, newFakeChain(old[:1]), calling(a))
	eventually(t, "the new branch is taken", func() bool { return b.chain.Status() == moving.fakeChain.Status() })
	if moving.left.Load() > 0 {
		t.Error("the peer never moved: this tests nothing")
	}
	if b.bans.isBanned(a.ID()) || b.logged("sync interrupted, trying on") > 0 {
		t.Error("a peer that changed its mind was held to it")
	}
}

// The same before any block was executed, which is no empty promise either.
func TestReorgBetweenHeadersOfADeepFork(t *testing.T) {
	old := makeChain(maxHeaders+100, 0)
	moving := &movingChain{fakeChain: newFakeChain(old), branch: fork(old, 0, maxHeaders+200, 1)}
	moving.left.Store(maxHeaders)
	a := startNode(t, moving, nil)
	b := startNode(t, newFakeChain(makeChain(maxHeaders+50, 2)), calling(a)) // more than one answer claims
	eventually(t, "the new branch is taken", func() bool { return b.chain.Status() == moving.fakeChain.Status() })
	if moving.left.Load() > 0 {
		t.Error("the peer never moved: this tests nothing")
	}
	if b.bans.isBanned(a.ID()) || b.logged("sync interrupted, trying on") > 0 {
		t.Error("a peer that changed its mind was held to it")
	}
}

// A peer that never stays with a chain is asked again at once a few times, and then doubted.
func TestEndlessReorg(t *testing.T) {
	n := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	n.peers.add(PeerInfo{ID: "a"})
	state := func() peerState { return n.peers.snapshot()[0] }
	for range 2 {
		for i := range movesAllowed {
			n.finishSync("a", errMoved)
			if p := state(); p.failures > 0 || p.doubted {
				t.Fatalf("move %d: %d failures, doubted %v", i+1, p.failures, p.doubted)
			}
		}
		n.finishSync("a", errMoved)
		if p := state(); p.failures != 1 || !p.doubted || !time.Now().Before(p.retryAt) {
			t.Errorf("one move too many: %d failures, doubted %v", p.failures, p.doubted)
		}
		n.peers.trust("a") // its chain has brought us forward after all
	}
}

// A peer leads onto a deep fork, whose blocks it gives one by one and always just in time. It must neither keep us from
// others that are ahead nor stop the miner, and if it is slow for good, it is no liar.
func TestSlowLead(t *testing.T) {
	blocks := makeChain(400, 0)
	for name, rival := range map[string]bool{"alone": false, "another is ahead": true} {
		t.Run(name, func(t *testing.T) {
			slow := &servingChain{fakeChain: newFakeChain(blocks[:1])}
			slow.block = func(c *fakeChain, id chain.Hash) (*chain.Block, error) {
				if slow.asked.Load()%2 == 0 {
					return nil, errLocal // ends the answer after its first block
				}
				time.Sleep(100 * time.Millisecond)
				return c.Block(id)
			}
			mine, good := newFakeChain(blocks[:1]), newFakeChain(blocks[:1])
			b, others := joinQuietly(t, mine, func(cfg *Config) { cfg.Timing.Stall = 300 * time.Millisecond }, slow, good)
			mine.grow(blocks[:301])
			slow.grow(fork(blocks, 0, 2000, 1))
			if rival {
				good.grow(blocks)
			}
			b.peers.noteOrphan(others[0].ID()) // makes it the lead
			b.hear(others...)
			if rival {
				eventually(t, "the other is followed", func() bool { return mine.height() == 400 })
			}
			eventually(t, "the slow one's word does not count", func() bool {
				behind, _, peers := b.Behind()
				return !behind && peers == 2 && len(b.Ahead()) == 0
			})
			if slow.asked.Load() == 0 || b.bans.isBanned(others[0].ID()) {
				t.Error("the slow peer was not asked, or was banned")
			}
		})
	}
}

// Neither time nor work of our machine is held against the lead: the time in which it executes does not count.
func TestExecutionIsNotTheLeadsTime(t *testing.T) {
	n := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	n.peers.add(PeerInfo{ID: "rival", Status: Status{Work: chain.Work{}.Add(chain.U128(5))}})
	n.peers.add(PeerInfo{ID: "lead", Status: Status{Work: chain.Work{}.Add(chain.U128(9))}})
	began := time.Now()
	d := &download{s: n.Service, lead: "lead", waitsFrom: began}
	stall := n.cfg.Timing.Stall
	slow := func(after time.Duration) bool { return d.slow(began.Add(after)) }
	if slow(leadPatience*stall-1) || !slow(leadPatience*stall) {
		t.Error("with another ahead, the lead is not followed for just its time")
	}
	d.executing = true
	if slow(time.Hour) {
		t.Error("the lead is given up while our machine executes")
	}
	d.executing = false
	for name, change := range map[string]func(*peerState){
		"not ahead":  func(p *peerState) { p.info.Status.Work = chain.Work{} },
		"doubted":    func(p *peerState) { p.doubted = true },
		"left alone": func(p *peerState) { p.retryAt = began.Add(time.Hour) },
	} {
		rival := n.peers.m["rival"]
		before := *rival
		change(rival)
		if slow(lonePatience*stall-1) || !slow(lonePatience*stall) {
			t.Errorf("with another peer that is %s, the lead is not followed for just its time", name)
		}
		*rival = before
	}
}

// busyMiner is a chain whose own miner finds a block whenever others are executed.
type busyMiner struct{ *fakeChain }

func (c busyMiner) Ingest(ctx context.Context, from peer.ID, blocks []*chain.Block) (int, error) {
	c.mu.Lock()
	err := c.addLocked(makeBlock(c.best[len(c.best)-1], 0))
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.fakeChain.Ingest(ctx, from, blocks)
}

// Only blocks of a peer's own chain end doubts in it, not those of our miner.
func TestTrustIsEarned(t *testing.T) {
	mine := busyMiner{newFakeChain(makeChain(0, 0))}
	b, others := joinQuietly(t, mine, nil, newFakeChain(makeChain(0, 0)))
	lead := others[0]
	mine.grow(makeChain(10, 0))
	lead.chain.grow(makeChain(5, 1))
	follow := func() (doubted bool) {
		t.Helper()
		b.peers.mu.Lock()
		b.peers.m[lead.ID()].doubted = true
		b.peers.mu.Unlock()
		if err := b.syncWith(t.Context(), lead.ID(), Status{}); err != nil {
			t.Fatal(err)
		}
		b.peers.synced(lead.ID(), time.Now()) // our chain has what was promised, whoever's blocks these are
		return b.peers.snapshot()[0].doubted
	}
	if !follow() {
		t.Error("a peer whose blocks lie beside our chain is trusted")
	}
	if mine.height() != 11 {
		t.Errorf("height %d: the miner found nothing, and this tests nothing", mine.height())
	}
	lead.chain.grow(makeChain(20, 1))
	if follow() || mine.Status() != lead.chain.Status() {
		t.Error("a peer whose chain is ours now is still doubted")
	}
}

// Three failures that are a peer's own end a connection. Others in between count for nothing, and are none.
func TestOwnFaultsDisconnect(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(a))
	eventually(t, "connected", func() bool { return b.knows(a) })
	busy := &FailureError{Code: minerdv1.Failure_CODE_BUSY}
	ours := &ingestError{1, a.ID(), errLocal}
	for i, err := range []error{busy, ours, busy, context.DeadlineExceeded, busy, garbage("x"), ours} {
		b.fetchFailed(a.ID(), err)
		if b.logged("peer disconnected") > 0 || !b.knows(a) {
			t.Fatalf("dropped after failure %d", i+1)
		}
	}
	b.finishSync(a.ID(), errUndelivered)
	eventually(t, "it is dropped", func() bool { return b.logged("peer disconnected") > 0 })
}

func TestPeersVanishAndComeBack(t *testing.T) {
	blocks := makeChain(500, 0)
	mine := newGated()
	b, others := joinQuietly(t, mine, nil, newFakeChain(blocks[:1]), newFakeChain(blocks[:1]))
	for _, n := range others {
		n.chain.grow(blocks)
	}
	b.hear(others...)
	<-mine.at
	var listen []string
	for _, n := range others {
		listen = append(listen, n.listenAddrs()[0].String())
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the loss is seen", func() bool { return len(b.Peers()) == 0 })
	close(mine.gate)
	for i, n := range others {
		startNode(t, newFakeChain(blocks), func(cfg *Config) { cfg.Key, cfg.Listen = n.cfg.Key, listen[i:i+1] })
	}
	eventually(t, "caught up", func() bool { return mine.height() == 500 })
}

// A peer on another branch is asked once, not held to what it lacks, and needed no more.
func TestPeerOnAnotherBranch(t *testing.T) {
	blocks := makeChain(400, 0)
	lead := newFakeChain(blocks[:1])
	other := &servingChain{fakeChain: newFakeChain(blocks[:1]), block: (*fakeChain).Block}
	mine := newFakeChain(blocks[:1])
	b, others := joinQuietly(t, mine, nil, lead, other)
	lead.grow(blocks)
	other.grow(fork(blocks, 0, 400, 1))
	b.peers.noteOrphan(others[0].ID()) // makes it the lead
	b.hear(others...)
	eventually(t, "caught up", func() bool { return mine.height() == 400 })
	if mine.Status() == lead.Status() && other.asked.Load() > 1 {
		t.Errorf("the peer on another branch was asked %d times", other.asked.Load())
	}
	for _, e := range b.peers.snapshot() {
		if e.failures > 0 || e.doubted {
			t.Errorf("%d failures, doubted %v", e.failures, e.doubted)
		}
	}
}

// A short branch is fetched although it claims no more work than ours, so that whoever forges a block of it is found out.
func TestForgedBlockOfNoMoreWork(t *testing.T) {
	blocks := makeChain(5, 0)
	forged := append(slices.Clone(blocks[:5]), makeBlock(blocks[4], badNonce))
	liar := startNode(t, boastingChain{newFakeChain(forged)}, nil)
	b := startNode(t, newFakeChain(blocks), calling(liar))
	eventually(t, "the liar is banned and gone", func() bool { return b.bans.isBanned(liar.ID()) && !b.knows(liar) })
}

// A server that sends less than it was asked for is asked for the rest.
func TestPartialAnswers(t *testing.T) {
	blocks := makeChain(200, 0)
	partial := &servingChain{fakeChain: newFakeChain(blocks)}
	partial.block = func(c *fakeChain, id chain.Hash) (*chain.Block, error) {
		if partial.asked.Load()%20 == 0 {
			return nil, errLocal
		}
		return c.Block(id)
	}
	a := startNode(t, partial, nil)
	b := startNode(t, newFakeChain(blocks[:1]), calling(a))
	eventually(t, "caught up", func() bool { return b.chain.height() == 200 })
}

func TestBatchIsGivenToAnotherPeer(t *testing.T) {
	now := time.Now()
	b := newBatch([]wanted{{}})
	wants := func() bool { return b.wants(now, time.Second) }
	if !wants() {
		t.Error("nobody is asked for a fresh batch")
	}
	b.fetches["a"] = fetch{began: now.Add(-time.Second + 1)}
	if wants() {
		t.Error("another peer is asked at once")
	}
	b.fetches["a"] = fetch{began: now.Add(-time.Second)}
	if !wants() {
		t.Error("no other peer is asked after the time for it")
	}
	b.fetches["b"] = fetch{began: now.Add(-time.Second)}
	if wants() {
		t.Error("a third peer is asked")
	}
	b.fetches, b.blocks = map[peer.ID]fetch{}, []*chain.Block{{}}
	if wants() {
		t.Error("a batch that is there is asked for")
	}
}

// Downloads run ahead of execution as far as the bounds let them, and no further.
func TestDownloadIsBounded(t *testing.T) {
	n := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) { cfg.ContentOnly = true }) // it starts no sync of its own
	ctx, cancel := context.WithCancel(t.Context())
	d := &download{s: n.Service, ctx: ctx, events: make(chan func()), byPeer: map[peer.ID]*helper{}, headers: maxHeadersAhead, complete: true}
	defer d.beside.Wait()
	defer cancel()
	for i := range uint64(maxHeadersAhead) {
		d.last = chain.State{Height: i + 1, Work: d.last.Work.Add(chain.U128(1))}
		d.wanted = append(d.wanted, wanted{chain.Hash{1}, d.last.Height, d.last.Work})
	}
	for _, p := range []peer.ID{"a", "b", "c", "d"} { // they are not connected: a request fails at once, unheard
		n.peers.add(PeerInfo{ID: p, Status: Status{Tip: chain.Hash{1}, Work: d.last.Work}})
	}
	d.fillBatches()
	if d.ahead() != maxBlocksAhead || len(d.wanted) != maxHeadersAhead-maxBlocksAhead {
		t.Errorf("%d blocks are to be fetched and %d wait, want %d and the rest", d.ahead(), len(d.wanted), maxBlocksAhead)
	}
	d.complete = false
	d.askHeaders()
	if d.asking {
		t.Error("headers are asked for without room for them")
	}
	d.waiting = maxBytesAhead - 2*maxBatchBytes
	d.fetch(time.Now())
	if d.flying != 2 {
		t.Errorf("%d batches are on their way, want the two that there is room for", d.flying)
	}
	d.waiting = maxBytesAhead
	d.batches[0].fetches = map[peer.ID]fetch{}
	d.fetch(time.Now())
	if d.flying != 3 || len(d.batches[0].fetches) != 1 {
		t.Errorf("%d batches are on their way, want one more: the oldest", d.flying)
	}
	d.fetch(time.Now().Add(n.cfg.Timing.Stall))
	d.fetch(time.Now().Add(n.cfg.Timing.Stall))
	if d.flying != 4 || len(d.batches[0].fetches) != fetchesPerBatch {
		t.Errorf("%d batches are on their way, want one more: the oldest, from another peer", d.flying)
	}
}

func TestProgressSaysWhatItWaitsFor(t *testing.T) {
	blocks := makeChain(10, 0)
	release := make(chan struct{})
	staller := &servingChain{fakeChain: newFakeChain(blocks), block: func(c *fakeChain, id chain.Hash) (*chain.Block, error) {
		<-release
		return c.Block(id)
	}}
	a := startNode(t, staller, nil)
	mine := newGated()
	b := startNode(t, mine, func(cfg *Config) {
		cfg.Timing.Progress = 20 * time.Millisecond
		calling(a)(cfg)
	})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(release) }) }) // runs before the staller's Close
	waits := func(what string) func() bool {
		return func() bool {
			return slices.ContainsFunc(b.logs.FilterMessage("syncing").All(), func(e observer.LoggedEntry) bool {
				text, _ := e.ContextMap()["waiting_for"].(string)
				return strings.Contains(text, what)
			})
		}
	}
	eventually(t, "it waits for the peer", waits("block at height 1 from peer "+a.ID().String()))
	once.Do(func() { close(release) })
	eventually(t, "it waits for the machine", waits("block at height 1 is being executed"))
	close(mine.gate)
	eventually(t, "caught up", func() bool { return mine.height() == 10 })
	mine.setFault(errLocal)
	longer := fork(blocks, 10, 20, 0)
	staller.grow(longer)
	eventually(t, "it waits after a failure", waits(errLocal.Error()))
}

func TestProgressForgetsOldFailures(t *testing.T) {
	n := startNode(t, newFakeChain(makeChain(0, 0)), nil)
	says := func() string {
		_, _, failure := n.progress.get()
		return askedAgain(failure)
	}
	if got := says(); got != "peers that are ahead are asked again" {
		t.Errorf("without a failure: %q", got)
	}
	n.finishSync("a", errLocal)
	if got := says(); got != "peers that are ahead are asked again, after: device lost" {
		t.Errorf("after a failure: %q", got)
	}
	n.finishSync("a", nil)
	if got := says(); got != "peers that are ahead are asked again" {
		t.Errorf("after a success: %q", got)
	}
}

func TestProgressLine(t *testing.T) {
	line := func(r syncReport, rate float64) map[string]any {
		enc := zapcore.NewMapObjectEncoder()
		for _, f := range r.fields(100, rate) {
			f.AddTo(enc)
		}
		return enc.Fields
	}
	moving := line(syncReport{target: 500, peers: 3, waiting: "x"}, 4)
	if moving["eta"] != 100*time.Second || moving["peers"] != int64(3) || moving["target_height"] != uint64(500) || moving["waiting_for"] != nil {
		t.Errorf("moving: %v", moving)
	}
	stuck := line(syncReport{target: 500, waiting: "x"}, 0)
	if stuck["eta"] != nil || stuck["waiting_for"] != "x" {
		t.Errorf("stuck: %v", stuck)
	}
}

// Failures that are nobody's fault, and those that are.
func TestWhoseFault(t *testing.T) {
	timeout := context.DeadlineExceeded
	busy := &FailureError{Code: minerdv1.Failure_CODE_BUSY}
	for _, c := range []struct {
		err   error
		fault bool
	}{
		{garbage("x"), true},
		{timeout, true},
		{errUndelivered, true},
		{errors.Join(errUndelivered, busy), false},
		{errSlow, false},
		{busy, false},
		{&ingestError{1, "", timeout}, false},
		{errLocal, false},
	} {
		if isPeersFault(c.err) != c.fault {
			t.Errorf("%v: the peer's fault %v, want %v", c.err, !c.fault, c.fault)
		}
	}
}
