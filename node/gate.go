package node

import (
	"context"
	"sync"
)

// gate is what the miner waits at: it is closed while blocks are verified.
type gate struct {
	mu     sync.Mutex
	closed int
	opened chan struct{} // closed when the gate opens; nil while it is open
}

// close closes the gate until open was called as often.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == 0 {
		g.opened = make(chan struct{})
	}
	g.closed++
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed--
	if g.closed == 0 {
		close(g.opened)
		g.opened = nil
	}
}

// wait returns when the gate is open, or with ctx's error.
func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		opened := g.opened
		g.mu.Unlock()
		if opened == nil {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-opened:
		}
	}
}
