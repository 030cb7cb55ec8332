//go:build !e2e

package main

import (
	"strings"
	"testing"
	"time"
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
