package p2p

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// syncReport is how a sync goes on, for the log.
type syncReport struct {
	target  uint64 // height
	peers   int    // that have blocks which we lack, and give them
	waiting string // for what
}

// syncProgress is the report of the sync at hand, and the last failure since one went well.
type syncProgress struct {
	mu      sync.Mutex
	report  syncReport
	running bool
	failure error
}

func (p *syncProgress) set(r syncReport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report, p.running = r, true
}

func (p *syncProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = false
}

func (p *syncProgress) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = err
}

func (p *syncProgress) get() (r syncReport, running bool, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report, p.running, p.failure
}

// reportSync logs how sync goes on where it takes longer than from one line to the next, and what it waits for where no
// block came in between.
func (s *Service) reportSync() {
	if s.cfg.ContentOnly {
		return
	}
	interval := s.cfg.Timing.Progress
	before, wasBehind := s.chain.Status().Height, false
	for sleep(s.life, interval) {
		report, running, failure := s.progress.get()
		behind, best, _ := s.Behind()
		height := s.chain.Status().Height
		if (running || behind) && wasBehind {
			if !running {
				report = syncReport{target: best.Height, waiting: askedAgain(failure)}
			}
			s.log.Info("syncing", report.fields(height, float64(int64(height-before))/interval.Seconds())...)
		}
		before, wasBehind = height, running || behind
	}
}

// askedAgain says what is waited for between two syncs, and after which failure if there was one.
func askedAgain(failure error) string {
	text := "peers that are ahead are asked again"
	if failure != nil {
		text += ", after: " + failure.Error()
	}
	return text
}

func (r syncReport) fields(height uint64, rate float64) []zap.Field {
	target := max(r.target, height)
	fields := []zap.Field{
		zap.Uint64("height", height), zap.Uint64("target_height", target), zap.Int("peers", r.peers),
		zap.Float64("blocks_per_second", rate),
	}
	if rate > 0 {
		eta := time.Duration(float64(target-height) / rate * float64(time.Second))
		return append(fields, zap.Duration("eta", eta.Round(time.Second)))
	}
	return append(fields, zap.String("waiting_for", r.waiting))
}

// describe reports on the download.
func (d *download) describe(now time.Time) syncReport {
	ours := d.s.chain.Status()
	r := syncReport{target: max(d.target.Height, d.last.Height)}
	for _, p := range d.s.peers.snapshot() {
		h := d.helper(p.info.ID)
		if p.info.Status.Work.Cmp(ours.Work) > 0 && h.failures < failuresToDrop && h.lacks != p.info.Status.Tip {
			r.peers++
		}
	}
	switch {
	case d.executing:
		r.waiting = fmt.Sprintf("block at height %d is being executed", ours.Height+1)
	case len(d.batches) == 0:
		r.waiting = fmt.Sprintf("headers of peer %s", d.lead)
	default:
		r.waiting = d.batches[0].describe(now)
	}
	return r
}

func (b *batch) describe(now time.Time) string {
	first := b.wanted[0].height
	for p, f := range b.fetches {
		return fmt.Sprintf("block at height %d from peer %s, asked %s ago", first, p, now.Sub(f.began).Round(time.Millisecond))
	}
	return fmt.Sprintf("block at height %d: the peers that have it failed and are asked again", first)
}
