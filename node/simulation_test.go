package node

import (
	"testing"
	"time"
)

// Run these with -v to see what happened, with -nodes 200 for larger networks, and with -seed N for other ones.

// All nodes come to one chain over links that delay and lose.
func TestSimulationAgree(t *testing.T) {
	simulate(t, *simNodes, func(s *simulation) {
		s.populate(s.size, nil)
		s.intervals(10)
		s.grown(s.agree(3))
	})
}

// Both sides of a divided network mine on. Once it is one again, the side with less work goes over to the other's chain.
func TestSimulationPartition(t *testing.T) {
	simulate(t, *simNodes/2, func(s *simulation) {
		s.populate(s.size, nil)
		s.intervals(3)
		before := s.agree(3)
		s.links.setCut(func(a, b int) bool { return s.small(a) != s.small(b) })
		var sides [2][]*simNode
		for _, n := range s.nodes {
			side := 0
			if s.small(n.number) {
				side = 1
			}
			sides[side] = append(sides[side], n)
		}
		s.intervals(8)
		for waited := 0; min(sides[0][0].tip().Height, sides[1][0].tip().Height) < before.Height+2; waited++ {
			if waited > 40 {
				s.Fatal("one side does not mine")
			}
			s.intervals(1)
		}
		large, small := s.agreeAmong(sides[0], 3), s.agreeAmong(sides[1], 3)
		s.links.setCut(nil)
		tip := s.agree(8)
		losers, lost := sides[1], small
		reverted, _, err := losers[0].Manager().Changes(lost.ID)
		if err == nil && len(reverted) == 0 { // as it had more work, by chance
			losers, lost = sides[0], large
			reverted, _, err = losers[0].Manager().Changes(lost.ID)
		}
		if err != nil {
			s.Fatal(err)
		}
		s.Logf("%d nodes gave up %d blocks", len(losers), len(reverted))
		for _, n := range losers {
			if got := s.log.deepest(n.number); got < len(reverted) || got == 0 {
				s.Errorf("node %d gave up %d blocks, want %d", n.number, got, len(reverted))
			}
		}
		s.grown(tip)
	})
}

// small says whether a node is among the third of the network, less a bit, that a partition cuts off.
func (s *simulation) small(number int) bool { return number%s.size < s.size*3/10 }

// Nodes leave, in good order or not, others come, and all that are there at the end have one chain.
func TestSimulationChurn(t *testing.T) {
	skipShort(t)
	simulate(t, *simNodes/2, func(s *simulation) {
		s.populate(s.size, nil)
		s.intervals(3)
		for range 4 {
			s.churn(s.size / 10)
			s.intervals(1.5)
		}
		s.grown(s.agree(4))
	})
}

// A third of the nodes take part in everything and never give a block that is asked for. The others agree all the same,
// and so do nodes that come late and are told of such alone.
func TestSimulationStallers(t *testing.T) {
	skipShort(t)
	simulate(t, *simNodes/2, func(s *simulation) {
		s.populate(s.size, func(i int, o *simOptions) {
			if i%3 == 2 {
				*o = simOptions{staller: true}
			}
		})
		s.intervals(8)
		for range s.size / 10 {
			s.startKnowing(simOptions{}, func(n *simNode) bool { return n.staller })
			time.Sleep(100 * time.Millisecond)
		}
		s.grown(s.agree(6))
		if s.stalls.Load() == 0 {
			s.Error("no staller was asked for a block")
		}
	})
}

// Clocks that differ by less than max_future make no difference. With one that is slower by more, a node takes blocks
// later than others; one that is faster by more mines blocks that others take later. Nobody is banned for it.
func TestSimulationClockSkew(t *testing.T) {
	skipShort(t)
	simulate(t, *simNodes/2, func(s *simulation) {
		slow := map[int]bool{}
		s.populate(s.size, func(i int, o *simOptions) {
			switch {
			case i%10 == 2, i == 11: // the latter mines
				o.skew = 8 * time.Second
			case i%10 == 3:
				o.skew = -8 * time.Second
			case i%10 == 4:
				slow[i] = true
				o.skew = -20 * time.Second
			case i%10 == 5, i == 6: // the latter mines
				o.skew = 20 * time.Second
			}
		})
		var others, late []*simNode
		for _, n := range s.nodes {
			if slow[n.number] {
				late = append(late, n)
			} else {
				others = append(others, n)
			}
		}
		behind := 0 // seconds
		for range 8 * int(simInterval.Seconds()) {
			time.Sleep(time.Second)
			if late[0].tip().Height < others[0].tip().Height {
				behind++
			}
		}
		s.Logf("a node with a clock that is 20 s slow was behind for %d seconds", behind)
		if behind == 0 {
			s.Error("blocks were not from the future for slow clocks")
		}
		s.grown(s.agreeAmong(others, 8))
		for i := 0; !s.follow(late, others[0]); i++ {
			if i == 80 {
				s.Fatal("a node with a slow clock is on another chain after 8 intervals")
			}
			s.intervals(0.1)
		}
	})
}

// No packet comes through for ten minutes, in which all that mine do so alone. Then the nodes find each other again,
// though hundreds of calls were in vain.
func TestSimulationOutage(t *testing.T) {
	skipShort(t)
	simulate(t, *simNodes/4, func(s *simulation) {
		s.populate(s.size, nil)
		s.intervals(2)
		s.links.setCut(func(a, b int) bool { return true })
		s.intervals(60)
		for _, n := range s.nodes {
			if n.peers.Count() > 0 {
				s.Errorf("node %d has peers", n.number)
			}
		}
		s.links.setCut(nil)
		s.agree(6)
	})
}

// Peers that stall, clocks that are wrong, a partition, and nodes that come and go meanwhile.
func TestSimulationCombined(t *testing.T) {
	skipShort(t)
	simulate(t, *simNodes, func(s *simulation) {
		s.populate(s.size, func(i int, o *simOptions) {
			switch {
			case i%5 == 3:
				*o = simOptions{staller: true}
			case i%7 == 2:
				o.skew = 6 * time.Second
			case i%7 == 5:
				o.skew = -6 * time.Second
			}
		})
		s.intervals(3)
		s.links.setCut(func(a, b int) bool { return s.small(a) != s.small(b) })
		for range 3 {
			s.intervals(3)
			s.churn(s.size / 10)
		}
		s.links.setCut(nil)
		s.intervals(2)
		s.grown(s.agree(8))
	})
}
