package chain_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/store"
)

var errCrash = errors.New("the power is gone")

// How a crashing store ends.
const (
	before = iota // the operation is not done
	after         // it is done, and the caller never learns of it
	panics        // the caller is cut off
)

// crashing is a store that ends at an operation: from then on it does nothing more.
type crashing struct {
	chain.Store
	at, how int // number of the operation, from 1; 0 never
	count   int
	dead    bool
}

func op(c *crashing, do func() error) error {
	c.count++
	if !c.dead && c.count != c.at {
		return do()
	}
	if !c.dead && c.how == after {
		_ = do()
	}
	c.dead = true
	if c.how == panics {
		panic(errCrash)
	}
	return errCrash
}

func get[T any](c *crashing, do func() (T, error)) (v T, err error) {
	err = op(c, func() (err error) {
		v, err = do()
		return err
	})
	return v, err
}

func (c *crashing) Tip() (chain.State, error) { return get(c, c.Store.Tip) }
func (c *crashing) Verified(id chain.Hash) (chain.Verified, error) {
	return get(c, func() (chain.Verified, error) { return c.Store.Verified(id) })
}
func (c *crashing) BlockID(h uint64) (chain.Hash, error) {
	return get(c, func() (chain.Hash, error) { return c.Store.BlockID(h) })
}
func (c *crashing) PutVerified(v chain.Verified) error {
	return op(c, func() error { return c.Store.PutVerified(v) })
}
func (c *crashing) Beside() ([]chain.SideBlock, error) { return get(c, c.Store.Beside) }
func (c *crashing) Connect(v chain.Verified) error {
	return op(c, func() error { return c.Store.Connect(v) })
}
func (c *crashing) Disconnect(v chain.Verified, parent chain.State) error {
	return op(c, func() error { return c.Store.Disconnect(v, parent) })
}
func (c *crashing) Accounts(do func(chain.Address, chain.Account) error) error {
	return op(c, func() error { return c.Store.Accounts(do) })
}
func (c *crashing) Invalid(id chain.Hash) (*chain.InvalidError, error) {
	return get(c, func() (*chain.InvalidError, error) { return c.Store.Invalid(id) })
}
func (c *crashing) PutInvalid(id chain.Hash, f *chain.InvalidError) error {
	return op(c, func() error { return c.Store.PutInvalid(id, f) })
}
func (c *crashing) TaskStart(task uint32) (chain.TaskStart, error) {
	return get(c, func() (chain.TaskStart, error) { return c.Store.TaskStart(task) })
}
func (c *crashing) PutTaskStart(task uint32, s chain.TaskStart) error {
	return op(c, func() error { return c.Store.PutTaskStart(task, s) })
}
func (c *crashing) Model(root chain.Hash) ([]byte, error) {
	return get(c, func() ([]byte, error) { return c.Store.Model(root) })
}
func (c *crashing) PutModel(root chain.Hash, h uint64, b []byte) error {
	return op(c, func() error { return c.Store.PutModel(root, h, b) })
}
func (c *crashing) Models() ([]chain.StoredModel, error) { return get(c, c.Store.Models) }
func (c *crashing) DeleteModel(root chain.Hash) error {
	return op(c, func() error { return c.Store.DeleteModel(root) })
}

// crashLimits keep few model states, so that some are deleted on the way.
var crashLimits = chain.ModelLimits{Recent: 2}

// addAll opens a manager over s and adds the blocks until the store ends. It gives those that were acknowledged: Add said
// that they are valid, and not only kept beside the best chain.
func addAll(w *world, s chain.Store, blocks []*chain.Block) (acknowledged map[chain.Hash]bool, crashed bool) {
	acknowledged = map[chain.Hash]bool{}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, errCrash) {
				panic(p)
			}
			crashed = true
		}
	}()
	ctx := context.Background()
	m, err := chain.OpenManager(ctx, w.Network, s, w.trainer, crashLimits)
	if err != nil {
		if !errors.Is(err, errCrash) {
			w.t.Fatal(err)
		}
		return acknowledged, true
	}
	for _, b := range blocks {
		a, err := m.Add(ctx, b, b.Time, m.Arrive(""))
		if errors.Is(err, errCrash) {
			return acknowledged, true
		}
		if err != nil && chain.VerdictOf(err) != chain.Invalid {
			w.t.Fatalf("block at height %d: %v", b.Height, err)
		}
		for _, v := range a.Verified {
			acknowledged[v.State.ID] = true
		}
	}
	return acknowledged, false
}

