package p2p

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// Limits of messages. Each is checked before memory for the message is taken.
const (
	// maxBlockMessage bounds a gossiped block: 61,440 bytes of canonical form and a few of protobuf.
	maxBlockMessage = 64 << 10
	// maxResponse bounds each message of an answer, of which a chunk with its proof is the longest: 64 KiB and 512 bytes.
	maxResponse = nn.ChunkSize + 1<<10
	// maxRequest holds maxLocator ids of 34 bytes.
	maxRequest = 8 << 10
	maxHello   = 1 << 10
	// maxLocator: ten ids one apart and then doubling steps come to 73 for 2^64 blocks.
	maxLocator = 128
	// maxHeaders is how many headers are asked for and sent at once: 360 KiB, in messages of headersPerMessage, 23 KiB.
	maxHeaders        = 1024
	headersPerMessage = 64
	// maxBatch is how many blocks are asked for at once; the answer ends earlier where it would be longer than
	// maxBatchBytes. Without transactions, a batch takes some 40 KB.
	maxBatch      = 64
	maxBatchBytes = 1 << 20
	// maxPeersSent and maxAddrs bound an answer of addresses: 32 * 8 * (multiaddr of some 40 bytes) are 10 KiB.
	maxPeersSent = 32
	maxAddrs     = 8
	// maxText bounds names and agent strings of others before they are kept and logged.
	maxText = 64
)

var (
	// ErrGarbage says that a peer sent what is not a message of the protocol.
	ErrGarbage = errors.New("not a message of this protocol")
	// ErrTooLarge says that a block does not fit a gossip message.
	ErrTooLarge = errors.New("block too large for gossip")
)

func garbage(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrGarbage, fmt.Errorf(format, args...))
}

// encodeBlock gives the one gossip message of a block.
func encodeBlock(b *chain.Block) ([]byte, error) {
	return encodeCanonical(b.Bytes())
}

func encodeCanonical(block []byte) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&minerdv1.Block{Canonical: block})
	if err == nil && len(data) > maxBlockMessage {
		err = fmt.Errorf("%w: %d bytes, allowed are %d", ErrTooLarge, len(data), maxBlockMessage)
	}
	return data, err
}

// decodeBlock reads a gossip message. Whatever encodeBlock would not write byte for byte is chain.ErrMalformed: with
// two messages for one block, the block would travel twice.
func decodeBlock(data []byte) (*chain.Block, error) {
	if len(data) > maxBlockMessage {
		return nil, fmt.Errorf("%w: message of %d bytes, allowed are %d", chain.ErrMalformed, len(data), maxBlockMessage)
	}
	var m minerdv1.Block
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", chain.ErrMalformed, err)
	}
	b, err := chain.ParseBlock(m.Canonical)
	if err != nil {
		return nil, err
	}
	if again, err := encodeBlock(b); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: it has another encoding", chain.ErrMalformed)
	}
	return b, nil
}

// messageID names a gossip message by its content alone, so that who relays does not matter.
func messageID(data []byte) string {
	h := sha256.Sum256(data)
	return string(h[:])
}

func statusMessage(s Status) *minerdv1.Status {
	work := s.Work.Bytes()
	return &minerdv1.Status{NetworkId: s.Network[:], Tip: s.Tip[:], Height: s.Height, TotalWork: work[:]}
}

func parseStatus(m *minerdv1.Status) (s Status, err error) {
	var work chain.Hash
	if s.Network, err = parseHash("network id", m.GetNetworkId()); err != nil {
		return s, err
	}
	if s.Tip, err = parseHash("tip", m.GetTip()); err != nil {
		return s, err
	}
	if work, err = parseHash("total work", m.GetTotalWork()); err != nil {
		return s, err
	}
	s.Height = m.GetHeight()
	s.Work = chain.WorkFromBytes(work)
	return s, nil
}

func parseHash(what string, b []byte) (h chain.Hash, err error) {
	if len(b) != len(h) {
		return h, garbage("%s of %d bytes, needed are %d", what, len(b), len(h))
	}
	copy(h[:], b)
	return h, nil
}

func headersRequest(locator []chain.Hash) *minerdv1.HeadersRequest {
	return &minerdv1.HeadersRequest{Locator: rawHashes(locator[:min(len(locator), maxLocator)]), MaxHeaders: maxHeaders}
}

func blocksRequest(ids []chain.Hash) *minerdv1.BlocksRequest {
	return &minerdv1.BlocksRequest{Ids: rawHashes(ids)}
}

