package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/gpu"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
)

const (
	// monitorEvery is how often a device is looked at. At full load a GPU warms by a degree or two in that time.
	monitorEvery = time.Second
	// coolBy is how much cooler than the limit, in °C, a device must be to go on.
	coolBy = 5
	// stallAfter is how long training may make no step. Even slow machines take many in that time.
	stallAfter = 30 * time.Second
	// hangingTelemetry is how long the end of a node waits for a reading.
	hangingTelemetry = 2 * time.Second
	// throttleOver is how long a device must not have been slowed down for that to be over: at a limit it goes to and fro.
	throttleOver = time.Minute
)

// monitor watches a worker and its device. It keeps the worker from training while the device is too hot, and tells when
// it is slowed down or makes no progress.
type monitor struct {
	telemetry func() (gpu.Telemetry, error) // nil where the device has none
	limit     int                           // temperature in °C; 0 is none
	now       func() time.Time
	every     time.Duration
	log       *zap.Logger

	// What the goroutine that reads telemetry knows.
	hot       bool
	failed    bool         // the last reading
	throttle  gpu.Throttle // told of, and not over
	throttled time.Time    // when it was last seen

	cool gate // closed while hot

	mu       sync.Mutex
	last     gpu.Telemetry // empty if not known
	training bool
	step     time.Time // of the last sign of progress
	stalled  bool      // told of
}

func newMonitor(d Device, limit int, now func() time.Time, log *zap.Logger) *monitor {
	return &monitor{telemetry: d.Telemetry, limit: limit, now: now, every: monitorEvery, log: log}
}

// start watches until stop is called, which waits, but not for long where a device that hangs lets its telemetry hang too.
// What is told of progress does not wait for telemetry.
func (m *monitor) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.repeat(ctx, func() bool { m.checkProgress(); return true }) })
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		if m.telemetry != nil {
			m.repeat(ctx, m.read)
		}
	}()
	return func() {
		cancel()
		wg.Wait()
		select {
		case <-reading:
		case <-time.After(hangingTelemetry):
		}
	}
}

// repeat calls f at once and then again and again, as long as it says so.
func (m *monitor) repeat(ctx context.Context, f func() bool) {
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for f() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// read takes a reading and acts on it. It returns false if there is no use in another.
func (m *monitor) read() bool {
	t, err := m.telemetry()
	m.mu.Lock()
	m.last = t
	m.mu.Unlock()
	switch {
	case errors.Is(err, gpu.ErrNoTelemetry), errors.Is(err, gpu.ErrNotBuilt):
		m.log.Debug("device is mined on without watching its temperature", zap.Error(err))
		return false
	case err != nil && !m.failed:
		// A device that was too hot stays paused: nobody knows whether it still is.
		m.log.Warn("device does not tell its temperature: see whether nvidia-smi does", zap.Bool("paused", m.hot), zap.Error(err))
	case err == nil && m.failed:
		m.log.Info("device tells its temperature again", zap.Int("temperature_c", t.Temperature))
	}
	m.failed = err != nil
	if err == nil {
		m.checkTemperature(t.Temperature)
		m.checkThrottle(t)
	}
	return true
}

func (m *monitor) checkTemperature(now int) {
	fields := []zap.Field{zap.Int("temperature_c", now), zap.Int("limit_c", m.limit)}
	switch {
	case m.limit > 0 && !m.hot && now > m.limit:
		m.hot = true
		m.cool.close()
		m.log.Warn(fmt.Sprintf("device is too hot: it pauses until it is %d degrees below the limit; see to its cooling", coolBy), fields...)
	case m.hot && now <= m.limit-coolBy:
		m.hot = false
		m.cool.open()
		m.log.Info("device has cooled down and goes on", fields...)
	}
}

func (m *monitor) checkThrottle(t gpu.Telemetry) {
	now := m.now()
	if t.Throttle != 0 {
		m.throttled = now
	}
	fields := []zap.Field{zap.Int("temperature_c", t.Temperature), zap.Float64("power_w", round(t.Power)), zap.Int("sm_clock_mhz", t.SMClock)}
	switch {
	case t.Throttle&^m.throttle != 0:
		m.throttle |= t.Throttle
		m.log.Warn("device is slowed down: see to its cooling and its power limit", append(fields, zap.Stringer("reason", t.Throttle))...)
	case m.throttle != 0 && now.Sub(m.throttled) >= throttleOver:
		m.throttle = 0
		m.log.Info("device is not slowed down any more", fields...)
	}
}

// fields are what is known of the device, for the line that tells the rate.
func (m *monitor) fields() []zap.Field {
	m.mu.Lock()
	t := m.last
	m.mu.Unlock()
	var f []zap.Field
	if t.Temperature != 0 {
		f = append(f, zap.Int("temperature_c", t.Temperature))
	}
	if t.Power != 0 {
		f = append(f, zap.Float64("power_w", round(t.Power)))
	}
	if t.SMClock != 0 {
		f = append(f, zap.Int("sm_clock_mhz", t.SMClock))
	}
	if t.MemoryUsed != 0 {
		f = append(f, zap.Uint64("memory_used_mib", uint64(math.Round(float64(t.MemoryUsed)/(1<<20)))))
	}
	return f
}

// progress is called with every step, and when training begins and ends.
func (m *monitor) progress(training bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if m.stalled {
		m.stalled = false
		m.log.Info("device makes progress again", zap.Duration("after", now.Sub(m.step)))
	}
	m.training, m.step = training, now
}

// fail is called when training ended because the device failed: that is no progress.
func (m *monitor) fail() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.training, m.stalled = false, false
}

func (m *monitor) checkProgress() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if idle := m.now().Sub(m.step); m.training && !m.stalled && idle >= stallAfter {
		m.stalled = true
		m.log.Warn("device makes no progress: see whether the machine is overloaded; if it is a GPU, look for Xid in the kernel's log "+
			"and at nvidia-smi, and if it stays so restart the node or reset the device", zap.Duration("for", idle))
	}
}

// watched is the node as a worker's miner sees it: its device stands back while it is too hot, too, and what it does is
// told to the monitor.
type watched struct {
	mineable
	monitor *monitor
}

func (w watched) Ready(ctx context.Context) error {
	w.monitor.progress(false)
	return w.mineable.Ready(ctx)
}

func (w watched) NewJob(ctx context.Context, now uint64) (*chain.Job, error) {
	job, err := w.mineable.NewJob(ctx, now)
	w.monitor.progress(err == nil)
	return job, err
}

func (w watched) StandBack(ctx context.Context) error {
	w.monitor.progress(false)
	if err := w.monitor.cool.wait(ctx); err != nil {
		return err
	}
	if err := w.mineable.StandBack(ctx); err != nil {
		return err
	}
	w.monitor.progress(true)
	return nil
}

func (w watched) Submit(ctx context.Context, b *chain.Block, x *chain.Execution, trained *nn.State) (bool, error) {
	w.monitor.progress(false)
	return w.mineable.Submit(ctx, b, x, trained)
}
