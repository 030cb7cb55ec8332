package node

import "time"

const (
	// sideShare: work on branches beside the tip gets one part in so many of the time that verifying takes, while work on
	// the tip waits.
	sideShare = 4
	// shareSlots intervals back is looked at. A block may cost a tenth of an interval, so that these are at least as many
	// blocks, and a branch that was run long ago does not count any more.
	shareSlots = 16
)

// timeShare measures how much of the time that verifying takes goes to branches beside the tip, in a window of shareSlots
// slots. It takes 400 bytes and needs the verifier's lock.
type timeShare struct {
	each  time.Duration // that a block beside the tip took last, or any before there was one
	slots [shareSlots]struct {
		number    int64 // since the epoch
		all, side time.Duration
	}
}

// slotOf is the number of a slot; before 1970 all is one.
func slotOf(now time.Time, interval time.Duration) int64 {
	return max(0, now.UnixNano()/int64(interval))
}

// add notes work that has just ended, and how many blocks were run in it.
func (s *timeShare) add(now time.Time, interval, took time.Duration, blocks int, side bool) {
	n := slotOf(now, interval)
	slot := &s.slots[n%shareSlots]
	if slot.number != n {
		slot.number, slot.all, slot.side = n, 0, 0
	}
	slot.all += took
	if side {
		slot.side += took
	}
	if blocks > 0 && (side || s.each == 0) {
		s.each = took / time.Duration(blocks)
	}
}

// spent says whether one more block would give branches beside the tip more than their part. running is the time of work
// on one that is not noted yet, in which so many blocks were run.
func (s *timeShare) spent(now time.Time, interval, running time.Duration, blocks int) bool {
	n := slotOf(now, interval)
	next := max(s.each, 1) // where nothing is known, work on the tip goes first
	if blocks > 0 {
		next = running / time.Duration(blocks)
	}
	all, side := running+next, running+next
	for _, slot := range s.slots {
		if slot.number > n-shareSlots && slot.number <= n {
			all += slot.all
			side += slot.side
		}
	}
	return side*sideShare > all
}
