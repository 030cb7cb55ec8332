package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"

	"github.com/descentnet/minerd/chain"
)

// tally counts faults of one sort, to be told in one line.
type tally struct {
	n     int
	first string
}

func (t *tally) add(format string, args ...any) {
	if t.n++; t.n == 1 {
		t.first = fmt.Sprintf(format, args...)
	}
}

func (c *checker) tell(t tally, do, what string) {
	switch {
	case t.n == 1:
		c.fault(do, "%s: %s", what, t.first)
	case t.n > 1:
		c.fault(do, "%s: %s, and %d more", what, t.first, t.n-1)
	}
}

func (c *checker) checkIndex() error {
	if c.s.db == nil {
		return nil
	}
	var t tally
	seen := make([]bool, len(c.path))
	err := c.scan(keyHeight, func(key, value []byte) error {
		id, err := decodeHeight(key, value)
		h := uint64(math.MaxUint64)
		if len(key) == 1+8 {
			h = binary.BigEndian.Uint64(key[1:])
		}
		switch {
		case h >= uint64(len(c.path)):
			t.add("a record above the tip, %x", key)
		case err != nil:
			t.add("height %d: its checksum differs", h)
			seen[h] = true
		case id != c.path[h]:
			t.add("height %d names %s instead of %s", h, id.Short(), c.path[h].Short())
			seen[h] = true
		default:
			seen[h] = true
		}
		return nil
	})
	for h, there := range seen {
		if !there && !c.empty() {
			t.add("height %d is missing", h)
		}
	}
	c.tell(t, doRepair, "height index")
	return err
}

func (c *checker) checkAccounts() error {
	if c.s.db == nil || c.empty() {
		return nil
	}
	var t tally
	var have chain.Ledger
	err := c.scan(keyAccount, func(key, value []byte) error {
		a, acc, err := decodeAccount(key, value)
		switch {
		case err != nil:
			t.add("the record %x is damaged", key)
		case acc != c.stored.ledger.Account(a):
			t.add("%s has %d and nonce %d instead of %d and %d", a, acc.Balance, acc.Nonce, c.stored.ledger.Account(a).Balance, c.stored.ledger.Account(a).Nonce)
		}
		if err == nil {
			have = have.Set(a, acc)
		}
		return nil
	})
	c.stored.ledger.Each(func(a chain.Address, acc chain.Account) {
		if have.Account(a) == (chain.Account{}) {
			t.add("%s with %d is missing", a, acc.Balance)
		}
	})
	c.tell(t, doRepair, fmt.Sprintf("ledger at height %d", c.stored.state.Height))
	return err
}

func (c *checker) checkSides() error {
	if c.s.db == nil || c.old() {
		return nil
	}
	on := make(map[chain.Hash]bool, len(c.path))
	for _, id := range c.path {
		on[id] = true
	}
	var t tally
	seen := map[chain.Hash]bool{}
	err := c.scan(keySide, func(key, value []byte) error {
		b, err := decodeSide(key, value)
		work, valid := c.good[b.ID]
		switch {
		case err != nil:
			t.add("the record %x is damaged", key)
		case on[b.ID]:
			t.add("%s is on the best chain", b.ID.Short())
		case valid && b.Work != work:
			t.add("%s has another work", b.ID.Short())
		case !valid && !has(c.blocks, b.ID):
			t.add("%s is missing", b.ID.Short())
		}
		seen[b.ID] = true
		return nil
	})
	for _, id := range slices.SortedFunc(maps.Keys(c.good), func(a, b chain.Hash) int { return bytes.Compare(a[:], b[:]) }) {
		if !on[id] && !seen[id] {
			t.add("%s at height %d is not in it", id.Short(), c.blocks[id].height)
		}
	}
	c.tell(t, doRepair, "list of blocks beside the best chain")
	return err
}

func (c *checker) checkInvalid() error {
	var t tally
	err := c.scan(keyInvalid, func(key, value []byte) error {
		f, err := decodeFault(key, value)
		switch {
		case err != nil:
			t.add("%v", err)
		case has(c.good, f.id) && f.err.Proved():
			t.add("the valid block %s is in it", f.id.Short())
		case c.old() && f.err.Kind == chain.ErrInvalidParent: // it is not taken over
		case !c.quiet:
			c.s.faults.add(f)
		}
		return nil
	})
	c.tell(t, doForget, "memory of invalid blocks")
	return err
}

func (c *checker) checkTasks() error {
	if c.s.db == nil {
		return nil
	}
	c.report.Tasks = len(c.starts)
	var t tally
	seen := map[uint32]bool{}
	err := c.scan(keyTask, func(key, value []byte) error {
		s, err := decodeTask(key, value)
		if err != nil || len(key) != 1+4 {
			t.add("the record %x is damaged", key)
			return nil
		}
		task := binary.BigEndian.Uint32(key[1:])
		seen[task] = true
		if want, known := c.starts[task]; known && s != want {
			t.add("task %d starts at %s with loss %v instead of %s and %v", task, s.Root.Short(), math.Float32frombits(s.Loss), want.Root.Short(), math.Float32frombits(want.Loss))
		}
		return nil
	})
	for _, task := range slices.Sorted(maps.Keys(c.starts)) {
		if !seen[task] && !c.empty() {
			t.add("task %d is missing", task)
		}
	}
	c.tell(t, doRepair, "starts of tasks")
	return err
}

func (c *checker) checkModels() error {
	return c.scan(keyModel, func(key, value []byte) error {
		m, err := decodeModel(key, value)
		if err == nil {
			_, err = c.s.readModel(m.Root)
		}
		switch {
		case err == nil:
			c.report.Models++
		case errors.Is(err, chain.ErrCorrupt), errors.Is(err, ErrTooLarge), errors.Is(err, fs.ErrNotExist):
			c.badModel[m.Root] = true
			c.fault(doModel, "model state of the block at height %d: %v", m.Height, err)
		default:
			return err
		}
		return nil
	})
}
