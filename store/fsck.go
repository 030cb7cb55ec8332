package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

// ErrNoStore says that there is nothing to check.
var ErrNoStore = errors.New("no chain here")

// CheckOptions are those of Check.
type CheckOptions struct {
	Network *chain.Network
	Trainer chain.Trainer // works out the starts of tasks, and with Deep trains every block again
	Deep    bool
	Repair  bool
	Logger  *zap.Logger
	// Fault hears of each fault when it is found.
	Fault func(Fault)
	// Note hears what a repair did and what was lost by it, and what is no fault but good to know.
	Note func(string)
	// Progress hears how many of how many blocks are checked, after each. It may be nil.
	Progress func(done, of int)
}

// Fault is something wrong with a store.
type Fault struct {
	What string // in which place is what
	Do   string // what can be done about it
}

func (f Fault) String() string { return f.What + "; " + f.Do }

// Report is what Check found.
type Report struct {
	Faults     int
	Blocks     int // that are valid, genesis too
	Beside     int // of them, not on the best chain
	Executed   int // of them, trained again
	Tasks      int
	Models     int         // model states that are whole
	Tip        chain.State // of the best chain, as far as it is valid
	LedgerRoot chain.Hash  // after it
	Repaired   bool
	// Of a repair: blocks that are known to be lost, and that something could not be read, so that nobody knows what else is.
	Lost   int
	Unread bool
}

// What can be done about faults.
const (
	doRepair   = "--repair derives it anew"
	doModel    = "--repair deletes it; it is trained again when it is needed"
	doForget   = "--repair forgets it"
	doRebuild  = "--repair makes a new database of what can be read"
	doSalvage  = "--repair takes the blocks out of the files that can be read; a node gets what is missing from its peers"
	doCut      = "--repair drops it and all that stands on it; a node gets the blocks from its peers again"
	doTraining = "check this machine with `minerd selftest`; if that is good, --repair drops the block and all that stands on it, " +
		"and a node gets the right ones from its peers"
)

// Check checks the store in a data directory that no node uses: the files, every record, and of all blocks, from genesis
// on, the rules, the states, the ledger and the indices that follow from them; stored model states against their roots;
// with Deep also the training. With Repair it writes a new database of what holds and lets it take the old one's place,
// which is kept under another name if anything of it was lost.
//
// The error is ErrNoStore, ErrLocked, ErrOtherNetwork, ErrSchema, or a fault of the machine; faults of the store are told
// to o.Fault.
func Check(ctx context.Context, dir string, o CheckOptions) (Report, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	c := newChecker(dir, o)
	s := c.s
	if !exists(s.path(sentinelFile)) && !exists(s.path(dbDir)) {
		return Report{}, fmt.Errorf("%w: %s holds neither %s nor %s", ErrNoStore, dir, sentinelFile, dbDir)
	}
	if err := s.takeLock(); err != nil {
		return Report{}, err
	}
	err := c.run(ctx)
	if err == nil && c.report.Faults > 0 && o.Repair {
		err = c.rebuild(ctx)
	}
	if e := c.closeDatabase(); err == nil {
		err = e
	}
	if err == nil && c.rebuilt {
		c.report.Lost, c.report.Unread = c.countLost(), c.unread
		err = c.swap()
	}
	if e := c.leave(err); err == nil {
		err = e
	}
	if err = errors.Join(err, s.lock.Unlock()); err != nil || !c.rebuilt {
		return c.report, err
	}
	// What was written is checked in turn: only then was it a repair.
	again := o
	again.Deep, again.Repair = false, false
	r, err := Check(ctx, dir, again)
	if err == nil && r.Faults > 0 {
		err = errors.New("the repaired database has faults of its own: this machine's disk or memory is not to be trusted")
	}
	r.Faults, r.Executed, r.Repaired = c.report.Faults, c.report.Executed, err == nil
	r.Lost, r.Unread = c.report.Lost, c.report.Unread
	return r, err
}

func newChecker(dir string, o CheckOptions) *checker {
	return &checker{
		s: &Badger{
			dir: dir, log: o.Logger, faults: newFaults(),
			opts: Options{Network: o.Network.ID, NetworkName: o.Network.Name, StateLimit: DefaultStateLimit, Logger: o.Logger},
		},
		o: o, net: o.Network, badModel: map[chain.Hash]bool{}, bad: map[chain.Hash]bool{},
		starts: map[uint32]chain.TaskStart{},
	}
}

