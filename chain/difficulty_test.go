package chain_test

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/descentnet/minerd/chain"
)

func bigU128(t testing.TB, text string) (u chain.Uint128) {
	t.Helper()
	if err := u.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestDifficultyGolden(t *testing.T) {
	const interval, halfLife = 60_000, 1_260_000
	top := chain.MaxDifficulty
	if top.String() != "79228162514264337593543950336" {
		t.Fatalf("the cap is %v, not 2^96", top)
	}
	for _, c := range []struct {
		name     string
		parent   chain.Uint128
		elapsed  uint64
		halfLife uint64
		floor    chain.Uint128
		want     string
	}{
		{"on time", chain.U128(1_000_000_007), interval, halfLife, chain.Uint128{}, "1000000007"},
		{"at once", chain.U128(1 << 40), 1, halfLife, chain.Uint128{}, "1136488611840"},
		{"late", chain.U128(1 << 40), 100_000, halfLife, chain.Uint128{}, "1075629260800"},
		{"ten intervals late", chain.U128(1 << 40), 600_000, halfLife, chain.Uint128{}, "816891035648"},
		{"a day late is as ten intervals", chain.U128(1 << 40), 86_400_000, halfLife, chain.Uint128{}, "816891035648"},
		{"for ever late is as ten intervals", chain.U128(1 << 40), math.MaxUint64, halfLife, chain.Uint128{}, "816891035648"},
		{"half-life of one interval, at once", chain.U128(1 << 40), 1, interval, chain.Uint128{}, "2198972923904"},
		{"half-life of one interval, doubled", chain.U128(1 << 40), 0, interval, chain.Uint128{}, "2199023255552"},
		{"half-life of one interval, ten late", chain.U128(1 << 40), 600_000, interval, chain.Uint128{}, "2147483648"},
		{"rounds down to nothing", chain.U128(1), 600_000, interval, chain.Uint128{}, "0"},
		{"floor", chain.U128(1 << 40), 600_000, halfLife, chain.U128(1 << 40), "1099511627776"},
		{"floor from below", chain.U128(1), interval, halfLife, chain.U128(77), "77"},
		{"cap", top, 1, halfLife, chain.Uint128{}, top.String()},
		{"cap from above", chain.Uint128{Hi: ^uint64(0), Lo: ^uint64(0)}, 0, interval, chain.Uint128{}, top.String()},
		{"at the cap, on time", top, interval, halfLife, chain.Uint128{}, top.String()},
		{"below the cap, late", top, 600_000, interval, chain.Uint128{}, "154742504910672534362390528"},
		{"one below the cap", bigU128(t, "79228162514264337593543950335"), interval, halfLife, chain.Uint128{}, "79228162514264337593543950335"},
	} {
		if got := chain.NextDifficultyOf(c.parent, c.elapsed, interval, c.halfLife, c.floor); got.String() != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestDifficultyAgainstFloats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		interval := rapid.Uint64Range(100, 24*3600*1000).Draw(t, "interval")
		halfLife := rapid.Uint64Range(interval, 100*interval).Draw(t, "half_life")
		elapsed := rapid.Uint64Range(0, 12*interval).Draw(t, "elapsed")
		parent := rapid.Uint64Range(1<<40, 1<<62).Draw(t, "parent")
		got, _ := chain.NextDifficultyOf(chain.U128(parent), elapsed, interval, halfLife, chain.Uint128{}).Big().Float64()
		e := math.Min(float64(elapsed), 10*float64(interval))
		// The cubic is off by up to 1.3e-4 (as aserti3-2d's authors say), the exponent is cut to 1/65536.
		want := float64(parent) * math.Exp2((float64(interval)-e)/float64(halfLife))
		if math.Abs(got/want-1) > 1.5e-4 {
			t.Fatalf("%g, the model says %g", got, want)
		}
	})
}

