package node

import (
	"context"
	"errors"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/miner"
	"github.com/descentnet/minerd/nn"
	"go.uber.org/zap"
)

// worker mines on one device.
type worker struct {
	trainer *trainer
	miner   *miner.Miner
	monitor *monitor
	payout  chain.Address
	rest    time.Duration // after the device failed for the first time
	failed  func(error)   // called when the device has failed
	log     *zap.Logger
}

// newWorker makes the worker of a device. Workers begin at nonces far apart, as they train for one address.
func (n *Node) newWorker(d Device, t *trainer, nonce uint64) *worker {
	log := n.cfg.Log.Named("miner").With(zap.String("device", d.Name))
	m := newMonitor(d, n.cfg.MaxTemperature, n.cfg.Now, log)
	w := &worker{trainer: t, monitor: m, payout: n.cfg.Payout, rest: firstRest, failed: func(error) {}, log: log, miner: miner.New(miner.Config{
		Network: n.cfg.Network, Chain: watched{mineable{n, d.Name}, m}, Trainer: t, Payout: n.cfg.Payout, Nonce: nonce,
		Now: n.cfg.Now, ReportEvery: n.cfg.ReportEvery, ReportAlso: m.fields, Log: log,
	})}
	if d.Name == n.cfg.Devices[0].Name {
		// The verifier's engines are on it too. They would give what is not so, and a device that was lost works again only
		// when all its engines have been closed.
		w.failed = func(err error) { n.verifyOnCPU(err) }
	}
	return w
}

// How long a device that failed is left alone: twice as long each time it fails again soon.
const (
	firstRest = 5 * time.Second
	longRest  = 5 * time.Minute
)

// run mines until ctx is done or the worker cannot go on. A device that failed is tried again after a rest; one that
// computes wrongly is not, which its engine finds out when it is made.
func (w *worker) run(ctx context.Context) error {
	defer w.monitor.start()()
	rest := w.rest
	for {
		began := time.Now()
		err := w.mine(ctx)
		w.monitor.fail()
		if ctx.Err() != nil {
			return err
		}
		if deviceFailed(err) {
			w.trainer.Close() // the next engine must prove right
			w.failed(err)
		}
		switch {
		case errors.Is(err, nn.ErrKnownAnswer) && !errors.Is(err, nn.ErrDevice): // it answered, and wrongly
			w.log.Error("this device computes wrongly and is not used any more: check its driver, memory, clocks and temperature", zap.Error(err))
			return nil
		case errors.Is(err, chain.ErrNotNow):
			w.log.Warn("mining waits: the store does not work", zap.Duration("rest", w.rest), zap.Error(err))
			if err := sleep(ctx, w.rest); err != nil {
				return err
			}
			continue
		case !deviceFailed(err):
			return err
		}
		if time.Since(began) > longRest {
			rest = w.rest
		}
		w.log.Warn("device failed: its work is dropped, and it is tried again after a rest", zap.Duration("rest", rest), zap.Error(err))
		if err := sleep(ctx, rest); err != nil {
			return err
		}
		rest = min(2*rest, longRest)
	}
}

// sleep waits, unless ctx is done before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// deviceFailed says whether it is the device's fault that mining ended.
func deviceFailed(err error) bool {
	return errors.Is(err, nn.ErrDevice) || errors.Is(err, nn.ErrKnownAnswer) || errors.Is(err, miner.ErrFaults)
}

func (w *worker) mine(ctx context.Context) error {
	name, err := w.trainer.engineName(0)
	if err != nil {
		return err
	}
	width, err := w.trainer.Width(0)
	if err != nil {
		return err
	}
	w.log.Info("mining", zap.String("engine", name), zap.Int("trials_at_once", width), zap.Stringer("payout", w.payout))
	return w.miner.Run(ctx)
}

// onVerifier does what the verifying device is needed for, and once more on the CPU if that device fails.
func (n *Node) onVerifier(do func() error) error {
	err := do()
	if deviceFailed(err) && n.verifyOnCPU(err) {
		err = do()
	}
	return err
}

// verifyOnCPU takes verification off a device that failed. It may be called again, and says whether anything changed.
func (n *Node) verifyOnCPU(why error) bool {
	changed := n.checking.replace(CPU(n.cfg.Threads))
	if changed {
		n.log.Warn("the device that verifies failed: blocks are verified on the CPU from now on", zap.Error(why))
	}
	return changed
}
