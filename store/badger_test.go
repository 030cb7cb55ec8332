package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/descentnet/minerd/chain"
)

func TestMain(m *testing.M) {
	switch dir := os.Getenv("STORE_TEST_DIR"); os.Getenv("STORE_TEST_CHILD") {
	case "write":
		childWrites(dir)
	case "open":
		_, err := Open(dir, testOptions())
		fmt.Println(err)
	default:
		os.Exit(m.Run())
	}
}

// child starts this test binary as another process.
func child(t *testing.T, what, dir string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+what, "STORE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func wantError(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not name %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
}

func openErr(dir string) error {
	s, err := Open(dir, testOptions())
	if err == nil {
		s.Close()
	}
	return err
}

func TestCloseLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := t.TempDir()
	for range 2 {
		s, err := Open(dir, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if s.sentinel.NotEmpty {
			checkStored(t, s, newBranch(1).grow(5).blocks)
		} else {
			connect(t, s, newBranch(1).grow(5).blocks...)
		}
		shut(t, s)
		shut(t, s)
		if _, err := s.Tip(); !errors.Is(err, ErrClosed) {
			t.Errorf("tip of a closed store: %v", err)
		}
		if err := s.PutModel(chain.Hash{}, 0, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("model into a closed store: %v", err)
		}
		if _, err := os.Stat(s.path(dirtyFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the mark of an unclean close is there: %v", err)
		}
	}
	goleak.VerifyNone(t, before)
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	pid := fmt.Sprint("process ", os.Getpid())
	wantError(t, openErr(dir), ErrLocked, dir, pid)
	out, err := child(t, "open", dir).Output()
	if err != nil || !strings.Contains(string(out), ErrLocked.Error()) || !strings.Contains(string(out), pid) {
		t.Errorf("another process: %q, %v", out, err)
	}
	shut(t, s)
	if err := openErr(dir); err != nil {
		t.Error(err)
	}
}

func TestOtherNetwork(t *testing.T) {
	dir := t.TempDir()
	shut(t, open(t, dir))
	_, err := Open(dir, Options{Network: chain.Hash{0xab}, NetworkName: "mynet"})
	wantError(t, err, ErrOtherNetwork, dir, "testnet", "mynet", testNetwork.Short(), "ab000000")
	if err := openErr(dir); err != nil {
		t.Error(err)
	}
}

func TestSchema(t *testing.T) {
	for _, c := range []struct {
		version int
		text    string
	}{{Schema + 1, "use a newer minerd"}, {oldest - 1, "cannot convert"}} {
		dir := t.TempDir()
		s := open(t, dir)
		connect(t, s, newBranch(1).next())
		shut(t, s)
		name := filepath.Join(dir, sentinelFile)
		edit(t, name, func(b []byte) []byte {
			return bytes.Replace(b, fmt.Appendf(nil, `"schema": %d`, Schema), fmt.Appendf(nil, `"schema": %d`, c.version), 1)
		})
		wantError(t, openErr(dir), ErrSchema, fmt.Sprint("version ", c.version), fmt.Sprint("version ", Schema), c.text)
	}
}

func edit(t *testing.T, name string, do func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, do(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyDir copies a data directory, leaving holes where there are only zeros: Badger's log files are mostly that.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(int64(len(b))); err != nil {
			return err
		}
		const part = 1 << 16
		zeros := make([]byte, part)
		for at := 0; at < len(b); at += part {
			p := b[at:min(at+part, len(b))]
			if !bytes.Equal(p, zeros[:len(p)]) {
				if _, err := f.WriteAt(p, int64(at)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// withTables makes a data directory that was closed cleanly, with a chain spread over several tables.
func withTables(t *testing.T) (dir string, c *branch) {
	dir = t.TempDir()
	c = newBranch(21)
	c.bytes = 2000
	for range 3 {
		s := open(t, dir)
		n := len(c.blocks)
		connect(t, s, c.grow(30).blocks[n:]...)
		if err := s.PutInvalid(c.hash(), &chain.InvalidError{Kind: chain.ErrTask}); err != nil {
			t.Fatal(err)
		}
		shut(t, s)
	}
	return dir, c
}

// Whatever is done to a file, Open gives either one clear error or all that was stored.
func TestDamagedFiles(t *testing.T) {
	template, c := withTables(t)
	rnd := rand.New(rand.NewPCG(5, 5))
	garbage := func(b []byte) []byte {
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	flip := func(part float64) func([]byte) []byte {
		return func(b []byte) []byte {
			if len(b) > 0 {
				b[min(int(part*float64(len(b))), len(b)-1)] ^= 0x55
			}
			return b
		}
	}
	damages := []struct {
		name string
		do   func([]byte) []byte // nil removes the file
	}{
		{"removed", nil},
		{"emptied", func([]byte) []byte { return nil }},
		{"halved", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut by a byte", func(b []byte) []byte { return b[:max(len(b)-1, 0)] }},
		{"garbage", garbage},
		{"garbage at the end", func(b []byte) []byte { garbage(b[max(0, len(b)-64):]); return b }},
		{"garbage added", func(b []byte) []byte { return append(b, garbage(make([]byte, 100))...) }},
		{"first byte", flip(0)},
		{"early byte", flip(0.1)},
		{"middle byte", flip(0.5)},
		{"late byte", flip(0.9)},
		{"last byte", flip(1)},
	}
	var files []string
	entries, err := os.ReadDir(filepath.Join(template, dbDir))
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for _, e := range entries {
		files = append(files, filepath.Join(dbDir, e.Name()))
		if filepath.Ext(e.Name()) == ".sst" {
			tables++
		}
	}
	if tables < 3 {
		t.Fatalf("%d tables in %v", tables, files)
	}
	for _, file := range append(files, sentinelFile) {
		for _, d := range damages {
			t.Run(filepath.Base(file)+"/"+d.name, func(t *testing.T) {
				dir := t.TempDir()
				copyDir(t, template, dir)
				name := filepath.Join(dir, file)
				if d.do == nil {
					if err := os.Remove(name); err != nil {
						t.Fatal(err)
					}
				} else {
					edit(t, name, d.do)
				}
				s, err := Open(dir, testOptions())
				if err == nil {
					checkStored(t, s, c.blocks)
					shut(t, s)
					if filepath.Ext(file) == ".sst" || d.do == nil && file != filepath.Join(dbDir, "DISCARD") && file != filepath.Join(dbDir, "KEYREGISTRY") && filepath.Ext(file) != ".vlog" {
						t.Error("the damage was not seen")
					}
					return
				}
				if file == sentinelFile && (errors.Is(err, ErrSchema) || errors.Is(err, ErrOtherNetwork)) {
					return
				}
				wantError(t, err, chain.ErrCorrupt, filepath.Join(dir, dbDir), filepath.Join(dir, sentinelFile), "move")
				t.Log(strings.ReplaceAll(err.Error(), dir, "DIR"))
				// No second process, no lock left behind, the same answer again.
				wantError(t, openErr(dir), chain.ErrCorrupt)
			})
		}
	}
}

// After a kill the newest blocks are in a log only. Damage there may cost some of them, but what is left is a chain.
func TestDamagedLog(t *testing.T) {
	template, c := t.TempDir(), newBranch(41)
	c.bytes = 2000
	dir := t.TempDir()
	s := open(t, dir)
	connect(t, s, c.grow(10).blocks...)
	shut(t, s)
	s = open(t, dir)
	connect(t, s, c.grow(30).blocks[10:]...)
	copyDir(t, dir, template) // as a kill would leave it
	logs, err := filepath.Glob(filepath.Join(template, dbDir, "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	const used = 30 * 3000 // bytes of the log with something in them, about
	rnd := rand.New(rand.NewPCG(8, 8))
	for name, do := range map[string]func([]byte) []byte{
		"not damaged": func(b []byte) []byte { return b },
		"emptied":     func([]byte) []byte { return nil },
		"halved":      func(b []byte) []byte { return b[:used/2] },
		"cut short":   func(b []byte) []byte { return b[:10] },
		"zeros":       func(b []byte) []byte { clear(b[used/2 : used]); return b },
		"first byte":  func(b []byte) []byte { b[0] ^= 1; return b },
		"one byte":    func(b []byte) []byte { b[used/3] ^= 1; return b },
		"garbage": func(b []byte) []byte {
			for i := range used {
				b[i] = byte(rnd.Uint32())
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyDir(t, template, dir)
			edit(t, filepath.Join(dir, dbDir, filepath.Base(logs[0])), do)
			s, err := Open(dir, testOptions())
			if err != nil {
				wantError(t, err, chain.ErrCorrupt, "move")
				return
			}
			defer s.Close()
			tip, err := s.Tip()
			if err != nil || tip.Height < 9 {
				t.Fatalf("tip at height %d, %v", tip.Height, err)
			}
			checkStored(t, s, c.blocks[:tip.Height+1])
			if name == "not damaged" && len(c.blocks) != int(tip.Height)+1 {
				t.Errorf("tip at height %d", tip.Height)
			}
			t.Logf("tip at height %d", tip.Height)
		})
	}
}

func TestDatabaseGone(t *testing.T) {
	template, _ := withTables(t)
	for name, do := range map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, dbDir)); err != nil {
				t.Fatal(err)
			}
		},
		"another": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, dbDir)); err != nil {
				t.Fatal(err)
			}
			other := t.TempDir()
			shut(t, open(t, other))
			copyDir(t, filepath.Join(other, dbDir), filepath.Join(dir, dbDir))
		},
		"older": func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, dbDir)); err != nil {
				t.Fatal(err)
			}
			other := t.TempDir()
			s := open(t, other)
			connect(t, s, newBranch(21).grow(5).blocks...)
			shut(t, s)
			copyDir(t, filepath.Join(other, dbDir), filepath.Join(dir, dbDir))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyDir(t, template, dir)
			do(t, dir)
			wantError(t, openErr(dir), chain.ErrCorrupt, filepath.Join(dir, dbDir), "move")
		})
	}
}

