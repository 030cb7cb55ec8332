package chain_test

import (
	"errors"
	"testing"

	"github.com/descentnet/minerd/chain"
)

func TestNextTask(t *testing.T) {
	n := build(t, func(s *chain.Spec) { s.MaxTaskBlocks, s.PlateauBlocks = 10, 4 })
	for _, c := range []struct {
		number, blocks, kept uint32
		next                 uint32
		fresh                bool
	}{
		{0, 0, 0, 0, false},
		{0, 9, 3, 0, false},
		{0, 10, 0, 1, true},
		{0, 4, 4, 1, true},
		{0, 4, 3, 0, false},
		{7, 9, 4, 8, true},
		{7, 10, 4, 8, true},
		{7, 1, 1, 7, false},
	} {
		next, fresh := n.NextTask(chain.State{TaskNumber: c.number, TaskBlocks: c.blocks, TaskKept: c.kept})
		if next != c.next || fresh != c.fresh {
			t.Errorf("after %+v comes task %d, fresh %v", c, next, fresh)
		}
	}
}

func TestTemplatesRotate(t *testing.T) {
	n := build(t, func(s *chain.Spec) { s.MaxTaskBlocks = 1 })
	start := func(task uint32) (chain.TaskStart, error) {
		return chain.TaskStart{Root: chain.Hash{byte(task)}, Loss: task}, nil
	}
	for task := range uint32(5) {
		s := chain.State{TaskNumber: task, TaskBlocks: 1, ModelRoot: chain.Hash{99}, Loss: 99}
		got, err := n.Base(s, start)
		want := chain.Base{
			TaskNumber: task + 1, Task: n.TaskID(task + 1), Template: int(task+1) % 2, Fresh: true, Root: chain.Hash{byte(task + 1)}, Loss: task + 1,
		}
		if err != nil || got != want {
			t.Errorf("after task %d: %+v, %v", task, got, err)
		}
		if n.Template(task) != &n.Templates[task%2] {
			t.Errorf("task %d has template %q", task, n.Template(task).Name)
		}
		s.TaskBlocks = 0 // the task goes on: its start is not asked for
		got, err = n.Base(s, func(uint32) (chain.TaskStart, error) { return chain.TaskStart{}, errors.New("asked") })
		want = chain.Base{TaskNumber: task, Task: n.TaskID(task), Template: int(task) % 2, Root: chain.Hash{99}, Loss: 99}
		if err != nil || got != want {
			t.Errorf("within task %d: %+v, %v", task, got, err)
		}
	}
	none := errors.New("no start")
	if _, err := n.Base(chain.State{TaskBlocks: 1}, func(uint32) (chain.TaskStart, error) { return chain.TaskStart{}, none }); !errors.Is(err, none) {
		t.Errorf("error is %v", err)
	}
}

// TestTasksOnTheChain mines over the ends of tasks: one that has had its most blocks, one that nobody improved.
func TestTasksOnTheChain(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.MaxTaskBlocks, s.PlateauBlocks = 5, 3 })
	n := newNode(w)
	l := w.genesis()
	up, keep := how{want: advancing}, how{want: keeping}
	for i, c := range []struct {
		how                  how
		number, blocks, kept uint32
	}{
		{up, 0, 1, 0}, {up, 0, 2, 0}, {keep, 0, 3, 1}, {keep, 0, 4, 2}, {up, 0, 5, 0}, // five blocks
		{up, 1, 1, 0}, {keep, 1, 2, 1}, {keep, 1, 3, 2}, {keep, 1, 4, 3}, // three kept
		{up, 2, 1, 0},
	} {
		l = w.mine(l, c.how)
		s := l.state
		if s.TaskNumber != c.number || s.TaskBlocks != c.blocks || s.TaskKept != c.kept {
			t.Errorf("block %d: task %d, blocks %d, kept %d, want %+v", i+1, s.TaskNumber, s.TaskBlocks, s.TaskKept, c)
		}
		if l.base.Fresh {
			start, err := w.start(c.number)
			if err != nil || l.block.LossBefore != start.Loss || l.base.Root != start.Root {
				t.Errorf("block %d does not begin at the start of task %d: %v", i+1, c.number, err)
			}
		}
		if l.block.Task != w.TaskID(c.number) {
			t.Errorf("block %d is of task %v", i+1, l.block.Task)
		}
		n.add(l)
	}
	n.at(l)
	// The floor of a task's difficulty is that of its own template.
	for a := l; a.parent != nil; a = a.parent {
		if floor := chain.U128(8 * w.Templates[a.base.Template].Cost.Lo); a.state.Difficulty.Cmp(floor) < 0 {
			t.Errorf("difficulty at height %d is %v", a.state.Height, a.state.Difficulty)
		}
	}
	for a := l; a != nil; a = a.parent {
		n.hasModel(a)
	}
}

