package store

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
)

// training trains a network's tasks and mines on a manager's chain.
type training struct {
	t testing.TB
	*chain.Network
	data   *dataset.Data
	engine nn.Engine
	wrong  bool // every other trial ends in another state than it should
	trains int
}

func newTraining(t testing.TB) *training {
	spec, err := specfile.LoadSpec("simnet")
	if err != nil {
		t.Fatal(err)
	}
	spec.MaxTaskBlocks = 8
	n, err := spec.Build()
	if err != nil {
		t.Fatal(err)
	}
	e, err := nn.NewEngine(n.Templates[0].Net, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	d := n.Templates[0].Data
	return &training{t: t, Network: n, data: dataset.Synthetic(d.Seed, int(d.Count)), engine: e}
}

func (r *training) samples(part chain.Range) nn.Samples {
	return r.data.Samples(int(part.From), int(part.To))
}

func (r *training) Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error) {
	got, err := r.engine.Train(ctx, start, r.samples(r.Templates[template].Data.Train), t)
	if r.trains++; err == nil && r.wrong && r.trains%2 == 1 {
		got.Root[0] ^= 1
	}
	return got, err
}

func (r *training) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	d := r.Templates[template].Data
	return r.engine.Evaluate(ctx, s, r.samples([]chain.Range{d.Train, d.Evaluation, d.Test}[split]))
}

