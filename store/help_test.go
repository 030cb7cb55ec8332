package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

var testNetwork = chain.Hash{1, 2, 3}

func testOptions() Options { return Options{Network: testNetwork, NetworkName: "testnet"} }

// branch makes linked blocks and follows their ledger. Whether they keep the rules is nothing to a store.
type branch struct {
	rnd    *rand.Rand
	blocks []chain.Verified
	ledger chain.Ledger
	bytes  int // of the blocks' one transaction
}

func newBranch(seed uint64) *branch {
	return &branch{rnd: rand.New(rand.NewPCG(seed, 0)), bytes: 100}
}

func (c *branch) hash() (h chain.Hash) {
	for i := range h {
		h[i] = byte(c.rnd.Uint32())
	}
	return h
}

func (c *branch) tip() chain.Verified { return c.blocks[len(c.blocks)-1] }

// next adds a block.
func (c *branch) next() chain.Verified {
	b := &chain.Block{}
	var parent chain.State
	if len(c.blocks) > 0 {
		parent = c.tip().State
		b.Parent, b.Height = parent.ID, parent.Height+1
	}
	b.Version, b.Network, b.Time = 1, testNetwork, parent.Time+1000
	b.Difficulty = chain.Uint128{Hi: 5, Lo: c.rnd.Uint64()}
	b.Nonce, b.StateRoot = c.rnd.Uint64(), c.hash()
	b.Payout = chain.Address{byte(c.rnd.IntN(8)), 7}
	for range 6 {
		b.EarlyRoots = append(b.EarlyRoots, c.hash())
	}
	tx := make([]byte, c.bytes)
	for i := 0; i+8 <= len(tx); i += 8 {
		binary.LittleEndian.PutUint64(tx[i:], c.rnd.Uint64())
	}
	b.Transactions = [][]byte{tx}
	s := chain.State{
		ID: b.Header.ID(), Height: b.Height, Work: parent.Work.Add(b.Difficulty), Time: b.Time, ParentTime: parent.Time,
		Difficulty: b.Difficulty, TaskNumber: 3, TaskBlocks: uint32(b.Height), TaskKept: 1, ModelRoot: b.StateRoot,
		Loss: c.rnd.Uint32(), Advanced: c.rnd.IntN(2) == 0,
	}
	v := chain.Verified{Block: b, State: s}
	change := func(a chain.Address, acc chain.Account) {
		ch := chain.AccountChange{Address: a, Before: c.ledger.Account(a), After: acc}
		v.Changes = append(v.Changes, ch)
		c.ledger = c.ledger.Apply([]chain.AccountChange{ch}, true)
	}
	// The same account may change twice in a block, and one may end at zero.
	change(b.Payout, chain.Account{Balance: c.rnd.Uint64(), Nonce: 1})
	change(b.Payout, chain.Account{Balance: c.rnd.Uint64(), Nonce: 2})
	change(chain.Address{byte(c.rnd.IntN(8)), 7}, chain.Account{})
	c.blocks = append(c.blocks, v)
	return v
}

func (c *branch) grow(n int) *branch {
	for range n {
		c.next()
	}
	return c
}

// fork is the branch up to a height, to go on from there.
func (c *branch) fork(height int, seed uint64) *branch {
	f := newBranch(seed)
	f.blocks = append(f.blocks, c.blocks[:height+1]...)
	f.ledger = ledgerOf(f.blocks)
	return f
}

func ledgerOf(blocks []chain.Verified) (l chain.Ledger) {
	for _, v := range blocks {
		l = l.Apply(v.Changes, true)
	}
	return l
}

func connect(t testing.TB, s chain.Store, blocks ...chain.Verified) {
	t.Helper()
	for _, v := range blocks {
		if err := s.Connect(v); err != nil {
			t.Fatalf("connect height %d: %v", v.Block.Height, err)
		}
	}
}

func sameVerified(a, b chain.Verified) bool { return bytes.Equal(encodeVerified(a), encodeVerified(b)) }

// checkStored checks that the best chain of s is exactly blocks.
func checkStored(t testing.TB, s chain.Store, blocks []chain.Verified) {
	t.Helper()
	tip, err := s.Tip()
	if err != nil {
		t.Fatal(err)
	}
	if want := blocks[len(blocks)-1].State; tip != want {
		t.Fatalf("tip is %s at height %d, want %s at %d", tip.ID.Short(), tip.Height, want.ID.Short(), want.Height)
	}
	for h, want := range blocks {
		id, err := s.BlockID(uint64(h))
		if err != nil || id != want.State.ID {
			t.Fatalf("block at height %d: got %s, %v, want %s", h, id.Short(), err, want.State.ID.Short())
		}
		v, err := s.Verified(id)
		if err != nil || !sameVerified(v, want) {
			t.Fatalf("block %s at height %d differs: %v", id.Short(), h, err)
		}
	}
	wantNotFound(t, "height above the tip", errOf(s.BlockID(uint64(len(blocks)))))
	var ledger chain.Ledger
	if err := s.Accounts(func(a chain.Address, acc chain.Account) error {
		if acc == (chain.Account{}) {
			t.Errorf("account %s is zero", a)
		}
		ledger = ledger.Set(a, acc)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := ledgerOf(blocks); ledger.Root() != want.Root() {
		t.Fatalf("accounts at height %d are not those of the chain", len(blocks)-1)
	}
}

func errOf[T any](_ T, err error) error { return err }

func wantNotFound(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("%s: got %v, want %v", what, err, chain.ErrNotFound)
	}
}

// testModel gives n bytes and their root.
func testModel(seed uint64, n int) (chain.Hash, []byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return nn.BytesRoot(b), b
}

func open(t testing.TB, dir string) *Badger {
	t.Helper()
	s, err := Open(dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func shut(t testing.TB, s *Badger) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
