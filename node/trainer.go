package node

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
)

// Device is something to train on.
type Device struct {
	Name string // in logs: cpu, cuda:0
	// Engine makes an engine. Several may be in use at once.
	Engine func(*nn.Net) (nn.Engine, error)
	// Single makes one for a trial at a time, which is what a verifier needs; nil is Engine.
	Single func(*nn.Net) (nn.Engine, error)
	// Telemetry asks the device for its temperature and the like, about once a second; nil where it has none. Its error is
	// gpu.ErrNoTelemetry where asking again is of no use.
	Telemetry func() (gpu.Telemetry, error)
}

// CPU is this machine's processor with so many threads; 0 is all cores.
func CPU(threads int) Device {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return Device{Name: "cpu", Engine: func(net *nn.Net) (nn.Engine, error) { return nn.NewEngine(net, threads) }}
}

// single is the device for a trial at a time.
func (d Device) single() Device {
	if d.Single != nil {
		d.Engine = d.Single
	}
	return d
}

// trainer runs templates on one engine each, made when first needed. It is a chain.Trainer and a miner.Trainer that any
// goroutine may use; one trial or evaluation runs at a time. An engine whose device failed is dropped, so that the next
// call makes a new one.
type trainer struct {
	net    *chain.Network
	data   []splits
	device Device
	name   atomic.Value // string: the device's, which may be asked for while it trains

	one     turn // held while an engine is used
	engines map[int]nn.Engine
}

func newTrainer(net *chain.Network, data []splits, d Device) *trainer {
	t := &trainer{net: net, data: data, device: d, one: newTurn(), engines: map[int]nn.Engine{}}
	t.name.Store(d.Name)
	return t
}

// use calls f with the engine of a template, or gives ctx's error if it is done before.
func (t *trainer) use(ctx context.Context, template int, f func(nn.Engine) error) error {
	if err := t.one.take(ctx); err != nil {
		return err
	}
	defer t.one.give()
	e := t.engines[template]
	if e == nil {
		var err error
		if e, err = t.device.Engine(t.net.Templates[template].Net); err != nil {
			return fmt.Errorf("engine on %s for task %q: %w", t.device.Name, t.net.Templates[template].Name, err)
		}
		t.engines[template] = e
	}
	err := f(e)
	if errors.Is(err, nn.ErrDevice) {
		t.drop()
	}
	return err
}

// replace changes the device, unless it is on that one already.
func (t *trainer) replace(d Device) bool {
	t.one.wait()
	defer t.one.give()
	if t.device.Name == d.Name {
		return false
	}
	t.drop()
	t.device = d
	t.name.Store(d.Name)
	return true
}

// drop closes all engines. t.one must be held.
func (t *trainer) drop() {
	for _, e := range t.engines {
		e.Close()
	}
	clear(t.engines)
}

func (t *trainer) Train(ctx context.Context, template int, start *nn.State, trial nn.Trial) (trained *nn.Trained, err error) {
	err = t.use(ctx, template, func(e nn.Engine) (err error) {
		trained, err = e.Train(ctx, start, t.data[template][chain.TrainSplit], trial)
		return err
	})
	return trained, err
}

func (t *trainer) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (loss float32, correct int, err error) {
	err = t.use(ctx, template, func(e nn.Engine) (err error) {
		loss, correct, err = e.Evaluate(ctx, s, t.data[template][split])
		return err
	})
	return loss, correct, err
}

// Width is the number of trials that are best trained at once.
func (t *trainer) Width(template int) (width int, err error) {
	err = t.use(context.Background(), template, func(e nn.Engine) error {
		width = 1
		if m, ok := e.(nn.ManyTrainer); ok {
			width = m.Width()
		}
		return nil
	})
	return width, err
}

func (t *trainer) TrainMany(ctx context.Context, template int, start *nn.State, trials []nn.Trial) (outcomes []nn.Outcome, err error) {
	err = t.use(ctx, template, func(e nn.Engine) (err error) {
		data := t.data[template][chain.TrainSplit]
		if m, ok := e.(nn.ManyTrainer); ok {
			outcomes, err = m.TrainMany(ctx, start, data, trials)
			return err
		}
		for _, trial := range trials {
			r, err := e.Train(ctx, start, data, trial)
			switch {
			case errors.Is(err, nn.ErrNotFinite):
				outcomes = append(outcomes, nn.Outcome{Err: err})
			case err != nil:
				return err
			default:
				outcomes = append(outcomes, nn.Outcome{Root: r.Root, LogitsDigest: r.LogitsDigest})
			}
		}
		return nil
	})
	return outcomes, err
}

func (t *trainer) Close() {
	t.one.wait()
	defer t.one.give()
	t.drop()
}

// measure times training steps of a template: the multiply-accumulates per second, to be compared with the spec's
// verify_rate, and the steps per second.
func (t *trainer) measure(ctx context.Context, template int) (rate, steps float64, err error) {
	nt := &t.net.Templates[template]
	start := nt.Net.Init([32]byte{})
	trial := nn.Trial{Steps: 1, BatchSeed: func(s uint32) [32]byte { return [32]byte{byte(s)} }}
	for { // rounds that are too short to be timed well, the first of which warms up, are followed by longer ones
		began := time.Now()
		if _, err := t.Train(ctx, template, start, trial); err != nil {
			return 0, 0, err
		}
		took := time.Since(began)
		if trial.Steps > 1 && took > 200*time.Millisecond || trial.Steps >= 4096 {
			steps = float64(trial.Steps) / took.Seconds()
			cost, _ := nt.Cost.Big().Float64()
			return steps * cost / float64(nt.TrialSteps), steps, nil
		}
		trial.Steps *= 4
	}
}

// engineName is the name of the engine of a template.
func (t *trainer) engineName(template int) (name string, err error) {
	err = t.use(context.Background(), template, func(e nn.Engine) error {
		name = e.Name()
		return nil
	})
	return name, err
}

// samples is the number of samples of a split.
func (t *trainer) samples(template int, split chain.Split) int { return t.data[template][split].Len() }
