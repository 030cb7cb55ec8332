package p2p

import (
	"slices"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
)

func TestStatusExchange(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(3, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(3, 0)), calling(a))
	eventually(t, "both know each other", func() bool { return a.knows(b) && b.knows(a) })
	for _, c := range []struct{ us, them *node }{{a, b}, {b, a}} {
		got := c.us.Peers()[0]
		if got.ID != c.them.ID() || got.Agent != "minerd/1.2.3" || got.Status != c.them.chain.Status() || len(got.Addrs) == 0 {
			t.Errorf("peer info %+v", got)
		}
		if behind, best, peers := c.us.Behind(); behind || peers != 1 || best.Height != 3 {
			t.Errorf("behind %v with best height %d of %d peers", behind, best.Height, peers)
		}
		if agent := c.us.agentOf(c.them.ID()); agent != "minerd/1.2.3" {
			t.Errorf("agent string %q in identify", agent)
		}
	}
}

func TestLateJoinerSyncsInBatches(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(200, 0)), nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(a))
	eventually(t, "the late joiner has caught up", func() bool { return b.chain.Status() == a.chain.Status() })
	eventually(t, "the log says so", func() bool { return b.logged("synced") == 1 })
	b.chain.mu.Lock()
	defer b.chain.mu.Unlock()
	if want := []int{64, 64, 64, 8}; !slices.Equal(b.chain.batches, want) {
		t.Errorf("batches of %v blocks, want %v", b.chain.batches, want)
	}
}

func TestBatchesAreBoundInBytes(t *testing.T) {
	blocks := makeChain(0, 0)
	for range 40 {
		b := makeBlock(blocks[len(blocks)-1], 0)
		b.Transactions = [][]byte{make([]byte, 60000)}
		blocks = append(blocks, b)
	}
	a := startNode(t, newFakeChain(blocks), nil)
	b := startNode(t, newFakeChain(blocks[:1]), calling(a))
	eventually(t, "all blocks came", func() bool { return b.chain.height() == 40 })
	b.chain.mu.Lock()
	defer b.chain.mu.Unlock()
	if want := []int{17, 17, 6}; !slices.Equal(b.chain.batches, want) {
		t.Errorf("batches of %v blocks, want %v", b.chain.batches, want)
	}
}

// A branch that forks deeper than a batch brings nothing until it is longer than ours.
func TestSyncOverADeepFork(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(250, 1)), nil)
	b := startNode(t, newFakeChain(makeChain(220, 2)), calling(a))
	eventually(t, "the longer branch is taken", func() bool { return b.chain.Status() == a.chain.Status() })
}

// stallingChain answers no request for blocks before it is released.
type stallingChain struct {
	*fakeChain
	release chan struct{}
}

func (c *stallingChain) After([]chain.Hash, int) ([]*chain.Block, error) {
	<-c.release
	return nil, chain.ErrNotFound
}

func TestSyncSwitchesPeers(t *testing.T) {
	stalling := &stallingChain{newFakeChain(makeChain(300, 0)), make(chan struct{})}
	staller := startNode(t, stalling, nil)
	t.Cleanup(func() { close(stalling.release) }) // runs before the staller's Close
	b := startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.Timing.Stall = 100 * time.Millisecond
		calling(staller)(cfg)
	})
	eventually(t, "sync with the staller fails", func() bool { return b.logged("sync interrupted, trying on") > 0 })
	a := startNode(t, newFakeChain(makeChain(200, 0)), calling(b))
	eventually(t, "the other peer is synced from", func() bool { return b.chain.Status() == a.chain.Status() })
	if b.bans.isBanned(staller.ID()) {
		t.Error("a slow peer was banned")
	}
	eventually(t, "the staller's word does not count", func() bool {
		behind, _, _ := b.Behind()
		return !behind
	})
}

// boastingChain reports work that it does not have.
type boastingChain struct{ *fakeChain }

