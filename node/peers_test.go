package node

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// running is a node that runs until end.
type running struct {
	*Node
	cancel context.CancelFunc
	done   chan error
}

func start(t testing.TB, mine bool, bootstrap ...string) *running {
	t.Helper()
	return startLogged(t, zap.NewNop(), mine, bootstrap...)
}

func startLogged(t testing.TB, log *zap.Logger, mine bool, bootstrap ...string) *running {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, "", mine)
	cfg.Log = log
	cfg.Peers = &PeersConfig{
		Key: key, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: bootstrap,
		Timing: p2p.Timing{StatusPoll: 200 * time.Millisecond, BackoffMin: 50 * time.Millisecond},
	}
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{n, cancel, make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	return r
}

func (r *running) end(t testing.TB) {
	t.Helper()
	r.cancel()
	if err := errors.Join(<-r.done, r.Close()); err != nil {
		t.Error(err)
	}
}

func (r *running) addr() string {
	return r.peers.(*network).service.Addrs()[0].String()
}

// reach waits until the node's best chain has the height.
func (r *running) reach(t testing.TB, height uint64) chain.State {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		tip, changed := r.Manager().Best()
		if tip.Height >= height {
			return tip
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("height %d is not reached within a minute: %d", height, tip.Height)
		}
	}
}

// Two miners and a verifier come to one chain, and so does one that joins late.
func TestNodesAgree(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	verifier := start(t, false)
	a := start(t, true, verifier.addr())
	b := start(t, true, verifier.addr())
	verifier.reach(t, 8)
	late := start(t, false, verifier.addr())
	late.reach(t, 8)
	a.end(t)
	b.end(t)

	// Nobody mines any more: all must settle on the tip with the most work.
	limit := time.After(time.Minute)
	for {
		want, changed := verifier.Manager().Best()
		got, lateChanged := late.Manager().Best()
		if got.ID == want.ID {
			break
		}
		select {
		case <-changed:
		case <-lateChanged:
		case <-limit:
			t.Fatalf("the late joiner is at %d, %v, the verifier at %d, %v", got.Height, got.ID, want.Height, want.ID)
		}
	}
	tip, _ := late.Manager().Best()
	for _, r := range []*running{verifier, late} {
		model, err := r.Manager().Model(context.Background(), tip.ID)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := model.Root(1); err != nil || root != tip.ModelRoot {
			t.Errorf("the model has the root %v (%v), want %v", root, err, tip.ModelRoot)
		}
	}
	late.end(t)
	verifier.end(t)
}

func TestGate(t *testing.T) {
	var g gate
	if err := g.wait(context.Background()); err != nil {
		t.Errorf("an open gate: %v", err)
	}
	g.close()
	g.close()
	g.open()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("closed twice and opened once: %v", err)
	}
	passed := make(chan error, 1)
	go func() { passed <- g.wait(context.Background()) }()
	g.open()
	if err := <-passed; err != nil {
		t.Error(err)
	}
}

// The queue is bounded, in all and per peer, takes a block once, and serves the tip's children first and then the
// peers in turn.
func TestQueue(t *testing.T) {
	n, err := Open(context.Background(), testConfig(t, "", false))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	tip, _ := n.Manager().Best()
	v := n.verifier
	number := uint64(0)
	add := func(from source, parent chain.Hash) error {
		number++
		b := &chain.Block{Header: chain.Header{Claim: chain.Claim{Nonce: number, Parent: parent}}}
		return v.enqueue(queued{block: b, id: b.Header.ID(), from: from, account: string(from)})
	}
	for i := range maxSidePerPeer {
		if err := add("a", chain.Hash{1}); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	if err := add("a", chain.Hash{1}); !errors.Is(err, errQueueFull) {
		t.Errorf("a peer's block too many beside the tip: %v", err)
	}
	if err := v.enqueue(v.queue[0]); err != nil || len(v.queue) != maxSidePerPeer {
		t.Errorf("a block twice: %v, %d in the queue", err, len(v.queue))
	}
	for _, err := range []error{add("b", chain.Hash{2}), add("b", chain.Hash{2}), add("c", tip.ID)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var order []source
	for range 5 {
		q, ok := v.next()
		if !ok {
			t.Fatal("the queue is empty")
		}
		order = append(order, q.from)
	}
	want := []source{"c", "a", "b", "a", "b"}
	for i := range want {
		if order[i] != want[i] {
			t.Fatalf("served %v, want %v", order, want)
		}
	}
	for range maxQueuedPerPeer {
		if err := add("d", tip.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := add("d", tip.ID); !errors.Is(err, errQueueFull) {
		t.Errorf("a peer's block too many: %v", err)
	}
	for ok := true; ok; {
		_, ok = v.next()
	}
	for from := source("e"); len(v.queue) < maxQueued; from += "e" {
		if err := add(from, chain.Hash{3}); err != nil {
			t.Fatal(err)
		}
	}
	if err := add("z", chain.Hash{3}); !errors.Is(err, errQueueFull) {
		t.Errorf("a block too many: %v", err)
	}
}

// Blocks that nobody can judge yet are held in bounded number, and none that is far away.
func TestHold(t *testing.T) {
	n, err := Open(context.Background(), testConfig(t, "", false))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	v := n.verifier
	now := millis(time.Now())
	hold := func(from source, nonce, height, at uint64) bool {
		b := &chain.Block{Header: chain.Header{Claim: chain.Claim{Nonce: nonce, Height: height, Time: at}}}
		before := len(v.held)
		v.hold(queued{block: b, id: b.Header.ID(), from: from, account: string(from)})
		return len(v.held) > before
	}
	if hold("a", 1, orphanWindow+1, now) || hold("a", 2, 1, now+60*n.cfg.Network.Interval) {
		t.Error("a block far from the tip was held")
	}
	for i := range uint64(maxHeldPerPeer) {
		if !hold("a", 10+i, 1, now) {
			t.Errorf("block %d of a peer was not held", i)
		}
	}
	if hold("a", 99, 1, now) {
		t.Error("a peer holds more than its share")
	}
	if !hold("b", 100, 1, now) {
		t.Error("another peer has no room")
	}
}
