package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
)

func simnet(t testing.TB) *chain.Network {
	t.Helper()
	n, err := specfile.Load("simnet")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func testConfig(t testing.TB, dir string, mine bool) Config {
	return Config{
		Network: simnet(t), DataDir: dir, Mine: mine, Payout: chain.Address{1}, Threads: 1,
		Models: chain.DefaultModelLimits, Log: zaptest.NewLogger(t), Now: time.Now, ReportEvery: time.Minute,
	}
}

// runUntil runs the node until its chain has the height, and ends it.
func runUntil(t *testing.T, n *Node, height uint64) chain.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for {
		tip, changed := n.Manager().Best()
		if tip.Height >= height {
			break
		}
		select {
		case <-changed:
		case err := <-done:
			t.Fatalf("at height %d the node ended: %v", tip.Height, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	tip, _ := n.Manager().Best()
	return tip
}

// A node alone mines blocks, and after a restart goes on from the same tip and model.
func TestMineAndRestart(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	open := func() *Node {
		n, err := Open(context.Background(), testConfig(t, dir, true))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	n := open()
	genesis, _ := n.Manager().Best()
	tip := runUntil(t, n, 10)
	if tip.Loss == genesis.Loss || lossOf(tip) >= lossOf(genesis) {
		t.Errorf("ten blocks brought the loss from %v to %v", lossOf(genesis), lossOf(tip))
	}
	if got, want := n.Manager().Ledger().Account(chain.Address{1}).Balance, n.cfg.Network.InitialReward; got < want {
		t.Errorf("ten blocks paid %d, one alone pays up to %d", got, want)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	n = open()
	if got, _ := n.Manager().Best(); got != tip {
		t.Errorf("after the restart the tip is %+v, before it was %+v", got, tip)
	}
	model, err := n.Manager().Model(context.Background(), tip.ID)
	if err != nil {
		t.Fatal(err)
	}
	if root, err := model.Root(1); err != nil || root != tip.ModelRoot {
		t.Errorf("after the restart the model's root is %v (%v), want %v", root, err, tip.ModelRoot)
	}
	if next := runUntil(t, n, tip.Height+1); next.Work.Cmp(tip.Work) <= 0 {
		t.Errorf("the chain did not go on")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	mnist, err := specfile.Load("mnist10k")
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, t.TempDir(), false)
	cfg.Network = mnist
	if _, err := Open(context.Background(), cfg); !errors.Is(err, ErrNoData) {
		t.Errorf("a network with files and no folder: %v", err)
	}

	dir := t.TempDir()
	n, err := Open(context.Background(), testConfig(t, dir, false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), testConfig(t, dir, false)); err == nil {
		t.Error("two nodes share a data directory")
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPayoutKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "payout.key")
	a, err := PayoutKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := PayoutKey(file); err != nil || a != b {
		t.Errorf("read again: %v (%v), was %v", b, err, a)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key file has mode %v", info.Mode())
	}
	if err := os.WriteFile(file, []byte("scrambled"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := PayoutKey(file); !errors.Is(err, ErrKey) {
		t.Errorf("a damaged key file: %v", err)
	}
}
