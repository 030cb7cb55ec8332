//go:build !e2e

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/node"
	"github.com/descentnet/minerd/store"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"minerd": main})
}

// The scripts use minerd as a person would, mostly with bad input.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"data-dir":      dataDir,
			"hold-data-dir": holdDataDir,
			"hold-port":     holdPort,
			"idx":           writeIDX,
			"mine":          mine,
		},
	})
}

// dataDir DIR NETWORK makes a data directory.
func dataDir(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(openDataDir(ts, args).Close())
}

// holdDataDir DIR NETWORK opens a data directory, as another process would, until the script ends.
func holdDataDir(ts *testscript.TestScript, neg bool, args []string) {
	s := openDataDir(ts, args)
	ts.Defer(func() { _ = s.Close() })
}

func openDataDir(ts *testscript.TestScript, args []string) *store.Badger {
	n, err := specfile.Load(args[1])
	ts.Check(err)
	s, err := store.Open(ts.MkAbs(args[0]), store.Options{Network: n.ID, NetworkName: n.Name, Logger: zap.NewNop()})
	ts.Check(err)
	return s
}

// mine DIR NETWORK HEIGHT mines a chain into a data directory.
func mine(ts *testscript.TestScript, neg bool, args []string) {
	n, err := specfile.Load(args[1])
	ts.Check(err)
	height, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	m, err := node.Open(context.Background(), node.Config{
		Network: n, DataDir: ts.MkAbs(args[0]), Mine: true, Payout: chain.Address{1}, Threads: 1,
		Models: chain.DefaultModelLimits, Log: zap.NewNop(), Now: time.Now, ReportEvery: time.Minute,
	})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	for {
		tip, changed := m.Manager().Best()
		if tip.Height >= height {
			break
		}
		select {
		case <-changed:
		case err := <-done:
			ts.Fatalf("the node ended: %v", err)
		}
	}
	cancel()
	ts.Check(errors.Join(<-done, m.Close()))
}

// holdPort listens on a free TCP port until the script ends, and puts its number into $PORT.
func holdPort(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

// writeIDX DIR COUNT writes drawn digits as IDX files.
func writeIDX(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	d := dataset.Synthetic(7, n)
	ts.Check(os.WriteFile(filepath.Join(dir, "images-idx3-ubyte"), d.ImageFile(), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "labels-idx1-ubyte"), d.LabelFile(), 0o644))
}
