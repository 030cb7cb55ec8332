package nn_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/nn/nntest"
)

var drawnCases = flag.Int("drawn", 0, "number of drawn cases on which the engines are compared (0: some ten seconds of them)")

// All engines end alike, to the bit and to the error, on drawn models, states and data. A case is named by its seed:
// -run 'TestDrawnCases/^17$' repeats it alone.
func TestDrawnCases(t *testing.T) {
	engines := vectorEngines(t)
	cases := *drawnCases
	switch {
	case cases > 0:
	case testing.Short():
		cases = 50
	default:
		cases = 200
	}
	ends := map[string]int{}
	for seed := range cases {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			ends[check(t, nntest.Seeded(uint64(seed), 1<<23), engines)]++
		})
	}
	t.Log(ends)
	finite, atOnce, midway := ends["finite"], ends["at once"], ends["midway"]
	if t.Failed() || finite+atOnce+midway < 50 {
		return // some were picked by hand
	}
	// Hostile states must not be so hostile that nothing but their end is compared.
	if finite < cases/3 || atOnce == 0 || midway == 0 {
		t.Errorf("%d cases ended as follows: %v; that leaves much untried", cases, ends)
	}
}

// FuzzEngines takes model, data and state from the input, as far as it goes. Threads make the coverage of one input
// vary, so that a hunt needs -fuzzminimizetime 1x, lest it spend its time on making inputs smaller.
func FuzzEngines(f *testing.F) {
	engines := vectorEngines(f)
	f.Add([]byte{})
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(1, seed))
		input := make([]byte, 8<<(seed%5))
		for i := range input {
			input[i] = byte(r.Uint32())
		}
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		check(t, nntest.From(input, 1<<18), engines)
	})
}

func vectorEngines(t testing.TB) []nn.EngineMaker {
	engines := slices.DeleteFunc(nn.Engines(), func(e nn.EngineMaker) bool { return !e.Threaded })
	if len(engines) == 0 {
		t.Skip("this machine has no instruction set that kernels are written for")
	}
	return engines
}

// check holds the vector engines to the plain one, each with 1 to 4 threads, and says how the trial ended.
func check(t *testing.T, c nntest.Case, engines []nn.EngineMaker) string {
	t.Helper()
	want := c.Run(nn.NewPlain(c.Net))
	for _, maker := range engines {
		for threads := 1; threads <= 4; threads++ {
			e, err := maker.New(c.Net, threads)
			if err != nil {
				t.Fatal(err)
			}
			if threads > 2 {
				c.Poison(e)
			}
			got := c.Run(e)
			e.Close()
			if difference := want.Compare(got); difference != "" {
				t.Errorf("%s with %d threads: %s\nmodel %+v\n%d samples, %d steps", maker.Name, threads, difference, c.Net.Model, c.Data.Len(), c.Steps)
			}
		}
	}
	return want.Ending()
}
