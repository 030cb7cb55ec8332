package p2p

import (
	"errors"
	"testing"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// line is three nodes, of which the first and the last know the middle one alone.
func line(t *testing.T) (a, b, c *node) {
	genesis := makeChain(0, 0)
	b = startNode(t, newFakeChain(genesis), nil)
	a = startNode(t, newFakeChain(genesis), calling(b))
	c = startNode(t, newFakeChain(genesis), calling(b))
	eventually(t, "the line stands", func() bool { return meshed(a, b) && meshed(b, c) })
	return a, b, c
}

func TestBlockIsRelayedAfterPublishOnly(t *testing.T) {
	a, b, c := line(t)
	first, second := makeBlock(a.chain.best[0], 1), makeBlock(a.chain.best[0], 2)
	for _, block := range []*chain.Block{first, second} {
		if err := a.Publish(t.Context(), block); err != nil {
			t.Fatal(err)
		}
	}
	got := map[chain.Hash]bool{b.chain.receive(t).Header.ID(): true, b.chain.receive(t).Header.ID(): true}
	if !got[first.Header.ID()] || !got[second.Header.ID()] {
		t.Fatal("the middle node was not offered both blocks")
	}
	// The second is published, and is all that the last node gets: had the first been relayed, it would have come
	// before. Then the first, which the middle node had ignored longest.
	for _, block := range []*chain.Block{second, first} {
		if err := b.Publish(t.Context(), block); err != nil {
			t.Fatal(err)
		}
		if id := c.chain.receive(t).Header.ID(); id != block.Header.ID() {
			t.Fatalf("the last node got block %s, want %s", id.Short(), block.Header.ID().Short())
		}
	}
	if len(a.chain.offered) > 0 || len(b.chain.offered) > 0 {
		t.Error("a published block came back to a node that had it")
	}
	if n := len(c.Peers()); n != 1 {
		t.Errorf("the last node has %d peers, want 1: this was no line", n)
	}
}

func TestPublishLimits(t *testing.T) {
	n := newNode(t, newFakeChain(makeChain(0, 0)), nil)
	b := makeBlock(nil, 1)
	if err := n.Publish(t.Context(), b); !errors.Is(err, ErrNotStarted) {
		t.Errorf("publish before start: %v, want %v", err, ErrNotStarted)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Publish(t.Context(), b); err != nil {
		t.Errorf("publish without peers: %v", err)
	}
	b.Transactions = [][]byte{make([]byte, maxBlockMessage)}
	if err := n.Publish(t.Context(), b); !errors.Is(err, ErrTooLarge) {
		t.Errorf("publish of a block that is too large: %v, want %v", err, ErrTooLarge)
	}
}

func TestValidatorVerdicts(t *testing.T) {
	blocks := makeChain(1, 0)
	n := newNode(t, newFakeChain(blocks), nil)
	from := newNode(t, newFakeChain(blocks), nil).ID()
	message := func(b *chain.Block) []byte {
		data, err := encodeBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	good := message(makeBlock(blocks[1], 1))
	unknownField, err := proto.Marshal(&minerdv1.Block{Canonical: makeBlock(blocks[1], 1).Bytes()})
	if err != nil {
		t.Fatal(err)
	}
	unknownField = append(unknownField, 0x10, 0x01)
	for name, c := range map[string]struct {
		data []byte
		want pubsub.ValidationResult
	}{
		"good":          {good, pubsub.ValidationIgnore},
		"orphan":        {message(makeBlock(makeBlock(blocks[1], 9), 1)), pubsub.ValidationIgnore},
		"invalid":       {message(makeBlock(blocks[1], badNonce)), pubsub.ValidationReject},
		"unknown field": {unknownField, pubsub.ValidationReject},
		"trailing byte": {append(append([]byte{}, good...), 0), pubsub.ValidationReject},
		"cut":           {good[:len(good)-1], pubsub.ValidationReject},
		"empty":         {nil, pubsub.ValidationReject},
		"too long":      {make([]byte, maxBlockMessage+1), pubsub.ValidationReject},
	} {
		if got := n.validate(t.Context(), from, &pubsub.Message{Message: &pb.Message{Data: c.data}}); got != c.want {
			t.Errorf("%s: verdict %v, want %v", name, got, c.want)
		}
	}
}

func TestSenderOfInvalidBlocksIsBanned(t *testing.T) {
	a, b, _ := line(t)
	for i := range uint64(strikesToBan) {
		bad := makeBlock(a.chain.best[0], badNonce)
		bad.Time = i
		if err := a.Publish(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		b.chain.receive(t)
	}
	eventually(t, "the sender is banned and gone", func() bool {
		return b.logged("peer banned") == 1 && !b.knows(a) && !b.connected(a.ID())
	})
	if got := b.logged("gossiped block refused"); got != strikesToBan {
		t.Errorf("%d blocks refused in the log, want %d", got, strikesToBan)
	}
	if err := b.dial(t.Context(), b.host.Peerstore().PeerInfo(a.ID())); err == nil {
		t.Error("a banned peer can be called")
	}
	if n := len(b.Peers()); n != 1 {
		t.Errorf("%d peers left, want the other one", n)
	}
}

func TestBlameIsForInvalidBlocksOnly(t *testing.T) {
	a, b, _ := line(t)
	for _, err := range []error{nil, errLocal, chain.ErrOrphan, chain.ErrFuture, &chain.InvalidError{Kind: chain.ErrVersion}} {
		b.Blame(a.ID(), err)
		if b.bans.isBanned(a.ID()) {
			t.Fatalf("banned for %v", err)
		}
	}
	b.Blame(a.ID(), &chain.InvalidError{Kind: chain.ErrTrainedRoot, Step: 128})
	eventually(t, "the liar is gone", func() bool { return !b.connected(a.ID()) })
}

func TestOrphanStartsSync(t *testing.T) {
	blocks := makeChain(5, 0)
	slow := func(cfg *Config) { cfg.Timing.StatusPoll = 1e12 } // only gossip can tell
	a := startNode(t, newFakeChain(blocks[:1]), slow)
	b := startNode(t, newFakeChain(blocks[:1]), func(cfg *Config) { slow(cfg); calling(a)(cfg) })
	eventually(t, "connected", func() bool { return meshed(a, b) })
	for _, block := range blocks[1:] {
		if err := a.chain.add(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Publish(t.Context(), blocks[5]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the orphan's ancestors are fetched", func() bool { return b.chain.height() == 5 })
}
