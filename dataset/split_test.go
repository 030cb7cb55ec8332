package dataset

import (
	"errors"
	"testing"
)

func TestSplitCheck(t *testing.T) {
	good := Split{Train: Range{0, 80}, Evaluation: Range{80, 90}, Test: Range{90, 100}}
	if err := good.Check(100); err != nil {
		t.Fatal(err)
	}
	if err := (Split{Train: Range{20, 100}, Evaluation: Range{10, 20}, Test: Range{0, 10}}).Check(100); err != nil {
		t.Errorf("in falling order: %v", err)
	}
	if err := SyntheticSplit.Check(SyntheticCount); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		change func(*Split)
		want   error
		text   string
	}{
		"beyond the end":  {func(s *Split) { s.Test.To = 101 }, ErrRange, "range not inside the data set or empty: test is [90, 101) of 100 samples"},
		"below zero":      {func(s *Split) { s.Train.From = -1 }, ErrRange, "range not inside the data set or empty: train is [-1, 80) of 100 samples"},
		"empty":           {func(s *Split) { s.Evaluation.To = 80 }, ErrRange, "range not inside the data set or empty: evaluation is [80, 80) of 100 samples"},
		"backwards":       {func(s *Split) { s.Test = Range{100, 90} }, ErrRange, "range not inside the data set or empty: test is [100, 90) of 100 samples"},
		"one shared":      {func(s *Split) { s.Train.To = 81 }, ErrOverlap, "ranges overlap: train is [0, 81) and evaluation is [80, 90)"},
		"one in another":  {func(s *Split) { s.Test = Range{10, 20} }, ErrOverlap, "ranges overlap: train is [0, 80) and test is [10, 20)"},
		"one around both": {func(s *Split) { s.Test = Range{0, 100} }, ErrOverlap, "ranges overlap: train is [0, 80) and test is [0, 100)"},
	} {
		s := good
		c.change(&s)
		if err := s.Check(100); !errors.Is(err, c.want) || err.Error() != c.text {
			t.Errorf("%s: got %v, want %s", name, err, c.text)
		}
	}
}
