package nn

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// workers runs the independent parts of a step on several goroutines, the caller being worker 0. A step has parts of
// some tens of microseconds, and waking a sleeping thread takes as long, so a worker that runs out of work looks
// around for a while before it goes to sleep. The caller waits for no worker that has not begun: on a busy machine
// that may take milliseconds. One thread alone needs no goroutine at all.
type workers struct {
	threads int
	spin    int
	others  []*worker
	done    sync.WaitGroup
	epoch   atomic.Uint32 // counts up when there is work
	stop    atomic.Bool

	// gate is how many of the others are at the work at hand, or gateClosed. What follows is written while it is
	// closed.
	gate  atomic.Int32
	do    func(worker, item int)
	then  func(worker int)
	items int
	chunk int
	next  atomic.Int64 // first item that nobody has taken
}

type worker struct {
	asleep atomic.Bool
	wake   chan struct{}
	_      [64]byte // keeps the flags of two workers on different cache lines
}

const (
	gateClosed = -1
	// spinRounds of looking around, a few nanoseconds each, take about as long as waking up.
	spinRounds = 30000
)

func newWorkers(threads, spin int) *workers {
	p := &workers{threads: threads, spin: spin}
	p.gate.Store(gateClosed)
	for i := 1; i < threads; i++ {
		w := &worker{wake: make(chan struct{}, 1)}
		p.others = append(p.others, w)
		p.done.Go(func() { p.run(i, w) })
	}
	return p
}

// each calls do once for every item 0..items-1, chunk items at a time on one worker, and returns when all are done.
// Which worker gets an item is a matter of chance, so no result may depend on it.
func (p *workers) each(items, chunk int, do func(worker, item int)) {
	p.eachThen(items, chunk, do, func(int) {})
}

// eachThen is each and has every worker call then when it finds no more items.
func (p *workers) eachThen(items, chunk int, do func(worker, item int), then func(worker int)) {
	if p.threads == 1 || items <= chunk {
		for i := range items {
			do(0, i)
		}
		then(0)
		return
	}
	p.do, p.then, p.items, p.chunk = do, then, items, chunk
	p.next.Store(0)
	p.gate.Store(0)
	p.call()
	p.work(0)
	for i := 0; !p.gate.CompareAndSwap(0, gateClosed); i++ {
		if i > 1000 {
			runtime.Gosched()
		}
	}
}

// call wakes the others, or makes them see that there is something new.
func (p *workers) call() {
	p.epoch.Add(1)
	for _, w := range p.others {
		if w.asleep.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
}

// work takes items until none is left.
func (p *workers) work(worker int) {
	for {
		hi := int(p.next.Add(int64(p.chunk)))
		lo := hi - p.chunk
		if lo >= p.items {
			p.then(worker)
			return
		}
		for i := lo; i < min(hi, p.items); i++ {
			p.do(worker, i)
		}
	}
}

// run is the life of one of the others. A call may reach it late, when its work is done; then the gate is closed, or
// open for other work, which is as good.
func (p *workers) run(id int, w *worker) {
	seen := uint32(0)
	for {
		p.await(seen, w)
		seen = p.epoch.Load()
		if p.stop.Load() {
			return
		}
		if p.enter() {
			p.work(id)
			p.gate.Add(-1)
		}
	}
}

// enter counts a worker in if the gate is open.
func (p *workers) enter() bool {
	for {
		n := p.gate.Load()
		if n == gateClosed {
			return false
		}
		if p.gate.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// await returns when the epoch is no longer the one seen, or after a call that came late.
func (p *workers) await(seen uint32, w *worker) {
	for i := 0; i <= p.spin; i++ {
		if p.epoch.Load() != seen {
			return
		}
	}
	w.asleep.Store(true)
	if p.epoch.Load() != seen && w.asleep.CompareAndSwap(true, false) {
		return // the work came before its caller could see that this worker sleeps
	}
	<-w.wake
}

// close ends the goroutines and waits for them; a second call does nothing.
func (p *workers) close() {
	if !p.stop.Swap(true) {
		p.call()
		p.done.Wait()
	}
}