// leave puts the mark of an unclean end back as it was, or takes it away from a store without faults.
func (c *checker) leave(err error) error {
	switch {
	case !c.marked:
		return nil
	case !c.dirty:
		return removeFile(c.s.path(dirtyFile))
	case err == nil && c.report.Faults == 0:
		return c.s.closeSentinel(c.named.ID)
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// old says that the store is of a schema that is converted when a node opens it.
func (c *checker) old() bool { return c.s.sentinel.Schema < Schema }

// entry is what the checker remembers of a block: some 100 bytes with the map.
type entry struct {
	height uint64
	parent chain.Hash
}

type checker struct {
	s      *Badger
	o      CheckOptions
	net    *chain.Network
	report Report
	dirty  bool // the store was not closed cleanly
	marked bool // it is marked so now
	quiet  bool // faults were told before
	unread bool // something could not be read, so that nobody knows what is lost

	salvaged bool // the database is one of what could be read of another

	blocks map[chain.Hash]entry // whose record can be read
	starts map[uint32]chain.TaskStart
	bad    map[chain.Hash]bool // blocks that break a rule

	// What the walk gives.
	good   map[chain.Hash]chain.Work
	best   tipped // with the most work
	stored tipped // that the database names as tip, where that is valid
	named  chain.State
	tipErr error // of reading named

	path     []chain.Hash // the best chain from genesis on
	badModel map[chain.Hash]bool
	rebuilt  bool
}

// tipped is a block with what is true after it.
type tipped struct {
	state  chain.State
	ledger chain.Ledger
	model  *nn.State // only where blocks are trained again
}

func (c *checker) fault(do, format string, args ...any) {
	if c.quiet {
		return
	}
	c.report.Faults++
	c.o.Fault(Fault{fmt.Sprintf(format, args...), do})
}

func (c *checker) run(ctx context.Context) error {
	s := c.s
	err := s.checkSentinel()
	if errors.Is(err, chain.ErrCorrupt) {
		c.fault(doRepair, "%s is missing or cannot be read", s.path(sentinelFile))
		s.sentinel = sentinel{Schema: Schema, Network: s.opts.Network, NetworkName: s.opts.NetworkName, NotEmpty: true}
	} else if err != nil {
		return err
	}
	if c.old() {
		c.o.Note(fmt.Sprintf("the store is of version %d: a node converts it to version %d when it opens it", s.sentinel.Schema, Schema))
	}
	c.dirty = exists(s.path(dirtyFile))
	if err := errors.Join(os.MkdirAll(s.path(modelsDir), 0o700), writeFile(s.path(dirtyFile), nil)); err != nil {
		return err
	}
	c.marked = true
	if err := c.openDatabase(); err != nil {
		return err
	}
	if err := c.readBlocks(); err != nil {
		return err
	}
	if err := c.walk(ctx, c.o.Deep, func(chain.Verified) error { return nil }); err != nil {
		return err
	}
	c.checkLinks()
	c.choose()
	if c.salvaged { // the rest is derived from the blocks
		return errors.Join(c.checkInvalid(), c.checkModels())
	}
	for _, check := range []func() error{c.checkIndex, c.checkAccounts, c.checkSides, c.checkInvalid, c.checkTasks, c.checkModels} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// openDatabase opens the database if that can be done without harm; s.db is nil where it cannot.
func (c *checker) openDatabase() error {
	s := c.s
	if !exists(s.path(dbDir)) && exists(s.path(newDir)) && c.o.Repair {
		// An earlier repair was cut short between its two renamings: the new database is whole.
		if err := os.Rename(s.path(newDir), s.path(dbDir)); err != nil {
			return err
		}
		c.o.Note("a repair that was cut short was brought to its end")
	}
	fatal := false
	tell := func(err error) error {
		if !errors.Is(err, chain.ErrCorrupt) {
			return err
		}
		fatal, c.unread = true, true
		c.fault(doSalvage, "the database cannot be opened: %v", err)
		return nil
	}
	var tables []string
	err := guard(s.log, func() (err error) {
		tables, _, err = s.tidyFiles()
		return err
	})
	if err != nil {
		if err := tell(err); err != nil {
			return err
		}
	}
	for _, name := range tables {
		err := guard(s.log, func() error { return checkTable(name, false) })
		if err != nil {
			if err := tell(fmt.Errorf("table %s: %w", name, err)); err != nil {
				return err
			}
			continue
		}
		if err := guard(s.log, func() error { return checkTable(name, true) }); errors.Is(err, chain.ErrCorrupt) {
			c.unread = true
			c.fault(doRebuild, "table %s: %v", name, err)
		} else if err != nil {
			return err
		}
	}
	if !fatal {
		// Without compactors: they would read damaged tables on goroutines of their own.
		if err := s.openDatabase(s.path(dbDir), true, 0); err != nil {
			s.db = nil
			if err := tell(err); err != nil {
				return err
			}
		}
	}
	if fatal && c.o.Repair {
		return c.salvage()
	}
	return nil
}

func (c *checker) closeDatabase() error {
	if c.s.db == nil {
		return nil
	}
	err := guard(c.s.log, c.s.db.Close)
	c.s.db = nil
	if err != nil && c.report.Faults > 0 {
		return nil // it is known to be damaged
	}
	return err
}

// scan calls do for every record whose key begins with prefix. A part of a table that cannot be read ends it, as a fault.
func (c *checker) scan(prefix byte, do func(key, value []byte) error) error {
	if c.s.db == nil {
		return nil
	}
	var failed error // of do
	last := []byte{prefix}
	err := guard(c.s.log, func() error {
		return c.s.db.View(func(txn *badger.Txn) error {
			o := badger.DefaultIteratorOptions
			o.Prefix = []byte{prefix}
			o.PrefetchValues = false // it reads on goroutines of its own
			it := txn.NewIterator(o)
			defer it.Close()
			for it.Rewind(); it.Valid(); it.Next() {
				last = it.Item().KeyCopy(nil)
				value, err := it.Item().ValueCopy(nil)
				if err != nil {
					value = nil // its checksum differs then
				}
				if failed = do(last, value); failed != nil {
					return nil
				}
			}
			return nil
		})
	})
	if failed != nil {
		return failed
	}
	if err != nil && !localFault(err) {
		c.unread = true
		c.fault(doRebuild, "the records after %x cannot be read: %v", last, err)
		return nil
	}
	return err
}

// readBlocks lists the blocks that can be read.
func (c *checker) readBlocks() error {
	c.blocks = map[chain.Hash]entry{}
	var other chain.Hash
	err := c.scan(keyVerified, func(key, value []byte) error {
		b, _, err := readBlock(key, value)
		if b == nil {
			c.unread = true
			c.fault(doCut, "a block: %v", err)
			return nil
		}
		if err != nil {
			c.fault(doRepair, "the record of the block at height %d, but not the block: %v", b.Height, err)
		}
		if b.Network != c.net.ID {
			other = b.Network
		}
		c.blocks[b.Header.ID()] = entry{b.Height, b.Parent}
		return nil
	})
	if err == nil && other != (chain.Hash{}) { // without its sentinel file the store does not say so itself
		err = fmt.Errorf("%w: %s holds blocks of network %s, not of %s (%s)", ErrOtherNetwork, c.s.dir, other.Short(), c.net.Name, c.net.ID.Short())
	}
	return err
}

// readBlock reads the record of a block. Where that is damaged, the block may still be there: its id tells. Then there is
// an error too.
func readBlock(key, value []byte) (*chain.Block, *chain.Verified, error) {
	v, err := decodeVerified(key, value)
	if err == nil {
		return v.Block, &v, nil
	}
	// The number of changes is one for the reward, and in genesis that of the allocation; it may be the damage.
	for n := 0; stateSize+4+n*changeSize+chain.HeaderSize+sumSize <= len(value) && n <= 4096; n++ {
		in := value[stateSize+4+n*changeSize : len(value)-sumSize]
		h, _ := chain.ParseHeader(in[:chain.HeaderSize])
		if id := h.ID(); !bytes.Equal(key, verifiedKey(id)) {
			continue
		}
		b, e := chain.ParseBlock(in)
		if e != nil || chain.EarlyRoot(b.EarlyRoots) != b.EarlyRoot || chain.TxRoot(b.Transactions) != b.TxRoot {
			break
		}
		return b, nil, err
	}
	return nil, nil, err
}

// block reads a block that was read before, and the rest of its record where that is whole.
func (c *checker) block(id chain.Hash) (b *chain.Block, v *chain.Verified, err error) {
	err = guard(c.s.log, func() error {
		return c.s.db.View(func(txn *badger.Txn) error {
			item, err := txn.Get(verifiedKey(id))
			if err != nil {
				return err
			}
			value, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			if b, v, err = readBlock(verifiedKey(id), value); b != nil {
				err = nil
			}
			return err
		})
	})
	return b, v, err
}

// walk derives everything from genesis on, height by height, over all branches, and holds the records against it. emit
// gets what is valid, a parent before its children.
func (c *checker) walk(ctx context.Context, deep bool, emit func(chain.Verified) error) error {
	c.good = map[chain.Hash]chain.Work{}
	c.stored, c.tipErr = tipped{}, chain.ErrCorrupt
	if c.s.db != nil {
		c.named, c.tipErr = readOne(c.s, tipKey(), decodeTip)
	}
	genesis, err := c.genesis(ctx, deep, emit)
	if err != nil {
		return err
	}
	ids := make([]chain.Hash, 0, len(c.blocks))
	for id, e := range c.blocks {
		if e.height > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b chain.Hash) int {
		return cmp.Or(cmp.Compare(c.blocks[a].height, c.blocks[b].height), bytes.Compare(a[:], b[:]))
	})
	note := func(id chain.Hash, t tipped) {
		c.good[id] = t.state.Work
		if w := t.state.Work.Cmp(c.best.state.Work); w > 0 || len(c.good) == 1 || w == 0 && id == c.named.ID {
			c.best = t
		}
		if id == c.named.ID {
			c.stored = t
		}
	}
	c.best = tipped{}
	note(genesis.state.ID, genesis)
	below, here := map[chain.Hash]tipped{}, map[chain.Hash]tipped{genesis.state.ID: genesis}
	height := uint64(0)
	for i, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e := c.blocks[id]; e.height != height {
			below, here = here, map[chain.Hash]tipped{}
			if e.height != height+1 {
				below = nil // a gap: nothing above it is linked
			}
			height = e.height
		}
		parent, linked := below[c.blocks[id].parent]
		if linked && !c.bad[id] {
			t, v, err := c.derive(ctx, id, parent, deep)
			if err != nil {
				return err
			}
			if v != nil {
				here[id] = t
				note(id, t)
				if err := emit(*v); err != nil {
					return err
				}
			}
		}
		if c.o.Progress != nil && !c.quiet {
			c.o.Progress(i+1, len(ids))
		}
	}
	return nil
}

// genesis checks the block that is given.
func (c *checker) genesis(ctx context.Context, deep bool, emit func(chain.Verified) error) (t tipped, err error) {
	start, err := c.taskStart(ctx, 0)
	if err != nil {
		return t, err
	}
	b, state := c.net.Genesis(start)
	v := chain.Verified{Block: b, State: state}
	c.net.GenesisLedger().Each(func(a chain.Address, acc chain.Account) {
		v.Changes = append(v.Changes, chain.AccountChange{Address: a, After: acc})
	})
	t = tipped{state: state, ledger: c.net.GenesisLedger()}
	if deep {
		t.model = c.net.ModelInit(0)
	}
	if has(c.blocks, state.ID) {
		c.compare(v)
	} else if c.s.db != nil && !c.salvaged && !c.empty() {
		c.fault(doRepair, "genesis, %s, is missing", state.ID.Short())
	}
	return t, emit(v)
}

// empty says that nothing was written to the store yet.
func (c *checker) empty() bool { return len(c.blocks) == 0 && !c.s.sentinel.NotEmpty }

// compare holds a block's record against what was derived.
func (c *checker) compare(want chain.Verified) {
	if c.quiet {
		return
	}
	_, v, err := c.block(want.State.ID)
	if err != nil || v == nil {
		return // told already
	}
	if v.State != want.State || !slices.Equal(v.Changes, want.Changes) {
		c.fault(doRepair, "the state or the ledger's changes at height %d, %s, are not those that follow from the blocks", want.State.Height, want.State.ID.Short())
	}
}

// derive checks a block on its parent by all rules. v is nil where it breaks one.
func (c *checker) derive(ctx context.Context, id chain.Hash, parent tipped, deep bool) (t tipped, v *chain.Verified, err error) {
	b, _, err := c.block(id)
	if err != nil {
		return t, nil, err // it could be read a moment ago
	}
	base, err := c.net.Base(parent.state, func(task uint32) (chain.TaskStart, error) { return c.taskStart(ctx, task) })
	if err != nil {
		return t, nil, err
	}
	do := doCut
	err = cmp.Or(c.net.CheckForm(b), c.net.CheckClaim(parent.state, base, b), c.net.CheckOutcome(base, b), c.net.CheckLedger(parent.ledger, b))
	if err == nil && deep {
		start := parent.model
		if base.Fresh {
			start = c.net.ModelInit(base.TaskNumber)
		}
		t.model = start
		trained, e := c.execute(ctx, base.Template, start, b)
		if b.Advances() {
			t.model = trained
		}
		err, do = e, doTraining
	}
	var broken *chain.InvalidError
	if errors.As(err, &broken) {
		c.bad[id] = true
		c.fault(do, "the block at height %d, %s, is not valid: %v", b.Height, id.Short(), broken)
		return t, nil, nil
	}
	if err != nil {
		return t, nil, err
	}
	next, changes := c.net.Apply(parent.state, base, parent.ledger, b)
	t.state, t.ledger = next, parent.ledger.Apply(changes, true)
	v = &chain.Verified{Block: b, State: next, Changes: changes}
	c.compare(*v)
	return t, v, nil
}

// execute trains a block again. Before it takes a difference for the block's, it does so twice: the block was found valid
// once.
func (c *checker) execute(ctx context.Context, template int, start *nn.State, b *chain.Block) (*nn.State, error) {
	c.report.Executed++
	_, trained, err := c.net.Execute(ctx, c.o.Trainer, template, start, b)
	if err == nil || chain.VerdictOf(err) != chain.Invalid {
		return trained, err
	}
	if _, _, again := c.net.Execute(ctx, c.o.Trainer, template, start, b); again == nil || again.Error() != err.Error() {
		return nil, fmt.Errorf("training the block at height %d twice gave two results: this machine computes wrongly", b.Height)
	}
	return nil, err
}

// taskStart works out where a task starts, from its seed.
func (c *checker) taskStart(ctx context.Context, task uint32) (chain.TaskStart, error) {
	if s, ok := c.starts[task]; ok {
		return s, nil
	}
	s, err := c.net.EvaluateStart(ctx, c.o.Trainer, task)
	if err == nil {
		c.starts[task] = s
	}
	return s, err
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, there := m[k]
	return there
}

// checkLinks tells which blocks do not stand on genesis.
func (c *checker) checkLinks() {
	loose := 0
	missing := map[chain.Hash]uint64{} // and the height
	for id, e := range c.blocks {
		if has(c.good, id) || c.bad[id] {
			continue
		}
		loose++
		if e.height > 0 && !has(c.blocks, e.parent) && !has(c.good, e.parent) {
			missing[e.parent] = e.height - 1
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(missing), func(a, b chain.Hash) int { return cmp.Compare(missing[a], missing[b]) }) {
		c.fault(doCut, "the block at height %d, %s, is missing or cannot be read", missing[id], id.Short())
	}
	if loose > 0 {
		c.fault(doCut, "%d blocks stand on blocks that are missing or not valid", loose)
	}
}

// choose takes the chain that the rest is held against: the one that the database names, where that is valid.
func (c *checker) choose() {
	if !has(c.good, c.stored.state.ID) {
		c.stored = c.best
	}
	t := c.stored.state
	switch {
	case c.s.db == nil, c.salvaged: // told already
	case c.empty() && errors.Is(c.tipErr, chain.ErrNotFound):
		c.o.Note("nothing was written to the store yet")
	case c.tipErr != nil:
		c.fault(doRepair, "the tip: %v", c.tipErr)
	case t.ID != c.named.ID:
		c.fault("--repair takes the best chain that is whole; a node gets what is missing from its peers",
			"the tip at height %d, %s, does not stand on a valid chain from genesis", c.named.Height, c.named.ID.Short())
	case t != c.named:
		c.fault(doRepair, "the tip's state at height %d is not the one that follows from the blocks", t.Height)
	}
	if old := c.s.sentinel.Tip; old != nil && c.s.db != nil && !c.salvaged {
		switch {
		case !c.dirty && c.tipErr == nil && *old != c.named.ID:
			c.fault("--repair goes on from what there is; if there is a newer copy of the data directory, use that",
				"the tip is %s, at the last clean end it was %s", c.named.ID.Short(), old.Short())
		case !has(c.blocks, *old):
			c.fault(doCut, "the tip at the last clean end, %s, is missing", old.Short())
		}
	}
	if c.best.state.Work.Cmp(t.Work) > 0 {
		c.o.Note(fmt.Sprintf("a better chain is verified, with its tip at height %d: a node changes to it when it starts", c.best.state.Height))
	}
	c.path = c.pathTo(t)
	c.report.Tip, c.report.LedgerRoot = t, c.stored.ledger.Root()
	c.report.Blocks, c.report.Beside = len(c.good), len(c.good)-len(c.path)
}

// pathTo lists the blocks from genesis to a valid one.
func (c *checker) pathTo(tip chain.State) []chain.Hash {
	path := make([]chain.Hash, tip.Height+1)
	for id, h := tip.ID, tip.Height; ; h-- {
		path[h] = id
		if h == 0 {
			return path
		}
		id = c.blocks[id].parent
	}
}