func (c boastingChain) Status() Status {
	s := c.fakeChain.Status()
	s.Work = s.Work.Add(chain.U128(1000))
	return s
}

func TestEmptyPromiseDoesNotStopTheMiner(t *testing.T) {
	boaster := startNode(t, boastingChain{newFakeChain(makeChain(2, 0))}, nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(boaster))
	eventually(t, "the boaster is doubted", func() bool {
		behind, _, peers := b.Behind()
		return !behind && peers == 1 && b.chain.height() == 2
	})
}

// excusingChain reports more work, and has an excuse whenever it is asked for it.
type excusingChain struct{ boastingChain }

func (c excusingChain) After([]chain.Hash, int) ([]*chain.Block, error) {
	return nil, chain.ErrNotFound
}

func TestExcusesDoNotStopTheMiner(t *testing.T) {
	excuser := startNode(t, excusingChain{boastingChain{newFakeChain(makeChain(2, 0))}}, nil)
	b := startNode(t, newFakeChain(makeChain(0, 0)), calling(excuser))
	eventually(t, "it is doubted", func() bool { behind, _, peers := b.Behind(); return !behind && peers == 1 })
}

func TestPeerWithInvalidBlockIsDropped(t *testing.T) {
	blocks := makeChain(100, 0)
	for range 3 {
		blocks = append(blocks, makeBlock(blocks[len(blocks)-1], badNonce))
	}
	liar := startNode(t, newFakeChain(blocks), nil)
	b := startNode(t, newFakeChain(blocks[:1]), calling(liar))
	eventually(t, "the liar is banned and gone", func() bool {
		return b.bans.isBanned(liar.ID()) && !b.connected(liar.ID()) && !b.knows(liar)
	})
	if b.chain.height() != 100 {
		t.Errorf("height %d, want 100: what came before the invalid block is good", b.chain.height())
	}
	if behind, _, peers := b.Behind(); behind || peers != 0 {
		t.Errorf("behind %v a banned peer", behind)
	}
}

func TestLocalFaultIsNobodysFault(t *testing.T) {
	for name, set := range map[string]func(c *fakeChain, err error){
		"of headers": func(c *fakeChain, err error) { c.headerFault = err },
		"of blocks":  func(c *fakeChain, err error) { c.fault = err },
	} {
		t.Run(name, func(t *testing.T) {
			a := startNode(t, newFakeChain(makeChain(10, 0)), nil)
			mine := newFakeChain(makeChain(0, 0))
			set(mine, errLocal)
			b := startNode(t, mine, calling(a))
			eventually(t, "several attempts were made", func() bool { return b.logged("sync interrupted, trying on") > failuresToDrop })
			if behind, _, _ := b.Behind(); !behind || b.bans.isBanned(a.ID()) || !b.knows(a) {
				t.Fatalf("behind %v, banned %v, known %v: want a good peer that is ahead", behind, b.bans.isBanned(a.ID()), b.knows(a))
			}
			mine.mu.Lock()
			set(mine, nil)
			mine.mu.Unlock()
			eventually(t, "caught up", func() bool { return b.chain.height() == 10 })
		})
	}
}

func TestLooseHeadersAreGarbage(t *testing.T) {
	blocks := makeChain(3, 0)
	locator := []chain.Hash{blocks[0].Header.ID()}
	for name, c := range map[string]struct {
		blocks []*chain.Block
		good   bool
	}{
		"none":         {nil, true},
		"a chain":      {blocks[1:], true},
		"no parent":    {blocks[2:], false},
		"a gap":        {[]*chain.Block{blocks[1], blocks[3]}, false},
		"same again":   {[]*chain.Block{blocks[1], blocks[1]}, false},
		"wrong height": {[]*chain.Block{blocks[1], func() *chain.Block { b := makeBlock(blocks[1], 0); b.Height = 9; return b }()}, false},
	} {
		var headers []*chain.Header
		for _, b := range c.blocks {
			headers = append(headers, &b.Header)
		}
		if err := checkLinks(locator, headers); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
