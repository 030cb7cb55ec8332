//go:build e2e

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/node"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// liar follows the chain as an honest node and makes blocks that break one rule each.
type liar struct {
	net  *chain.Network
	node *node.Node
	real chain.Trainer
	addr string
	log  *zap.Logger
}

// hostile sends a node at addr one forged block after the other, each under a new identity, and prints what it sent.
func hostile(addr, network, data string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 7*time.Minute)
	defer cancel()
	log, err := newLogger("info", "json")
	if err != nil {
		return err
	}
	net, err := specfile.Load(network)
	if err != nil {
		return err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return err
	}
	n, err := node.Open(ctx, node.Config{
		Network: net, DatasetDir: data, Threads: 1, Models: chain.DefaultModelLimits, Log: log, Now: time.Now, ReportEvery: time.Minute,
		Peers: &node.PeersConfig{Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: []string{addr}},
	})
	if err != nil {
		return err
	}
	defer n.Close()
	go func() {
		if err := n.Run(ctx); err != nil {
			log.Error("follower", zap.Error(err))
		}
	}()
	for {
		tip, changed := n.Manager().Best()
		if tip.Height >= 3 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	real, err := newTruth(net, data)
	if err != nil {
		return err
	}
	l := &liar{net: net, node: n, real: real, addr: addr, log: log}
	for _, attack := range []struct {
		name string
		make func(context.Context) (*chain.Block, chain.Kind, int, error)
	}{
		{"skipped training", l.skipped},
		{"altered last steps", l.altered},
		{"advances without a lower loss", l.advances},
		{"another's block with one bit of its loss flipped", l.flipped},
		{"misstated loss", l.misstated},
	} {
		for refused := false; !refused; {
			b, rule, step, err := attack.make(ctx)
			if err == nil {
				refused, err = l.send(ctx, b)
			}
			if err == nil && refused {
				err = json.NewEncoder(os.Stdout).Encode(sent{attack.name, b.Header.ID().String(), string(rule), step})
			}
			if err != nil {
				return fmt.Errorf("%s: %w", attack.name, err)
			}
		}
	}
	return nil
}

func (l *liar) steps() int { return int(l.net.Templates[0].TrialSteps) }

// job is the next block's claim, with a nonce that nobody else uses.
func (l *liar) job(ctx context.Context) (*chain.Job, chain.Claim, error) {
	j, err := l.node.Manager().NewJob(ctx, uint64(time.Now().UnixMilli()))
	if err != nil {
		return nil, chain.Claim{}, err
	}
	c := j.Claim
	c.Payout = chain.Address{0xad}
	c.Nonce = uint64(time.Now().UnixNano())
	return j, c, nil
}

// grind changes the trained root until the ticket wins: that costs a hash, and is why a header alone proves nothing.
func grind(j *chain.Job, c chain.Claim, x *chain.Execution) {
	id := c.ID()
	for i := 0; !chain.Wins(chain.Ticket(id, x.TrainedRoot, x.LogitsDigest), j.Target); i++ {
		x.TrainedRoot[i%32]++
	}
}

// skipped claims a trained root and a lower loss out of thin air.
func (l *liar) skipped(ctx context.Context) (*chain.Block, chain.Kind, int, error) {
	j, c, err := l.job(ctx)
	if err != nil {
		return nil, "", 0, err
	}
	x := &chain.Execution{LossAfter: j.Base.Loss - 1000}
	for range chain.EarlyRootCount(l.net.Templates[j.Base.Template].TrialSteps) {
		x.EarlyRoots = append(x.EarlyRoots, chain.Hash{1})
	}
	grind(j, c, x)
	return chain.NewBlock(c, j.Base, x), chain.ErrEarlyRoot, 1, nil
}

// train does the real work for a claim.
func (l *liar) train(ctx context.Context, j *chain.Job, c chain.Claim) (*chain.Execution, error) {
	t := l.net.Trial(j.Base.Template, c.ID())
	t.EarlyRoots = true
	r, err := l.real.Train(ctx, j.Base.Template, j.Start, t)
	if err != nil {
		return nil, err
	}
	return &chain.Execution{EarlyRoots: r.EarlyRoots, Complete: true, LogitsDigest: r.LogitsDigest, TrainedRoot: r.Root, LossAfter: j.Base.Loss - 1000}, nil
}

// altered trains honestly up to the last early root and lies about what came of it.
func (l *liar) altered(ctx context.Context) (*chain.Block, chain.Kind, int, error) {
	j, c, err := l.job(ctx)
	if err != nil {
		return nil, "", 0, err
	}
	x, err := l.train(ctx, j, c)
	if err != nil {
		return nil, "", 0, err
	}
	x.TrainedRoot[0]++
	grind(j, c, x)
	return chain.NewBlock(c, j.Base, x), chain.ErrTrainedRoot, l.steps(), nil
}

// advances moves the model although the loss did not fall.
func (l *liar) advances(ctx context.Context) (*chain.Block, chain.Kind, int, error) {
	j, c, err := l.job(ctx)
	if err != nil {
		return nil, "", 0, err
	}
	x, err := l.train(ctx, j, c)
	if err != nil {
		return nil, "", 0, err
	}
	grind(j, c, x)
	x.LossAfter = j.Base.Loss
	b := chain.NewBlock(c, j.Base, x)
	b.StateRoot = b.TrainedRoot
	return b, chain.ErrStateRoot, 0, nil
}