// TestFreshTaskKept: the first block of a task may keep; the model is then the task's initial one.
func TestFreshTaskKept(t *testing.T) {
	w := newWorld(t, func(s *chain.Spec) { s.MaxTaskBlocks = 1 })
	l := w.mine(w.genesis(), how{})
	l.state.TaskKept = 3
	base, err := w.Base(l.state, w.start)
	if err != nil {
		t.Fatal(err)
	}
	b := chain.NewBlock(w.NextClaim(l.state, base, l.ledger, 0), base, &chain.Execution{LossAfter: base.Loss})
	s, _ := w.Apply(l.state, base, l.ledger, b)
	if s.TaskNumber != 1 || s.TaskBlocks != 1 || s.TaskKept != 1 || s.ModelRoot != base.Root || s.Loss != base.Loss || s.Advanced {
		t.Errorf("state is %+v", s)
	}
}

func TestReward(t *testing.T) {
	n := build(t, func(s *chain.Spec) { s.InitialReward, s.HalvingInterval = 1001, 10 })
	for _, c := range []struct {
		height   uint64
		advanced bool
		want     uint64
	}{
		{1, true, 1001}, {1, false, 500}, {9, true, 1001}, {10, true, 500}, {10, false, 250}, {19, true, 500}, {20, true, 250},
		{99, true, 1}, {99, false, 0}, {100, true, 0}, {640, true, 0}, {1 << 60, true, 0}, {1<<64 - 1, false, 0},
	} {
		if got := n.Reward(c.height, c.advanced); got != c.want {
			t.Errorf("height %d, advanced %v: %d, want %d", c.height, c.advanced, got, c.want)
		}
	}
	most := build(t, func(s *chain.Spec) { s.InitialReward, s.HalvingInterval = 1<<60, 1 })
	if a, b := most.Reward(60, true), most.Reward(61, true); a != 1 || b != 0 {
		t.Errorf("rewards end with %d, %d", a, b)
	}
}

func TestApplyPaysReward(t *testing.T) {
	w := newWorld(t, nil)
	g := w.genesis()
	up, keep := w.mine(g, how{want: advancing}), w.mine(g, how{})
	keep.block.LossAfter = keep.block.LossBefore // as if it had kept
	for reward, b := range map[uint64]*chain.Block{1000: up.block, 500: keep.block} {
		base, err := w.Base(g.state, w.start)
		if err != nil {
			t.Fatal(err)
		}
		b.Payout = chain.Address{1}
		_, changes := w.Apply(g.state, base, g.ledger, b)
		want := chain.AccountChange{Address: chain.Address{1}, Before: chain.Account{Balance: 500}, After: chain.Account{Balance: 500 + reward}}
		if len(changes) != 1 || changes[0] != want {
			t.Errorf("changes are %+v", changes)
		}
	}
	s := testSpec()
	s.InitialReward = 0
	n, err := s.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, changes := n.Apply(g.state, chain.Base{}, g.ledger, up.block); len(changes) != 0 {
		t.Errorf("a reward of nothing changes %+v", changes)
	}
}