// TestCrash ends the store at every single operation of accepting blocks and of a change of branches, in each of three
// ways. Opened again, the chain is whole, what was acknowledged is there, and the blocks that were not bring it to where
// an undisturbed node is.
func TestCrash(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { quick(s); s.MaxTaskBlocks = 4 })
	w.trainer.memo = map[[32]byte]memo{}
	base, slow, fast := twoForks(w)
	links := map[chain.Hash]*link{w.genesis().id(): w.genesis()}
	for _, l := range slice(base, slow, fast) {
		links[l.id()] = l
	}
	badLoss, badTicket := clone(base[1].block), clone(base[1].block)
	badLoss.LossAfter++
	w.grind(badTicket, base[1].base, &badTicket.TrainedRoot, false)
	blocks := func(ls ...*link) (out []*chain.Block) {
		for _, l := range ls {
			out = append(out, l.block)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		blocks []*chain.Block
		end    *link
	}{
		{"acceptance", append(append(blocks(base[0]), badLoss, badTicket), blocks(slice(base[1:], slow)...)...), slow[4]},
		{"reorg", blocks(slice(base, slow, fast)...), fast[2]},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{t, w.Network, w.trainer}
			step := 1
			if testing.Short() {
				step = 7
			}
			ops, resumed := 0, 0
			for k := 1; ; k += step {
				done := false
				for how := before; how <= panics; how++ {
					mem := store.NewMemory()
					acknowledged, crashed := addAll(w, &crashing{Store: mem, at: k, how: how}, c.blocks)
					if !crashed {
						done = true
						break
					}
					label := fmt.Sprintf("operation %d, way %d, %d blocks acknowledged", k, how, len(acknowledged))
					_, verifiedErr := mem.Verified(c.end.id())
					was, tipErr := mem.Tip()
					m, err := chain.OpenManager(context.Background(), w.Network, mem, w.trainer, crashLimits)
					if err != nil {
						t.Fatalf("%s: %v", label, err)
					}
					again := &node{m, t, mem, w.trainer}
					tip, _ := again.Best()
					l := links[tip.ID]
					if l == nil {
						t.Fatalf("%s: the tip is none of the blocks", label)
					}
					again.at(l)
					for id := range acknowledged {
						v, err := mem.Verified(id)
						if err != nil || v.State != links[id].state || v.State.Work.Cmp(tip.Work) > 0 {
							t.Errorf("%s: height %d was acknowledged, now the tip is at height %d, %v", label, links[id].state.Height, tip.Height, err)
						}
					}
					if verifiedErr == nil && tip != c.end.state {
						t.Errorf("%s: all blocks are verified, and the tip is at height %d", label, tip.Height)
					}
					if tipErr == nil && was != tip {
						resumed++
					}
					if m, err := again.store.Models(); err != nil || len(m) > 2+5 { // snapshots and what a crash left
						t.Errorf("%s: %d model states, %v", label, len(m), err)
					}
					for _, b := range c.blocks {
						if acknowledged[b.Header.ID()] {
							continue
						}
						if _, err := again.try(b); err != nil && chain.VerdictOf(err) != chain.Invalid {
							t.Errorf("%s: then height %d: %v", label, b.Height, err)
						}
					}
					again.at(c.end)
					if t.Failed() {
						t.Fatal("after ", label)
					}
				}
				if done {
					break
				}
				ops = k
			}
			if ops < 50/step {
				t.Errorf("only %d operations", ops)
			}
			if resumed == 0 {
				t.Error("no opening went on with what was verified")
			}
			t.Logf("%d operations, %d openings that went on with what was verified", ops, resumed)
		})
	}
}

// TestCrashWhileResuming ends the store during a change of branches, and again during every opening that goes on with it.
func TestCrashWhileResuming(t *testing.T) {
	w := newWorld(t, quick)
	w.trainer.memo = map[[32]byte]memo{}
	base, slow, fast := twoForks(w)
	var all []*chain.Block
	for _, l := range slice(base, slow, fast) {
		all = append(all, l.block)
	}
	mem := store.NewMemory()
	// The new branch is verified and the old one is left when this store ends.
	c := &noConnect{Store: mem, refuse: fast[0].id()}
	if _, crashed := addAll(w, c, all); !crashed {
		t.Fatal("no crash")
	}
	if tip, err := mem.Tip(); err != nil || tip != base[1].state {
		t.Fatalf("the tip is at height %d, %v", tip.Height, err)
	}
	opens := 0
	for at := 1; ; at++ {
		if _, crashed := addAll(w, &crashing{Store: mem, at: at, how: after}, nil); !crashed {
			break
		}
		opens++
	}
	n := open(w, mem, chain.DefaultModelLimits)
	n.at(fast[2])
	if opens < 10 {
		t.Errorf("%d openings only were cut short", opens)
	}
}

