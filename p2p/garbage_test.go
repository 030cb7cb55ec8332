package p2p

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// open makes a stream, and closes it at the end of the test.
func open(t *testing.T, from, to *node, id protocol.ID) network.Stream {
	t.Helper()
	st, err := from.host.NewStream(network.WithNoDial(t.Context(), "test"), to.ID(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Reset() })
	return st
}

// drain reads to the end, which must come within the deadline.
func drain(t *testing.T, st network.Stream) error {
	t.Helper()
	_ = st.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, st)
	if isTimeout(err) {
		t.Fatal("the stream was left open")
	}
	return err
}

func TestGarbageOnEveryStream(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(1, 0)), func(cfg *Config) { cfg.Timing.Request = 300 * time.Millisecond })
	b := startNode(t, newFakeChain(makeChain(1, 0)), func(cfg *Config) {
		// For pubsub a second stream takes the place of the first, so the sender of garbage itself loses the topic.
		cfg.Timing.Watchdog = 100 * time.Millisecond
		calling(a)(cfg)
	})
	eventually(t, "connected", func() bool { return meshed(a, b) })
	noise := make([]byte, 4096)
	seed := rand.NewChaCha8([32]byte{1})
	if _, err := seed.Read(noise); err != nil {
		t.Fatal(err)
	}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	for _, id := range []protocol.ID{helloProtocol, a.syncProtocol, pubsub.GossipSubID_v12} {
		for name, content := range map[string][]byte{
			"noise":        append([]byte{60}, noise...),
			"long varint":  bytes.Repeat([]byte{0xff}, 11),
			"huge length":  huge,
			"over limit":   {0x80, 0x80, 0x20}, // 512 KiB
			"no fields":    {0},
			"wrong fields": {2, 0x7a, 0},
			"cut":          {100, 1, 2, 3},
		} {
			st := open(t, b, a, id)
			if _, err := st.Write(content); err == nil { // it may be reset already
				_ = st.CloseWrite()
			}
			if id == pubsub.GossipSubID_v12 {
				continue // pubsub answers on a stream of its own and may wait for more
			}
			if err := drain(t, st); err == nil && name != "cut" {
				t.Errorf("%s on %s: the stream was closed in peace", name, id)
			}
			eventually(t, "a request has a free place", func() bool {
				a.quotas.mu.Lock()
				defer a.quotas.mu.Unlock()
				q := a.quotas.byPeer[b.ID()]
				q.spent = 0
				return q.active == 0
			})
		}
	}
	if n := a.logs.FilterMessage("bad stream from peer").Len(); n < 10 {
		t.Errorf("%d lines in the log, want one for each bad stream", n)
	}
	// The process goes on.
	if _, err := b.askHello(t.Context(), a.ID()); err != nil {
		t.Error(err)
	}
	if _, err := b.askStatus(t.Context(), a.ID()); err != nil {
		t.Error(err)
	}
	// The watchdog may reconnect once more after all seems well, and what is published meanwhile is lost.
	nonce := uint64(5)
	eventually(t, "gossip works again", func() bool {
		if !meshed(a, b) {
			return false
		}
		nonce++
		if err := b.Publish(t.Context(), makeBlock(a.chain.best[1], nonce)); err != nil {
			t.Fatal(err)
		}
		return len(a.chain.offered) > 0
	})
}

func TestSlowStreamsAreCut(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(1, 0)), func(cfg *Config) { cfg.Timing.Request = 200 * time.Millisecond })
	b := newNode(t, newFakeChain(makeChain(1, 0)), nil)
	connect(t, b.host, a)
	for _, id := range []protocol.ID{helloProtocol, a.syncProtocol} {
		st := open(t, b, a, id)
		if _, err := st.Write([]byte{100}); err != nil { // and then no more
			t.Fatal(err)
		}
		if err := drain(t, st); err == nil {
			t.Errorf("%s: the stream was closed in peace", id)
		}
	}
}

