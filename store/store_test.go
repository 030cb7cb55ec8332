package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/descentnet/minerd/chain"
)

// Every test here runs over both stores. reopen closes and opens one on disk again.
func overBoth(t *testing.T, test func(t *testing.T, s chain.Store, reopen func() chain.Store)) {
	t.Run("memory", func(t *testing.T) {
		s := NewMemory()
		test(t, s, func() chain.Store { return s })
	})
	t.Run("badger", func(t *testing.T) {
		dir := t.TempDir()
		s := open(t, dir)
		test(t, s, func() chain.Store {
			shut(t, s)
			s = open(t, dir)
			return s
		})
	})
}

func TestEmpty(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		for range 2 {
			wantNotFound(t, "tip", errOf(s.Tip()))
			wantNotFound(t, "block", errOf(s.Verified(chain.Hash{1})))
			wantNotFound(t, "height", errOf(s.BlockID(0)))
			wantNotFound(t, "invalid", errOf(s.Invalid(chain.Hash{1})))
			wantNotFound(t, "task start", errOf(s.TaskStart(0)))
			wantNotFound(t, "model", errOf(s.Model(chain.Hash{1})))
			if err := s.DeleteModel(chain.Hash{1}); err != nil {
				t.Error(err)
			}
			if m, err := s.Models(); err != nil || len(m) != 0 {
				t.Errorf("models: %v, %v", m, err)
			}
			if b, err := s.Beside(); err != nil || len(b) != 0 {
				t.Errorf("beside: %v, %v", b, err)
			}
			if err := s.Accounts(func(chain.Address, chain.Account) error { return errors.New("called") }); err != nil {
				t.Error(err)
			}
			s = reopen()
		}
	})
}

func TestConnect(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		c := newBranch(1).grow(40)
		for i, v := range c.blocks {
			connect(t, s, v)
			if i%10 == 0 {
				checkStored(t, s, c.blocks[:i+1])
				s = reopen()
				checkStored(t, s, c.blocks[:i+1])
			}
		}
		checkStored(t, s, c.blocks)
	})
}

func TestDisconnect(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		c := newBranch(2).grow(12)
		connect(t, s, c.blocks...)
		for i := 11; i > 0; i-- {
			if err := s.Disconnect(c.blocks[i], c.blocks[i-1].State); err != nil {
				t.Fatal(err)
			}
			checkStored(t, s, c.blocks[:i])
			if v, err := s.Verified(c.blocks[i].State.ID); err != nil || !sameVerified(v, c.blocks[i]) {
				t.Fatalf("the block that was taken off: %v", err)
			}
		}
		s = reopen()
		checkStored(t, s, c.blocks[:1])
		connect(t, s, c.blocks[1:]...)
		checkStored(t, s, c.blocks)
	})
}

func TestReorg(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		main := newBranch(3).grow(11)
		side := main.fork(5, 4).grow(9)
		connect(t, s, main.blocks...)
		for _, v := range side.blocks[6:] {
			if err := s.PutVerified(v); err != nil {
				t.Fatal(err)
			}
		}
		checkStored(t, s, main.blocks)
		s = reopen()
		for i := 10; i > 5; i-- {
			if err := s.Disconnect(main.blocks[i], main.blocks[i-1].State); err != nil {
				t.Fatal(err)
			}
		}
		connect(t, s, side.blocks[6:]...)
		checkStored(t, s, side.blocks)
		s = reopen()
		checkStored(t, s, side.blocks)
		for _, v := range main.blocks {
			if got, err := s.Verified(v.State.ID); err != nil || !sameVerified(got, v) {
				t.Errorf("block of the old branch: %v", err)
			}
		}
	})
}

