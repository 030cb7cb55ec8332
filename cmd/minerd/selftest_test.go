//go:build !e2e

package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/descentnet/minerd/nn"
)

// wrongEngine starts from another state than it was given.
type wrongEngine struct{ nn.Engine }

func (e wrongEngine) Train(ctx context.Context, start *nn.State, data nn.Samples, t nn.Trial) (*nn.Trained, error) {
	start = start.Clone()
	start.Params[0] += 0x1p-20
	return e.Engine.Train(ctx, start, data, t)
}

func TestSelftest(t *testing.T) {
	engines := []nn.EngineMaker{
		{Name: "right", Threaded: true, New: func(net *nn.Net, _ int) (nn.Engine, error) { return nn.NewPlain(net), nil }},
		{Name: "wrong", New: func(net *nn.Net, _ int) (nn.Engine, error) { return wrongEngine{nn.NewPlain(net)}, nil }},
		{Name: "none", New: func(*nn.Net, int) (nn.Engine, error) { return nil, errors.New("no memory") }},
	}
	var out strings.Builder
	err := selftest(&out, engines, 8)
	if err == nil || err.Error() != "2 of 4 self-tests failed" {
		t.Errorf("error %v", err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, want := range []string{
		"right   threads 1   ok",
		"right   threads 8   ok",
		"wrong   threads 1   FAILED: known-answer test failed",
		"none    threads 1   FAILED: no memory",
		"cuda    built without CUDA",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d should begin with %q:\n%s", i, want, out.String())
		}
	}
}