func TestTarget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cost := chain.U128(rapid.Uint64Range(1, 1<<50).Draw(t, "cost"))
		d := anyU128().Draw(t, "difficulty")
		if d == (chain.Uint128{}) {
			d = chain.U128(1)
		}
		want := new(big.Int).Lsh(cost.Big(), 256)
		want.Div(want, d.Big())
		if most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)); want.Cmp(most) > 0 {
			want = most
		}
		target := chain.Target(cost, d)
		if new(big.Int).SetBytes(target[:]).Cmp(want) != 0 {
			t.Fatalf("target is %v, want %x", target, want)
		}
		ticket := chain.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "ticket"))
		if chain.Wins(ticket, target) != (new(big.Int).SetBytes(ticket[:]).Cmp(want) <= 0) {
			t.Fatalf("ticket %v, target %v", ticket, target)
		}
	})
	target := chain.Target(chain.U128(1), chain.U128(256))
	if target != (chain.Hash{1}) {
		t.Errorf("2^256/256 is %v", target)
	}
	above, below := target, chain.Hash{0, 0xff}
	above[31]++
	if !chain.Wins(target, target) || chain.Wins(above, target) || !chain.Wins(below, target) {
		t.Error("a ticket wins if it is at most the target")
	}
	if all := chain.Target(chain.U128(5), chain.U128(5)); all != fill(0xff) {
		t.Errorf("target of a sure win is %v", all)
	}
}

// sim mines blocks in virtual time: each takes an exponential time with the mean that difficulty and power give.
type sim struct {
	rand       *rand.Rand
	now        float64 // true time, milliseconds
	time, past uint64  // of the tip and its parent, as they say
	difficulty chain.Uint128
	power      float64 // multiply-accumulates per millisecond
	blocks     int
}

const (
	simInterval = 60_000
	simHalfLife = 21 * simInterval
	simFuture   = simInterval
	simPower    = 1e9
)

// newSim begins at the difficulty that fits the power.
func newSim(seed uint64) *sim {
	return &sim{
		rand: rand.New(rand.NewPCG(seed, 1)), now: 1e12, time: 1e12, past: 1e12 - simInterval,
		difficulty: chain.U128(simPower * simInterval), power: simPower,
	}
}

// mean is the time that the next block takes on average.
func (s *sim) mean() float64 {
	d, _ := s.next().Big().Float64()
	return d / s.power
}

func (s *sim) next() chain.Uint128 {
	return chain.NextDifficultyOf(s.difficulty, s.time-s.past, simInterval, simHalfLife, chain.U128(1))
}

// block mines one; stamp gives the time that it claims, given the true one.
func (s *sim) block(stamp func(now uint64) uint64) {
	s.now += s.rand.ExpFloat64() * s.mean()
	s.difficulty = s.next()
	s.past, s.time = s.time, max(stamp(uint64(s.now)), s.time+1)
	s.blocks++
}

func honest(now uint64) uint64 { return now }
func behind(uint64) uint64     { return 0 } // parent's time + 1 ms
func ahead(now uint64) uint64  { return now + simFuture }

// run mines n blocks, a share of them with the given stamp, and gives their mean interval as a fraction of the due one.
func (s *sim) run(n int, share float64, stamp func(uint64) uint64) float64 {
	begin := s.now
	for range n {
		if s.rand.Float64() < share {
			s.block(stamp)
		} else {
			s.block(honest)
		}
	}
	return (s.now - begin) / float64(n) / simInterval
}

func TestSimulatedTimestamps(t *testing.T) {
	for _, c := range []struct {
		name   string
		stamp  func(uint64) uint64
		share  float64
		lo, hi float64
	}{
		{"honest", honest, 1, 0.98, 1.03},
		{"half back-dates", behind, 0.5, 0.97, 1.04},
		// Time beyond the clamp is lost, so a majority that stops the clock makes blocks rarer, its own too, and never more
		// frequent.
		{"seven in ten back-date", behind, 0.7, 1, 1.2},
		{"half forward-dates", ahead, 0.5, 0.97, 1.04},
		{"all forward-date", ahead, 1, 0.97, 1.04},
	} {
		got := newSim(11).run(40_000, c.share, c.stamp)
		t.Logf("%s: mean interval %.4f", c.name, got)
		if got < c.lo || got > c.hi {
			t.Errorf("%s: mean interval is %.4f of what is due, allowed are %g to %g", c.name, got, c.lo, c.hi)
		}
	}
	// One who mines all blocks and never lets the clock run only makes each take longer.
	if got := newSim(12).run(200, 1, behind); got < 2 {
		t.Errorf("all blocks back-dated: mean interval is %.4f of what is due", got)
	} else {
		t.Logf("200 blocks, all back-dated: mean interval %.1f", got)
	}
}

