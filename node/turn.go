package node

import "context"

// turn is a lock that is waited for together with a context: what is done under it, training, can take long.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take returns with the lock, or with ctx's error and without it.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns with the lock.
func (t turn) wait() { t <- struct{}{} }

func (t turn) give() { <-t }
