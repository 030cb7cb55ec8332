//go:build !e2e

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/descentnet/minerd/store"
)

func TestProgress(t *testing.T) {
	var out strings.Builder
	clock := time.Unix(1000, 0)
	tell := progress(&out, true, func() time.Time { return clock })
	for i := 1; i <= 40; i++ { // two blocks a second
		clock = clock.Add(500 * time.Millisecond)
		tell(i, 40)
	}
	want := `trained again 10 of 40 blocks, 2.0 per second, 15s left
trained again 20 of 40 blocks, 2.0 per second, 10s left
trained again 30 of 40 blocks, 2.0 per second, 5s left
trained again 40 of 40 blocks, 2.0 per second, 0s left
`
	if out.String() != want {
		t.Errorf("it says\n%s", out.String())
	}
}

func TestMended(t *testing.T) {
	for want, r := range map[string]store.Report{
		"1 fault, all mended":             {Faults: 1},
		"2 faults, mended, 1 block lost":  {Faults: 2, Lost: 1},
		"1 fault, mended, 12 blocks lost": {Faults: 1, Lost: 12},
		"1 fault, mended, but not everything could be read: blocks may be lost": {Faults: 1, Unread: true},
		"1 fault, mended, at least 3 blocks lost: not everything could be read": {Faults: 1, Lost: 3, Unread: true},
	} {
		if got := mended(r); got != want || lossy(r) != (want != "1 fault, all mended") {
			t.Errorf("%+v: %q, want %q; lossy %v", r, got, want, lossy(r))
		}
	}
}
