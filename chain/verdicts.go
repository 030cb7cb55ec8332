package chain

// What this machine found by training a block, and nobody can see without: a machine that computed wrongly once must not
// be forked off for ever, so such a verdict lapses, and the block is run again if it is still offered. It does not lapse
// sooner because a branch that was built on the block claims more work: headers on a forged block cost hashes only, and
// would make us run it again and again. Nothing is run twice before a verdict either, since that would double what a
// forged block costs its verifier.
const (
	// verdictLasts is how long the first verdict on a block holds, in milliseconds. Each further one on the same block
	// holds twice as long, up to verdictMost: one forged block costs five runs on the first day and one a day after.
	verdictLasts = 3_600_000
	verdictMost  = 24 * verdictLasts
	// maxVerdicts bounds the blocks that are remembered so; one is some 400 bytes. They are not kept over a restart.
	maxVerdicts = 4096
)

// verdict is a fault that training here has shown.
type verdict struct {
	fault *InvalidError
	claim Hash
	since uint64 // Unix milliseconds
	lasts uint64 // milliseconds
}

func (v verdict) lapsed(now uint64) bool { return now > v.since && now-v.since >= v.lasts }

// verdicts remembers the newest maxVerdicts.
type verdicts struct {
	byID  map[Hash]verdict
	order []Hash
}

func (v *verdicts) put(id, claim Hash, fault *InvalidError, now uint64) {
	if v.byID == nil {
		v.byID = map[Hash]verdict{}
	}
	old, again := v.byID[id]
	lasts := uint64(verdictLasts)
	if again {
		lasts = min(2*old.lasts, verdictMost)
	} else {
		v.order = append(v.order, id)
	}
	v.byID[id] = verdict{fault, claim, now, lasts}
	if len(v.order) > maxVerdicts {
		delete(v.byID, v.order[0])
		v.order = v.order[1:]
	}
}
