package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/gofrs/flock"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

// Options are those of Open.
type Options struct {
	Network     chain.Hash // network id
	NetworkName string     // for messages
	StateLimit  int64      // largest model state in bytes; 0 is DefaultStateLimit
	Logger      *zap.Logger
}

// Badger is a store on disk.
type Badger struct {
	dir  string
	opts Options
	log  *zap.Logger
	lock *flock.Flock
	db   *badger.DB

	open   sync.RWMutex // held for reading during every call: Badger unmaps its files when it closes
	closed bool

	writes   sync.Mutex // one writer at a time: Badger does not look for conflicts here
	sentinel sentinel

	faults *faults

	modelWrites sync.Mutex // one writer of model states at a time; a block need not wait for one
}

// Names within a data directory.
const (
	lockFile  = "lock"
	dirtyFile = "dirty"
	dbDir     = "db"
	modelsDir = "models"
)

func (s *Badger) path(name string) string { return filepath.Join(s.dir, name) }

// LockedError says who uses a data directory. It is ErrLocked.
type LockedError struct {
	Dir string
	PID string // empty where it could not be read
}

func (e *LockedError) Error() string {
	by := "another process"
	if e.PID != "" {
		by = "process " + e.PID
	}
	return fmt.Sprintf("%v: %s is used by %s; stop that one or choose another data directory", ErrLocked, e.Dir, by)
}

// Is makes errors.Is(err, ErrLocked) work.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Open opens the store in the data directory dir, which it makes if there is none. Errors: ErrLocked, ErrOtherNetwork,
// ErrSchema, chain.ErrCorrupt with what to do about it; others are those of the operating system.
func Open(dir string, opts Options) (*Badger, error) {
	if opts.StateLimit == 0 {
		opts.StateLimit = DefaultStateLimit
	}
	if opts.Logger == nil {
		opts.Logger = zap.NewNop()
	}
	s := &Badger{dir: dir, opts: opts, log: opts.Logger, faults: newFaults()}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.openLocked(); err != nil {
		if s.db != nil {
			err = errors.Join(err, guard(s.log, s.db.Close))
		}
		return nil, errors.Join(err, s.lock.Unlock())
	}
	return s, nil
}

func (s *Badger) takeLock() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	s.lock = flock.New(s.path(lockFile), flock.SetPermissions(0o644))
	ok, err := s.lock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the data directory: %w", err)
	}
	if !ok {
		pid, _ := os.ReadFile(s.path(lockFile)) // the message does without
		return &LockedError{Dir: s.dir, PID: strings.TrimSpace(string(pid))}
	}
	if err := os.WriteFile(s.path(lockFile), fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return errors.Join(fmt.Errorf("lock the data directory: %w", err), s.lock.Unlock())
	}
	return nil
}

func (s *Badger) openLocked() error {
	start := time.Now()
	if err := s.checkSentinel(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.path(modelsDir), 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	_, err := os.Stat(s.path(dirtyFile))
	dirty := err == nil
	if err := writeFile(s.path(dirtyFile), nil); err != nil {
		return err
	}
	if err := guard(s.log, func() error { return s.checkFiles(dirty) }); err != nil {
		return s.advise(err)
	}
	if err := s.openDatabase(s.path(dbDir), true, 2); err != nil {
		return s.advise(err)
	}
	if s.sentinel.Schema < Schema {
		if err := guard(s.log, s.convert); err != nil {
			return s.advise(fmt.Errorf("convert %s from version %d to %d: %w", s.dir, s.sentinel.Schema, Schema, err))
		}
	}
	if err := guard(s.log, func() error { return s.checkContents(dirty) }); err != nil {
		return s.advise(err)
	}
	if err := s.use(s.sweepModels); err != nil {
		return s.advise(err)
	}
	s.log.Info("store opened", zap.String("dir", s.dir), zap.Bool("closed_cleanly", !dirty), zap.Duration("elapsed", time.Since(start)))
	return nil
}

// advise adds to damage what can be done about it.
func (s *Badger) advise(err error) error {
	if !errors.Is(err, chain.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w; `minerd fsck --repair` mends what can be mended; to sync the chain anew, move %s and %s away and start again",
		err, s.path(dbDir), s.path(sentinelFile))
}

// openDatabase opens Badger with the options of a small node: about 60 MiB of memory at most, values within the tree
// rather than in the value log (which loses them in a power cut unless it is synced too), and where sync is set every
// commit synced. Without compactors, tables stay as they are.
func (s *Badger) openDatabase(dir string, sync bool, compactors int) error {
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLogger{s.log}).
		WithSyncWrites(sync).
		WithMemTableSize(16 << 20).WithNumMemtables(3).
		WithBlockCacheSize(16 << 20).WithIndexCacheSize(8 << 20).
		WithValueLogFileSize(64 << 20).WithValueThreshold(1 << 20).
		WithCompression(options.None).
		WithNumVersionsToKeep(1).
		WithNumCompactors(compactors).
		WithDetectConflicts(false).
		WithVerifyValueChecksum(true).
		// Badger answers "not found" where a table's checksum is wrong. Without its check the record is read and its
		// own checksum tells.
		WithChecksumVerificationMode(options.NoVerification).
		WithMetricsEnabled(false)
	try := func() error {
		return guard(s.log, func() (err error) {
			s.db, err = badger.Open(o)
			return err
		})
	}
	err := try()
	if err != nil && strings.Contains(err.Error(), "Create a new file") {
		// A log file without bytes, left by a kill: the first attempt gave it its size.
		err = try()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, chain.ErrCorrupt):
	case localFault(err):
		return fmt.Errorf("open database %s: %w", o.Dir, err)
	default:
		err = fmt.Errorf("%w: %w", chain.ErrCorrupt, err)
	}
	s.db = nil
	return fmt.Errorf("open database %s: %w", o.Dir, err)
}

