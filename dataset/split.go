package dataset

import "fmt"

// Range is the samples From <= i < To.
type Range struct{ From, To int }

// Len is the number of samples in the range.
func (r Range) Len() int { return r.To - r.From }

// String is the range in the form [from, to).
func (r Range) String() string { return fmt.Sprintf("[%d, %d)", r.From, r.To) }

// Split says what the samples of a data set are for.
type Split struct {
	Train      Range // batches are drawn from these
	Evaluation Range // the recorded loss is taken over these
	Test       Range // reported, never used by the rules
}

// Check returns ErrRange unless each range is inside 0..count-1 and not empty, and ErrOverlap unless they are disjoint.
func (s Split) Check(count int) error {
	ranges := []struct {
		name string
		Range
	}{{"train", s.Train}, {"evaluation", s.Evaluation}, {"test", s.Test}}
	for i, r := range ranges {
		if r.From < 0 || r.To > count || r.From >= r.To {
			return fmt.Errorf("%w: %s is %v of %d samples", ErrRange, r.name, r.Range, count)
		}
		for _, q := range ranges[:i] {
			if r.From < q.To && q.From < r.To {
				return fmt.Errorf("%w: %s is %v and %s is %v", ErrOverlap, q.name, q.Range, r.name, r.Range)
			}
		}
	}
	return nil
}
