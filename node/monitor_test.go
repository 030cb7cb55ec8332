package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// bench is a monitor with a clock, a device and a log that a test sets and reads.
type bench struct {
	*monitor
	t     *testing.T
	clock time.Time
	gpu.Telemetry
	err  error
	logs *observer.ObservedLogs
}

func newBench(t *testing.T, limit int) *bench {
	core, logs := observer.New(zapcore.DebugLevel)
	b := &bench{t: t, clock: time.Unix(1e9, 0), logs: logs}
	d := Device{Telemetry: func() (gpu.Telemetry, error) { return b.Telemetry, b.err }}
	b.monitor = newMonitor(d, limit, func() time.Time { return b.clock }, zap.New(core))
	return b
}

// said checks what was logged since it was last asked: levels with the beginning of the message.
func (b *bench) said(when string, want ...string) {
	b.t.Helper()
	var got []string
	for _, e := range b.logs.TakeAll() {
		got = append(got, e.Level.String()+" "+e.Message)
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || len(got[i]) < len(want[i]) || got[i][:len(want[i])] != want[i] {
			b.t.Errorf("%s: logged %q, want %q", when, got, want)
			return
		}
	}
}

func (b *bench) paused() bool {
	b.cool.mu.Lock()
	defer b.cool.mu.Unlock()
	return b.cool.closed > 0
}

func TestTemperatureLimit(t *testing.T) {
	b := newBench(t, 90)
	for _, c := range []struct {
		temperature int
		paused      bool
		said        []string
	}{
		{0, false, nil}, // it does not tell
		{90, false, nil},
		{91, true, []string{"warn device is too hot"}},
		{95, true, nil},
		{90, true, nil},
		{86, true, nil},
		{85, false, []string{"info device has cooled down"}},
		{90, false, nil},
		{91, true, []string{"warn device is too hot"}},
		{40, false, []string{"info device has cooled down"}},
	} {
		b.Temperature = c.temperature
		if !b.read() {
			t.Error("no further reading is wanted")
		}
		if b.paused() != c.paused {
			t.Errorf("at %d °C paused: %v", c.temperature, b.paused())
		}
		b.said("reading", c.said...)
	}

	// One that does not answer any more may still be hot.
	b.Temperature = 91
	b.read()
	b.said("hot again", "warn device is too hot")
	b.Temperature, b.err = 0, errors.New("GPU is lost")
	b.read()
	b.read()
	b.said("unknown", "warn device does not tell its temperature")
	if !b.paused() || len(b.fields()) != 0 {
		t.Errorf("of unknown temperature: paused %v, told %v", b.paused(), b.fields())
	}
	b.Temperature, b.err = 60, nil
	b.read()
	b.said("known again", "info device tells its temperature again", "info device has cooled down")
	if b.paused() {
		t.Error("it stays paused")
	}

	b = newBench(t, 0)
	b.Temperature = 120
	b.read()
	b.said("without a limit")
	if b.paused() {
		t.Error("paused without a limit")
	}
}

func TestNoTelemetry(t *testing.T) {
	b := newBench(t, 90)
	b.err = gpu.ErrNoTelemetry
	if b.read() {
		t.Error("it is asked again")
	}
	b.said("no library", "debug device is mined on without watching its temperature")
}

// At its limit a device is slowed down now and now not: that is one episode.
func TestThrottling(t *testing.T) {
	b := newBench(t, 90)
	after := func(d time.Duration, throttle gpu.Throttle) {
		b.clock = b.clock.Add(d)
		b.Throttle = throttle
		b.read()
	}
	after(0, 0)
	b.said("at full speed")
	after(time.Second, gpu.ThrottlePower)
	if e := b.logs.All(); len(e) != 1 || e[0].ContextMap()["reason"] != "power" {
		t.Errorf("logged %v, want the reason", e)
	}
	b.said("slowed down", "warn device is slowed down")
	after(time.Second, 0)
	after(throttleOver-time.Second-1, gpu.ThrottlePower)
	b.said("to and fro")
	after(time.Second, gpu.ThrottlePower|gpu.ThrottleThermal)
	b.said("for another reason", "warn device is slowed down")
	after(throttleOver-1, 0)
	b.said("not for long")
	after(1, 0)
	b.said("over", "info device is not slowed down any more")
	after(time.Second, gpu.ThrottleThermal)
	b.said("anew", "warn device is slowed down")
}

func TestProgress(t *testing.T) {
	b := newBench(t, 90)
	after := func(d time.Duration) {
		b.clock = b.clock.Add(d)
		b.checkProgress()
	}
	const warning, again = "warn device makes no progress", "info device makes progress again"
	after(time.Hour)
	b.said("never trained")
	b.progress(true)
	after(stallAfter - 1)
	b.said("just before")
	after(1)
	b.said("30 seconds", warning)
	after(time.Hour)
	b.said("once per episode")
	b.progress(true)
	b.said("a step", again)
	for range 10 {
		after(stallAfter - 1)
		b.progress(true)
	}
	b.said("slow steps")
	after(stallAfter)
	b.said("the next episode", warning)
	b.progress(false) // it waits, so the steps before are done
	b.said("waiting", again)
	after(time.Hour)
	b.said("still waiting")
	b.progress(true)
	after(stallAfter)
	b.said("hanging", warning)
	b.fail()
	after(time.Hour)
	b.progress(true)
	b.said("a device that failed made no progress")
}

