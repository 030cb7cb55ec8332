package ptx

import "math/rand/v2"

// Order is the order in which the blocks of a launch run, and the threads of a block between two barriers. The zero Order
// is Forward.
type Order struct {
	kind orderKind
	seed uint64
}

type orderKind byte

const (
	forward orderKind = iota
	backward
	shuffled
)

// Forward and Backward are rising and falling order.
var (
	Forward  = Order{}
	Backward = Order{kind: backward}
)

// Shuffled is a random order, another one after every barrier, the same for the same seed.
func Shuffled(seed uint64) Order { return Order{kind: shuffled, seed: seed} }

// A permuter makes the orders of a block's threads.
type permuter struct {
	kind orderKind
	rand *rand.Rand
}

func (o Order) permuter() permuter {
	return permuter{o.kind, rand.New(rand.NewPCG(o.seed, 0))}
}

// first fills s with 0..len(s)-1 in the first order.
func (p *permuter) first(s []int32) {
	for i := range s {
		if s[i] = int32(i); p.kind == backward {
			s[i] = int32(len(s) - 1 - i)
		}
	}
	p.next(s)
}

// next makes of s the next order.
func (p *permuter) next(s []int32) {
	if p.kind == shuffled {
		p.rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
	}
}
