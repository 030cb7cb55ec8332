package main

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/nn/kernel"
)

// limits are the best rates seen with a number of threads at once, of all of them together.
type limits struct {
	flops float64 // per second, independent fused multiply-adds in registers
	adam  float64 // parameters per second, Adam on data in the first cache: its division and square root
}

// stepTime is the roofline time of a training step in seconds: no way of ordering the work can beat the products at
// the peak followed by the updates at theirs, as both want the same units.
func (l limits) stepTime(n *nn.Net) float64 {
	return stepFlops(n)/l.flops + float64(n.Params)/l.adam
}

// measure repeats both measurements and keeps what is better than before. It is called between the rounds of the
// benchmark, so that the limits come from the same minutes as the figures that are compared with them.
func (l *limits) measure(isa *kernel.ISA, threads, repeats int) {
	const (
		peakRounds = 500_000 // some milliseconds
		adamSize   = 1024    // four arrays: 16 KiB, half of a small first cache
		adamPasses = 5000
	)
	type arrays struct{ w, m, v, g []float32 }
	data := make([]arrays, threads)
	for i := range data {
		d := &data[i]
		d.w, d.m, d.v, d.g = make([]float32, adamSize), make([]float32, adamSize), make([]float32, adamSize), make([]float32, adamSize)
		for j := range d.g {
			d.g[j] = float32(j%7) - 3.5
		}
	}
	constants := [4]float32{0.1, 0.001, 0.001, 1e-7}
	flops := isa.Peak(1) * peakRounds * float64(threads)
	for range repeats {
		t := together(threads, func(int) { isa.Peak(peakRounds) })
		l.flops = max(l.flops, flops/t.Seconds())
		t = together(threads, func(i int) {
			d := &data[i]
			for range adamPasses {
				isa.Adam(d.w, d.m, d.v, d.g, &constants)
			}
		})
		l.adam = max(l.adam, adamSize*adamPasses*float64(threads)/t.Seconds())
	}
}

// together runs do on so many threads of the system at once and gives the time from the common start to the last end.
// They wait for the start in a loop: waking a sleeping thread would count as work.
func together(threads int, do func(thread int)) time.Duration {
	var ready atomic.Int32
	var done sync.WaitGroup
	var begin atomic.Bool
	for i := 1; i < threads; i++ {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Add(1)
			for !begin.Load() {
			}
			do(i)
		})
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for int(ready.Load()) < threads-1 {
		runtime.Gosched()
	}
	start := time.Now()
	begin.Store(true)
	do(0)
	done.Wait()
	return time.Since(start)
}
