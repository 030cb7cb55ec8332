package chain_test

import (
	"context"
	"errors"
	"testing"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/store"
)

// A branch that is put off after each block goes on where it was, and is adopted as if it had been run at once. Meanwhile
// the best chain is not touched.
func TestPostponedBranch(t *testing.T) {
	const length = 5
	ctx := context.Background()
	s := newSimnet(t)
	other := s.open(store.NewMemory())
	branch := s.grow(other, length+1, 2)
	m := s.open(store.NewMemory())
	s.grow(m, length, 1)
	old, _ := m.Best()
	for _, b := range branch[:length] {
		if a, err := m.Add(ctx, b, b.Time, m.Arrive("peer")); err != nil || !a.Side {
			t.Fatalf("height %d: %+v, %v", b.Height, a, err)
		}
	}
	last, arrival := branch[length], m.Arrive("peer")
	for calls := 1; ; calls++ {
		asked := 0
		a, err := m.AddWhile(ctx, last, last.Time, arrival, func(executed int) bool {
			asked++
			if executed != asked {
				t.Errorf("asked with %d blocks executed, want %d", executed, asked)
			}
			return false
		})
		if a.Executed != 1 || len(a.Verified) != 1 || a.Verified[0].Block.Height != uint64(calls) {
			t.Fatalf("call %d executed %d blocks, verified %d", calls, a.Executed, len(a.Verified))
		}
		best, _ := m.Best()
		if calls <= length {
			if !errors.Is(err, chain.ErrPostponed) || chain.VerdictOf(err) != chain.Unverified || best != old {
				t.Fatalf("call %d: %v, the tip is at height %d", calls, err, best.Height)
			}
			continue
		}
		if err != nil || a.Reverted != length {
			t.Fatalf("the last call reverted %d blocks: %v", a.Reverted, err)
		}
		break
	}
	if got, _ := m.Best(); got.ID != last.Header.ID() || m.Ledger().Root() != other.Ledger().Root() {
		t.Errorf("the tip is at height %d, or the ledger differs", got.Height)
	}
}
