package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

const modelSuffix = ".state"

func (s *Badger) modelPath(root chain.Hash) string {
	return filepath.Join(s.dir, modelsDir, root.String()+modelSuffix)
}

// Model reads a model state. A file that is missing or damaged is logged and forgotten: re-execution makes it anew.
func (s *Badger) Model(root chain.Hash) (b []byte, err error) {
	err = s.use(func() error {
		if b, err = s.readModel(root); !errors.Is(err, chain.ErrCorrupt) {
			return err
		}
		s.modelWrites.Lock()
		defer s.modelWrites.Unlock()
		b, err = s.readModel(root) // again: it may have been replaced meanwhile
		if !errors.Is(err, chain.ErrCorrupt) {
			return err
		}
		s.log.Warn("model state is damaged and was deleted", zap.Stringer("root", root), zap.Error(err))
		if err := s.deleteModel(root); err != nil {
			return err
		}
		return chain.ErrNotFound
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// readModel gives ErrCorrupt where there is a record and not the file for it.
func (s *Badger) readModel(root chain.Hash) ([]byte, error) {
	m, err := s.modelRecord(root)
	if err != nil {
		return nil, err
	}
	if m.Size > s.opts.StateLimit {
		return nil, fmt.Errorf("%w: %s has %d bytes, allowed are %d", ErrTooLarge, s.modelPath(root), m.Size, s.opts.StateLimit)
	}
	b, err := readBounded(s.modelPath(root), m.Size)
	if errors.Is(err, fs.ErrNotExist) {
		// Its record may have gone meanwhile; the second look tells.
		return nil, fmt.Errorf("%w: %w", chain.ErrCorrupt, err)
	}
	if err != nil {
		return nil, err
	}
	if got := nn.BytesRoot(b); got != root {
		return nil, fmt.Errorf("%w: %s has root %s", chain.ErrCorrupt, s.modelPath(root), got.Short())
	}
	return b, nil
}

func (s *Badger) modelRecord(root chain.Hash) (m chain.StoredModel, err error) {
	err = s.db.View(func(txn *badger.Txn) (err error) {
		m, err = read(txn, modelKey(root), decodeModel)
		return err
	})
	return m, err
}

// PutModel writes the file first and its record after, so that a record's file is whole.
func (s *Badger) PutModel(root chain.Hash, height uint64, b []byte) error {
	if int64(len(b)) > s.opts.StateLimit {
		return fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, len(b), s.opts.StateLimit)
	}
	return s.use(func() error {
		s.modelWrites.Lock()
		defer s.modelWrites.Unlock()
		m := chain.StoredModel{Root: root, Height: height, Size: int64(len(b))}
		if old, err := s.modelRecord(root); err == nil && old == m {
			return nil
		}
		if err := writeFile(s.modelPath(root), b); err != nil {
			return fmt.Errorf("keep model state: %w", err)
		}
		return s.db.Update(func(txn *badger.Txn) error { return txn.Set(modelKey(root), encodeModel(m)) })
	})
}

// Models lists the model states, lowest height first.
func (s *Badger) Models() (out []chain.StoredModel, err error) {
	err = s.use(func() error {
		out, err = s.listModels()
		return err
	})
	return out, err
}

func (s *Badger) listModels() (out []chain.StoredModel, err error) {
	err = s.db.View(func(txn *badger.Txn) error {
		return each(txn, keyModel, func(key, value []byte) error {
			m, err := decodeModel(key, value)
			out = append(out, m)
			return err
		})
	})
	sortModels(out)
	return out, err
}

func sortModels(m []chain.StoredModel) {
	slices.SortFunc(m, func(a, b chain.StoredModel) int {
		return cmp.Or(cmp.Compare(a.Height, b.Height), strings.Compare(string(a.Root[:]), string(b.Root[:])))
	})
}

func (s *Badger) DeleteModel(root chain.Hash) error {
	return s.use(func() error {
		s.modelWrites.Lock()
		defer s.modelWrites.Unlock()
		return s.deleteModel(root)
	})
}

// deleteModel deletes the record first, so that no record is left without its file.
func (s *Badger) deleteModel(root chain.Hash) error {
	if _, err := s.modelRecord(root); !errors.Is(err, chain.ErrNotFound) {
		if err := s.db.Update(func(txn *badger.Txn) error { return txn.Delete(modelKey(root)) }); err != nil {
			return err
		}
	}
	return removeFile(s.modelPath(root))
}

// sweepModels removes files without a record and records without a file of their size: a kill or a power cut between
// the two leaves them.
func (s *Badger) sweepModels() error {
	models, err := s.listModels()
	if err != nil {
		return err
	}
	kept := make(map[string]bool)
	for _, m := range models {
		info, err := os.Stat(s.modelPath(m.Root))
		if err == nil && info.Size() == m.Size {
			kept[filepath.Base(s.modelPath(m.Root))] = true
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.log.Warn("model state is missing or damaged and was forgotten", zap.Stringer("root", m.Root))
		if err := s.deleteModel(m.Root); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(s.path(modelsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), tmpSuffix)
		if _, err := nn.ParseHash(strings.TrimSuffix(name, modelSuffix)); err != nil || kept[e.Name()] {
			continue // not ours, or known
		}
		s.log.Debug("model state without a record deleted", zap.String("file", e.Name()))
		if err := os.Remove(filepath.Join(s.path(modelsDir), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
