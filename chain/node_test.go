package chain_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/store"
)

// node is a manager with what it stands on.
type node struct {
	*chain.Manager
	t       testing.TB
	store   *store.Memory
	trainer *trainer
}

func newNode(w *world) *node {
	w.t.Helper()
	return open(w, store.NewMemory(), chain.DefaultModelLimits)
}

// open begins with what the store has.
func open(w *world, s *store.Memory, limits chain.ModelLimits) *node {
	w.t.Helper()
	tr := newTrainer(w.Network)
	m, err := chain.OpenManager(context.Background(), w.Network, s, tr, limits)
	if err != nil {
		w.t.Fatal(err)
	}
	return &node{m, w.t, s, tr}
}

// try adds a block at the time that it names.
func (n *node) try(b *chain.Block) (chain.Added, error) {
	return n.Add(context.Background(), b, b.Time, n.Arrive(""))
}

// add adds good blocks and gives what became of the last one.
func (n *node) add(links ...*link) (a chain.Added) {
	n.t.Helper()
	for _, l := range links {
		var err error
		if a, err = n.try(l.block); err != nil {
			n.t.Fatalf("block at height %d: %v", l.block.Height, err)
		}
		if !a.Known && a.State != l.state {
			n.t.Fatalf("state after height %d is %+v, want %+v", l.block.Height, a.State, l.state)
		}
	}
	return a
}

// at checks that l is the tip, with its ledger and model.
func (n *node) at(l *link) {
	n.t.Helper()
	best, _ := n.Best()
	if best != l.state {
		n.t.Fatalf("best is height %d, %v, want height %d, %v", best.Height, best.ID, l.state.Height, l.id())
	}
	if tip, err := n.store.Tip(); err != nil || tip != l.state {
		n.t.Errorf("the store's tip is %v, %v", tip.ID, err)
	}
	if n.Ledger().Root() != l.ledger.Root() {
		n.t.Error("the ledger is not that of the tip")
	}
	var stored chain.Ledger
	err := n.store.Accounts(func(a chain.Address, acc chain.Account) error {
		stored = stored.Set(a, acc)
		return nil
	})
	if err != nil || stored.Root() != l.ledger.Root() {
		n.t.Errorf("the store's accounts are not those of the tip: %v", err)
	}
	n.hasModel(l)
	for a := l; a != nil; a = a.parent {
		if id, err := n.store.BlockID(a.state.Height); err != nil || id != a.id() {
			n.t.Errorf("block at height %d is %v, %v", a.state.Height, id, err)
		}
	}
	if id, err := n.store.BlockID(l.state.Height + 1); !errors.Is(err, chain.ErrNotFound) {
		n.t.Errorf("above the tip is %v, %v", id, err)
	}
}

func (n *node) hasModel(l *link) {
	n.t.Helper()
	m, err := n.Model(context.Background(), l.id())
	if err != nil {
		n.t.Fatal(err)
	}
	if root, err := m.Root(1); err != nil || root != l.state.ModelRoot {
		n.t.Errorf("model at height %d has root %v, %v", l.state.Height, root, err)
	}
}

// remembered says whether the block's id is kept as invalid, for good or for a while.
func (n *node) remembered(b *chain.Block) bool {
	n.t.Helper()
	_, err := n.store.Invalid(b.Header.ID())
	if err != nil && !errors.Is(err, chain.ErrNotFound) {
		n.t.Fatal(err)
	}
	return err == nil || n.HasVerdict(b.Header.ID())
}

func clone(b *chain.Block) *chain.Block {
	c := *b
	c.EarlyRoots = append([]chain.Hash(nil), b.EarlyRoots...)
	c.Transactions = append([][]byte(nil), b.Transactions...)
	return &c
}

func flip(h *chain.Hash) { h[20] ^= 4 }

// grind changes a hash until the block's ticket wins (or does not).
func (w *world) grind(b *chain.Block, base chain.Base, h *chain.Hash, win bool) {
	target := w.Target(base, b.Difficulty)
	for i := byte(0); ; i++ {
		h[20]++
		if i == 255 {
			h[21]++
		}
		if chain.Wins(b.Ticket(), target) == win {
			return
		}
	}
}

// grindNonce does the same to the nonce.
func (w *world) grindNonce(b *chain.Block, base chain.Base, win bool) {
	target := w.Target(base, b.Difficulty)
	for {
		b.Nonce++
		if chain.Wins(b.Ticket(), target) == win {
			return
		}
	}
}

// forged is what would be true after b on parent, were it valid.
func (w *world) forged(parent *link, b *chain.Block) *link {
	w.t.Helper()
	base, err := w.Base(parent.state, w.start)
	if err != nil {
		w.t.Fatal(err)
	}
	s, changes := w.Apply(parent.state, base, parent.ledger, b)
	return &link{block: b, state: s, ledger: parent.ledger.Apply(changes, true), base: base, parent: parent}
}

func bits(x float64) uint32 { return math.Float32bits(float32(x)) }
