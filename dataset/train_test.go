package dataset

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/descentnet/minerd/nn"
)

// learn trains the default model for the given steps and gives its accuracy on the test samples after every 50.
func learn(t *testing.T, train, test nn.Samples, steps int) (accuracy []float64) {
	t.Helper()
	net, err := nn.DefaultModel().Build()
	if err != nil {
		t.Fatal(err)
	}
	e, err := nn.NewEngine(net, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Name() == nn.NewPlain(net).Name() {
		t.Skip("this machine has no vector engine: the plain one would take some ten minutes")
	}
	s := net.Init([32]byte{1})
	for at := 0; at < steps; at += 50 {
		r, err := e.Train(context.Background(), s, train, nn.Trial{Steps: 50, BatchSeed: seedFrom(at)})
		if err != nil {
			t.Fatal(err)
		}
		s = r.State
		_, correct, err := e.Evaluate(context.Background(), s, test)
		if err != nil {
			t.Fatal(err)
		}
		accuracy = append(accuracy, float64(correct)/float64(test.Len()))
	}
	return accuracy
}

func seedFrom(at int) func(uint32) [32]byte {
	return func(step uint32) (seed [32]byte) {
		binary.LittleEndian.PutUint64(seed[:], uint64(at)+uint64(step))
		return seed
	}
}

// The built-in digits must be worth training on: neither learnt at once nor out of reach.
func TestSyntheticNeedsTraining(t *testing.T) {
	if testing.Short() {
		t.Skip("trains for some seconds; run without -short")
	}
	d := Synthetic(1, SyntheticCount)
	s := SyntheticSplit
	acc := learn(t, d.Samples(s.Train.From, s.Train.To), d.Samples(s.Test.From, s.Test.To), 3000)
	passed, best := 0, 0.0
	for i, a := range acc {
		if a > 0.9 && passed == 0 {
			passed = (i + 1) * 50
		}
		best = max(best, a)
	}
	t.Logf("90 %% passed after %d steps, best %.2f %%", passed, 100*best)
	if passed < 200 || passed > 800 {
		t.Errorf("90 %% was passed after %d steps, meant are 200 to 800", passed)
	}
	if best < 0.97 {
		t.Errorf("the best of 3000 steps is %.2f %%, meant is 97 %%", 100*best)
	}
}

// The default model learns real handwritten digits.
func TestMNISTIsLearnt(t *testing.T) {
	d := openMNIST(t)
	acc := learn(t, d.Samples(0, 8000), d.Samples(9000, 10000), 2000)
	last := acc[len(acc)-1]
	t.Logf("%.2f %% on the test split after 2000 steps; every 50: %.3f", 100*last, acc)
	if last < 0.95 {
		t.Errorf("%.2f %% on the test split after 2000 steps, meant is 95 %%", 100*last)
	}
}
