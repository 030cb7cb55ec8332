package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	damagedDir = "db.damaged"
	salvageDir = "db.salvage"
)

// rebuild writes all that holds into a new database.
func (c *checker) rebuild(ctx context.Context) (err error) {
	s := c.s
	if err := os.RemoveAll(s.path(newDir)); err != nil {
		return err
	}
	n := &Badger{dir: s.dir, opts: s.opts, log: s.log, faults: newFaults(), sentinel: sentinel{
		Schema: Schema, Network: s.opts.Network, NetworkName: s.opts.NetworkName,
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
	lost := 0
	for id := range c.blocks {
		if !has(c.good, id) {
			lost++
		}
	}
	// From here on a crash leaves the new database to be found: rebuild has written the sentinel, without a tip.
	if err := os.RemoveAll(s.path(damagedDir)); err != nil {
		return err
	}
	if err := os.Rename(s.path(dbDir), s.path(damagedDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	if !c.salvaged && c.named.Height > c.best.state.Height {
		notes = append(notes, fmt.Sprintf("it ended at height %d before", c.named.Height))
	}
	switch {
	case c.unread || lost > 0:
		notes = append(notes, fmt.Sprintf("%d blocks were dropped, besides what could not be read: a node gets from its peers what they have; "+
			"the old database is kept as %s and may be deleted", lost, s.path(damagedDir)))
	default:
		if err := os.RemoveAll(s.path(damagedDir)); err != nil {
			return err
		}
		notes = append(notes, "no block was lost")
	}
	c.o.Note(strings.Join(notes, "; "))
	return syncDir(s.dir)
}

// salvage opens a database of what can be read in the tables of one that cannot be opened. Newer records cannot be told
// from older ones of the same key there, so only those are taken of which there is one: blocks, and what is checked
// anyway.
func (c *checker) salvage() error {
	s := c.s
	if err := os.RemoveAll(s.path(salvageDir)); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(s.path(dbDir), "*.sst"))
	if err != nil {
		return err
	}
	if err := s.openDatabase(s.path(salvageDir), false, 2); err != nil {
		return err
	}
	c.salvaged = true
	batch := s.db.NewWriteBatch()
	defer batch.Cancel()
	for _, name := range names {
		var failed error // to write
		err := guard(s.log, func() error {
			return eachInTable(name, func(key, value []byte) {
				if failed == nil && bytes.IndexByte([]byte{keyVerified, keyInvalid, keyModel}, key[0]) >= 0 {
					failed = batch.Set(key, value)
				}
			})
		})
		if failed != nil {
			return failed
		}
		if err != nil && !errors.Is(err, chain.ErrCorrupt) {
			return err
		}
	}
	return batch.Flush()
}

// eachInTable calls do for the records of a table that are not deleted, up to the first that cannot be read.
func eachInTable(name string, do func(key, value []byte)) error {
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
		if v := it.Value(); v.Meta&(deleted|elsewhere) == 0 && len(it.Key()) > 8+1 {
			do(bytes.Clone(y.ParseKey(it.Key())), bytes.Clone(v.Value))
		}
	}
	return nil
}
