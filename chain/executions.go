package chain

import (
	"math"
	"slices"
)

// maxExecuted bounds the memory of executions; one is some 500 bytes.
const maxExecuted = 4096

// forGood is the time of an execution that does not lapse.
const forGood = math.MaxUint64

// executions remembers what claims gave, the newest maxExecuted of them.
type executions struct {
	byClaim map[Hash]timedExecution
	order   []Hash
}

type timedExecution struct {
	*Execution
	at uint64 // Unix milliseconds, or forGood
}

func (e *executions) get(claim Hash) *Execution { return e.byClaim[claim].Execution }

func (e *executions) put(claim Hash, x *Execution, at uint64) {
	if e.byClaim == nil {
		e.byClaim = map[Hash]timedExecution{}
	}
	old := e.byClaim[claim]
	if old.Execution == nil {
		e.order = append(e.order, claim)
	} else if old.Complete || old.Fault != nil || x.Fault == nil && !x.Complete && len(old.EarlyRoots) > len(x.EarlyRoots) {
		return
	}
	e.byClaim[claim] = timedExecution{x, at}
	if len(e.order) > maxExecuted {
		delete(e.byClaim, e.order[0])
		e.order = e.order[1:]
	}
}

// confirm keeps an execution that a valid block bears out from lapsing.
func (e *executions) confirm(claim Hash) {
	if x, ok := e.byClaim[claim]; ok {
		e.byClaim[claim] = timedExecution{x.Execution, forGood}
	}
}

// lapse forgets an execution as old as the shortest verdict. It is asked for when a verdict on a block of the claim has
// lapsed; the age keeps a claim with many altered blocks, all refused by one execution, from costing one run for each.
func (e *executions) lapse(claim Hash, now uint64) {
	if x, ok := e.byClaim[claim]; ok && now > x.at && now-x.at >= verdictLasts {
		delete(e.byClaim, claim)
		e.order = slices.DeleteFunc(e.order, func(c Hash) bool { return c == claim })
	}
}