func (r *training) manager(s chain.Store) *chain.Manager {
	r.t.Helper()
	m, err := chain.OpenManager(context.Background(), r.Network, s, r, chain.DefaultModelLimits)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// grow mines n blocks for an address.
func (r *training) grow(m *chain.Manager, n int, payout byte) (blocks []*chain.Block) {
	r.t.Helper()
	ctx := context.Background()
	for range n {
		best, _ := m.Best()
		job, err := m.NewJob(ctx, best.Time+r.Interval)
		if err != nil {
			r.t.Fatal(err)
		}
		c := job.Claim
		c.Payout = chain.Address{payout}
		for ; ; c.Nonce++ {
			trial := r.Trial(job.Base.Template, c.ID())
			trial.EarlyRoots = true
			got, err := r.Train(ctx, job.Base.Template, job.Start, trial)
			if err != nil {
				r.t.Fatal(err)
			}
			if !chain.Wins(chain.Ticket(c.ID(), got.Root, got.LogitsDigest), job.Target) {
				continue
			}
			loss, _, err := r.Evaluate(ctx, job.Base.Template, got.State, chain.EvaluationSplit)
			if err != nil {
				r.t.Fatal(err)
			}
			x := &chain.Execution{
				Steps: trial.Steps, EarlyRoots: got.EarlyRoots, Complete: true,
				LogitsDigest: got.LogitsDigest, TrainedRoot: got.Root, LossAfter: math.Float32bits(loss),
			}
			m.Remember(c.ID(), x, got.State)
			b := chain.NewBlock(c, job.Base, x)
			if _, err := m.Add(ctx, b, b.Time, m.Arrive("")); err != nil {
				r.t.Fatal(err)
			}
			blocks = append(blocks, b)
			break
		}
	}
	return blocks
}

func (r *training) openStore(dir string) *Badger {
	r.t.Helper()
	s, err := Open(dir, Options{Network: r.ID, NetworkName: r.Name})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// withChain makes a data directory with a chain of 20 blocks, over three tasks, and five more beside it.
func (r *training) withChain() (dir string, tip chain.State) {
	r.t.Helper()
	dir = r.t.TempDir()
	other := r.manager(NewMemory())
	better := r.grow(other, 6, 2)
	s := r.openStore(dir)
	m := r.manager(s)
	r.grow(m, 5, 1)
	for _, b := range better {
		if _, err := m.Add(context.Background(), b, b.Time, m.Arrive("")); err != nil {
			r.t.Fatal(err)
		}
	}
	r.grow(m, 10, 3)
	if err := s.PutInvalid(chain.Hash{7}, &chain.InvalidError{Kind: chain.ErrTask}); err != nil {
		r.t.Fatal(err)
	}
	shut(r.t, s)
	s = r.openStore(dir) // a second table
	r.grow(r.manager(s), 4, 1)
	tip, err := s.Tip()
	if err != nil || tip.Height != 20 || tip.TaskNumber != 2 {
		r.t.Fatal(tip, err)
	}
	shut(r.t, s)
	return dir, tip
}

type checked struct {
	Report
	faults, notes []string
}

func (r *training) check(dir string, deep, repair bool) (c checked, err error) {
	c.Report, err = Check(context.Background(), dir, CheckOptions{
		Network: r.Network, Trainer: r, Deep: deep, Repair: repair,
		Fault: func(f Fault) { c.faults = append(c.faults, f.String()) },
		Note:  func(s string) { c.notes = append(c.notes, s) },
	})
	return c, err
}

func TestCheckSound(t *testing.T) {
	r := newTraining(t)
	dir, tip := r.withChain()
	var ledger chain.Hash
	for _, deep := range []bool{false, true} {
		c, err := r.check(dir, deep, true)
		if err != nil || c.Faults != 0 || len(c.faults) > 0 || len(c.notes) > 0 || c.Repaired {
			t.Fatalf("%+v, %v", c, err)
		}
		if c.Tip != tip || c.Blocks != 26 || c.Beside != 5 || c.Tasks != 3 || c.Models < 3 || deep && c.Executed != 25 || !deep && c.Executed != 0 {
			t.Errorf("%+v", c.Report)
		}
		ledger = c.LedgerRoot
	}
	if exists(filepath.Join(dir, damagedDir)) || exists(filepath.Join(dir, dirtyFile)) {
		t.Error("it left something behind")
	}
	s := r.openStore(dir)
	if c, err := r.manager(s).Ledger().Root(), s.Close(); err != nil || c != ledger {
		t.Errorf("ledger root is %v, %v, the check said %v", c, err, ledger)
	}

	if _, err := r.check(filepath.Join(dir, "nowhere"), false, false); !errors.Is(err, ErrNoStore) || exists(filepath.Join(dir, "nowhere")) {
		t.Errorf("where nothing is: %v", err)
	}
	s = r.openStore(dir)
	_, err := r.check(dir, false, true)
	wantError(t, err, ErrLocked, "process")
	shut(t, s)
	wrong := *r
	wrong.Network = newTraining(t).Network
	wrong.ID = chain.Hash{1}
	_, err = wrong.check(dir, false, true)
	wantError(t, err, ErrOtherNetwork)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestCheckDamaged damages a store in every way that it knows, and has it found and mended.
func TestCheckDamaged(t *testing.T) {
	r := newTraining(t)
	template, tip := r.withChain()
	var path []chain.Verified
	var side chain.Verified
	var models []chain.StoredModel
	var accounts []chain.Address
	s := r.openStore(template)
	for h := range tip.Height + 1 {
		path = append(path, must(s.Verified(must(s.BlockID(h)))))
	}
	side = must(s.Verified(must(s.Beside())[0].ID))
	models = must(s.Models())
	if err := s.Accounts(func(a chain.Address, _ chain.Account) error { accounts = append(accounts, a); return nil }); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	records := func(do func(*badger.Txn) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			s := r.openStore(dir)
			if err := s.write(do); err != nil {
				t.Fatal(err)
			}
			if err := s.db.Close(); err != nil { // without its look at the tip
				t.Fatal(err)
			}
			if err := s.lock.Unlock(); err != nil {
				t.Fatal(err)
			}
		}
	}
	set := func(key, value []byte) func(*testing.T, string) {
		return records(func(txn *badger.Txn) error { return txn.Set(key, value) })
	}
	del := func(key []byte) func(*testing.T, string) {
		return records(func(txn *badger.Txn) error { return txn.Delete(key) })
	}
	flipped := func(v chain.Verified, at int) func(*testing.T, string) {
		b := encodeVerified(v)
		b[(at+len(b))%len(b)] ^= 1
		return set(verifiedKey(v.State.ID), b)
	}
	file := func(pattern string, do func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) == 0 {
				t.Fatal(pattern, err)
			}
			if do == nil {
				if err := os.Remove(names[0]); err != nil {
					t.Fatal(err)
				}
				return
			}
			edit(t, names[0], do)
		}
	}
	otherState := path[5]
	otherState.State.TaskKept += 3
	otherWork := path[20].State
	otherWork.Work = otherWork.Work.AddWork(otherWork.Work)
	// A block that keeps all rules but those that training shows: its loss is a little too low.
	forged := *path[20].Block
	forged.LossAfter--
	if forged.Advances() != path[20].Block.Advances() {
		t.Fatal("the forged block advances otherwise")
	}
	forgedState, forgedChanges := path[20].State, path[20].Changes
	forgedState.ID = forged.Header.ID()
	if forged.Advances() {
		forgedState.Loss = forged.LossAfter
	}
	forge := records(func(txn *badger.Txn) error {
		return errors.Join(
			txn.Set(verifiedKey(forgedState.ID), encodeVerified(chain.Verified{Block: &forged, State: forgedState, Changes: forgedChanges})),
			txn.Set(heightKey(20), encodeHeight(20, forgedState.ID)), txn.Set(tipKey(), encodeTip(forgedState)),
			txn.Delete(verifiedKey(path[20].State.ID)))
	})
	broken := *path[20].Block
	broken.Time = path[19].State.Time
	brokenState := path[20].State
	brokenState.ID, brokenState.Time = broken.Header.ID(), broken.Time

	const whole = 20
	for i, c := range []struct {
		name   string
		damage func(*testing.T, string)
		deep   bool
		faults int // 0: any
		text   string
		height uint64 // after the repair
		kept   bool   // the old database
	}{
		{"height missing", del(heightKey(3)), false, 1, "height index: height 3 is missing", whole, false},
		{"height of another block", set(heightKey(3), encodeHeight(3, path[4].State.ID)), false, 1, "height 3 names", whole, false},
		{"height damaged", set(heightKey(3), []byte("0123456789")), false, 1, "height 3: its checksum differs", whole, false},
		{"height above the tip", set(heightKey(21), encodeHeight(21, path[4].State.ID)), false, 1, "above the tip", whole, false},
		{"account missing", del(accountKey(accounts[0])), false, 1, "ledger at height 20", whole, false},
		{"account too rich", set(accountKey(accounts[0]), encodeAccount(accounts[0], chain.Account{Balance: 1 << 60})), false, 1, "ledger at height 20", whole, false},
		{"account out of nothing", set(accountKey(chain.Address{77}), encodeAccount(chain.Address{77}, chain.Account{Balance: 1})), false, 1, "ledger at height 20", whole, false},
		{"account damaged", set(accountKey(accounts[0]), nil), false, 1, "ledger at height 20", whole, false},
		{"tip missing", del(tipKey()), false, 1, "the tip: not found", whole, false},
		{"tip damaged", set(tipKey(), []byte("0123456789")), false, 1, "the tip: stored data are damaged", whole, false},
		{"tip with another state", set(tipKey(), encodeTip(otherWork)), false, 1, "the tip's state at height 20", whole, false},
		{"tip set back", set(tipKey(), encodeTip(path[18].State)), false, 3, "height index: a record above the tip", whole, false},
		{"tip unknown", set(tipKey(), encodeTip(chain.State{ID: chain.Hash{9}, Height: 33})), false, 0, "does not stand on a valid chain", whole, true},
		{"state damaged", flipped(path[7], 50), false, 1, "the record of the block at height 7, but not the block", whole, false},
		{"changes damaged", flipped(path[7], stateSize+4+22), false, 1, "the record of the block at height 7, but not the block", whole, false},
		{"state wrong", set(verifiedKey(path[5].State.ID), encodeVerified(otherState)), false, 1, "the state or the ledger's changes at height 5", whole, false},
		{"block damaged", flipped(path[12], -40), false, 0, "the block at height 12", 11, true},
		{"block missing", del(verifiedKey(path[12].State.ID)), false, 0, "the block at height 12", 11, true},
		{"block empty", set(verifiedKey(path[12].State.ID), nil), false, 0, "the block at height 12", 11, true},
		{"tip's block missing", del(verifiedKey(path[20].State.ID)), false, 0, "does not stand on a valid chain", 19, true},
		{"genesis missing", del(verifiedKey(path[0].State.ID)), false, 1, "genesis", whole, false},
		{"block breaks a rule", records(func(txn *badger.Txn) error {
			return errors.Join(txn.Set(verifiedKey(brokenState.ID), encodeVerified(chain.Verified{Block: &broken, State: brokenState})),
				txn.Set(sideKey(brokenState.ID), encodeSide(brokenState.ID, brokenState.Work)))
		}), false, 1, "time is not after the parent's", whole, true},
		{"beside: not listed", del(sideKey(side.State.ID)), false, 1, "list of blocks beside the best chain", whole, false},
		{"beside: listed wrongly", set(sideKey(path[4].State.ID), encodeSide(path[4].State.ID, path[4].State.Work)), false, 1, "is on the best chain", whole, false},
		{"beside: another work", set(sideKey(side.State.ID), encodeSide(side.State.ID, tip.Work)), false, 1, "has another work", whole, false},
		{"beside: damaged", set(sideKey(side.State.ID), nil), false, 1, "list of blocks beside", whole, false},
		{"invalid blocks", set(invalidKey(7), nil), false, 1, "memory of invalid blocks", whole, false},
		{"valid block as invalid", set(invalidKey(7), encodeFault(fault{seq: 7, id: path[9].State.ID, err: chain.InvalidError{Kind: chain.ErrTask}})), false, 1, "the valid block", whole, false},
		{"task start missing", del(taskKey(1)), false, 1, "task 1 is missing", whole, false},
		{"task start wrong", set(taskKey(1), encodeTask(1, chain.TaskStart{Loss: 1})), false, 1, "task 1 starts at", whole, false},
		{"task start damaged", set(taskKey(1), nil), false, 0, "starts of tasks", whole, false},
		{"model damaged", file("models/"+models[1].Root.String()+".state", func(b []byte) []byte { b[5] ^= 1; return b }), false, 1, "model state of the block", whole, false},
		{"model cut", file("models/"+models[1].Root.String()+".state", func(b []byte) []byte { return b[:5] }), false, 1, "model state of the block", whole, false},
		{"model missing", file("models/"+models[1].Root.String()+".state", nil), false, 1, "model state of the block", whole, false},
		{"training forged", forge, true, 0, "loss after is not what evaluation gives", 19, true},
		{"sentinel missing", file(sentinelFile, nil), false, 1, "store.json", whole, false},
		{"sentinel damaged", file(sentinelFile, func([]byte) []byte { return []byte("{") }), false, 1, "store.json", whole, false},
		{"manifest missing", file("db/MANIFEST", nil), false, 0, "MANIFEST is missing", whole, true},
		{"table missing", file("db/*.sst", nil), false, 0, "the database cannot be opened", 0, true},
		{"table's end damaged", file("db/*.sst", func(b []byte) []byte { clear(b[len(b)-64:]); return b }), false, 0, "the database cannot be opened", 0, true},
		{"database gone", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, dbDir)); err != nil {
				t.Fatal(err)
			}
		}, false, 0, "MANIFEST is missing", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && i%5 > 0 {
				t.Skip("every fifth with -short")
			}
			t.Parallel()
			r := newTraining(t)
			dir := t.TempDir()
			copyDir(t, template, dir)
			c.damage(t, dir)
			got, err := r.check(dir, c.deep, false)
			if err != nil {
				t.Fatal(err)
			}
			all := strings.Join(got.faults, "\n")
			if !strings.Contains(all, c.text) || got.Faults != len(got.faults) || c.faults > 0 && got.Faults != c.faults {
				t.Errorf("%d faults:\n%s", got.Faults, all)
			}
			for _, f := range got.faults {
				if strings.Contains(f, "\n") || !strings.Contains(f, ";") {
					t.Errorf("not a line that says what to do: %q", f)
				}
			}
			again, err := r.check(dir, c.deep, true) // a check changes nothing; a repair may see more
			if err != nil || !strings.HasPrefix(strings.Join(again.faults, "\n"), all) || !again.Repaired || len(again.notes) == 0 {
				t.Fatalf("the second time, with repair: %v\n%s\n%v", err, strings.Join(again.faults, "\n"), again.notes)
			}
			t.Log(strings.ReplaceAll(strings.Join(append(got.faults, again.notes...), "\n"), dir, "DIR"))
			if lossy := again.Lost > 0 || again.Unread; lossy != c.kept && c.name != "database gone" || again.Tip.Height < whole && !lossy {
				t.Errorf("%d blocks lost, not all could be read: %v", again.Lost, again.Unread)
			}
			if again.Tip.Height != c.height || exists(filepath.Join(dir, damagedDir)) != c.kept || exists(filepath.Join(dir, newDir)) {
				t.Errorf("after the repair the tip is at height %d, the old database kept: %v", again.Tip.Height, exists(filepath.Join(dir, damagedDir)))
			}
			if last, err := r.check(dir, true, false); err != nil || last.Faults != 0 || c.height == whole && last.Tip != tip {
				t.Fatalf("afterwards: %v, %v", last.faults, err)
			}
			// A node goes on from there.
			s := r.openStore(dir)
			defer s.Close()
			m := r.manager(s)
			best, _ := m.Best()
			if best != again.Tip {
				t.Errorf("a node has its tip at height %d", best.Height)
			}
			if err := bring(m, path[best.Height+1:]); err != nil {
				t.Fatal(err)
			}
			if best, _ := m.Best(); best != tip {
				t.Errorf("with the lost blocks again the tip is at height %d", best.Height)
			}
		})
	}
}

