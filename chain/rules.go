package chain

import (
	"fmt"

	"github.com/descentnet/minerd/nn"
)

// State is what the rules need to know of a chain, given its last block.
type State struct {
	ID         Hash // of the last block
	Height     uint64
	Work       Work // of all blocks but genesis, which is given
	Time       uint64
	ParentTime uint64
	Difficulty Uint128
	TaskNumber uint32
	TaskBlocks uint32 // mined blocks of the task
	TaskKept   uint32 // of those, the last ones in a row that kept
	ModelRoot  Hash   // the network's model state
	Loss       uint32 // recorded loss, binary32 bits
	Advanced   bool   // whether the last block moved the model
}

// TaskStart is where a task begins: its initial model state's root and that state's loss over the evaluation split.
type TaskStart struct {
	Root Hash
	Loss uint32
}

// Base is what the next block trains from.
type Base struct {
	TaskNumber uint32
	Task       Hash
	Template   int // index into Network.Templates
	Fresh      bool
	Root       Hash   // model state to start from
	Loss       uint32 // recorded loss
}

// TemplateIndex is the index into Templates of a task's template: they take turns.
func (n *Network) TemplateIndex(task uint32) int { return int(task % uint32(len(n.Templates))) }

// Template is the template of a task.
func (n *Network) Template(task uint32) *NetTemplate { return &n.Templates[n.TemplateIndex(task)] }

// InitSeed is the seed of a task's initial weights.
func (n *Network) InitSeed(task uint32) [32]byte {
	var e encoder
	e.u32(task)
	return tagged(tagInit, n.ID[:], e.b)
}

// TaskID is the hash over all that defines a task.
func (n *Network) TaskID(task uint32) Hash {
	t := n.Template(task)
	var e encoder
	e.u32(task)
	e.model(&t.Model)
	e.u32(t.TrialSteps)
	e.data(&t.Data)
	e.hash(n.InitSeed(task))
	return tagged(tagTask, e.b)
}

// NextTask is the number of the task in force after s, and whether it begins there: the task of s, unless it has had
// its most blocks or its last PlateauBlocks blocks all kept.
func (n *Network) NextTask(s State) (task uint32, fresh bool) {
	if s.TaskBlocks >= n.MaxTaskBlocks || s.TaskKept >= n.PlateauBlocks {
		return s.TaskNumber + 1, true
	}
	return s.TaskNumber, false
}

// Base gives what a block after s trains from. start is asked only where a task begins.
func (n *Network) Base(s State, start func(task uint32) (TaskStart, error)) (Base, error) {
	task, fresh := n.NextTask(s)
	b := Base{TaskNumber: task, Task: n.TaskID(task), Template: n.TemplateIndex(task), Fresh: fresh, Root: s.ModelRoot, Loss: s.Loss}
	if fresh {
		st, err := start(task)
		if err != nil {
			return b, fmt.Errorf("start of task %d: %w", task, err)
		}
		b.Root, b.Loss = st.Root, st.Loss
	}
	return b, nil
}

// Genesis is the block at height 0. It is given, not mined; start is that of task 0.
func (n *Network) Genesis(start TaskStart) (*Block, State) {
	b := &Block{Header: Header{
		Claim: Claim{
			Version:    Version,
			Network:    n.ID,
			Time:       n.GenesisTime,
			Difficulty: n.GenesisDifficulty,
			Task:       n.TaskID(0),
			TxRoot:     TxRoot(nil),
			LedgerRoot: n.genesis.Root(),
		},
		Outcome: Outcome{EarlyRoot: EarlyRoot(nil), StateRoot: start.Root, LossAfter: start.Loss},
	}}
	return b, State{
		ID: b.Header.ID(), Time: n.GenesisTime, Difficulty: n.GenesisDifficulty,
		ModelRoot: start.Root, Loss: start.Loss, Advanced: true,
	}
}

// GenesisLedger is the spec's allocation.
func (n *Network) GenesisLedger() Ledger { return n.genesis }