// noConnect is a store that ends when a certain block is to be connected.
type noConnect struct {
	chain.Store
	refuse chain.Hash
}

func (c *noConnect) Connect(v chain.Verified) error {
	if v.State.ID == c.refuse {
		return errCrash
	}
	return c.Store.Connect(v)
}

// TestStoreFails: the store fails in the midst of a change of branches and works again. The manager goes on with it when
// next it is asked for anything.
func TestStoreFails(t *testing.T) {
	w := newWorld(t, quick)
	base, slow, fast := twoForks(w)
	next := w.mine(fast[2], how{})
	for name, then := range map[string]func(*testing.T, *chain.Manager){
		"a job": func(t *testing.T, m *chain.Manager) {
			if job, err := m.NewJob(context.Background(), 0); err != nil || job.Parent != fast[2].state {
				t.Errorf("job on height %d, %v", job.Parent.Height, err)
			}
		},
		"a known block": func(t *testing.T, m *chain.Manager) {
			if a, err := m.Add(context.Background(), slow[4].block, slow[4].block.Time, m.Arrive("")); err != nil || !a.Known {
				t.Errorf("%+v, %v", a, err)
			}
		},
		"the next block": func(t *testing.T, m *chain.Manager) {
			if a, err := m.Add(context.Background(), next.block, next.block.Time, m.Arrive("")); err != nil || a.Reverted != 0 || a.State != next.state {
				t.Errorf("%+v, %v", a, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := store.NewMemory()
			c := &noConnect{Store: mem, refuse: fast[1].id()}
			m, err := chain.OpenManager(context.Background(), w.Network, c, w.trainer, crashLimits)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range slice(base, slow, fast) {
				a, err := m.Add(context.Background(), l.block, l.block.Time, m.Arrive(""))
				if l == fast[2] {
					if !errors.Is(err, errCrash) || chain.VerdictOf(err) != chain.Unverified || a.Reverted != 5 {
						t.Fatalf("%+v, %v", a, err)
					}
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if best, _ := m.Best(); best != fast[0].state {
				t.Fatalf("the tip is at height %d", best.Height)
			}
			for range 2 {
				if _, err := m.NewJob(context.Background(), 0); !errors.Is(err, chain.ErrNotNow) || !errors.Is(err, errCrash) {
					t.Fatalf("a job while it fails: %v", err)
				}
			}
			c.refuse = chain.Hash{}
			then(t, m)
			want := fast[2]
			if name == "the next block" {
				want = next
			}
			(&node{m, t, mem, w.trainer}).at(want)
		})
	}
}

// richer is a store with an account that no block has made.
type richer struct{ chain.Store }

func (r richer) Accounts(do func(chain.Address, chain.Account) error) error {
	if err := do(chain.Address{0x55}, chain.Account{Balance: 1}); err != nil {
		return err
	}
	return r.Store.Accounts(do)
}

// TestDamagedAccounts: accounts that do not give the ledger root which the tip names are found at the start.
func TestDamagedAccounts(t *testing.T) {
	w := newWorld(t, nil)
	n := newNode(w)
	ls := w.chainOf(w.genesis(), 2, how{})
	for i := range 3 {
		_, err := chain.OpenManager(context.Background(), w.Network, richer{n.store}, w.trainer, crashLimits)
		if !errors.Is(err, chain.ErrCorrupt) || chain.VerdictOf(err) != chain.Unverified {
			t.Errorf("height %d: %v", i, err)
		}
		if i < 2 {
			n.add(ls[i])
		}
	}
}

// TestPartOfABranch: where a block of a better branch is invalid, those below it are taken if they are better alone.
func TestPartOfABranch(t *testing.T) {
	w := newWorld(t, quick)
	base, slow, fast := twoForks(w)
	better := w.mine(fast[2], how{after: 1})
	bad := clone(w.mine(better, how{after: 1}).block)
	bad.LossAfter++
	n := newNode(w)
	n.add(slice(base, slow, fast[:2])...)
	// All that is known of the branch from here on comes at once, the invalid block first in the queue of execution.
	n.trainer.onStep = func(int) error { return errCrash } // not now
	for _, l := range []*link{fast[2], better} {
		if _, err := n.try(l.block); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
	}
	n.trainer.onStep = nil
	a, err := n.try(bad)
	if !errors.Is(err, chain.ErrLossAfter) || a.Reverted != 5 || len(a.Verified) != 4 || a.State != better.state {
		t.Fatalf("%+v, %v", a, err)
	}
	n.at(better)
}
