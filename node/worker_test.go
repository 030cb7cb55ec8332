package node

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// failing is a CPU engine whose device fails in the trials that fail names, counted over all engines of the device.
type failing struct {
	nn.Engine
	trials *atomic.Int64
	fail   func(trial int64) bool
	lost   bool
	t      *testing.T
}

func (f *failing) Train(ctx context.Context, start *nn.State, data nn.Samples, trial nn.Trial) (*nn.Trained, error) {
	if f.lost {
		f.t.Error("an engine is used after its device failed")
	}
	if f.fail(f.trials.Add(1)) {
		f.lost = true
		return nil, fmt.Errorf("fell off the bus: %w", nn.ErrDevice)
	}
	return f.Engine.Train(ctx, start, data, trial)
}

func failingDevice(t *testing.T, name string, fail func(trial int64) bool) (Device, *atomic.Int64) {
	trials := new(atomic.Int64)
	return Device{Name: name, Engine: func(net *nn.Net) (nn.Engine, error) {
		e, err := nn.NewEngine(net, 1)
		return &failing{Engine: e, trials: trials, fail: fail, t: t}, err
	}}, trials
}

// A device that fails is tried again, others mine on meanwhile, and one that computes wrongly is left out.
func TestDevicesFail(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	cfg := testConfig(t, "", true)
	cfg.Log = zap.New(core)
	flaky, trials := failingDevice(t, "flaky", func(trial int64) bool { return trial%3 == 0 })
	wrong := Device{Name: "wrong", Engine: func(*nn.Net) (nn.Engine, error) { return nil, fmt.Errorf("%w: state root", nn.ErrKnownAnswer) }}
	cfg.Devices = []Device{CPU(1), flaky, wrong}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, w := range n.workers {
		w.rest = time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for { // until the flaky device has failed twice and trained again
		tip, changed := n.Manager().Best()
		if trials.Load() > 6 && tip.Height >= 3 {
			break
		}
		select {
		case <-changed:
		case err := <-done:
			t.Fatalf("the node ended: %v", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := logs.FilterMessageSnippet("device failed").FilterField(zap.String("device", "flaky")).Len(); got < 2 {
		t.Errorf("%d warnings of the device that failed twice", got)
	}
	errorLines := logs.FilterLevelExact(zapcore.ErrorLevel)
	if errorLines.Len() != 1 || errorLines.FilterField(zap.String("device", "wrong")).Len() != 1 {
		t.Errorf("one error about the device that computes wrongly is due: %v", errorLines.All())
	}
}

// Where the device that verifies fails, the block is verified on the CPU.
func TestVerifyingDeviceFails(t *testing.T) {
	mined, err := Open(context.Background(), testConfig(t, "", true))
	if err != nil {
		t.Fatal(err)
	}
	defer mined.Close()
	genesis, _ := mined.Manager().Best()
	runUntil(t, mined, 1)
	blocks, err := mined.Manager().After([]chain.Hash{genesis.ID}, 1)
	if err != nil || len(blocks) != 1 {
		t.Fatalf("%d blocks: %v", len(blocks), err)
	}

	core, logs := observer.New(zapcore.WarnLevel)
	cfg := testConfig(t, "", false)
	cfg.Log = zap.New(core)
	broken, trials := failingDevice(t, "broken", func(int64) bool { return true })
	cfg.Devices = []Device{broken}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.verifier.offer("peer", blocks[0]); err != nil {
		t.Fatal(err)
	}
	runUntil(t, n, 1)
	if trials.Load() != 1 {
		t.Errorf("the broken device was given %d trials, want one", trials.Load())
	}
	if got := logs.FilterMessageSnippet("verified on the CPU").Len(); got != 1 {
		t.Errorf("%d warnings, want one", got)
	}
}

// lying is an engine that gives another root when it runs a winning trial again, as it must not.
type lying struct {
	nn.Engine
	closed func()
}

func (l lying) Train(ctx context.Context, start *nn.State, data nn.Samples, trial nn.Trial) (*nn.Trained, error) {
	r, err := l.Engine.Train(ctx, start, data, trial)
	if err == nil && trial.EarlyRoots {
		r.Root[0] ^= 1
	}
	return r, err
}

func (l lying) Close() {
	l.closed()
	l.Engine.Close()
}

// A device that gives two results for one trial again and again must pass the known-answer test anew, and neither mines
// nor verifies if it does not.
func TestDeviceComputesWrongly(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	cfg := testConfig(t, "", true)
	var open, made atomic.Int64
	tested := make(chan struct{})
	cfg.Devices = []Device{{Name: "wrong", Engine: func(net *nn.Net) (nn.Engine, error) {
		if logs.FilterMessageSnippet("training the same trial twice").Len() > 0 {
			if n := open.Load(); n != 0 {
				t.Errorf("%d engines were not closed before", n)
			}
			close(tested)
			return nil, fmt.Errorf("%w: state root", nn.ErrKnownAnswer)
		}
		made.Add(1)
		open.Add(1)
		e, err := nn.NewEngine(net, 1)
		return lying{e, func() { open.Add(-1) }}, err
	}}}
	cfg.Log = zap.New(core)
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.workers[0].rest = time.Millisecond
	if err := n.workers[0].run(context.Background()); err != nil { // it ends when the device is left out
		t.Fatal(err)
	}
	<-tested
	if got := logs.FilterMessageSnippet("training the same trial twice").Len(); got != 3 {
		t.Errorf("tested anew after %d faults, want 3", got)
	}
	if made.Load() != 2 {
		t.Errorf("%d engines were made, want the worker's and the verifier's", made.Load())
	}
	for snippet, want := range map[string]int{"device failed: its work is dropped": 1, "computes wrongly and is not used any more": 1, "verified on the CPU": 1} {
		if got := logs.FilterMessageSnippet(snippet).Len(); got != want {
			t.Errorf("%q is said %d times, want %d", snippet, got, want)
		}
	}
	if got := n.checking.device.Name; got != "cpu" {
		t.Errorf("blocks are verified on %s", got)
	}
}