// NextDifficulty is the difficulty of a block after s that is of the base's task.
func (n *Network) NextDifficulty(s State, base Base) Uint128 {
	floor := n.floor(&n.Templates[base.Template])
	if s.Height < 2 {
		return maxU128(floor, n.GenesisDifficulty)
	}
	return nextDifficulty(s.Difficulty, s.Time-s.ParentTime, n.Interval, n.HalfLife, floor)
}

// NextClaim is the claim of a block after s, without payout and nonce. now is the local clock in Unix milliseconds.
func (n *Network) NextClaim(s State, base Base, ledger Ledger, now uint64) Claim {
	return Claim{
		Version:    Version,
		Network:    n.ID,
		Height:     s.Height + 1,
		Parent:     s.ID,
		Time:       max(now, s.Time+1),
		Difficulty: n.NextDifficulty(s, base),
		Task:       base.Task,
		TxRoot:     TxRoot(nil),
		LedgerRoot: ledger.Root(),
	}
}

// Target is what a ticket of a block with the given base and difficulty must not exceed.
func (n *Network) Target(base Base, difficulty Uint128) Hash {
	return Target(n.Templates[base.Template].Cost, difficulty)
}

// EarlyRootCount is the number of early roots of a trial: the powers of two below its steps.
func EarlyRootCount(steps uint32) int {
	k := 0
	for s := uint32(1); s < steps; s *= 2 {
		k++
	}
	return k
}

// CheckForm checks what needs no other block: sizes, version, network, early roots, losses, transactions' root.
func (n *Network) CheckForm(b *Block) error {
	if size := b.Size(); size > int(n.MaxBlockBytes) {
		return invalid(ErrTooLarge, fmt.Sprintf("%d bytes", size), fmt.Sprintf("at most %d", n.MaxBlockBytes))
	}
	if len(b.Transactions) > int(n.MaxBlockTxs) {
		return invalid(ErrTooLarge, fmt.Sprintf("%d transactions", len(b.Transactions)), fmt.Sprintf("at most %d", n.MaxBlockTxs))
	}
	if b.Version > Version {
		return invalid(ErrVersion, b.Version, Version)
	}
	if b.Version != Version {
		return &InvalidError{Kind: ErrMalformed, Got: fmt.Sprintf("version %d", b.Version)}
	}
	if b.Network != n.ID {
		return invalid(ErrNetwork, b.Network.Short(), n.ID.Short())
	}
	if b.Height == 0 {
		return &InvalidError{Kind: ErrOtherGenesis}
	}
	if root := EarlyRoot(b.EarlyRoots); root != b.EarlyRoot {
		return invalid(ErrEarlyRoots, root.Short(), b.EarlyRoot.Short())
	}
	if root := TxRoot(b.Transactions); root != b.TxRoot {
		return invalid(ErrTxRoot, root.Short(), b.TxRoot.Short())
	}
	for _, l := range []uint32{b.LossBefore, b.LossAfter} {
		if l&0x7f800000 == 0x7f800000 || l>>31 != 0 {
			return &InvalidError{Kind: ErrLossValue, Got: fmt.Sprintf("bits %08x", l)}
		}
	}
	return nil
}

// CheckClaim checks a block of good form against its parent's state s: everything of the claim but the ledger, and that
// the ticket wins.
func (n *Network) CheckClaim(s State, base Base, b *Block) error {
	t := &n.Templates[base.Template]
	switch {
	case b.Height != s.Height+1:
		return invalid(ErrHeight, b.Height, s.Height+1)
	case b.Time <= s.Time:
		return invalid(ErrTime, b.Time, fmt.Sprintf("more than %d", s.Time))
	}
	if d := n.NextDifficulty(s, base); b.Difficulty != d {
		return invalid(ErrDifficulty, b.Difficulty, d)
	}
	if b.Task != base.Task {
		return invalid(ErrTask, b.Task.Short(), fmt.Sprintf("task %d, %s", base.TaskNumber, base.Task.Short()))
	}
	if want := EarlyRootCount(t.TrialSteps); len(b.EarlyRoots) != want {
		return invalid(ErrEarlyRoots, fmt.Sprintf("%d roots", len(b.EarlyRoots)), want)
	}
	if target := n.Target(base, b.Difficulty); !Wins(b.Ticket(), target) {
		return invalid(ErrTicket, b.Ticket().Short(), "at most "+target.Short())
	}
	return nil
}

