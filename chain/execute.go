package chain

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/descentnet/minerd/nn"
)

// Split is a part of a data set.
type Split int

// The three splits. The rules never read TestSplit.
const (
	TrainSplit Split = iota
	EvaluationSplit
	TestSplit
)

// Trainer trains and evaluates templates' models on their data. Errors other than nn.ErrNotFinite are local faults.
type Trainer interface {
	Train(ctx context.Context, template int, start *nn.State, t nn.Trial) (*nn.Trained, error)
	Evaluate(ctx context.Context, template int, s *nn.State, split Split) (loss float32, correct int, err error)
}

// Execution is what training a claim really gives. One that ended at a difference is not complete: it has the early
// roots that were reached, and nothing else.
type Execution struct {
	Steps        int // of the trial
	EarlyRoots   []Hash
	Complete     bool
	Fault        *InvalidError // training it gives values that are not finite: no block of this claim is valid
	LogitsDigest Hash
	TrainedRoot  Hash
	LossAfter    uint32 // binary32 bits
}

// Trial is the trial that a claim trains.
func (n *Network) Trial(template int, claimID Hash) nn.Trial {
	return nn.Trial{
		Steps:     int(n.Templates[template].TrialSteps),
		BatchSeed: func(s uint32) [32]byte { return BatchSeed(claimID, s) },
	}
}

// EvaluateStart works out the root of a task's initial state and its evaluation loss. The loss is evaluated twice, since
// all blocks of the task hang on it: a machine's error in it would shut out the whole network. Errors are local faults.
func (n *Network) EvaluateStart(ctx context.Context, tr Trainer, task uint32) (TaskStart, error) {
	init := n.ModelInit(task)
	root, err := init.Root(1)
	if err != nil {
		return TaskStart{}, err
	}
	var losses [2]float32
	for i := range losses {
		if losses[i], _, err = tr.Evaluate(ctx, n.TemplateIndex(task), init, EvaluationSplit); err != nil {
			return TaskStart{}, err
		}
	}
	if math.Float32bits(losses[0]) != math.Float32bits(losses[1]) {
		return TaskStart{}, fmt.Errorf("evaluating the start of task %d twice gave %v and %v: this machine computes wrongly", task, losses[0], losses[1])
	}
	return TaskStart{Root: root, Loss: math.Float32bits(losses[0])}, nil
}

// Execute trains the block's claim from start, the model state of its base, and compares as it goes. The error is an
// InvalidError at the first difference; a difference in an early root ends it at once, so that a forged block costs
// about twice the training really done, plus one step. The execution and the trained state are given as far as they
// are known, also where the block is invalid: another block of the same claim is then judged without running it again.
func (n *Network) Execute(ctx context.Context, tr Trainer, template int, start *nn.State, b *Block) (*Execution, *nn.State, error) {
	t := n.Trial(template, b.Claim.ID())
	t.EarlyRoots = true
	x := &Execution{Steps: t.Steps}
	t.OnRoot = func(step int, root Hash) error {
		x.EarlyRoots = append(x.EarlyRoots, root)
		return n.CheckExecution(b, x)
	}
	trained, err := tr.Train(ctx, template, start, t)
	if errors.Is(err, nn.ErrNotFinite) {
		x.Fault = &InvalidError{Kind: ErrDiverged, Got: err.Error()}
		return x, nil, x.Fault
	}
	if err != nil {
		return x, nil, err
	}
	loss, _, err := tr.Evaluate(ctx, template, trained.State, EvaluationSplit)
	if errors.Is(err, nn.ErrNotFinite) {
		x.Fault = &InvalidError{Kind: ErrDiverged, Step: t.Steps, Got: err.Error()}
		return x, nil, x.Fault
	}
	if err != nil {
		return x, nil, err
	}
	x.LogitsDigest, x.TrainedRoot, x.LossAfter, x.Complete = trained.LogitsDigest, trained.Root, math.Float32bits(loss), true
	return x, trained.State, n.CheckExecution(b, x)
}

// CheckExecution compares a block with what its claim's training gives, as far as that is known.
func (n *Network) CheckExecution(b *Block, x *Execution) error {
	for i, root := range x.EarlyRoots {
		if b.EarlyRoots[i] != root {
			return &InvalidError{Kind: ErrEarlyRoot, Step: 1 << i, Got: b.EarlyRoots[i].Short(), Want: root.Short()}
		}
	}
	if x.Fault != nil {
		return x.Fault
	}
	if !x.Complete {
		return nil
	}
	fault := func(k Kind, got, want string) error {
		return &InvalidError{Kind: k, Step: x.Steps, Got: got, Want: want}
	}
	switch {
	case b.TrainedRoot != x.TrainedRoot:
		return fault(ErrTrainedRoot, b.TrainedRoot.Short(), x.TrainedRoot.Short())
	case b.LogitsDigest != x.LogitsDigest:
		return fault(ErrLogitsDigest, b.LogitsDigest.Short(), x.LogitsDigest.Short())
	case b.LossAfter != x.LossAfter:
		return fault(ErrLossAfter, lossText(b.LossAfter), lossText(x.LossAfter))
	}
	return nil
}

// NewBlock is the block of a claim without transactions, given what its training gave.
func NewBlock(claim Claim, base Base, x *Execution) *Block {
	b := &Block{
		Header: Header{Claim: claim, Outcome: Outcome{
			EarlyRoot:    EarlyRoot(x.EarlyRoots),
			LogitsDigest: x.LogitsDigest,
			TrainedRoot:  x.TrainedRoot,
			StateRoot:    base.Root,
			LossBefore:   base.Loss,
			LossAfter:    x.LossAfter,
		}},
		EarlyRoots: x.EarlyRoots,
	}
	if b.Advances() {
		b.StateRoot = x.TrainedRoot
	}
	return b
}
