package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/descentnet/minerd/chain"
)

// Names within a data directory while it is repaired.
const (
	newDir     = "db.new"
	damagedDir = "db.damaged" // further ones are db.damaged.2 and so on: each may be the only copy of something
	salvageDir = "db.salvage"
)

// rebuild writes all that holds into a new database.
func (c *checker) rebuild(ctx context.Context) (err error) {
	s := c.s
	if err := os.RemoveAll(s.path(newDir)); err != nil {
		return err
	}
	// Not empty, so that Connect leaves the sentinel file alone: swap writes that.
	n := &Badger{dir: s.dir, opts: s.opts, log: s.log, faults: newFaults(), sentinel: sentinel{
		Schema: Schema, Network: s.opts.Network, NetworkName: s.opts.NetworkName, NotEmpty: true,
	}}
	// Written at once, synced at the end.
	if err := n.openDatabase(s.path(newDir), false, 2); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = n.db.Sync()
		}
		if e := guard(n.log, n.db.Close); err == nil {
			err = e
		}
	}()
	c.quiet = true
	if err := c.walk(ctx, false, n.PutVerified); err != nil {
		return err
	}
	c.path = c.pathTo(c.best.state)
	for _, id := range c.path {
		v, err := n.Verified(id)
		if err != nil {
			return err
		}
		if err := n.Connect(v); err != nil {
			return err
		}
	}
	for task, t := range c.starts {
		if err := n.PutTaskStart(task, t); err != nil {
			return err
		}
	}
	for _, f := range s.faults.queue {
		if has(c.good, f.id) {
			continue
		}
		if err := n.PutInvalid(f.id, &f.err); err != nil {
			return err
		}
	}
	err = c.scan(keyModel, func(key, value []byte) error {
		m, err := decodeModel(key, value)
		if err != nil || c.badModel[m.Root] {
			return nil
		}
		return n.db.Update(func(txn *badger.Txn) error { return txn.Set(key, value) })
	})
	c.rebuilt = err == nil
	return err
}