// localFault says whether an error of Badger, which keeps only the text of its causes, is the machine's and not of what
// is stored.
func localFault(err error) bool {
	for _, e := range []syscall.Errno{syscall.EACCES, syscall.EPERM, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.EROFS, syscall.EIO} {
		if errors.Is(err, e) || strings.Contains(err.Error(), e.Error()) {
			return true
		}
	}
	return false
}

// guard takes a panic within do, as Badger has them over damaged tables, for damage, also that of a page of a mapped
// file that cannot be read.
func guard(log *zap.Logger, do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			log.Debug("panic in the database", zap.Any("panic", p), zap.StackSkip("stack", 1))
			text, _, _ := strings.Cut(strings.TrimSpace(fmt.Sprint(p)), "\n")
			err = fmt.Errorf("%w: panic: %s", chain.ErrCorrupt, text)
		}
	}()
	return do()
}

// Close closes the store, once every call has ended, and gives the directory free.
func (s *Badger) Close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var tip chain.State
	err := guard(s.log, func() error {
		return s.db.View(func(txn *badger.Txn) (err error) {
			tip, err = read(txn, tipKey(), decodeTip)
			return err
		})
	})
	if errors.Is(err, chain.ErrNotFound) {
		err = nil
	}
	if e := guard(s.log, s.db.Close); e != nil {
		err = errors.Join(err, fmt.Errorf("close database: %w", e))
	}
	if err == nil {
		err = s.closeSentinel(tip.ID)
	}
	return errors.Join(err, s.lock.Unlock())
}

// use runs do while the store is open.
func (s *Badger) use(do func() error) error {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed {
		return ErrClosed
	}
	return guard(s.log, do)
}

func (s *Badger) view(do func(*badger.Txn) error) error {
	return s.use(func() error { return s.db.View(do) })
}

// write runs do in a transaction that is on disk when write returns nil.
func (s *Badger) write(do func(*badger.Txn) error) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	return s.use(func() error { return s.db.Update(do) })
}

// read gets the record of a key.
func read[T any](txn *badger.Txn, key []byte, decode func(key, value []byte) (T, error)) (v T, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return v, chain.ErrNotFound
	}
	if err != nil {
		return v, corrupt(key, err)
	}
	if e := item.Value(func(value []byte) error { v, err = decode(key, value); return nil }); e != nil {
		return v, corrupt(key, e)
	}
	return v, err
}

func readOne[T any](s *Badger, key []byte, decode func(key, value []byte) (T, error)) (v T, err error) {
	err = s.view(func(txn *badger.Txn) (err error) {
		v, err = read(txn, key, decode)
		return err
	})
	return v, err
}