func rawHashes(ids []chain.Hash) (raw [][]byte) {
	for i := range ids {
		raw = append(raw, ids[i][:])
	}
	return raw
}

// parseIDs reads a list of 1 to most block ids.
func parseIDs(what string, raw [][]byte, most int) ([]chain.Hash, error) {
	if n := len(raw); n == 0 || n > most {
		return nil, garbage("%s of %d ids, allowed are 1 to %d", what, n, most)
	}
	ids := make([]chain.Hash, len(raw))
	for i := range raw {
		var err error
		if ids[i], err = parseHash("block id", raw[i]); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func headersMessage(blocks []*chain.Block) *minerdv1.Headers {
	var canonical []byte
	for _, b := range blocks {
		canonical = append(canonical, b.Header.Bytes()...)
	}
	return &minerdv1.Headers{Canonical: canonical}
}

// parseHeaders reads the 1 to headersPerMessage headers of one message.
func parseHeaders(m *minerdv1.Headers) ([]*chain.Header, error) {
	raw := m.GetCanonical()
	if n := len(raw); n == 0 || n%chain.HeaderSize != 0 || n > headersPerMessage*chain.HeaderSize {
		return nil, garbage("%d bytes of headers, allowed are 1 to %d of %d bytes", n, headersPerMessage, chain.HeaderSize)
	}
	var headers []*chain.Header
	for ; len(raw) > 0; raw = raw[chain.HeaderSize:] {
		h, err := chain.ParseHeader(raw[:chain.HeaderSize])
		if err != nil {
			return nil, garbage("header: %w", err)
		}
		headers = append(headers, &h)
	}
	return headers, nil
}

func peersMessage(peers []peer.AddrInfo) *minerdv1.PeersResponse {
	m := &minerdv1.PeersResponse{}
	for _, p := range peers {
		w := &minerdv1.Peer{Id: []byte(p.ID)}
		for _, a := range p.Addrs {
			w.Addrs = append(w.Addrs, a.Bytes())
		}
		m.Peers = append(m.Peers, w)
	}
	return m
}

func parsePeers(m *minerdv1.PeersResponse) ([]peer.AddrInfo, error) {
	if n := len(m.GetPeers()); n > maxPeersSent {
		return nil, garbage("%d peers, allowed are %d", n, maxPeersSent)
	}
	var peers []peer.AddrInfo
	for _, w := range m.GetPeers() {
		id, err := peer.IDFromBytes(w.GetId())
		if err != nil {
			return nil, garbage("peer id: %w", err)
		}
		if n := len(w.GetAddrs()); n > maxAddrs {
			return nil, garbage("%d addresses, allowed are %d", n, maxAddrs)
		}
		info := peer.AddrInfo{ID: id}
		for _, raw := range w.GetAddrs() {
			a, err := ma.NewMultiaddrBytes(raw)
			if err != nil {
				return nil, garbage("address: %w", err)
			}
			info.Addrs = append(info.Addrs, a)
		}
		peers = append(peers, info)
	}
	return peers, nil
}

// hello is what two nodes tell each other first.
type hello struct {
	network     chain.Hash
	name, agent string
}

func (h hello) message() *minerdv1.Hello {
	return &minerdv1.Hello{NetworkId: h.network[:], NetworkName: h.name, Agent: h.agent}
}

func parseHello(m *minerdv1.Hello) (hello, error) {
	id, err := parseHash("network id", m.GetNetworkId())
	if err != nil {
		return hello{}, err
	}
	return hello{network: id, name: cut(m.GetNetworkName()), agent: cut(m.GetAgent())}, nil
}

// cut shortens what a stranger wants to have logged.
func cut(s string) string { return s[:min(len(s), maxText)] }

// messages reads and writes length-delimited messages on a stream.
type messages struct {
	network.Stream
	in *bufio.Reader
}

func newMessages(st network.Stream) *messages { return &messages{st, bufio.NewReader(st)} }

// receive reads the next message of at most limit bytes; what is no such message is ErrGarbage.
func (m *messages) receive(msg proto.Message, limit int64) error {
	err := protodelim.UnmarshalOptions{MaxSize: limit}.UnmarshalFrom(m.in, msg)
	if errors.Is(err, proto.Error) {
		return garbage("%w", err)
	}
	return err
}

func (m *messages) send(msg proto.Message) error {
	_, err := protodelim.MarshalTo(m.Stream, msg)
	return err
}