// CheckLedger checks a block's transactions and ledger root; ledger is that after its parent. It comes after the
// ticket, since the ledger of a parent far from the tip takes some work to find.
func (n *Network) CheckLedger(ledger Ledger, b *Block) error {
	if err := n.checkTransactions(b); err != nil {
		return err
	}
	if root := ledger.Root(); b.LedgerRoot != root {
		return invalid(ErrLedgerRoot, b.LedgerRoot.Short(), root.Short())
	}
	return nil
}

// checkTransactions checks what can be known of transactions without a ledger.
func (n *Network) checkTransactions(b *Block) error {
	if len(b.Transactions) > 0 {
		return &InvalidError{Kind: ErrTransaction, Got: "this version of the rules has no transactions but the reward"}
	}
	return nil
}

// CheckOutcome checks what can be known of a block's outcome without training: the recorded loss, and the state root by
// the rule that the model advances if and only if the loss fell.
func (n *Network) CheckOutcome(base Base, b *Block) error {
	if b.LossBefore != base.Loss {
		return invalid(ErrLossBefore, lossText(b.LossBefore), lossText(base.Loss))
	}
	want, rule := base.Root, "the parent's, since the loss did not fall"
	if b.Advances() {
		want, rule = b.TrainedRoot, "the trained one, since the loss fell"
	}
	if b.StateRoot != want {
		return invalid(ErrStateRoot, b.StateRoot.Short(), fmt.Sprintf("%s (%s)", want.Short(), rule))
	}
	return nil
}

func lossText(bits uint32) string { return fmt.Sprintf("%v (bits %08x)", lossValue(bits), bits) }

// Apply is the state after a valid block, and what it does to the ledger.
func (n *Network) Apply(s State, base Base, ledger Ledger, b *Block) (State, []AccountChange) {
	return n.next(s, base, b), n.changes(ledger, b)
}

func (n *Network) next(s State, base Base, b *Block) State {
	next := State{
		ID:         b.Header.ID(),
		Height:     b.Height,
		Work:       s.Work.Add(b.Difficulty),
		Time:       b.Time,
		ParentTime: s.Time,
		Difficulty: b.Difficulty,
		TaskNumber: base.TaskNumber,
		TaskBlocks: s.TaskBlocks + 1,
		TaskKept:   s.TaskKept + 1,
		ModelRoot:  b.StateRoot,
		Loss:       base.Loss,
		Advanced:   b.Advances(),
	}
	if base.Fresh {
		next.TaskBlocks, next.TaskKept = 1, 1
	}
	if next.Advanced {
		next.TaskKept = 0
		next.Loss = b.LossAfter
	}
	return next
}

func (n *Network) changes(ledger Ledger, b *Block) []AccountChange {
	r := n.Reward(b.Height, b.Advances())
	if r == 0 {
		return nil
	}
	before := ledger.Account(b.Payout)
	after := before
	after.Balance += r
	return []AccountChange{{b.Payout, before, after}}
}

// Reward is what a block's payout address gets: the initial reward halved at every halving interval, and halved again
// where the block keeps the model.
func (n *Network) Reward(height uint64, advanced bool) uint64 {
	halvings := height / n.HalvingInterval
	if !advanced {
		halvings++
	}
	if halvings > 63 {
		return 0
	}
	return n.InitialReward >> halvings
}

// ModelInit is the initial model state of a task.
func (n *Network) ModelInit(task uint32) *nn.State {
	return n.Template(task).Net.Init(n.InitSeed(task))
}
