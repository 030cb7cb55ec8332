package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
)

// trainer runs templates on one engine each, made when first needed. It is a chain.Trainer that any goroutine may use;
// one trial or evaluation runs at a time.
type trainer struct {
	net     *chain.Network
	data    []splits
	threads int

	mu      sync.Mutex
	engines map[int]nn.Engine
}

func newTrainer(net *chain.Network, data []splits, threads int) *trainer {
	return &trainer{net: net, data: data, threads: threads, engines: map[int]nn.Engine{}}
}

// engine is that of a template. t.mu must be held.
func (t *trainer) engine(template int) (nn.Engine, error) {
	if e := t.engines[template]; e != nil {
		return e, nil
	}
	e, err := nn.NewEngine(t.net.Templates[template].Net, t.threads)
	if err != nil {
		return nil, fmt.Errorf("engine for task %q: %w", t.net.Templates[template].Name, err)
	}
	t.engines[template] = e
	return e, nil
}

func (t *trainer) Train(ctx context.Context, template int, start *nn.State, trial nn.Trial) (*nn.Trained, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, err := t.engine(template)
	if err != nil {
		return nil, err
	}
	return e.Train(ctx, start, t.data[template][chain.TrainSplit], trial)
}

func (t *trainer) Evaluate(ctx context.Context, template int, s *nn.State, split chain.Split) (float32, int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, err := t.engine(template)
	if err != nil {
		return 0, 0, err
	}
	return e.Evaluate(ctx, s, t.data[template][split])
}

func (t *trainer) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.engines {
		e.Close()
	}
	clear(t.engines)
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

// name is the name of the engine of a template.
func (t *trainer) name(template int) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, err := t.engine(template)
	if err != nil {
		return "", err
	}
	return e.Name(), nil
}

// samples is the number of samples of a split.
func (t *trainer) samples(template int, split chain.Split) int { return t.data[template][split].Len() }