// The advice that comes with damage must work.
func TestMovedAway(t *testing.T) {
	dir, c := withTables(t)
	for _, name := range []string{dbDir, sentinelFile} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+".old")); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	wantNotFound(t, "tip", errOf(s.Tip()))
	connect(t, s, c.blocks...)
	checkStored(t, s, c.blocks)
}

// A damaged record is an error when it is read, also where the damage comes while the store is open.
func TestDamagedWhileOpen(t *testing.T) {
	template, c := withTables(t)
	for seed := range uint64(6) {
		dir := t.TempDir()
		copyDir(t, template, dir)
		s := open(t, dir)
		rnd := rand.New(rand.NewPCG(seed, 1))
		tables, err := filepath.Glob(filepath.Join(dir, dbDir, "*.sst"))
		if err != nil || len(tables) < 3 {
			t.Fatal(tables, err)
		}
		f, err := os.OpenFile(tables[rnd.IntN(len(tables))], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		junk := make([]byte, info.Size()/4)
		for i := range junk {
			junk[i] = byte(rnd.Uint32())
		}
		if _, err := f.WriteAt(junk, info.Size()/8); err != nil {
			t.Fatal(err)
		}
		f.Close()
		bad := 0
		for h, want := range c.blocks {
			id, err := s.BlockID(uint64(h))
			if err != nil {
				wantError(t, err, chain.ErrCorrupt)
				bad++
			} else if id != want.State.ID {
				t.Errorf("block id at height %d differs", h)
			}
			v, err := s.Verified(want.State.ID)
			switch {
			case errors.Is(err, chain.ErrCorrupt), errors.Is(err, chain.ErrNotFound):
				bad++
			case err != nil:
				t.Errorf("height %d: %v", h, err)
			case !sameVerified(v, want):
				t.Errorf("block at height %d differs", h)
			}
		}
		if bad == 0 {
			t.Error("no damage seen")
		}
		s.Close()
		wantError(t, openErr(dir), chain.ErrCorrupt)
	}
}

// A value that Badger holds for good but that is not what was written.
func TestDamagedRecords(t *testing.T) {
	template, c := t.TempDir(), newBranch(31).grow(30)
	first := open(t, template)
	connect(t, first, c.blocks...)
	shut(t, first)
	id := c.blocks[10].State.ID
	tip := c.tip()
	set := func(key, value []byte) func(*badger.Txn) error {
		return func(txn *badger.Txn) error { return txn.Set(key, value) }
	}
	for name, test := range map[string]struct {
		do     func(*badger.Txn) error
		read   func(*Badger) error
		atOpen bool
	}{
		"empty block":      {set(verifiedKey(id), nil), func(s *Badger) error { return errOf(s.Verified(id)) }, false},
		"another block":    {set(verifiedKey(id), encodeVerified(c.blocks[11])), func(s *Badger) error { return errOf(s.Verified(id)) }, false},
		"sealed otherwise": {set(verifiedKey(id), reseal(verifiedKey(id), encodeVerified(c.blocks[11]))), func(s *Badger) error { return errOf(s.Verified(id)) }, false},
		"no height":        {func(txn *badger.Txn) error { return txn.Delete(heightKey(3)) }, func(s *Badger) error { return errOf(s.BlockID(3)) }, false},
		"empty height":     {set(heightKey(3), nil), func(s *Badger) error { return errOf(s.BlockID(3)) }, false},
		"empty account":    {set(accountKey(chain.Address{1}), nil), func(s *Badger) error { return s.Accounts(func(chain.Address, chain.Account) error { return nil }) }, false},
		"empty tip":        {set(tipKey(), nil), func(s *Badger) error { return errOf(s.Tip()) }, true},
		"no tip":           {func(txn *badger.Txn) error { return txn.Delete(tipKey()) }, nil, true},
		"no tip block":     {func(txn *badger.Txn) error { return txn.Delete(verifiedKey(tip.State.ID)) }, nil, true},
		"older tip":        {set(tipKey(), encodeTip(c.blocks[28].State)), nil, true},
		"wrong index":      {set(heightKey(25), encodeHeight(25, id)), nil, true},
		"no parent":        {func(txn *badger.Txn) error { return txn.Delete(verifiedKey(c.blocks[20].State.ID)) }, nil, true},
		"bad fault":        {set(invalidKey(7), nil), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyDir(t, template, dir)
			s := open(t, dir)
			if err := s.write(test.do); err != nil {
				t.Fatal(err)
			}
			if test.read != nil {
				wantError(t, test.read(s), chain.ErrCorrupt)
			}
			shutErr := s.Close() // a damaged tip is told here too
			if test.atOpen {
				wantError(t, openErr(dir), chain.ErrCorrupt, "move")
			} else if err := errors.Join(shutErr, openErr(dir)); err != nil {
				t.Error(err)
			}
		})
	}
}