// What is beside the best chain is listed, through every change of branches.
func TestBeside(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		main := newBranch(3).grow(8)
		side := main.fork(5, 4).grow(2)
		check := func(what string, want ...chain.Verified) {
			t.Helper()
			got, err := s.Beside()
			if err != nil || len(got) != len(want) {
				t.Errorf("%s: %d blocks are beside, want %d, %v", what, len(got), len(want), err)
			}
			for _, v := range want {
				if !slices.Contains(got, chain.SideBlock{ID: v.State.ID, Work: v.State.Work}) {
					t.Errorf("%s: height %d is not listed with its work", what, v.State.Height)
				}
			}
		}
		check("nothing")
		connect(t, s, main.blocks...)
		check("one chain")
		for _, v := range slices.Concat(side.blocks[6:], main.blocks[4:]) { // those of the best chain stay there
			if err := s.PutVerified(v); err != nil {
				t.Fatal(err)
			}
		}
		check("two branches", side.blocks[6:]...)
		s = reopen()
		check("two branches, opened again", side.blocks[6:]...)
		for i := 7; i > 5; i-- {
			if err := s.Disconnect(main.blocks[i], main.blocks[i-1].State); err != nil {
				t.Fatal(err)
			}
		}
		check("between the branches", slices.Concat(side.blocks[6:], main.blocks[6:])...)
		connect(t, s, side.blocks[6])
		s = reopen()
		check("on the way", slices.Concat(side.blocks[7:], main.blocks[6:])...)
		connect(t, s, side.blocks[7:]...)
		check("on the other branch", main.blocks[6:]...)
	})
}

func TestWrongOrder(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, _ func() chain.Store) {
		c := newBranch(5).grow(5)
		wantNotTip := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, ErrNotTip) {
				t.Errorf("%s: got %v, want %v", what, err, ErrNotTip)
			}
		}
		wantNotTip("height 1 in an empty store", s.Connect(c.blocks[1]))
		wantNotFound(t, "tip after that", errOf(s.Tip()))
		connect(t, s, c.blocks[:3]...)
		wantNotTip("a gap", s.Connect(c.blocks[4]))
		wantNotTip("the tip again", s.Connect(c.blocks[2]))
		wantNotTip("another genesis", s.Connect(newBranch(6).next()))
		wantNotTip("off below the tip", s.Disconnect(c.blocks[1], c.blocks[0].State))
		wantNotTip("off to a wrong parent", s.Disconnect(c.blocks[2], c.blocks[0].State))
		checkStored(t, s, c.blocks[:3])
		wrong := c.blocks[3]
		wrong.State.ID[0] ^= 1
		if s.Connect(wrong) == nil || s.PutVerified(wrong) == nil {
			t.Error("a state of another block was taken")
		}
	})
}

func TestInvalid(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		c := newBranch(7)
		long := strings.Repeat("x", maxText-1) + "é"
		faults := []chain.InvalidError{
			{Kind: chain.ErrTicket, Got: "a", Want: "b"},
			{Kind: chain.ErrTrainedRoot, Step: 128, Got: "got"},
			{Kind: chain.ErrOtherGenesis},
			{Kind: chain.ErrTask, Got: long},
		}
		var ids []chain.Hash
		for i := range faults {
			ids = append(ids, c.hash())
			if err := s.PutInvalid(ids[i], &faults[i]); err != nil {
				t.Fatal(err)
			}
		}
		// The first fault stays.
		if err := s.PutInvalid(ids[0], &faults[1]); err != nil {
			t.Fatal(err)
		}
		faults[3].Got = long[:maxText-1]
		for range 2 {
			for i, want := range faults {
				if e, err := s.Invalid(ids[i]); err != nil || *e != want {
					t.Errorf("fault %d: got %v, %v", i, e, err)
				}
			}
			s = reopen()
		}
	})
}

func TestInvalidIsBounded(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		c := newBranch(8)
		const limit, more = 200, 50 // of MaxInvalid it would take seconds
		var f *faults
		switch s := s.(type) {
		case *Memory:
			f = s.faults
		case *Badger:
			f = s.faults
		}
		if f.max != MaxInvalid {
			t.Errorf("the bound is %d", f.max)
		}
		f.max = limit
		ids := make([]chain.Hash, limit+more)
		for i := range ids {
			ids[i] = c.hash()
			if err := s.PutInvalid(ids[i], &chain.InvalidError{Kind: chain.ErrTicket, Step: i}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			for i, id := range ids {
				e, err := s.Invalid(id)
				if i < more {
					wantNotFound(t, fmt.Sprint("old fault ", i), err)
				} else if err != nil || e.Step != i {
					t.Fatalf("fault %d: %v, %v", i, e, err)
				}
			}
			s = reopen()
		}
	})
}

