package nn

import (
	"context"
	"errors"
	"testing"
)

// The pinned answer is the plain engine's.
func TestKnownAnswer(t *testing.T) {
	if err := KnownAnswer(func(n *Net) (Engine, error) { return NewPlain(n), nil }); err != nil {
		t.Error(err)
	}
	if err := KnownAnswer(func(n *Net) (Engine, error) { return liar{NewPlain(n)}, nil }); !errors.Is(err, ErrKnownAnswer) {
		t.Errorf("an engine that computes wrongly: %v", err)
	}
}

// liar computes one bit wrongly.
type liar struct{ Engine }

func (l liar) Train(ctx context.Context, start *State, data Samples, t Trial) (*Trained, error) {
	start = start.Clone()
	start.Params[len(start.Params)-1] += 0x1p-20
	return l.Engine.Train(ctx, start, data, t)
}
