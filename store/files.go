package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/descentnet/minerd/chain"
)

// Schema is the version of all that is on disk. A program refuses a newer one, and an older one that it cannot convert.
const (
	Schema = 2
	// oldest is the first that is converted. 1 had no list of the blocks beside the best chain, and kept the children of
	// blocks for invalid for ever though only training had shown the parent's fault.
	oldest = 1
)

const sentinelFile = "store.json"

// sentinel tells what a data directory must hold: Badger opens as an empty database where its MANIFEST is missing.
type sentinel struct {
	Schema      int         `json:"schema"`
	Network     chain.Hash  `json:"network"`
	NetworkName string      `json:"network_name"`
	NotEmpty    bool        `json:"not_empty"`     // genesis was written
	Tip         *chain.Hash `json:"tip,omitempty"` // at the last clean close
}

// checkSentinel reads the sentinel, writes it in a new directory, and checks it against the program and the network.
func (s *Badger) checkSentinel() error {
	b, err := os.ReadFile(s.path(sentinelFile))
	if errors.Is(err, fs.ErrNotExist) {
		if entries, _ := os.ReadDir(s.path(dbDir)); len(entries) > 0 {
			return s.advise(fmt.Errorf("%w: %s is missing", chain.ErrCorrupt, s.path(sentinelFile)))
		}
		s.sentinel = sentinel{Schema: Schema, Network: s.opts.Network, NetworkName: s.opts.NetworkName}
		return s.writeSentinel()
	}
	if err != nil {
		return err
	}
	// The version first: another schema may give the rest another form.
	var version struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(b, &version); err != nil || version.Schema == nil {
		return s.advise(fmt.Errorf("%w: %s cannot be read", chain.ErrCorrupt, s.path(sentinelFile)))
	}
	switch v := *version.Schema; {
	case v > Schema:
		return fmt.Errorf("%w: %s was written with version %d, this minerd knows version %d: use a newer minerd", ErrSchema, s.dir, v, Schema)
	case v < oldest:
		return fmt.Errorf("%w: %s was written with version %d, this minerd needs version %d and cannot convert it: choose another data directory", ErrSchema, s.dir, v, Schema)
	}
	if err := json.Unmarshal(b, &s.sentinel); err != nil {
		return s.advise(fmt.Errorf("%w: %s cannot be read: %w", chain.ErrCorrupt, s.path(sentinelFile), err))
	}
	if got := s.sentinel; got.Network != s.opts.Network {
		return fmt.Errorf("%w: %s holds %s (%s), this node is of %s (%s): choose another data directory",
			ErrOtherNetwork, s.dir, got.NetworkName, got.Network.Short(), s.opts.NetworkName, s.opts.Network.Short())
	}
	return nil
}

func (s *Badger) writeSentinel() error {
	b, err := json.MarshalIndent(s.sentinel, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.path(sentinelFile), append(b, '\n'))
}

func (s *Badger) markNotEmpty() error {
	s.writes.Lock()
	defer s.writes.Unlock()
	return s.use(func() error {
		if s.sentinel.NotEmpty {
			return nil
		}
		s.sentinel.NotEmpty = true
		return s.writeSentinel()
	})
}

// convert brings an opened database of schema 1 to the present one. Cut short, it is done again at the next opening.
func (s *Badger) convert() error {
	batch := s.db.NewWriteBatch()
	defer batch.Cancel()
	err := s.db.View(func(txn *badger.Txn) error {
		beside := func(key, value []byte) error {
			v, err := decodeVerified(key, value)
			if err != nil {
				return nil // damage is told where the block is needed
			}
			on, err := read(txn, heightKey(v.State.Height), decodeHeight)
			if errors.Is(err, chain.ErrNotFound) || err == nil && on != v.State.ID {
				err = batch.Set(sideKey(v.State.ID), encodeSide(v.State.ID, v.State.Work))
			}
			return err
		}
		children := func(key, value []byte) error {
			f, err := decodeFault(key, value)
			if err == nil && f.err.Kind == chain.ErrInvalidParent {
				err = batch.Delete(key)
			}
			return err
		}
		return errors.Join(each(txn, keyVerified, beside), each(txn, keyInvalid, children))
	})
	if err == nil {
		err = batch.Flush()
	}
	if err == nil {
		err = s.db.Sync()
	}
	if err != nil {
		return err
	}
	s.sentinel.Schema = Schema
	return s.writeSentinel()
}

// closeSentinel notes a clean close with a tip, zero where there is none.
func (s *Badger) closeSentinel(tip chain.Hash) error {
	if tip != (chain.Hash{}) && (s.sentinel.Tip == nil || *s.sentinel.Tip != tip) {
		s.sentinel.Tip = &tip
		if err := s.writeSentinel(); err != nil {
			return err
		}
	}
	if err := os.Remove(s.path(dirtyFile)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// writeFile makes a file whose content is there as a whole or not at all, also after a power cut.
func writeFile(name string, content []byte) error {
	tmp := name + tmpSuffix
	if err := writeSynced(tmp, content); err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

const tmpSuffix = ".tmp"

func writeSynced(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// removeFile removes a file; none there is no error.
func removeFile(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
