package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/descentnet/minerd/chain"
)

const (
	// checkAllBelow is the size of a database up to which every table is read at every start: about a third of a
	// second from a warm disk cache. A larger one is read as a whole only after it was not closed cleanly.
	checkAllBelow = 512 << 20
	// checkBlocks is the number of blocks below the tip that are checked at every start.
	checkBlocks = 16
)

// checkFiles looks for damage before Badger opens its files, because it would end the process over some (a panic in a
// goroutine of its own), delete tables over others, and take a directory without MANIFEST for a new database.
func (s *Badger) checkFiles(dirty bool) error {
	tables, size, err := s.tidyFiles()
	if err != nil {
		return err
	}
	for _, name := range tables {
		if err := checkTable(name, dirty || size <= checkAllBelow); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	return nil
}

// tidyFiles removes the database's files over which Badger stumbles needlessly, and gives the names of its tables and
// their size together.
func (s *Badger) tidyFiles() (tables []string, size int64, err error) {
	dir := s.path(dbDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	manifest, data := false, false
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil {
			return nil, 0, err
		}
		switch ext := filepath.Ext(e.Name()); {
		case e.Name() == badger.ManifestFilename:
			manifest = true
		case e.Name() == "DISCARD":
			// Statistics for a collection of garbage in the value log, where nothing is kept; damaged ones end the process.
			if err := os.Remove(name); err != nil {
				return nil, 0, err
			}
		case ext == ".sst":
			data = true
			size += info.Size()
		case ext == ".mem", ext == ".vlog":
			data = true
			// Left by a kill between making the file and giving it its size. Badger would refuse to open once.
			if info.Size() == 0 {
				if err := os.Remove(name); err != nil {
					return nil, 0, err
				}
			}
		}
	}
	if !manifest {
		if data || s.sentinel.NotEmpty {
			return nil, 0, fmt.Errorf("%w: %s is missing", chain.ErrCorrupt, filepath.Join(dir, badger.ManifestFilename))
		}
		return nil, 0, nil
	}
	ids, err := listTables(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, id := range ids {
		tables = append(tables, table.NewFilename(id, dir))
	}
	return tables, size, nil
}

// listTables gives the tables that the MANIFEST names.
func listTables(dir string) ([]uint64, error) {
	name := filepath.Join(dir, badger.ManifestFilename)
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir).WithLogger(nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", chain.ErrCorrupt, name, err)
	}
	return slices.Sorted(maps.Keys(m.Tables)), nil
}

// checkTable checks what Badger relies on when it opens a table, and all its blocks if all is set.
func checkTable(name string, all bool) (err error) {
	f, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: missing", chain.ErrCorrupt)
	case errors.Is(err, syscall.EINVAL): // nothing to map
		return fmt.Errorf("%w: empty", chain.ErrCorrupt)
	case err != nil:
		return damage(err)
	}
	defer f.Close(-1)
	defer func() {
		if recover() != nil { // over offsets and lengths that make no sense
			err = fmt.Errorf("%w: its index cannot be read", chain.ErrCorrupt)
		}
	}()
	t, err := table.OpenTable(f, table.Options{ReadOnly: true, ChkMode: options.NoVerification, Compression: options.None})
	if err != nil {
		return damage(err)
	}
	if all {
		return damage(t.VerifyChecksum())
	}
	return nil
}

// damage is an error over stored bytes: ErrCorrupt unless the machine is at fault.
func damage(err error) error {
	if err == nil || localFault(err) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%w: %s", chain.ErrCorrupt, text)
}

// checkContents checks the opened database: that it has the chain it must have, that the blocks at the tip are linked
// and indexed, and reads the memory of invalid blocks.
func (s *Badger) checkContents(dirty bool) error {
	return s.db.View(func(txn *badger.Txn) error {
		tip, err := read(txn, tipKey(), decodeTip)
		if errors.Is(err, chain.ErrNotFound) {
			err = s.checkEmpty(txn)
		} else if err == nil {
			err = s.checkChain(txn, tip, dirty)
		}
		if err != nil {
			return err
		}
		return each(txn, keyInvalid, func(key, value []byte) error {
			f, err := decodeFault(key, value)
			if err == nil {
				s.faults.add(f)
			}
			return err
		})
	})
}

func (s *Badger) checkEmpty(txn *badger.Txn) error {
	if s.sentinel.NotEmpty {
		return fmt.Errorf("%w: the database has no tip although a chain was written to it", chain.ErrCorrupt)
	}
	return each(txn, keyHeight, func(key, _ []byte) error {
		return corrupt(key, errors.New("it is there but no tip"))
	})
}

func (s *Badger) checkChain(txn *badger.Txn, tip chain.State, dirty bool) error {
	if !s.sentinel.NotEmpty { // killed right after genesis
		s.sentinel.NotEmpty = true
		if err := s.writeSentinel(); err != nil {
			return err
		}
	}
	if old := s.sentinel.Tip; old != nil {
		if !dirty && tip.ID != *old {
			return fmt.Errorf("%w: the tip is %s at height %d, at the last close it was %s", chain.ErrCorrupt, tip.ID.Short(), tip.Height, old.Short())
		}
		if err := present(read(txn, verifiedKey(*old), decodeVerified)); err != nil {
			return fmt.Errorf("the tip at the last close: %w", err)
		}
	}
	if _, err := read(txn, heightKey(tip.Height+1), decodeHeight); !errors.Is(err, chain.ErrNotFound) {
		return corrupt(heightKey(tip.Height+1), fmt.Errorf("it is above the tip at height %d", tip.Height))
	}
	want := tip.ID
	for i, h := 0, tip.Height; i < checkBlocks; i, h = i+1, h-1 {
		id, err := blockID(txn, h)
		if err != nil {
			return err
		}
		v, err := read(txn, verifiedKey(want), decodeVerified)
		if err := present(v, err); err != nil {
			return fmt.Errorf("block at height %d: %w", h, err)
		}
		if id != want || v.Block.Height != h || v.State.Height != h || i == 0 && !bytes.Equal(appendState(nil, v.State), appendState(nil, tip)) {
			return fmt.Errorf("%w: block %s at height %d does not fit its neighbours", chain.ErrCorrupt, want.Short(), h)
		}
		if h == 0 {
			break
		}
		want = v.Block.Parent
	}
	return nil
}

// present turns "not found" of what must be there into damage.
func present(_ chain.Verified, err error) error {
	if errors.Is(err, chain.ErrNotFound) {
		return fmt.Errorf("%w: missing", chain.ErrCorrupt)
	}
	return err
}

// readBounded reads a file that must have size bytes.
func readBounded(name string, size int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != size {
		return nil, fmt.Errorf("%w: %s has %d bytes instead of %d", chain.ErrCorrupt, name, info.Size(), size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}