func TestTelemetryFields(t *testing.T) {
	b := newBench(t, 90)
	b.read()
	if f := b.fields(); len(f) != 0 {
		t.Errorf("of a device that tells nothing: %v", f)
	}
	b.Telemetry = gpu.Telemetry{Temperature: 71, Power: 412.34, SMClock: 1755, MemoryClock: 2619, MemoryUsed: 3<<30 + 1, Utilization: 98}
	b.read()
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range b.fields() {
		f.AddTo(enc)
	}
	for key, want := range map[string]any{"temperature_c": int64(71), "power_w": 412.3, "sm_clock_mhz": int64(1755), "memory_used_mib": uint64(3072)} {
		if enc.Fields[key] != want {
			t.Errorf("%s is %v, want %v", key, enc.Fields[key], want)
		}
	}
	if len(enc.Fields) != 4 {
		t.Errorf("fields %v, want 4", enc.Fields)
	}
}

// A worker whose device is too hot makes no step until it has cooled down, and then goes on where it was.
func TestHotDevicePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		cfg := testConfig(t, "", true)
		cfg.Log, cfg.MaxTemperature, cfg.ReportEvery = zap.New(core), 90, 10*time.Second
		began, genesis := time.Now(), time.UnixMilli(int64(cfg.Network.GenesisTime))
		cfg.Now = func() time.Time { return genesis.Add(time.Hour + time.Since(began)) }
		temperature := make(chan int, 1) // the device's, taken and put back by who reads it
		d := CPU(1)
		d.Telemetry = func() (gpu.Telemetry, error) {
			now := <-temperature
			temperature <- now
			return gpu.Telemetry{Temperature: now}, nil
		}
		cfg.Devices = []Device{d}
		n, err := Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()

		tip, changed := n.Manager().Best()
		mined := func() {
			for from := tip; tip.Height == from.Height; tip, changed = n.Manager().Best() {
				<-changed
			}
		}
		mined()
		temperature <- 95
		time.Sleep(time.Minute) // passes only when all wait, here for the device to cool down
		steps := n.workers[0].miner.Stats().Steps
		<-temperature
		temperature <- 86
		time.Sleep(time.Minute)
		if got := n.workers[0].miner.Stats().Steps; got != steps {
			t.Errorf("%d steps while it was hot", got-steps)
		}
		rates := logs.FilterMessage("mining rate").TakeAll()
		if len(rates) == 0 || rates[len(rates)-1].ContextMap()["temperature_c"] != int64(86) {
			t.Errorf("the rate lines do not tell the temperature: %v", rates)
		}
		if got := logs.FilterMessageSnippet("too hot").Len(); got != 1 {
			t.Errorf("%d warnings, want one", got)
		}
		tip, changed = n.Manager().Best()
		<-temperature
		temperature <- 85
		mined()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if logs.FilterMessageSnippet("cooled down").Len() != 1 {
			t.Error("nothing is said of its having cooled down")
		}
	})
}

// A worker that waits for its peers, stands back or has submitted a block is not watched; in a trial it is.
func TestWatched(t *testing.T) {
	n, err := Open(context.Background(), testConfig(t, "", false))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	b := newBench(t, 90)
	w := watched{mineable{n, "cpu"}, b.monitor}
	ctx := context.Background()
	watchedAfter := func(what string, want bool, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if b.training != want {
			t.Errorf("%s: watched %v, want %v", what, b.training, want)
		}
	}
	watchedAfter("ready", false, w.Ready(ctx))
	_, err = w.NewJob(ctx, millis(time.Now()))
	watchedAfter("a job", true, err)
	watchedAfter("a step", true, w.StandBack(ctx))
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	for _, g := range []*gate{&n.gate, &b.cool} {
		g.close()
		if err := w.StandBack(canceled); !errors.Is(err, context.Canceled) {
			t.Errorf("a closed gate: %v", err)
		}
		watchedAfter("standing back", false, nil)
		g.open()
		watchedAfter("a step", true, w.StandBack(ctx))
	}
	if _, err := w.Submit(canceled, &chain.Block{}, &chain.Execution{}, nil); err == nil {
		t.Error("an empty block was taken")
	}
	watchedAfter("submitted", false, nil)
}

// hanging is an engine that does nothing after its first step until it is let.
type hanging struct {
	nn.Engine
	let chan struct{}
}

func (h hanging) Train(ctx context.Context, start *nn.State, data nn.Samples, trial nn.Trial) (*nn.Trained, error) {
	if trial.OnStep != nil {
		if err := trial.OnStep(0); err != nil {
			return nil, err
		}
		<-h.let
	}
	return h.Engine.Train(ctx, start, data, trial)
}

// A worker whose device hangs is told of, and told of again when it goes on.
func TestDeviceHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		cfg := testConfig(t, "", true)
		cfg.Log = zap.New(core)
		began, genesis := time.Now(), time.UnixMilli(int64(cfg.Network.GenesisTime))
		cfg.Now = func() time.Time { return genesis.Add(time.Hour + time.Since(began)) }
		let := make(chan struct{})
		cfg.Devices = []Device{{Name: "hanging", Engine: func(net *nn.Net) (nn.Engine, error) {
			e, err := nn.NewEngine(net, 1)
			return hanging{e, let}, err
		}}}
		n, err := Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		said := func(snippet string) int { return logs.FilterMessageSnippet(snippet).Len() }
		time.Sleep(stallAfter - time.Nanosecond)
		if said("no progress") != 0 {
			t.Error("told of too early")
		}
		time.Sleep(time.Minute)
		if said("no progress") != 1 || said("progress again") != 0 {
			t.Errorf("after %v: %v", stallAfter, logs.All())
		}
		close(let)
		tip, changed := n.Manager().Best()
		<-changed
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if said("no progress") != 1 || said("progress again") != 1 {
			t.Errorf("at height %d: %v", tip.Height, logs.All())
		}
	})
}