// each calls do for all records whose keys begin with prefix, in the order of their keys.
func each(txn *badger.Txn, prefix byte, do func(key, value []byte) error) error {
	o := badger.DefaultIteratorOptions
	o.Prefix = []byte{prefix}
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().KeyCopy(nil)
		var err error
		if e := it.Item().Value(func(value []byte) error { err = do(key, value); return nil }); e != nil {
			return corrupt(key, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Tip is that of chain.Store, as are all methods below.
func (s *Badger) Tip() (chain.State, error) { return readOne(s, tipKey(), decodeTip) }

func (s *Badger) Verified(id chain.Hash) (chain.Verified, error) {
	return readOne(s, verifiedKey(id), decodeVerified)
}

func (s *Badger) BlockID(height uint64) (id chain.Hash, err error) {
	err = s.view(func(txn *badger.Txn) (err error) {
		id, err = blockID(txn, height)
		return err
	})
	return id, err
}

func blockID(txn *badger.Txn, height uint64) (chain.Hash, error) {
	id, err := read(txn, heightKey(height), decodeHeight)
	if !errors.Is(err, chain.ErrNotFound) {
		return id, err
	}
	tip, tipErr := read(txn, tipKey(), decodeTip)
	switch {
	case tipErr != nil:
		return id, tipErr
	case height <= tip.Height:
		return id, corrupt(heightKey(height), fmt.Errorf("missing below the tip at height %d", tip.Height))
	}
	return id, err
}

func (s *Badger) PutVerified(v chain.Verified) error {
	if err := checkVerified(v); err != nil {
		return err
	}
	return s.write(func(txn *badger.Txn) error {
		id := v.State.ID
		err := txn.Set(verifiedKey(id), encodeVerified(v))
		at, e := read(txn, heightKey(v.State.Height), decodeHeight)
		switch {
		case e != nil && !errors.Is(e, chain.ErrNotFound):
			return e
		case e != nil || at != id:
			err = errors.Join(err, txn.Set(sideKey(id), encodeSide(id, v.State.Work)))
		}
		return err
	})
}

func (s *Badger) Beside() (out []chain.SideBlock, err error) {
	err = s.view(func(txn *badger.Txn) error {
		return each(txn, keySide, func(key, value []byte) error {
			b, err := decodeSide(key, value)
			out = append(out, b)
			return err
		})
	})
	return out, err
}

func (s *Badger) Connect(v chain.Verified) error {
	if err := checkVerified(v); err != nil {
		return err
	}
	err := s.write(func(txn *badger.Txn) error {
		tip, err := read(txn, tipKey(), decodeTip)
		if err := checkConnect(tip, err, v); err != nil {
			return err
		}
		id := v.State.ID
		err = errors.Join(
			txn.Set(verifiedKey(id), encodeVerified(v)),
			txn.Set(heightKey(v.State.Height), encodeHeight(v.State.Height, id)),
			txn.Delete(sideKey(id)),
			txn.Set(tipKey(), encodeTip(v.State)))
		for _, c := range v.Changes {
			err = errors.Join(err, setAccount(txn, c.Address, c.After))
		}
		return err
	})
	if err == nil && v.State.Height == 0 {
		err = s.markNotEmpty()
	}
	return err
}

func (s *Badger) Disconnect(v chain.Verified, parent chain.State) error {
	return s.write(func(txn *badger.Txn) error {
		tip, err := read(txn, tipKey(), decodeTip)
		if err := checkDisconnect(tip, err, v, parent); err != nil {
			return err
		}
		err = errors.Join(
			txn.Delete(heightKey(v.State.Height)),
			txn.Set(sideKey(v.State.ID), encodeSide(v.State.ID, v.State.Work)),
			txn.Set(tipKey(), encodeTip(parent)))
		for i := len(v.Changes) - 1; i >= 0; i-- {
			err = errors.Join(err, setAccount(txn, v.Changes[i].Address, v.Changes[i].Before))
		}
		return err
	})
}

func setAccount(txn *badger.Txn, a chain.Address, acc chain.Account) error {
	if acc == (chain.Account{}) {
		return txn.Delete(accountKey(a))
	}
	return txn.Set(accountKey(a), encodeAccount(a, acc))
}

func (s *Badger) Accounts(do func(chain.Address, chain.Account) error) error {
	type entry struct {
		a   chain.Address
		acc chain.Account
	}
	var all []entry // first, so that do may use the store
	err := s.view(func(txn *badger.Txn) error {
		return each(txn, keyAccount, func(key, value []byte) error {
			a, acc, err := decodeAccount(key, value)
			all = append(all, entry{a, acc})
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := do(e.a, e.acc); err != nil {
			return err
		}
	}
	return nil
}

func (s *Badger) Invalid(id chain.Hash) (e *chain.InvalidError, err error) {
	err = s.use(func() error {
		e, err = s.faults.get(id)
		return err
	})
	return e, err
}

func (s *Badger) PutInvalid(id chain.Hash, e *chain.InvalidError) error {
	s.writes.Lock()
	defer s.writes.Unlock()
	return s.use(func() error {
		add, evict, ok := s.faults.next(id, e)
		if !ok {
			return nil
		}
		err := s.db.Update(func(txn *badger.Txn) error {
			if evict != nil {
				if err := txn.Delete(invalidKey(evict.seq)); err != nil {
					return err
				}
			}
			return txn.Set(invalidKey(add.seq), encodeFault(add))
		})
		if err == nil {
			s.faults.add(add)
		}
		return err
	})
}

func (s *Badger) TaskStart(task uint32) (chain.TaskStart, error) {
	return readOne(s, taskKey(task), decodeTask)
}

func (s *Badger) PutTaskStart(task uint32, t chain.TaskStart) error {
	return s.write(func(txn *badger.Txn) error { return txn.Set(taskKey(task), encodeTask(task, t)) })
}

// badgerLogger passes Badger's log on: what it calls an error or a warning is a warning here, since an operator learns
// of errors from what the store returns; the rest is for debugging.
type badgerLogger struct{ log *zap.Logger }

func (l badgerLogger) print(level func(string, ...zap.Field), format string, args []any) {
	level("badger: " + strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l badgerLogger) Errorf(format string, args ...any)   { l.print(l.log.Warn, format, args) }
func (l badgerLogger) Warningf(format string, args ...any) { l.print(l.log.Warn, format, args) }
func (l badgerLogger) Infof(format string, args ...any)    { l.debug(format, args) }
func (l badgerLogger) Debugf(format string, args ...any)   { l.debug(format, args) }

func (l badgerLogger) debug(format string, args []any) {
	if l.log.Core().Enabled(zap.DebugLevel) {
		l.print(l.log.Debug, format, args)
	}
}