// bring adds blocks as peers would.
func bring(m *chain.Manager, path []chain.Verified) error {
	for _, v := range path {
		if _, err := m.Add(context.Background(), v.Block, v.Block.Time, m.Arrive("")); err != nil {
			return err
		}
	}
	return nil
}

// TestCheckDamagedTable damages each table in several places. What is found is mended: a valid chain is left, and blocks
// from peers bring it to where it was.
func TestCheckDamagedTable(t *testing.T) {
	r := newTraining(t)
	template, tip := r.withChain()
	s := r.openStore(template)
	var path []chain.Verified
	for h := range tip.Height + 1 {
		path = append(path, must(s.Verified(must(s.BlockID(h)))))
	}
	shut(t, s)
	tables, err := filepath.Glob(filepath.Join(template, dbDir, "*.sst"))
	if err != nil || len(tables) < 2 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		for _, part := range []float64{0.01, 0.2, 0.5, 0.8, 0.93} {
			t.Run("", func(t *testing.T) {
				if testing.Short() && part != 0.5 {
					t.Skip("one place of each table with -short")
				}
				t.Parallel()
				r := newTraining(t)
				dir := t.TempDir()
				copyDir(t, template, dir)
				edit(t, filepath.Join(dir, dbDir, filepath.Base(table)), func(b []byte) []byte {
					at := int(part * float64(len(b)))
					for i := at; i < min(at+200, len(b)); i++ {
						b[i] ^= 0x5a
					}
					return b
				})
				c, err := r.check(dir, false, true)
				if err != nil || c.Faults == 0 || !c.Repaired {
					t.Fatalf("%d faults, %v", c.Faults, err)
				}
				t.Log(strings.ReplaceAll(strings.Join(append(c.faults, c.notes...), "\n"), dir, "DIR"))
				s := r.openStore(dir)
				defer s.Close()
				m := r.manager(s)
				if err := bring(m, path[1:]); err != nil {
					t.Fatal(err)
				}
				if best, _ := m.Best(); best != tip {
					t.Errorf("with the lost blocks again the tip is at height %d", best.Height)
				}
			})
		}
	}
}

