package nn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// ErrKnownAnswer says that an engine computes wrongly on this machine.
var ErrKnownAnswer = errors.New("known-answer test failed: this machine or this build computes wrongly and must not train or verify")

// What the plain engine gives for the trial of KnownAnswer.
const (
	knownRoot   = "8d54aad91c422800dfd6b454fa0fec4ae1068ac90d31ac601ef91f13545b85f2"
	knownLogits = "507d07fe04670f031ef0814ca3f48d5cbf522edadec082c6506cff9762036306"
)

// KnownAnswer runs a short trial on an engine that make builds and compares it with what is known to be right: 8 steps
// of a net with all kinds of layers, both paddings, a stride, and sums of more than one block.
func KnownAnswer(make func(*Net) (Engine, error)) error {
	net, err := knownModel.Build()
	if err != nil {
		return err
	}
	e, err := make(net)
	if err != nil {
		return err
	}
	defer e.Close()
	root, logits, err := knownTrial(e, net)
	if err != nil {
		return fmt.Errorf("%w: %s engine: %w", ErrKnownAnswer, e.Name(), err)
	}
	if root.String() != knownRoot || logits.String() != knownLogits {
		return fmt.Errorf("%w: %s engine: state root %s, logits %s; right are %s, %s", ErrKnownAnswer, e.Name(),
			root.Short(), logits.Short(), knownRoot[:8], knownLogits[:8])
	}
	return nil
}

var knownModel = Model{
	Input: Shape{19, 18, 1},
	Layers: []Layer{
		{Kind: Conv2D, Units: 20, KernelRows: 3, KernelCols: 3, Stride: 1, Activation: ReLU},
		{Kind: MaxPool2D, KernelRows: 2, KernelCols: 2},
		{Kind: Conv2D, Units: 9, KernelRows: 3, KernelCols: 3, Stride: 2, Padding: Same, Activation: ReLU},
		{Kind: Flatten},
		{Kind: Dense, Units: 33, Activation: ReLU},
		{Kind: Dense, Units: 5},
	},
	Loss:      SoftmaxCrossEntropy,
	Optimizer: Optimizer{Kind: Adam, LearningRate: 0.003, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-7},
	Batch:     16,
}

func knownTrial(e Engine, net *Net) (root, logits Hash, err error) {
	const samples = 64
	var draw rand.ChaCha8
	draw.Seed([32]byte{1})
	data := Samples{Size: net.Model.Input.Size()}
	for range samples {
		for range data.Size {
			data.Pixels = append(data.Pixels, byte(draw.Uint64()>>56))
		}
		data.Labels = append(data.Labels, byte(draw.Uint64()%uint64(net.Outputs)))
	}
	r, err := e.Train(context.Background(), net.Init([32]byte{2}), data, Trial{
		Steps:     8,
		BatchSeed: func(s uint32) [32]byte { return [32]byte{3, byte(s)} },
	})
	if err != nil {
		return root, logits, err
	}
	return r.Root, r.LogitsDigest, nil
}
