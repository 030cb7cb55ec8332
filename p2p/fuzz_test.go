package p2p

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// fakeStream is a stream that keeps what is written to it.
type fakeStream struct {
	network.Stream
	out bytes.Buffer
}

func (s *fakeStream) Write(b []byte) (int, error) { return s.out.Write(b) }
func (s *fakeStream) SetDeadline(time.Time) error { return nil }
func (s *fakeStream) Conn() network.Conn          { return fakeConn{} }
func (s *fakeStream) messages(in []byte) *messages {
	return &messages{s, bufio.NewReader(bytes.NewReader(in))}
}
func delimited(tb testing.TB, msgs ...proto.Message) []byte {
	tb.Helper()
	var buf bytes.Buffer
	for _, m := range msgs {
		if _, err := protodelim.MarshalTo(&buf, m); err != nil {
			tb.Fatal(err)
		}
	}
	return buf.Bytes()
}

type fakeConn struct{ network.Conn }

func (fakeConn) RemoteMultiaddr() ma.Multiaddr { return ma.StringCast("/ip4/127.0.0.1/tcp/1") }

// FuzzSyncRequest feeds the server of sync what strangers send: it answers with messages of the protocol, within bounds,
// or not at all.
func FuzzSyncRequest(f *testing.F) {
	blocks := makeChain(150, 0)
	c := newFakeChain(blocks)
	ids := []chain.Hash{blocks[1].Header.ID(), blocks[2].Header.ID(), {7}}
	short := headersRequest(c.Locator())
	short.MaxHeaders = 3
	for _, req := range []*minerdv1.Request{
		{},
		{Kind: &minerdv1.Request_Status{Status: statusMessage(c.Status())}},
		{Kind: &minerdv1.Request_Headers{Headers: headersRequest([]chain.Hash{{9}, blocks[0].Header.ID()})}},
		{Kind: &minerdv1.Request_Headers{Headers: short}},
		{Kind: &minerdv1.Request_Headers{Headers: headersRequest(nil)}},
		{Kind: &minerdv1.Request_Blocks{Blocks: blocksRequest(ids)}},
		{Kind: &minerdv1.Request_Blocks{Blocks: blocksRequest(ids[2:])}},
		{Kind: &minerdv1.Request_Blocks{Blocks: blocksRequest(make([]chain.Hash, maxBatch+1))}},
		{Kind: &minerdv1.Request_Peers{Peers: &minerdv1.PeersRequest{}}},
	} {
		f.Add(delimited(f, req))
	}
	s := &Service{cfg: Config{Network: testNetwork, Log: zap.NewNop()}, log: zap.NewNop(), chain: c, peers: newPeerTable(), standings: newStandings(time.Now), requests: newRequestBudget(), syncWake: make(chan struct{}, 1)}
	f.Fuzz(func(t *testing.T, data []byte) {
		var st fakeStream
		err := s.serveSync(t.Context(), "p", st.messages(data))
		answer := messages{in: bufio.NewReader(&st.out)}
		headers, sent, ended := 0, 0, false
		for st.out.Len() > 0 || answer.in.Buffered() > 0 {
			if ended {
				t.Fatal("the answer goes on after its end")
			}
			var resp minerdv1.Response
			if err := answer.receive(&resp, maxResponse); err != nil {
				t.Fatalf("answer: %v", err)
			}
			switch kind := resp.GetKind().(type) {
			case *minerdv1.Response_Headers:
				got, err := parseHeaders(kind.Headers)
				if err != nil {
					t.Fatal(err)
				}
				headers += len(got)
			case *minerdv1.Response_Block:
				sent++
			default:
				ended = true
			}
		}
		if headers > maxHeaders || sent > maxBatch {
			t.Errorf("%d headers and %d blocks", headers, sent)
		}
		if err == nil && !ended {
			t.Error("the answer has no end")
		}
	})
}

// FuzzSyncAnswer feeds the asker of headers and blocks: it takes what was asked for, within bounds, and nothing else.
func FuzzSyncAnswer(f *testing.F) {
	blocks := makeChain(5, 0)
	asked := blocks[1:4]
	answer := func(b *chain.Block) *minerdv1.Response {
		return &minerdv1.Response{Kind: &minerdv1.Response_Block{Block: &minerdv1.Block{Canonical: b.Bytes()}}}
	}
	headers := func(b ...*chain.Block) *minerdv1.Response {
		return &minerdv1.Response{Kind: &minerdv1.Response_Headers{Headers: headersMessage(b)}}
	}
	mangled := *blocks[2]
	mangled.EarlyRoots = nil
	failure := &minerdv1.Response{Kind: &minerdv1.Response_Failure{Failure: &minerdv1.Failure{Code: minerdv1.Failure_CODE_BUSY, Message: "busy"}}}
	for _, msgs := range [][]proto.Message{
		{headers(blocks[1:]...), endMessage},
		{headers(blocks[1]), headers(blocks[2:]...), endMessage},
		{headers(blocks[3], blocks[2]), endMessage},
		{headers(), endMessage},
		{answer(blocks[1]), answer(blocks[2]), answer(blocks[3]), endMessage},
		{answer(blocks[1]), endMessage},
		{answer(blocks[1]), answer(&mangled), endMessage},
		{answer(blocks[4]), endMessage},
		{answer(blocks[1]), failure},
		{failure},
		{endMessage},
	} {
		f.Add(delimited(f, msgs...))
	}
	locator := []chain.Hash{blocks[0].Header.ID()}
	var ids []chain.Hash
	for _, b := range asked {
		ids = append(ids, b.Header.ID())
	}
	check := newFakeChain(blocks[:1]).CheckBody
	collect := func(data []byte, take func(*minerdv1.Response) error) error {
		m := messages{in: bufio.NewReader(bytes.NewReader(data))}
		for {
			resp, err := m.next()
			if err != nil || resp.GetEnd() != nil {
				return err
			}
			if err := take(resp); err != nil {
				return err
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var h headerCollector
		if err := collect(data, h.take); err == nil && checkLinks(locator, h.headers) == nil {
			for i, header := range h.headers {
				if header.Height != h.headers[0].Height+uint64(i) {
					t.Errorf("header %d has height %d", i, header.Height)
				}
			}
		}
		if len(h.headers) > maxHeaders+headersPerMessage {
			t.Errorf("%d headers were kept", len(h.headers))
		}
		c := blockCollector{ids: ids, check: check}
		_ = collect(data, c.take)
		for i, b := range c.blocks {
			if !bytes.Equal(b.Bytes(), asked[i].Bytes()) {
				t.Errorf("block %d is not the one that was asked for", i)
			}
		}
	})
}

// FuzzHeaders: what is read as headers gives the same bytes again.
func FuzzHeaders(f *testing.F) {
	blocks := makeChain(3, 0)
	f.Add(headersMessage(blocks).Canonical)
	f.Add(headersMessage(blocks[:1]).Canonical[:chain.HeaderSize-1])
	f.Add(make([]byte, (headersPerMessage+1)*chain.HeaderSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		headers, err := parseHeaders(&minerdv1.Headers{Canonical: data})
		if err != nil {
			return
		}
		var again []byte
		for _, h := range headers {
			again = append(again, h.Bytes()...)
		}
		if len(headers) > headersPerMessage || !bytes.Equal(again, data) {
			t.Errorf("%d headers with other bytes", len(headers))
		}
	})
}
