package store

import (
	"math"
	"strings"
	"sync"

	"github.com/descentnet/minerd/chain"
)

// maxText bounds each text of a remembered fault.
const maxText = 256

// fault is a remembered invalid block. seq rises by one with each.
type fault struct {
	seq uint64
	id  chain.Hash
	err chain.InvalidError
}

// faults remembers the newest invalid blocks.
type faults struct {
	max   int
	mu    sync.RWMutex
	byID  map[chain.Hash]*chain.InvalidError
	queue []fault // oldest first
}

func newFaults() *faults {
	return &faults{max: MaxInvalid, byID: make(map[chain.Hash]*chain.InvalidError)}
}

func (f *faults) get(id chain.Hash) (*chain.InvalidError, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	e, ok := f.byID[id]
	if !ok {
		return nil, chain.ErrNotFound
	}
	c := *e
	return &c, nil
}

// next is the fault to be added for id, and the one that it drives out, if any. ok is false where id is there already.
func (f *faults) next(id chain.Hash, e *chain.InvalidError) (add fault, evict *fault, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if _, there := f.byID[id]; there {
		return add, nil, false
	}
	add = fault{id: id, err: chain.InvalidError{Kind: chain.Kind(clip(string(e.Kind))), Step: min(max(e.Step, 0), math.MaxInt32), Got: clip(e.Got), Want: clip(e.Want)}}
	if n := len(f.queue); n > 0 {
		add.seq = f.queue[n-1].seq + 1
	}
	if len(f.queue) >= f.max {
		old := f.queue[0]
		evict = &old
	}
	return add, evict, true
}

// add appends what next gave.
func (f *faults) add(a fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.queue) >= f.max {
		delete(f.byID, f.queue[0].id)
		f.queue = f.queue[1:]
	}
	f.queue = append(f.queue, a)
	f.byID[a.id] = &a.err
}

func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