func TestTaskStart(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		want := chain.TaskStart{Root: chain.Hash{9}, Loss: 0x3f800000}
		for _, task := range []uint32{0, 1<<32 - 1} {
			if err := s.PutTaskStart(task, want); err != nil {
				t.Fatal(err)
			}
		}
		s = reopen()
		for _, task := range []uint32{0, 1<<32 - 1} {
			if got, err := s.TaskStart(task); err != nil || got != want {
				t.Errorf("task %d: %v, %v", task, got, err)
			}
		}
		wantNotFound(t, "another task", errOf(s.TaskStart(1)))
	})
}

func TestModels(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, reopen func() chain.Store) {
		var want []chain.StoredModel
		contents := make(map[chain.Hash][]byte)
		for i, size := range []int{0, 1, 4096, 50_000, 300_000} {
			root, b := testModel(uint64(i), size)
			contents[root] = b
			want = append(want, chain.StoredModel{Root: root, Height: uint64(10 - i), Size: int64(size)})
			for range 2 { // twice is no error
				if err := s.PutModel(root, uint64(10-i), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		slices.Reverse(want)
		check := func() {
			t.Helper()
			got, err := s.Models()
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("models %v, %v, want %v", got, err, want)
			}
			for _, m := range want {
				b, err := s.Model(m.Root)
				if err != nil || !bytes.Equal(b, contents[m.Root]) {
					t.Errorf("model of %d bytes: %v", m.Size, err)
				}
			}
		}
		check()
		s = reopen()
		check()
		gone := want[1].Root
		want = slices.Delete(want, 1, 2)
		for range 2 {
			if err := s.DeleteModel(gone); err != nil {
				t.Fatal(err)
			}
		}
		wantNotFound(t, "deleted model", errOf(s.Model(gone)))
		check()
		s = reopen()
		check()
		wantNotFound(t, "deleted model", errOf(s.Model(gone)))
	})
}

// One goroutine moves the tip, one keeps and deletes models, one remembers faults, and others read.
func TestConcurrent(t *testing.T) {
	overBoth(t, func(t *testing.T, s chain.Store, _ func() chain.Store) {
		c := newBranch(9).grow(60)
		connect(t, s, c.blocks[0])
		root, model := testModel(1, 20_000)
		done := make(chan struct{})
		var writers, readers sync.WaitGroup
		check := func(err error) {
			if err != nil && !errors.Is(err, chain.ErrNotFound) {
				t.Error(err)
			}
		}
		writers.Go(func() {
			for i := 1; i < len(c.blocks); i++ {
				check(s.Connect(c.blocks[i]))
				if i%7 == 0 {
					check(s.Disconnect(c.blocks[i], c.blocks[i-1].State))
					check(s.Connect(c.blocks[i]))
				}
			}
		})
		writers.Go(func() {
			for i := range 20 {
				check(s.PutModel(root, uint64(i), model))
				if b, err := s.Model(root); err != nil || !bytes.Equal(b, model) {
					t.Error("model differs", err)
				}
				check(s.DeleteModel(root))
			}
		})
		writers.Go(func() {
			for i := range 60 {
				check(s.PutInvalid(chain.Hash{byte(i)}, &chain.InvalidError{Kind: chain.ErrTime}))
				check(s.PutTaskStart(uint32(i), chain.TaskStart{Loss: 1}))
				check(s.PutVerified(c.blocks[i]))
			}
		})
		for range 2 {
			readers.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					tip, err := s.Tip()
					check(err)
					if _, err := s.Verified(tip.ID); err != nil {
						t.Error(err)
					}
					check(errOf(s.BlockID(tip.Height)))
					check(errOf(s.Invalid(chain.Hash{3})))
					check(errOf(s.Models()))
					check(errOf(s.Beside()))
					check(s.Accounts(func(chain.Address, chain.Account) error { return errOf(s.TaskStart(0)) }))
					if b, err := s.Model(root); err == nil && !bytes.Equal(b, model) {
						t.Error("model differs")
					}
				}
			})
		}
		writers.Wait()
		close(done)
		readers.Wait()
		checkStored(t, s, c.blocks)
	})
}