// TestSimulatedSteps changes the power and looks how long the difficulty takes to be within a tenth of what is due.
func TestSimulatedSteps(t *testing.T) {
	for _, c := range []struct {
		factor    float64
		halfLives float64 // allowed, on average
	}{{10, 4}, {0.1, 30}} {
		var wall, blocks float64
		const runs = 50
		for seed := range uint64(runs) {
			s := newSim(seed)
			s.run(200, 0, honest)
			s.power *= c.factor
			from, at := s.now, s.blocks
			for math.Abs(s.mean()/simInterval-1) > 0.1 {
				s.block(honest)
			}
			wall += (s.now - from) / simHalfLife / runs
			blocks += float64(s.blocks-at) / runs
		}
		t.Logf("power times %g: recovered in %.1f half-lives, %.0f blocks", c.factor, wall, blocks)
		if wall > c.halfLives {
			t.Errorf("power times %g: recovery took %.1f half-lives", c.factor, wall)
		}
	}
}

// TestSimulatedOutage stops all miners for a day.
func TestSimulatedOutage(t *testing.T) {
	const hour = 3600 * 1000
	var mean, most float64
	const runs = 200
	for seed := range uint64(runs) {
		s := newSim(seed)
		s.run(200, 0, honest)
		s.now += 24 * hour
		end, at := s.now+hour, s.blocks
		for s.now < end {
			s.block(honest)
		}
		n := float64(s.blocks-at) / (hour / simInterval)
		mean += n / runs
		most = max(most, n)
	}
	t.Logf("first hour after a day without blocks: %.2f times what is due on average, %.2f at most", mean, most)
	if mean > 1.3 || most > 2.2 {
		t.Errorf("first hour made %.2f times what is due on average, %.2f at most", mean, most)
	}
}

func TestGenesisDifficultyAndFloor(t *testing.T) {
	cost := func(n *chain.Network, i int) chain.Uint128 { return n.Templates[i].Cost }
	for _, c := range []struct {
		genesis, least uint64
		height         uint64
		want           func(n *chain.Network) chain.Uint128
	}{
		{0, 0, 0, func(n *chain.Network) chain.Uint128 { return chain.U128(8 * cost(n, 0).Lo) }},
		{0, 1 << 50, 1, func(*chain.Network) chain.Uint128 { return chain.U128(1 << 50) }},
		{1 << 51, 1 << 50, 0, func(*chain.Network) chain.Uint128 { return chain.U128(1 << 51) }},
		{1 << 51, 1 << 50, 1, func(*chain.Network) chain.Uint128 { return chain.U128(1 << 51) }},
		// From height 3 on the parent's difficulty counts, not genesis'.
		{1 << 51, 1 << 50, 2, func(*chain.Network) chain.Uint128 { return chain.U128(1 << 52) }},
	} {
		n := build(t, func(s *chain.Spec) { s.GenesisDifficulty, s.MinDifficulty = chain.U128(c.genesis), chain.U128(c.least) })
		s := chain.State{Height: c.height, Time: n.Interval, Difficulty: chain.U128(1 << 52)}
		if got := n.NextDifficulty(s, chain.Base{}); got != c.want(n) {
			t.Error(fmt.Sprint(c.genesis, c.least, c.height), got)
		}
	}
	n := build(t, nil)
	// 16 samples * 2*16*4 multiply-accumulates + 8 * 68 parameters, 64 steps; the second has 100.
	if cost(n, 0) != chain.U128(64*(16*128+8*68)) || cost(n, 1) != chain.U128(100*(16*128+8*68)) {
		t.Errorf("costs are %v and %v", cost(n, 0), cost(n, 1))
	}
	// A task's own floor applies, whatever the parent's task was.
	s := chain.State{Height: 9, Time: n.Interval, Difficulty: chain.U128(1)}
	for i := range n.Templates {
		if got := n.NextDifficulty(s, chain.Base{Template: i}); got != chain.U128(8*cost(n, i).Lo) {
			t.Errorf("floor of template %d is %v", i, got)
		}
	}
}
