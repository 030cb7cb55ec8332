package node

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A miner whose clock is behind the chain says so once and waits: its blocks would be from the future.
func TestClockBehindChain(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	cfg := testConfig(t, "", true)
	cfg.Log = zap.New(core)
	genesis := time.UnixMilli(int64(cfg.Network.GenesisTime))
	cfg.Now = func() time.Time { return genesis.Add(-time.Hour) }
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
	defer cancel()
	if err := n.Run(ctx); err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	if tip, _ := n.Manager().Best(); tip.Height != 0 {
		t.Errorf("it mined to height %d", tip.Height)
	}
	if got := logs.FilterMessageSnippet("ahead of this machine's clock").Len(); got != 1 {
		t.Errorf("said %d times, want once: %v", got, logs.All())
	}
}
