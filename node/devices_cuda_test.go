//go:build cuda

package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/gpu/fake"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// fakeDevices gives so many devices of the fake driver. tell sets what one of them tells of itself, as in gpu/fake.
func fakeDevices(t *testing.T, count int) (devices []Device, tell func(device int, values string)) {
	t.Helper()
	t.Setenv("FAKECUDA_DEVICES", fmt.Sprint(count))
	fake.Use(t)
	found, err := gpu.Devices()
	if err != nil {
		t.Fatal(err)
	}
	if found[0].Name != "Fake GPU" {
		t.Skip("not for a real device")
	}
	telemetry := fake.Telemetry(t)
	told := make([]string, len(found))
	tell = func(device int, values string) {
		told[device] = ""
		for v := range strings.SplitSeq(values, ", ") {
			told[device] += found[device].UUID + " " + v + "\n"
		}
		telemetry(strings.Join(told, ""))
	}
	for i, d := range found {
		tell(i, "temperature 50")
		devices = append(devices, Device{
			Name:      fmt.Sprint("cuda:", i),
			Engine:    func(net *nn.Net) (nn.Engine, error) { return gpu.NewEngine(net, i, 4, 0) },
			Telemetry: func() (gpu.Telemetry, error) { return gpu.ReadTelemetry(d.UUID) },
		})
	}
	return devices, tell
}

// broken opens a node on two devices of which one is lost in the midst of mining. failed is called when that has been
// logged, while the device's worker waits.
func broken(t *testing.T, lost int, failed func(*Node)) (*Node, *observer.ObservedLogs) {
	t.Helper()
	t.Setenv("FAKECUDA_WRONG", "")
	// The known-answer tests of the worker and, on the first device, the verifier take some hundred launches.
	t.Setenv("FAKECUDA_FAIL", fmt.Sprintf("launch:2500@%d", lost))
	cfg := testConfig(t, "", true)
	cfg.Devices, _ = fakeDevices(t, 2)
	core, logs := observer.New(zapcore.InfoLevel)
	var n *Node
	var once sync.Once
	cfg.Log = zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if strings.HasPrefix(e.Message, "device failed") {
			once.Do(func() { failed(n) })
		}
		return nil
	}))
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range n.workers {
		w.rest = time.Millisecond
	}
	// The verifier has an engine on the first device, as after measuring.
	if _, err := n.checking.engineName(0); err != nil {
		t.Fatal(err)
	}
	return n, logs
}

// until polls for what nothing tells of.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// A device that is lost in the midst of mining is told of and mines again later; the other goes on meanwhile.
func TestCUDADeviceLost(t *testing.T) {
	for lost := range 2 {
		t.Run(fmt.Sprint("cuda:", lost), func(t *testing.T) {
			steps := func(n *Node, i int) uint64 { return n.workers[i].miner.Stats().Steps }
			var before uint64
			known := make(chan struct{})
			n, logs := broken(t, lost, func(n *Node) {
				defer close(known)
				before = steps(n, lost)
				other := steps(n, 1-lost)
				for limit := time.Now().Add(time.Minute); steps(n, 1-lost) < other+200; time.Sleep(time.Millisecond) {
					if time.Now().After(limit) {
						t.Error("the other device does not go on")
						return
					}
				}
			})
			defer n.Close()
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- n.Run(ctx) }()
			<-known
			until(t, "the lost device mines again", func() bool { return steps(n, lost) > before+200 })
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if before == 0 {
				t.Error("it was lost before it mined")
			}
			warnings := logs.FilterMessageSnippet("device failed").All()
			if len(warnings) != 1 || warnings[0].ContextMap()["device"] != fmt.Sprint("cuda:", lost) ||
				!strings.Contains(fmt.Sprint(warnings[0].ContextMap()["error"]), gpu.ErrDeviceLost.Error()) {
				t.Errorf("want one warning of cuda:%d: %v", lost, warnings)
			}
			if errs := logs.FilterLevelExact(zapcore.ErrorLevel); errs.Len() != 0 {
				t.Errorf("errors: %v", errs.All())
			}
			if got := logs.FilterMessageSnippet("verified on the CPU").Len(); got != 1-lost { // the first verifies
				t.Errorf("verification was taken to the CPU %d times", got)
			}
		})
	}
}

// A device that computes wrongly after it was lost is left out; the other goes on.
func TestCUDADeviceWrong(t *testing.T) {
	for wrong := range 2 {
		t.Run(fmt.Sprint("cuda:", wrong), func(t *testing.T) {
			n, logs := broken(t, wrong, func(*Node) { t.Setenv("FAKECUDA_WRONG", fmt.Sprintf("20@%d", wrong)) })
			defer n.Close()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan error, 1)
			others := make(chan error, 1)
			go func() { ended <- n.workers[wrong].run(ctx) }()
			go func() { others <- n.workers[1-wrong].run(ctx) }()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			errs := logs.FilterLevelExact(zapcore.ErrorLevel).All()
			if len(errs) != 1 || errs[0].ContextMap()["device"] != fmt.Sprint("cuda:", wrong) || !strings.Contains(errs[0].Message, "computes wrongly") {
				t.Errorf("want one error about cuda:%d: %v", wrong, errs)
			}
			tip, changed := n.Manager().Best()
			select {
			case <-changed:
			case err := <-others:
				t.Errorf("at height %d the other device ended: %v", tip.Height, err)
			case <-time.After(time.Minute):
				t.Error("the other device mines no block within a minute")
			}
		})
	}
}