func TestBusyRatherThanQueueing(t *testing.T) {
	a := startNode(t, newFakeChain(makeChain(1, 0)), func(cfg *Config) { cfg.Timing.StatusPoll = time.Hour })
	b := newNode(t, newFakeChain(makeChain(1, 0)), nil)
	connect(t, b.host, a)
	eventually(t, "connected", func() bool { return a.knows(b) })
	for range streamsServed {
		if _, err := open(t, b, a, a.syncProtocol).Write([]byte{100}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all places are taken", func() bool {
		a.quotas.mu.Lock()
		defer a.quotas.mu.Unlock()
		q := a.quotas.byPeer[b.ID()]
		return q != nil && q.active == streamsServed
	})
	_, err := b.askStatus(t.Context(), a.ID())
	var failure *FailureError
	if !errors.As(err, &failure) || failure.Code != minerdv1.Failure_CODE_BUSY || !isBusy(err) {
		t.Errorf("answer %v, want busy", err)
	}
}

func TestTokenBucket(t *testing.T) {
	var q quotas
	now := time.Now()
	ask := func(p peer.ID) error {
		err := q.enter(p, now)
		if err == nil {
			q.leave(p)
		}
		return err
	}
	for range requestBurst {
		if err := ask("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask("a"); !errors.Is(err, errBusy) {
		t.Errorf("after the burst: %v, want %v", err, errBusy)
	}
	if err := ask("b"); err != nil {
		t.Errorf("another peer: %v", err)
	}
	now = now.Add(time.Second)
	for range requestRate {
		if err := ask("a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask("a"); !errors.Is(err, errBusy) {
		t.Errorf("after a second's worth: %v, want %v", err, errBusy)
	}
	for i := range maxQuotas {
		_ = ask(peer.ID([]byte{byte(i), byte(i >> 8), 1}))
	}
	if len(q.byPeer) > maxQuotas {
		t.Errorf("%d peers remembered, allowed are %d", len(q.byPeer), maxQuotas)
	}
	now = now.Add(time.Hour)
	if err := ask("c"); err != nil {
		t.Errorf("after an hour: %v", err)
	}
	if len(q.byPeer) != 1 {
		t.Errorf("%d peers remembered after an hour, want 1", len(q.byPeer))
	}
}

// read is messages.receive on bytes.
func read(data []byte, msg proto.Message, limit int64) error {
	m := messages{in: bufio.NewReader(bytes.NewReader(data))}
	return m.receive(msg, limit)
}

func FuzzBlockMessage(f *testing.F) {
	blocks := makeChain(2, 7)
	blocks[2].Transactions = [][]byte{{1, 2, 3}, nil}
	for _, b := range blocks {
		data, err := encodeBlock(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, 0x10, 0x01))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBlock(data)
		if err != nil {
			return
		}
		again, err := encodeBlock(b)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("another encoding (%v)", err)
		}
	})
}

// FuzzMessages feeds the decoders of everything else that strangers send.
func FuzzMessages(f *testing.F) {
	blocks := makeChain(2, 7)
	for _, req := range []*minerdv1.Request{
		{Kind: &minerdv1.Request_Status{Status: statusMessage(newFakeChain(blocks).Status())}},
		{Kind: &minerdv1.Request_Headers{Headers: headersRequest(newFakeChain(blocks).Locator())}},
		{Kind: &minerdv1.Request_Peers{Peers: &minerdv1.PeersRequest{}}},
	} {
		var buf bytes.Buffer
		if _, err := protodelim.MarshalTo(&buf, req); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	var buf bytes.Buffer
	if _, err := protodelim.MarshalTo(&buf, hello{testNetwork, "n", "a"}.message()); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var req minerdv1.Request
		if read(data, &req, maxRequest) == nil {
			if s, err := parseStatus(req.GetStatus()); err == nil {
				if again, err := parseStatus(statusMessage(s)); err != nil || again != s {
					t.Errorf("status %+v became %+v (%v)", s, again, err)
				}
			}
			if l, err := parseIDs("locator", req.GetHeaders().GetLocator(), maxLocator); err == nil && len(l) > maxLocator {
				t.Errorf("locator of %d ids", len(l))
			}
		}
		var resp minerdv1.Response
		if read(data, &resp, maxResponse) == nil {
			if peers, err := parsePeers(resp.GetPeers()); err == nil && len(peers) > maxPeersSent {
				t.Errorf("%d peers", len(peers))
			}
		}
		var hi minerdv1.Hello
		if read(data, &hi, maxHello) == nil {
			if h, err := parseHello(&hi); err == nil && len(h.name)+len(h.agent) > 2*maxText {
				t.Errorf("hello of %d bytes", len(h.name)+len(h.agent))
			}
		}
	})
}