func reseal(key, value []byte) []byte { return seal(key, bytes.Clone(value[:len(value)-sumSize])) }

// A kill can leave log files without any bytes, over which Badger fails once.
func TestEmptyLogFiles(t *testing.T) {
	dir, c := withTables(t)
	for _, name := range []string{"00099.mem", "000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, dbDir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	checkStored(t, open(t, dir), c.blocks)
}

func TestBadgerLog(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	opts := testOptions()
	opts.Logger = zap.New(core)
	s, err := Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if logs.FilterMessage("store opened").Len() != 1 {
		t.Error("no line says that the store was opened")
	}
	for _, e := range logs.All() {
		if strings.HasPrefix(e.Message, "badger: ") && e.Level != zap.DebugLevel && e.Level != zap.WarnLevel {
			t.Errorf("%s: %s", e.Level, e.Message)
		}
	}
	if logs.FilterLevelExact(zap.DebugLevel).Len() == 0 {
		t.Error("nothing of Badger's own log")
	}
}

func TestOrphanModels(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	keep, b := testModel(1, 10_000)
	lost, b2 := testModel(2, 10_000)
	short, b3 := testModel(3, 10_000)
	for root, b := range map[chain.Hash][]byte{keep: b, lost: b2, short: b3} {
		if err := s.PutModel(root, 1, b); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, s)
	models := filepath.Join(dir, modelsDir)
	orphan := filepath.Join(models, chain.Hash{5}.String()+modelSuffix)
	for _, name := range []string{orphan, orphan + tmpSuffix, filepath.Join(models, keep.String()+modelSuffix+tmpSuffix), filepath.Join(models, "notes.txt")} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(s.modelPath(lost)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.modelPath(short), 5000); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if m, err := s.Models(); err != nil || len(m) != 1 || m[0].Root != keep {
		t.Errorf("models: %v, %v", m, err)
	}
	if got, err := s.Model(keep); err != nil || !bytes.Equal(got, b) {
		t.Error(err)
	}
	entries, err := os.ReadDir(models)
	if err != nil || len(entries) != 2 { // and the file that is not ours
		t.Errorf("files: %v, %v", entries, err)
	}
}

func TestDamagedModel(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	opts := testOptions()
	opts.Logger = zap.New(core)
	s, err := Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root, b := testModel(1, 10_000)
	for i, damage := range []func(){
		func() { edit(t, s.modelPath(root), func(b []byte) []byte { b[9_999] ^= 1; return b }) },
		func() { edit(t, s.modelPath(root), func(b []byte) []byte { return b[:9_999] }) },
		func() { edit(t, s.modelPath(root), func(b []byte) []byte { return append(b, 0) }) },
		func() {
			if err := os.Remove(s.modelPath(root)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if err := s.PutModel(root, 1, b); err != nil {
			t.Fatal(err)
		}
		damage()
		wantNotFound(t, "damaged model", errOf(s.Model(root)))
		if m, err := s.Models(); err != nil || len(m) != 0 {
			t.Errorf("models: %v, %v", m, err)
		}
		if _, err := os.Stat(s.modelPath(root)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file is still there: %v", err)
		}
		if logs.Len() != i+1 {
			t.Errorf("%d warnings after %d damages", logs.Len(), i+1)
		}
		if err := s.PutModel(root, 1, b); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Model(root); err != nil || !bytes.Equal(got, b) {
			t.Error(err)
		}
	}
}

func TestStateLimit(t *testing.T) {
	opts := testOptions()
	opts.StateLimit = 1000
	s, err := Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	root, b := testModel(1, 1001)
	wantError(t, s.PutModel(root, 1, b), ErrTooLarge, "1001", "1000")
	wantNotFound(t, "model", errOf(s.Model(root)))
}

// killBranch is the chain that the child of TestKill writes. Its blocks are large, so that tables are written too.
func killBranch() *branch {
	c := newBranch(77)
	c.bytes = 40_000
	return c
}

// childWrites connects blocks for ever, from the tip on, and prints the height of each that is committed.
func childWrites(dir string) {
	s, err := Open(dir, testOptions())
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c := killBranch()
	if tip, err := s.Tip(); err == nil {
		c.grow(int(tip.Height) + 1)
	}
	for {
		v := c.next()
		if err := s.Connect(v); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("height", v.Block.Height)
		if v.Block.Height%5 == 0 {
			root, b := testModel(v.Block.Height, 50_000)
			if err := s.PutModel(root, v.Block.Height, b); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			fmt.Println("model", v.Block.Height)
		}
	}
}

// killChild lets a child write to dir until it has committed n more blocks, kills it, and gives the height of the last
// block and those of the model states that it reported.
func killChild(t *testing.T, dir string, n int) (height int, models []uint64) {
	cmd := child(t, "write", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var what string
		var h int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &what, &h); err != nil {
			t.Errorf("the child says: %s", lines.Text())
			break
		}
		if what == "model" {
			models = append(models, uint64(h))
			continue
		}
		height = h
		if n--; n == 0 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	return height, models
}

// A process that is killed at any moment loses nothing that it had reported.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 1))
	rounds := 5
	if testing.Short() {
		rounds = 2
	}
	c := killBranch()
	var models []uint64
	for range rounds {
		// The second child finds what the first left, and is killed while Badger writes that into tables.
		_, first := killChild(t, dir, 1+rnd.IntN(100))
		height, second := killChild(t, dir, 1+rnd.IntN(4))
		models = append(append(models, first...), second...)
		s := open(t, dir)
		tip, err := s.Tip()
		if err != nil {
			t.Fatal(err)
		}
		if int(tip.Height) < height {
			t.Fatalf("tip at height %d, committed were %d", tip.Height, height)
		}
		c.grow(int(tip.Height) + 1 - len(c.blocks))
		checkStored(t, s, c.blocks)
		for _, h := range models {
			root, _ := testModel(h, 50_000)
			if _, err := s.Model(root); err != nil {
				t.Errorf("model of height %d: %v", h, err)
			}
		}
		shut(t, s)
	}
	t.Logf("%d kills, %d blocks", 2*rounds, len(c.blocks))
}
