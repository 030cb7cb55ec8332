package node

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/descentnet/minerd/chain"
	"go.uber.org/zap"
)

func lossOf(s chain.State) float32 { return math.Float32frombits(s.Loss) }

func round(x float64) float64 { return math.Round(x*10) / 10 }

func blockFields(b *chain.Block) []zap.Field {
	return []zap.Field{
		zap.Uint64("height", b.Height), zap.Stringer("block_id", b.Header.ID()), zap.Stringer("parent_id", b.Parent),
		zap.Float32("loss_before", math.Float32frombits(b.LossBefore)), zap.Float32("loss_after", math.Float32frombits(b.LossAfter)),
		zap.Bool("advances", b.Advances()),
	}
}

// settled is told of every block that was judged: it logs the outcome once and passes valid blocks on to the peers.
func (n *Node) settled(b *chain.Block, from source, added chain.Added, took time.Duration, err error) {
	fields := append(blockFields(b), zap.Duration("elapsed", took))
	if from != ours {
		fields = append(fields, zap.String("peer_id", string(from)))
	}
	ran := 0
	for _, r := range added.Ran {
		if r {
			ran++
		}
	}
	each := took / time.Duration(max(ran, 1)) // blocks of a branch cost alike
	for i, v := range added.Verified {        // also where a later block of the branch was refused
		f := append(blockFields(v.Block), zap.Duration("elapsed", each), zap.Stringer("difficulty", v.Block.Difficulty))
		if from == ours {
			n.log.Info("block mined", f...)
		} else {
			n.log.Info("block accepted", append(f, zap.String("peer_id", string(from)), zap.Bool("executed", added.Ran[i]))...)
		}
		n.publish(v.Block)
	}
	switch {
	case err == nil && added.Side && !added.Known:
		n.log.Info("block kept beside the best chain", fields...)
	case err == nil:
	case errors.Is(err, chain.ErrVersion):
		n.log.Warn("a block has a newer version: if others run a newer minerd, so should you", append(fields, zap.Error(err))...)
	case chain.VerdictOf(err) == chain.Invalid:
		logRefused(n.log, b, from, took, err)
	case errors.Is(err, chain.ErrOrphan), errors.Is(err, chain.ErrFuture), errors.Is(err, chain.ErrSideFull), errors.Is(err, chain.ErrPostponed), errors.Is(err, context.Canceled),
		errors.Is(err, ErrDiskFull): // which was told already
		n.log.Debug("block waits", append(fields, zap.Error(err))...)
	case errors.Is(err, chain.ErrFinality):
		n.log.Error("a branch forks below the finality depth and is not adopted: if others follow it, find out which is right", append(fields, zap.Error(err))...)
	default:
		n.log.Error("block could not be judged: a fault of this machine", append(fields, zap.Error(err))...)
	}
	if added.Reverted > 0 {
		n.log.Info("reorg", zap.Int("reverted", added.Reverted), zap.Uint64("height", added.State.Height), zap.Stringer("block_id", added.State.ID))
	}
}

// logRefused names the rule that a block breaks, and the training step at which it shows.
func logRefused(log *zap.Logger, b *chain.Block, from source, took time.Duration, err error) {
	fields := append(blockFields(b), zap.String("peer_id", string(from)), zap.Duration("elapsed", took))
	var inv *chain.InvalidError
	if errors.As(err, &inv) {
		fields = append(fields, zap.String("rule", string(inv.Kind)), zap.Int("step", inv.Step))
	}
	log.Warn("block refused", append(fields, zap.Error(err))...)
}

// publish passes a block on, unless it is so old that everybody has it: what a late joiner catches up with is no news.
func (n *Node) publish(b *chain.Block) {
	const news = 10 // intervals
	if b.Time+news*n.cfg.Network.Interval > millis(n.cfg.Now()) {
		n.peers.Publish(b)
	}
}

// quietIntervals without a block are worth a warning: by chance alone they pass once in 22,000 blocks.
const quietIntervals = 10

// follow tells what becomes of the chain: the model's accuracy, tasks that end, own blocks that are lost, silence.
func (n *Node) follow(ctx context.Context) error {
	last, changed := n.manager.Best()
	quiet := time.Duration(quietIntervals*n.cfg.Network.Interval) * time.Millisecond
	silence := time.NewTimer(quiet)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-silence.C:
			n.log.Warn("no block for a long time: nobody mines, this node is cut off, or the difficulty is too high for those who mine",
				zap.Duration("for", quiet), zap.Uint64("height", last.Height), zap.Stringer("difficulty", last.Difficulty), zap.Int("peers", n.peers.Count()))
			silence.Reset(quiet)
			continue
		case <-changed:
			silence.Reset(quiet)
		}
		_, changed = n.manager.Best()
		var err error
		if last, err = n.tell(last); err != nil {
			return fmt.Errorf("following the chain: %w", err)
		}
		if err := n.reportModel(ctx, last); err != nil && ctx.Err() == nil {
			n.log.Warn("the model could not be evaluated", zap.Error(err))
		}
	}
}

// tell logs what has happened to the chain since its tip was last, and gives the new tip.
func (n *Node) tell(last chain.State) (chain.State, error) {
	for {
		reverted, applied, err := n.manager.Changes(last.ID)
		if err != nil {
			return last, err
		}
		for _, v := range reverted {
			if n.cfg.Mine && v.Block.Payout == n.cfg.Payout {
				n.log.Info("mined block orphaned", zap.Uint64("height", v.State.Height), zap.Stringer("block_id", v.State.ID))
			}
		}
		for _, v := range applied {
			n.taskEvents(v)
			last = v.State
		}
		if len(applied) == 0 {
			return last, nil
		}
	}
}

func (n *Node) taskEvents(v chain.Verified) {
	if v.State.TaskBlocks == 1 && v.State.TaskNumber > 0 {
		n.log.Info("task started", zap.Uint32("task", v.State.TaskNumber), zap.Uint64("height", v.State.Height),
			zap.String("model", n.cfg.Network.Template(v.State.TaskNumber).Name))
	}
	if next, fresh := n.cfg.Network.NextTask(v.State); fresh {
		n.log.Info("task finished", zap.Uint32("task", v.State.TaskNumber), zap.Uint32("next_task", next), zap.Uint64("height", v.State.Height),
			zap.Uint32("blocks", v.State.TaskBlocks), zap.Float32("loss", lossOf(v.State)), zap.Stringer("model_root", v.State.ModelRoot))
	}
}

// reportModel tells how good the model is on images that the rules never see, unless the node is catching up.
func (n *Node) reportModel(ctx context.Context, s chain.State) error {
	if behind := n.peers.Behind(); !s.Advanced || behind {
		return nil
	}
	n.gate.close() // the miner stands back, so that both together use no more threads than one
	defer n.gate.open()
	model, err := n.manager.Model(ctx, s.ID)
	if err != nil {
		return err
	}
	template := n.cfg.Network.TemplateIndex(s.TaskNumber)
	var loss float32
	var correct int
	err = n.onVerifier(func() (err error) {
		loss, correct, err = n.checking.Evaluate(ctx, template, model, chain.TestSplit)
		return err
	})
	if err != nil {
		return err
	}
	n.log.Info("model advanced", zap.Uint64("height", s.Height), zap.Float32("loss", lossOf(s)), zap.Float32("test_loss", loss),
		zap.Float64("test_accuracy", float64(correct)/float64(n.checking.samples(template, chain.TestSplit))), zap.Stringer("model_root", s.ModelRoot))
	return nil
}
