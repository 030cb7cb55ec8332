package chain

// maxExecuted bounds the memory of executions; one is some 500 bytes.
const maxExecuted = 4096

// executions remembers what claims gave, the newest maxExecuted of them.
type executions struct {
	byClaim map[Hash]*Execution
	order   []Hash
}

func (e *executions) get(claim Hash) *Execution { return e.byClaim[claim] }

func (e *executions) put(claim Hash, x *Execution) {
	if e.byClaim == nil {
		e.byClaim = map[Hash]*Execution{}
	}
	old := e.byClaim[claim]
	if old == nil {
		e.order = append(e.order, claim)
	} else if old.Complete || old.Fault != nil || x.Fault == nil && !x.Complete && len(old.EarlyRoots) > len(x.EarlyRoots) {
		return
	}
	e.byClaim[claim] = x
	if len(e.order) > maxExecuted {
		delete(e.byClaim, e.order[0])
		e.order = e.order[1:]
	}
}
