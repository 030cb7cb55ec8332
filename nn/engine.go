package nn

import (
	"context"
	"errors"
)

// ErrDevice says that the device under an engine failed. That engine is of no use any more; a new one may be.
var ErrDevice = errors.New("the device failed")

// Samples are labelled images: sample i has the pixels Pixels[i*Size : (i+1)*Size] (row, column, channel; byte/255 is
// the input value) and the class Labels[i].
type Samples struct {
	Pixels []byte
	Labels []byte
	Size   int // bytes of one image
}

// Len is the number of samples.
func (s Samples) Len() int { return len(s.Labels) }

// Trial says how to train: which batches, for how many steps, and which state roots to report on the way.
type Trial struct {
	Steps int
	// BatchSeed gives the seed under which the batch of step s (from 0) is drawn. Several goroutines may call it at once.
	BatchSeed func(s uint32) [32]byte
	// EarlyRoots asks for the state roots after steps 1, 2, 4, 8, ... below Steps. Roots cost time, so a miner
	// leaves them out until a trial wins.
	EarlyRoots bool
	// OnRoot, if set, gets each early root as it is made; an error ends the trial and is returned by Train as it is.
	OnRoot func(step int, root Hash) error
	// OnStep, if set, is called before every step and may block, so that a miner can stand back for a verifier. An
	// error ends the trial and is returned by Train as it is.
	OnStep func(step int) error
}

// Trained is what a trial gave.
type Trained struct {
	State        *State
	Root         Hash      // state root after the last step
	EarlyRoots   []Hash    // after steps 1, 2, 4, ... below Steps, if asked for
	LogitsDigest Hash      // root over the bits of all logits, step by step, in batch order
	BatchLosses  []float32 // mean loss of each step's batch: telemetry, it decides nothing
}

// Engine trains and evaluates one Net. All engines give the same bits. An engine is used by one goroutine at a time.
type Engine interface {
	// Name says which kernels it runs on, for logs.
	Name() string
	// Train runs the trial from start, which it leaves as it is. A value that is not finite when a root is made
	// ends it with ErrNotFinite.
	Train(ctx context.Context, start *State, data Samples, t Trial) (*Trained, error)
	// Evaluate gives the mean loss over all samples in stored order and the number classified correctly. A loss that
	// is not finite is ErrNotFinite.
	Evaluate(ctx context.Context, s *State, data Samples) (loss float32, correct int, err error)
	// Close ends the engine's goroutines and waits for them.
	Close()
}

// ManyTrainer is an Engine that trains several trials of one start side by side, faster than one after another.
type ManyTrainer interface {
	Engine
	// Width is the number of trials at once that suits the engine.
	Width() int
	// TrainMany runs up to Width trials of equal length from start. Of the trials only Steps and BatchSeed are used,
	// and OnStep of the first.
	TrainMany(ctx context.Context, start *State, data Samples, trials []Trial) ([]Outcome, error)
}

// Outcome is what a miner needs to know of a trial. Err is ErrNotFinite, or nil.
type Outcome struct {
	Root, LogitsDigest Hash
	Err                error
}
