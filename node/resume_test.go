package node

import (
	"context"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/store"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A node that was killed between the transactions of a change of branches goes on with it when it starts, and says so.
func TestResumeAtStart(t *testing.T) {
	dir := t.TempDir()
	n, err := Open(context.Background(), testConfig(t, dir, true))
	if err != nil {
		t.Fatal(err)
	}
	tip := runUntil(t, n, 4)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Options{Network: n.cfg.Network.ID, NetworkName: n.cfg.Network.Name})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		last, err := s.Tip()
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.Verified(last.ID)
		if err != nil {
			t.Fatal(err)
		}
		parent, err := s.Verified(v.Block.Parent)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Disconnect(v, parent.State); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, lines := range []int{1, 0} {
		core, logs := observer.New(zapcore.InfoLevel)
		cfg := testConfig(t, dir, false)
		cfg.Log = zap.New(core)
		n, err = Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := n.Manager().Best(); got != tip {
			t.Errorf("the tip is at height %d, it was at %d", got.Height, tip.Height)
		}
		if root := n.Manager().Ledger().Root(); root == (chain.Hash{}) {
			t.Error("no ledger")
		}
		if got := logs.FilterMessageSnippet("off the best chain").Len(); got != lines {
			t.Errorf("%d lines say so, want %d", got, lines)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
