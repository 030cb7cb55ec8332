package chain

import (
	"errors"
	"fmt"
)

// Kind is a rule that a block can break. Kinds work with errors.Is.
type Kind string

func (k Kind) Error() string { return string(k) }

// The kinds of invalid blocks, in the order in which they are checked.
const (
	ErrMalformed     Kind = "not in canonical form"
	ErrTooLarge      Kind = "block too large"
	ErrVersion       Kind = "this network needs a newer minerd"
	ErrNetwork       Kind = "block of another network"
	ErrEarlyRoots    Kind = "early roots do not belong to the header"
	ErrLossValue     Kind = "loss is not a finite number"
	ErrHeight        Kind = "height is not the parent's plus one"
	ErrTime          Kind = "time is not after the parent's"
	ErrDifficulty    Kind = "wrong difficulty"
	ErrTask          Kind = "wrong task"
	ErrTxRoot        Kind = "transactions do not belong to the header"
	ErrTransaction   Kind = "transaction not allowed"
	ErrLedgerRoot    Kind = "wrong ledger root"
	ErrTicket        Kind = "ticket does not win"
	ErrLossBefore    Kind = "loss before is not the recorded loss"
	ErrStateRoot     Kind = "state root breaks the advance-or-keep rule"
	ErrEarlyRoot     Kind = "training differs at an early root"
	ErrTrainedRoot   Kind = "training differs at the trained root"
	ErrLogitsDigest  Kind = "training differs in its logits"
	ErrDiverged      Kind = "training gives values that are not finite"
	ErrLossAfter     Kind = "loss after is not what evaluation gives"
	ErrInvalidParent Kind = "parent is invalid"
	ErrOtherGenesis  Kind = "another block at height 0"
)

// bodyFaults are those of what travels with a header: the header's block may be good, so its id is not remembered.
var bodyFaults = map[Kind]bool{ErrMalformed: true, ErrTooLarge: true, ErrEarlyRoots: true, ErrTxRoot: true}

// InvalidError says which rule a block breaks.
type InvalidError struct {
	Kind      Kind
	Step      int // training step at which the difference showed; 0 where there is none
	Got, Want string

	computed bool // of a child whose parent's fault is not proved
}

func (e *InvalidError) Error() string {
	s := string(e.Kind)
	if e.Step > 0 {
		s += fmt.Sprintf(" after step %d", e.Step)
	}
	switch {
	case e.Want != "":
		s += fmt.Sprintf(": got %s, want %s", e.Got, e.Want)
	case e.Got != "":
		s += ": " + e.Got
	}
	return s
}

// Is makes errors.Is(err, kind) work.
func (e *InvalidError) Is(target error) bool { return target == e.Kind }

// Remember says whether the fault is one of the block, so that its id may be remembered as invalid: for good if it is
// Proved, else for a while. A version above ours is not: a newer program may know better. Nor is a parent whose own fault
// is not proved: the verdict on the parent may lapse, and then the child must not be held up.
func (e *InvalidError) Remember() bool {
	return !bodyFaults[e.Kind] && e.Kind != ErrVersion && !e.computed
}

// computedFaults are those that training or evaluation on this machine has shown: if it computed wrongly, the block may
// be good.
var computedFaults = map[Kind]bool{ErrEarlyRoot: true, ErrTrainedRoot: true, ErrLogitsDigest: true, ErrDiverged: true, ErrLossAfter: true}

// Proved says whether the fault shows without training: then no machine's error can be its cause.
func (e *InvalidError) Proved() bool { return !computedFaults[e.Kind] && !e.computed }

// invalidParent is the fault of a block whose parent, or one before it, has the given fault.
func invalidParent(which string, fault error) *InvalidError {
	var f *InvalidError
	computed := errors.As(fault, &f) && !f.Proved()
	return &InvalidError{Kind: ErrInvalidParent, Got: fmt.Sprintf("%s: %v", which, fault), computed: computed}
}

func invalid(k Kind, got, want any) error {
	return &InvalidError{Kind: k, Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
}

// Reasons why a block is not judged (yet). None of them is held against anybody.
var (
	ErrOrphan   = errors.New("parent is not known")
	ErrFuture   = errors.New("block is from the future")
	ErrFinality = errors.New("branch forks deeper than the finality depth")
	ErrNotFound = errors.New("not found")
	ErrCorrupt  = errors.New("stored data are damaged")
)

// ErrNotNow says that the store has failed and that the chain cannot be worked on until it works again: wait and ask again.
var ErrNotNow = errors.New("the store does not work now")

// notNow is a failure of the store as ErrNotNow. Damage does not go away by waiting.
func notNow(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotNow, err)
}

// Verdict is the outcome of a check.
type Verdict int

// The three outcomes. Unverified means that the block could not be judged: nothing is remembered and nobody is blamed.
const (
	Valid Verdict = iota
	Invalid
	Unverified
)

// VerdictOf maps the error of a check to its outcome: invalid only for errors that name a broken rule.
func VerdictOf(err error) Verdict {
	var inv *InvalidError
	switch {
	case err == nil:
		return Valid
	case errors.As(err, &inv) && inv.Kind != ErrVersion, errors.Is(err, ErrMalformed):
		return Invalid
	}
	return Unverified
}