// A device that computes wrongly from the start is left out of a node that has others.
func TestCUDAWrongFromTheStart(t *testing.T) {
	devices, _ := fakeDevices(t, 2)
	t.Setenv("FAKECUDA_WRONG", "21@1") // another than before, which would be over
	cfg := testConfig(t, "", true)
	core, logs := observer.New(zapcore.WarnLevel)
	cfg.Log, cfg.Devices = zap.New(core), devices
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	runUntil(t, n, 1)
	if got := logs.FilterMessageSnippet("computes wrongly").FilterField(zap.String("device", "cuda:1")).Len(); got != 1 {
		t.Errorf("%d errors about the device: %v", got, logs.All())
	}
}

// Of two devices the hot one pauses and goes on when it has cooled down; the rate lines tell what each tells of itself.
func TestCUDADeviceHot(t *testing.T) {
	devices, tell := fakeDevices(t, 2)
	t.Setenv("FAKECUDA_FAIL", "")
	t.Setenv("FAKECUDA_WRONG", "")
	cfg := testConfig(t, "", true)
	core, logs := observer.New(zapcore.InfoLevel)
	cfg.Log, cfg.Devices, cfg.MaxTemperature, cfg.ReportEvery = zap.New(core), devices, 90, 10*time.Millisecond
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, w := range n.workers {
		w.monitor.every = time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	of := func(device, snippet string) *observer.ObservedLogs {
		return logs.FilterField(zap.String("device", device)).FilterMessageSnippet(snippet)
	}
	steps := func() uint64 { return n.workers[1].miner.Stats().Steps }
	until(t, "the device mines", func() bool { return steps() > 0 })
	tell(1, "temperature 91, power 350400, sm 1410, used 1073741824, reasons 64")
	until(t, "a warning", func() bool { return of("cuda:1", "too hot").Len() > 0 && of("cuda:1", "slowed down").Len() > 0 })
	until(t, "a rate line with all", func() bool {
		return of("cuda:1", "mining rate").FilterField(zap.Int("temperature_c", 91)).FilterField(zap.Float64("power_w", 350.4)).
			FilterField(zap.Int("sm_clock_mhz", 1410)).FilterField(zap.Uint64("memory_used_mib", 1024)).Len() > 0
	})
	tell(1, "temperature 85, power 120000")
	until(t, "it goes on", func() bool { return of("cuda:1", "cooled down").Len() > 0 })
	before := steps()
	until(t, "it mines again", func() bool { return steps() > before })
	until(t, "a rate line of the other", func() bool { return of("cuda:0", "mining rate").FilterField(zap.Int("temperature_c", 50)).Len() > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := of("cuda:0", "").FilterLevelExact(zapcore.WarnLevel); got.Len() != 0 {
		t.Errorf("of the other device: %v", got.All())
	}
}

// startOn runs a node that mines on a device. Its miner stands back until its gate is opened.
func startOn(t *testing.T, d Device, payout chain.Address, log *zap.Logger, bootstrap ...string) *running {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, "", true)
	cfg.Log, cfg.Devices, cfg.Payout = log, []Device{d}, payout
	cfg.Peers = &PeersConfig{
		Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: bootstrap,
		Timing: p2p.Timing{StatusPoll: 200 * time.Millisecond, BackoffMin: 50 * time.Millisecond},
	}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.gate.close()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{n, cancel, make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	return r
}

// A node that trains on a CUDA device and one that trains on the CPU take each other's blocks, and agree in the end.
func TestCUDAAndCPUAgree(t *testing.T) {
	devices, _ := fakeDevices(t, 1)
	t.Setenv("FAKECUDA_FAIL", "")
	t.Setenv("FAKECUDA_WRONG", "")
	core, logs := observer.New(zapcore.InfoLevel)
	cuda := startOn(t, devices[0], chain.Address{1}, zap.New(core))
	defer cuda.end(t)
	cpuCore, cpuLogs := observer.New(zapcore.InfoLevel)
	cpu := startOn(t, CPU(1), chain.Address{2}, zap.New(cpuCore), cuda.addr())
	defer cpu.end(t)
	genesis, _ := cpu.Manager().Best()
	miner := func(n *running, height uint64) chain.Address {
		blocks, err := n.Manager().After([]chain.Hash{genesis.ID}, int(height))
		if err != nil || len(blocks) < int(height) {
			t.Fatalf("%d blocks: %v", len(blocks), err)
		}
		return blocks[height-1].Payout
	}

	cuda.gate.open()
	first := cpu.reach(t, 2)
	cuda.gate.close()
	cpu.gate.open()
	second := cuda.reach(t, first.Height+4)
	cuda.gate.open()
	cuda.reach(t, second.Height+4)
	cuda.gate.close()
	cpu.gate.close()
	until(t, "one tip", func() bool {
		a, _ := cuda.Manager().Best()
		b, _ := cpu.Manager().Best()
		return a.ID == b.ID
	})
	for height, want := range map[uint64]chain.Address{1: {1}, second.Height: {2}} {
		if got := miner(cpu, height); got != want {
			t.Errorf("block %d is paid to %v, want %v", height, got, want)
		}
	}
	for name, l := range map[string]*observer.ObservedLogs{"cuda": logs, "cpu": cpuLogs} {
		if l.FilterMessage("block accepted").FilterField(zap.Bool("executed", true)).Len() == 0 {
			t.Errorf("%s executed no block of the other", name)
		}
		if bad := l.FilterLevelExact(zapcore.ErrorLevel); bad.Len() != 0 {
			t.Errorf("%s: %v", name, bad.All())
		}
	}
	if got := cuda.checking.device.Name; got != "cuda:0" {
		t.Errorf("blocks were verified on %s", got)
	}
}