// TestRepairCutShort: a crash between the two renamings of a repair leaves the new database, which the next one takes.
func TestRepairCutShort(t *testing.T) {
	r := newTraining(t)
	dir, tip := r.withChain()
	if err := os.Rename(filepath.Join(dir, dbDir), filepath.Join(dir, newDir)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, Options{Network: r.ID, NetworkName: r.Name})
	wantError(t, err, chain.ErrCorrupt, "fsck --repair")
	c, err := r.check(dir, false, true)
	if err != nil || c.Faults != 0 || c.Tip != tip || len(c.notes) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	// One that is not finished is made again.
	if err := os.Mkdir(filepath.Join(dir, newDir), 0o700); err != nil {
		t.Fatal(err)
	}
	edit(t, filepath.Join(dir, sentinelFile), func([]byte) []byte { return nil })
	c, err = r.check(dir, false, true)
	if err != nil || c.Faults != 1 || c.Tip != tip || exists(filepath.Join(dir, newDir)) {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestRepairYoung: the blocks of a chain that is not in a table yet are in the log, and are found there.
func TestRepairYoung(t *testing.T) {
	r := newTraining(t)
	young, dir := t.TempDir(), t.TempDir()
	s := r.openStore(young)
	r.grow(r.manager(s), 12, 1)
	tip := must(s.Tip())
	copyDir(t, young, dir) // as a kill would leave it
	shut(t, s)
	logs := must(filepath.Glob(filepath.Join(dir, dbDir, "*.mem")))
	if tables := must(filepath.Glob(filepath.Join(dir, dbDir, "*.sst"))); len(logs) != 1 || len(tables) > 0 {
		t.Fatal(logs, tables)
	}
	breakManifest := func() {
		edit(t, filepath.Join(dir, dbDir, badger.ManifestFilename), func([]byte) []byte { return []byte("junk") })
	}
	breakManifest()
	c, err := r.check(dir, false, true)
	if err != nil || !c.Repaired || c.Tip != tip || c.Lost != 0 || !c.Unread || !exists(filepath.Join(dir, damagedDir)) {
		t.Fatalf("%+v, %v", c, err)
	}
	if c, err = r.check(dir, true, false); err != nil || c.Faults > 0 || c.Tip != tip {
		t.Fatalf("afterwards: %+v, %v", c, err)
	}

	// A second repair leaves what the first has kept alone.
	s = r.openStore(dir)
	r.grow(r.manager(s), 3, 1)
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	breakManifest()
	if c, err = r.check(dir, false, true); err != nil || c.Tip.Height != 15 {
		t.Fatalf("the second time: %+v, %v", c, err)
	}
	second := filepath.Join(dir, damagedDir+".2")
	if first := must(filepath.Glob(filepath.Join(dir, damagedDir, "*.mem"))); len(first) != 1 || !exists(second) {
		t.Error("the database that the first repair kept is gone")
	}
	if !strings.Contains(strings.Join(c.notes, "; "), "kept as "+second) {
		t.Errorf("it says %q", c.notes)
	}
}

// TestRepairSaysWhatIsLost: a log that is damaged too costs blocks, and it is said how many.
func TestRepairSaysWhatIsLost(t *testing.T) {
	r := newTraining(t)
	young := t.TempDir()
	s := r.openStore(young)
	r.grow(r.manager(s), 6, 1)
	shut(t, s)
	s = r.openStore(young)
	r.grow(r.manager(s), 6, 1)
	dir := t.TempDir()
	copyDir(t, young, dir)
	shut(t, s)
	for _, name := range must(filepath.Glob(filepath.Join(dir, dbDir, "*.mem"))) {
		edit(t, name, func(b []byte) []byte { return b[:10] })
	}
	edit(t, filepath.Join(dir, dbDir, badger.ManifestFilename), func([]byte) []byte { return nil })
	c, err := r.check(dir, false, true)
	if err != nil || !c.Repaired || c.Tip.Height != 6 || !c.Unread || !strings.Contains(strings.Join(c.notes, "; "), "not everything could be read") {
		t.Errorf("%+v, %v", c, err)
	}
	// And where the tip at the last clean end is gone, that is known.
	if err := os.RemoveAll(filepath.Join(young, dbDir)); err != nil {
		t.Fatal(err)
	}
	c, err = r.check(young, false, true)
	if err != nil || !c.Repaired || c.Tip.Height != 0 || c.Lost != 1 || !strings.Contains(strings.Join(c.notes, "; "), "1 block is lost") {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestRepairLeavesSentinel: until the new database takes its place, the sentinel is the old one's.
func TestRepairLeavesSentinel(t *testing.T) {
	r := newTraining(t)
	dir, tip := r.withChain()
	s := r.openStore(dir)
	if err := s.write(func(txn *badger.Txn) error { return txn.Delete(heightKey(3)) }); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	name := filepath.Join(dir, sentinelFile)
	old := must(os.ReadFile(name))
	c := newChecker(dir, CheckOptions{Network: r.Network, Trainer: r, Repair: true, Logger: zap.NewNop(), Fault: func(Fault) {}, Note: func(string) {}})
	if err := errors.Join(c.s.takeLock(), c.run(context.Background()), c.rebuild(context.Background()), c.closeDatabase(), c.s.lock.Unlock()); err != nil {
		t.Fatal(err)
	}
	if now := must(os.ReadFile(name)); !bytes.Equal(now, old) {
		t.Errorf("the sentinel is %s, it was %s", now, old)
	}
	got, err := r.check(dir, false, true)
	if err != nil || !got.Repaired || got.Tip != tip || got.Lost > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestConvert: a store of schema 1 gets the list of blocks beside the best chain, and forgets the children of invalid blocks.
func TestConvert(t *testing.T) {
	r := newTraining(t)
	dir, tip := r.withChain()
	s := r.openStore(dir)
	beside := must(s.Beside())
	child := chain.InvalidError{Kind: chain.ErrInvalidParent, Got: "height 9: " + string(chain.ErrLossAfter)}
	if err := s.write(func(txn *badger.Txn) error {
		err := txn.Set(invalidKey(99), encodeFault(fault{seq: 99, id: chain.Hash{8}, err: child}))
		for _, b := range beside {
			err = errors.Join(err, txn.Delete(sideKey(b.ID)))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.sentinel.Schema = 1
	if err := s.writeSentinel(); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	c, err := r.check(dir, false, true)
	if err != nil || c.Faults > 0 || len(c.notes) != 1 || !strings.Contains(c.notes[0], "version 1") {
		t.Fatalf("a check before: %+v, %v", c, err)
	}
	for range 2 {
		s = r.openStore(dir)
		if got := must(s.Beside()); !slices.Equal(got, beside) || len(got) != 5 {
			t.Errorf("beside are %v, want %v", got, beside)
		}
		wantNotFound(t, "child of an invalid block", errOf(s.Invalid(chain.Hash{8})))
		if f, err := s.Invalid(chain.Hash{7}); err != nil || f.Kind != chain.ErrTask {
			t.Errorf("another invalid block: %v, %v", f, err)
		}
		shut(t, s)
		if c, err := r.check(dir, false, false); err != nil || c.Faults > 0 || len(c.notes) > 0 || c.Tip != tip {
			t.Errorf("a check afterwards: %+v, %v", c, err)
		}
	}
}

// TestCheckWrongMachine: a machine that computes wrongly must not cut a good chain.
func TestCheckWrongMachine(t *testing.T) {
	r := newTraining(t)
	dir, tip := r.withChain()
	r.wrong = true
	if _, err := r.check(dir, true, true); err == nil || !strings.Contains(err.Error(), "computes wrongly") {
		t.Errorf("error is %v", err)
	}
	r.wrong = false
	if c, err := r.check(dir, true, false); err != nil || c.Faults != 0 || c.Tip != tip {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestCheckAfterKill: the state that a kill leaves, also between the blocks of a change of branches, has no faults.
func TestCheckAfterKill(t *testing.T) {
	r := newTraining(t)
	template, tip := r.withChain()
	dir := t.TempDir()
	s := r.openStore(template)
	v := must(s.Verified(tip.ID))
	if err := s.Disconnect(v, must(s.Verified(v.Block.Parent)).State); err != nil {
		t.Fatal(err)
	}
	copyDir(t, template, dir)
	shut(t, s)
	c, err := r.check(dir, true, true)
	if err != nil || c.Faults != 0 || c.Tip.Height != tip.Height-1 || len(c.notes) != 1 || !strings.Contains(c.notes[0], "better chain") {
		t.Fatalf("%+v, %v", c, err)
	}
	if exists(filepath.Join(dir, dirtyFile)) {
		t.Error("it is still marked as not cleanly closed")
	}
	s = r.openStore(dir)
	defer s.Close()
	if best, _ := r.manager(s).Best(); best != tip {
		t.Errorf("the node's tip is at height %d", best.Height)
	}
}

// copying is a store that hands a copy of its data directory on after every write, as a kill would leave it there.
type copying struct {
	*Badger
	after func(what string)
}

func (c copying) PutVerified(v chain.Verified) error {
	err := c.Badger.PutVerified(v)
	c.after("a block was verified")
	return err
}

func (c copying) Connect(v chain.Verified) error {
	err := c.Badger.Connect(v)
	c.after("a block was put on the chain")
	return err
}

func (c copying) Disconnect(v chain.Verified, parent chain.State) error {
	err := c.Badger.Disconnect(v, parent)
	c.after("a block was taken off the chain")
	return err
}

func (c copying) PutModel(root chain.Hash, height uint64, b []byte) error {
	err := c.Badger.PutModel(root, height, b)
	c.after("a model state was kept")
	return err
}

// TestCrashOnDisk takes a copy of the data directory after every single write of a change of branches. Each has no
// faults, and a node that opens it goes on by itself if all of the new branch was verified.
func TestCrashOnDisk(t *testing.T) {
	r := newTraining(t)
	other := r.manager(NewMemory())
	better := r.grow(other, 5, 2)
	end, _ := other.Best()
	dir := t.TempDir()
	s := r.openStore(dir)
	defer s.Close()
	c := copying{s, func(string) {}}
	m := r.manager(c)
	r.grow(m, 4, 1)
	oldEnd, _ := m.Best()
	for _, b := range better[:4] {
		if a, err := m.Add(context.Background(), b, b.Time, m.Arrive("")); err != nil || !a.Side {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	copies, whole := 0, 0
	c.after = func(what string) {
		copies++
		at := t.TempDir()
		copyDir(t, dir, at)
		_, verifiedErr := s.Verified(end.ID)
		got, err := r.check(at, copies%5 == 0, false)
		if err != nil || got.Faults != 0 {
			t.Fatalf("copy %d, after %s: %v, %v", copies, what, got.faults, err)
		}
		disk := r.openStore(at)
		defer disk.Close()
		again := r.manager(disk)
		best, _ := again.Best()
		switch {
		case verifiedErr == nil:
			whole++
			if best != end {
				t.Errorf("copy %d, after %s: all is verified and the tip is at height %d", copies, what, best.Height)
			}
		case best != oldEnd:
			t.Errorf("copy %d, after %s: the old branch was left, the tip is at height %d", copies, what, best.Height)
		}
		for _, b := range better {
			if _, err := again.Add(context.Background(), b, b.Time, again.Arrive("")); err != nil {
				t.Errorf("copy %d, after %s: %v", copies, what, err)
			}
		}
		if best, _ := again.Best(); best != end || again.Ledger().Root() != other.Ledger().Root() {
			t.Errorf("copy %d, after %s: the tip is at height %d in the end", copies, what, best.Height)
		}
	}
	m2 := r.manager(c) // over the same store, now with copies
	for _, b := range better {
		if _, err := m2.Add(context.Background(), b, b.Time, m2.Arrive("")); err != nil {
			t.Fatal(err)
		}
	}
	if best, _ := m2.Best(); best != end {
		t.Errorf("the tip is at height %d", best.Height)
	}
	if copies < 5+4+5 || whole < 4+5 {
		t.Errorf("%d copies, %d of them with the whole branch", copies, whole)
	}
	t.Logf("%d copies, %d of them with all of the new branch verified", copies, whole)
}
