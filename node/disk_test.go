package node

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A change of state is told once, and a state is left for a better one with some margin only.
func TestDiskGuard(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	var free uint64
	var broken error
	g := newDiskGuard(simnet(t), func() (uint64, error) { return free, broken }, zap.New(core))
	if g.full < compactionBytes || g.low != 2*g.full {
		t.Errorf("limits are %d and %d", g.full, g.low)
	}
	g.full, g.low = 800, 1600
	for i, c := range []struct {
		free  uint64
		state diskState
		level zapcore.Level // of the line, DebugLevel for none
	}{
		{5000, diskOK, zapcore.DebugLevel},
		{1600, diskOK, zapcore.DebugLevel},
		{1599, diskLow, zapcore.WarnLevel},
		{1500, diskLow, zapcore.DebugLevel},
		{1700, diskLow, zapcore.DebugLevel},
		{1800, diskOK, zapcore.InfoLevel},
		{799, diskFull, zapcore.ErrorLevel},
		{0, diskFull, zapcore.DebugLevel},
		{899, diskFull, zapcore.DebugLevel},
		{900, diskLow, zapcore.WarnLevel},
		{800, diskLow, zapcore.DebugLevel},
		{10, diskFull, zapcore.ErrorLevel},
		{1 << 40, diskOK, zapcore.InfoLevel},
	} {
		free = c.free
		for range 2 {
			if got := g.look(); got != c.state {
				t.Errorf("%d: with %d bytes it is %d, want %d", i, c.free, got, c.state)
			}
		}
		if err := g.check(); errors.Is(err, ErrDiskFull) != (c.state == diskFull) || err != nil && chain.VerdictOf(err) != chain.Unverified {
			t.Errorf("%d: check gives %v", i, err)
		}
		lines := logs.TakeAll()
		if want := c.level > zapcore.DebugLevel; want != (len(lines) == 1) || want && lines[0].Level != c.level {
			t.Errorf("%d: with %d bytes it says %v", i, c.free, lines)
		}
	}
	free, broken = 0, errors.New("no such disk")
	if g.look() != diskOK || logs.Len() > 0 {
		t.Error("what is not known was taken for full")
	}
	var none *diskGuard
	if none.check() != nil || none.wait(context.Background()) != nil {
		t.Error("a node in memory waits for a disk")
	}
}

func TestFreeSpace(t *testing.T) {
	free, err := freeSpace(t.TempDir())
	if err != nil || free == 0 {
		t.Errorf("%d, %v", free, err)
	}
	if _, err := freeSpace("/no/such/place"); err == nil {
		t.Error("a place that is not there has space")
	}
}

// told waits until a line was logged.
func told(t *testing.T, logs *observer.ObservedLogs, text string) {
	t.Helper()
	limit := time.After(time.Minute)
	for logs.FilterMessageSnippet(text).Len() == 0 {
		select {
		case <-limit:
			t.Fatalf("%q was not told within a minute", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// A miner whose disk fills up stops, and goes on by itself when there is space again; blocks of others are not verified
// meanwhile, and nobody is blamed.
func TestDiskFull(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	other, err := Open(context.Background(), testConfig(t, "", true))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tip := runUntil(t, other, 3)
	var theirs []*chain.Block
	for h := uint64(1); h <= tip.Height; h++ {
		id, err := other.store.BlockID(h)
		if err != nil {
			t.Fatal(err)
		}
		v, err := other.store.Verified(id)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, v.Block)
	}

	core, logs := observer.New(zapcore.DebugLevel)
	var free atomic.Uint64
	cfg := testConfig(t, t.TempDir(), true)
	cfg.Log = zap.New(core)
	cfg.FreeSpace = func() (uint64, error) { return free.Load(), nil }
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	told(t, logs, "the disk is full")
	began, _ := n.Manager().Best()
	for range 2 {
		err := n.verifier.verify(ctx, theirs[0], "peer", n.Manager().Arrive("peer"))
		if !errors.Is(err, ErrDiskFull) || chain.VerdictOf(err) != chain.Unverified {
			t.Errorf("verifying without space: %v", err)
		}
	}
	if now, _ := n.Manager().Best(); now != began {
		t.Errorf("without space the chain grew to height %d", now.Height)
	}
	if logs.FilterMessage("block refused").Len() > 0 || logs.FilterLevelExact(zapcore.ErrorLevel).Len() != 1 {
		t.Errorf("the log says %v", logs.FilterLevelExact(zapcore.ErrorLevel).All())
	}
	mined, changed := n.Manager().Best()
	free.Store(1 << 40)
	<-changed // the miner goes on
	if now, _ := n.Manager().Best(); now.Height <= mined.Height {
		t.Errorf("the tip is at height %d, it was at %d", now.Height, mined.Height)
	}
	told(t, logs, "there is enough space")
	logs.TakeAll()
	free.Store(0)
	told(t, logs, "the disk is full")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	free.Store(1 << 40)
	for _, b := range theirs {
		if err := n.verifier.verify(context.Background(), b, "peer", n.Manager().Arrive("peer")); err != nil {
			t.Errorf("with space again: %v", err)
		}
	}
}