// flipped takes the tip and flips the lowest bit of its loss, keeping all else as the rules want it.
func (l *liar) flipped(ctx context.Context) (*chain.Block, chain.Kind, int, error) {
	for {
		ids, err := l.node.Manager().Locator()
		if err != nil {
			return nil, "", 0, err
		}
		blocks, err := l.node.Manager().After(ids[1:], 1)
		if err != nil {
			return nil, "", 0, err
		}
		if len(blocks) == 1 {
			b := *blocks[0]
			before := b.Advances()
			b.LossAfter ^= 1
			if b.Advances() == before {
				return &b, chain.ErrLossAfter, l.steps(), nil
			}
		}
		_, changed := l.node.Manager().Best()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, "", 0, ctx.Err()
		}
	}
}

// misstated does all the work of a block and states a loss that is a little too good.
func (l *liar) misstated(ctx context.Context) (*chain.Block, chain.Kind, int, error) {
	for ctx.Err() == nil {
		j, c, err := l.job(ctx)
		if err != nil {
			return nil, "", 0, err
		}
		x, err := l.train(ctx, j, c)
		if err != nil {
			return nil, "", 0, err
		}
		if chain.Wins(chain.Ticket(c.ID(), x.TrainedRoot, x.LogitsDigest), j.Target) {
			return chain.NewBlock(c, j.Base, x), chain.ErrLossAfter, l.steps(), nil
		}
	}
	return nil, "", 0, ctx.Err()
}

// send offers the block as a peer that nobody knows: by gossip, and as a chain with more work to sync from. The victim
// hangs up when it has refused the block. It has no reason to where an honest block came first: then the forged one
// claims no more work than the best chain, and is left aside without being run.
func (l *liar) send(ctx context.Context, b *chain.Block) (refused bool, err error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return false, err
	}
	victim, err := peer.AddrInfoFromString(l.addr)
	if err != nil {
		return false, err
	}
	tip, _ := l.node.Manager().Best()
	f := &forgery{honest: l.node.Manager(), block: b, status: p2p.Status{
		Network: l.net.ID, Tip: b.Header.ID(), Height: b.Height, Work: tip.Work.Add(b.Difficulty).Add(b.Difficulty),
	}}
	var met atomic.Bool // the victim, which may hang up before anybody has looked
	log := l.log.WithOptions(zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "peer connected" {
			met.Store(true)
		}
		return nil
	}))
	s, err := p2p.New(p2p.Config{
		Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: []string{l.addr}, Network: l.net.ID, NetworkName: l.net.Name,
		Version: "hostile", Log: log,
	}, f)
	if err != nil {
		return false, err
	}
	defer s.Close()
	if err := s.Start(ctx); err != nil {
		return false, err
	}
	if err := s.Publish(ctx, b); err != nil {
		return false, err
	}
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		if met.Load() && !slices.ContainsFunc(s.Peers(), func(p p2p.PeerInfo) bool { return p.ID == victim.ID }) {
			return true, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false, errors.New("the victim did not hang up")
		}
	}
	return false, nil
}

// forgery is a chain that ends in a forged block.
type forgery struct {
	honest *chain.Manager
	block  *chain.Block
	status p2p.Status
}

func (f *forgery) Status() p2p.Status                { return f.status }
func (f *forgery) Offer(peer.ID, *chain.Block) error { return nil }

func (f *forgery) Locator() []chain.Hash {
	ids, err := f.honest.Locator()
	if err != nil {
		panic(err)
	}
	return ids
}

func (f *forgery) After([]chain.Hash, int) ([]*chain.Block, error) {
	return []*chain.Block{f.block}, nil
}

func (f *forgery) Block(id chain.Hash) (*chain.Block, error) {
	if id != f.status.Tip {
		return nil, chain.ErrNotFound
	}
	return f.block, nil
}

func (f *forgery) StateAfter(chain.Hash) (chain.State, error) {
	return chain.State{}, chain.ErrNotFound // it syncs from nobody
}

func (f *forgery) CheckHeader(_ peer.ID, s chain.State, _ *chain.Header) (chain.State, error) {
	return s, nil
}

func (f *forgery) CheckBody(*chain.Block) error { return nil }

func (f *forgery) Ingest(_ context.Context, _ peer.ID, blocks []*chain.Block) (int, error) {
	return len(blocks), nil
}

// truth trains for real.
type truth struct {
	engine nn.Engine
	splits [3]nn.Samples
}

func newTruth(net *chain.Network, dir string) (*truth, error) {
	want := net.Templates[0].Data
	d := dataset.Synthetic(want.Seed, int(want.Count))
	if want.Kind == chain.IDX {
		var err error
		if d, err = dataset.Open(dir, ""); err != nil {
			return nil, err
		}
	}
	e, err := nn.NewEngine(net.Templates[0].Net, 1)
	if err != nil {
		return nil, err
	}
	t := &truth{engine: e}
	for i, r := range []chain.Range{want.Train, want.Evaluation, want.Test} {
		t.splits[i] = d.Samples(int(r.From), int(r.To))
	}
	return t, nil
}

func (t *truth) Train(ctx context.Context, _ int, start *nn.State, trial nn.Trial) (*nn.Trained, error) {
	return t.engine.Train(ctx, start, t.splits[chain.TrainSplit], trial)
}

func (t *truth) Evaluate(ctx context.Context, _ int, s *nn.State, split chain.Split) (float32, int, error) {
	return t.engine.Evaluate(ctx, s, t.splits[split])
}