// swap puts the new database in the old one's place.
func (c *checker) swap() error {
	s := c.s
	kept, err := s.moveDamaged()
	if err != nil {
		return err
	}
	// From here on a crash leaves the new database to be found.
	tip := c.best.state.ID
	s.sentinel = sentinel{Schema: Schema, Network: s.opts.Network, NetworkName: s.opts.NetworkName, NotEmpty: true, Tip: &tip}
	if err := s.writeSentinel(); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(s.path(newDir), s.path(dbDir)), syncDir(s.dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(s.path(salvageDir)); err != nil {
		return err
	}
	for root := range c.badModel {
		if err := removeFile(s.modelPath(root)); err != nil {
			return err
		}
	}
	notes := []string{fmt.Sprintf("repaired: the chain ends at height %d, %s", c.best.state.Height, c.best.state.ID.Short())}
	if c.named.Height > c.best.state.Height {
		notes = append(notes, fmt.Sprintf("it ended at height %d before", c.named.Height))
	}
	if c.report.Lost > 0 {
		notes = append(notes, blocks(c.report.Lost)+" lost: a node gets from its peers what they have")
	}
	if c.unread {
		notes = append(notes, "not everything could be read, and nobody can say what was in the rest")
	}
	switch whole := c.report.Lost == 0 && !c.unread; {
	case whole:
		notes = append(notes, "no block was lost")
		if kept != "" {
			if err := os.RemoveAll(kept); err != nil {
				return err
			}
		}
	case kept != "":
		notes = append(notes, fmt.Sprintf("the old database is kept as %s: it may hold the only copy of what is missing", kept))
	}
	c.o.Note(strings.Join(notes, "; "))
	return syncDir(s.dir)
}

func blocks(n int) string {
	if n == 1 {
		return "1 block is"
	}
	return fmt.Sprintf("%d blocks are", n)
}

// moveDamaged moves the old database away and says where to, "" where there is none.
func (s *Badger) moveDamaged() (to string, err error) {
	to = s.path(damagedDir)
	for n := 2; exists(to); n++ {
		to = fmt.Sprintf("%s.%d", s.path(damagedDir), n)
	}
	err = os.Rename(s.path(dbDir), to)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return to, err
}

// countLost counts the blocks that were in the store, as far as that is known, and are not in the new one: those that
// were dropped, that others stand on, and up to the tip.
func (c *checker) countLost() int {
	lost := map[chain.Hash]bool{}
	known := func(id chain.Hash) {
		if !has(c.good, id) {
			lost[id] = true
		}
	}
	for id, e := range c.blocks {
		known(id)
		if e.height > 0 {
			known(e.parent)
		}
	}
	if c.tipErr == nil {
		known(c.named.ID)
	}
	if old := c.s.sentinel.Tip; old != nil {
		known(*old)
	}
	n := len(lost)
	if c.named.Height > c.best.state.Height {
		n = max(n, int(min(c.named.Height-c.best.state.Height, math.MaxInt32)))
	}
	return n
}

// salvage opens a database of what can be read in the logs and tables of one that cannot be opened. Newer records cannot
// be told from older ones of the same key in tables, so only those are taken of which there is one: blocks, and what is
// checked anyway. The logs hold the newest, in order, among them the tip.
func (c *checker) salvage() error {
	s := c.s
	if err := os.RemoveAll(s.path(salvageDir)); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(s.path(dbDir), "*.mem"))
	if err != nil {
		return err
	}
	tables, err := filepath.Glob(filepath.Join(s.path(dbDir), "*.sst"))
	if err != nil {
		return err
	}
	if err := s.openDatabase(s.path(salvageDir), false, 2); err != nil {
		return err
	}
	c.salvaged = true
	batch := s.db.NewWriteBatch()
	defer batch.Cancel()
	taken := map[string]bool{} // keys; not those of damaged blocks, of which there may be a better copy
	take := func(from func(do func(key, value []byte) error) error) error {
		var failed error // to write
		err := guard(s.log, func() error {
			return from(func(key, value []byte) error {
				if taken[string(key)] {
					return nil
				}
				if key[0] == keyVerified {
					_, _, err := readBlock(key, value)
					taken[string(key)] = err == nil
				} else {
					taken[string(key)] = true
				}
				failed = batch.Set(key, value)
				return failed
			})
		})
		if failed != nil {
			return failed
		}
		if errors.Is(err, chain.ErrCorrupt) {
			return nil // the rest of it cannot be read
		}
		return err
	}
	slices.Sort(logs)
	for _, name := range slices.Backward(logs) { // the newest first
		if err := take(func(do func(key, value []byte) error) error { return s.eachInLog(name, do) }); err != nil {
			return err
		}
	}
	for _, name := range tables {
		if err := take(func(do func(key, value []byte) error) error { return eachInTable(name, do) }); err != nil {
			return err
		}
	}
	return batch.Flush()
}

// eachInLog calls do for the records to be salvaged in a log, which Badger writes before it makes a table of them: some
// 16 MiB. They are read by opening a database that has nothing but a copy of it.
func (s *Badger) eachInLog(name string, do func(key, value []byte) error) (err error) {
	dir := s.path(salvageDir) + filepath.Ext(name)
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := copyFile(name, filepath.Join(dir, filepath.Base(name))); err != nil {
		return err
	}
	l := &Badger{log: s.log}
	if err := l.openDatabase(dir, false, 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guard(s.log, l.db.Close)) }()
	return guard(s.log, func() error {
		return l.db.View(func(txn *badger.Txn) error {
			for _, prefix := range append([]byte{keyTip}, salvaged...) {
				if err := each(txn, prefix, func(key, value []byte) error { return do(key, bytes.Clone(value)) }); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// salvaged are the prefixes of what is taken out of tables.
var salvaged = []byte{keyVerified, keyInvalid, keyModel}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// eachInTable calls do for the records to be salvaged in a table that are not deleted, up to the first that cannot be read.
func eachInTable(name string, do func(key, value []byte) error) error {
	f, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return damage(err)
	}
	defer f.Close(-1)
	t, err := table.OpenTable(f, table.Options{ReadOnly: true, ChkMode: options.NoVerification, Compression: options.None})
	if err != nil {
		return damage(err)
	}
	it := t.NewIterator(0)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		const deleted, elsewhere = 1, 2 // bits of Meta: see bitDelete and bitValuePointer in Badger's value.go
		v := it.Value()
		if v.Meta&(deleted|elsewhere) != 0 || len(it.Key()) <= 8+1 || bytes.IndexByte(salvaged, it.Key()[0]) < 0 {
			continue
		}
		if err := do(bytes.Clone(y.ParseKey(it.Key())), bytes.Clone(v.Value)); err != nil {
			return err
		}
	}
	return nil
}
