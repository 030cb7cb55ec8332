package p2p

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// shelf is a Content of one byte string, which counts what is taken from it.
type shelf struct {
	root  chain.Hash
	bytes []byte
	tree  *nn.ChunkTree
	// change, if set, makes another answer of a chunk's.
	change func(index int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error)

	mu    sync.Mutex
	given []int // how often each chunk was asked for
}

func newShelf(length int) *shelf {
	b := make([]byte, length)
	_, _ = rand.NewChaCha8([32]byte{byte(length)}).Read(b)
	return shelfOf(b)
}

func shelfOf(b []byte) *shelf {
	tree := nn.NewChunkTree(b)
	return &shelf{root: nn.BytesRoot(b), bytes: b, tree: tree, given: make([]int, tree.Count())}
}

func (s *shelf) Chunk(root chain.Hash, index int) ([]byte, []chain.Hash, error) {
	if root != s.root || index >= s.tree.Count() {
		return nil, nil, chain.ErrNotFound
	}
	s.mu.Lock()
	s.given[index]++
	s.mu.Unlock()
	lo := index * nn.ChunkSize
	chunk, proof := s.bytes[lo:min(lo+nn.ChunkSize, len(s.bytes))], s.tree.Proof(index)
	if s.change != nil {
		return s.change(index, chunk, proof)
	}
	return chunk, proof, nil
}

func (s *shelf) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.given {
		n += g
	}
	return n
}

func (s *shelf) wanted() Wanted { return Wanted{"digits", s.root, int64(len(s.bytes))} }

// basket is a Sink in memory.
type basket struct {
	bytes []byte
	has   []bool
	put   []int
	fault error
}

func newBasket(w Wanted) *basket {
	n := nn.ChunkCount(w.Length)
	return &basket{bytes: make([]byte, w.Length), has: make([]bool, n), put: make([]int, n)}
}

func (b *basket) Has(index int) bool { return b.has[index] }

func (b *basket) Put(index int, chunk []byte, root chain.Hash) error {
	if b.fault != nil {
		return b.fault
	}
	if root != nn.BytesRoot(chunk) {
		return errors.New("wrong root of a chunk")
	}
	copy(b.bytes[index*nn.ChunkSize:], chunk)
	b.has[index] = true
	b.put[index]++
	return nil
}

func serving(c Content) func(*Config) { return func(cfg *Config) { cfg.Content = c } }

// fetcher is a service that is there to fetch, from the given ones.
func fetcher(t *testing.T, change func(*Config), from ...*node) *node {
	t.Helper()
	return startNode(t, newFakeChain(makeChain(0, 0)), func(cfg *Config) {
		cfg.ContentOnly = true
		calling(from...)(cfg)
		if change != nil {
			change(cfg)
		}
	})
}

func server(t *testing.T, c Content) *node {
	t.Helper()
	return startNode(t, newFakeChain(makeChain(1, 0)), serving(c))
}

func TestFetch(t *testing.T) {
	for _, length := range []int{1, nn.LeafSize, nn.ChunkSize, nn.ChunkSize + 1, 40*nn.ChunkSize - 1, 33*nn.ChunkSize + 5*nn.LeafSize} {
		s := newShelf(length)
		a, b := server(t, s), server(t, s)
		n := fetcher(t, nil, a, b)
		w := s.wanted()
		into := newBasket(w)
		if err := n.Fetch(t.Context(), w, into); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(into.bytes, s.bytes) {
			t.Errorf("%d bytes: other bytes came", length)
		}
		if got := s.total(); got != len(s.given) {
			t.Errorf("%d bytes: %d chunks were sent of %d", length, got, len(s.given))
		}
	}
}

// One peer sends poisoned chunks, one does not answer and one has only some: the fourth makes up for all of them.
func TestFetchFromBadPeers(t *testing.T) {
	s := newShelf(60*nn.ChunkSize + 77)
	released := make(chan struct{})
	var first sync.Once
	asked := make(chan struct{}) // by now, the poisoner was asked
	poisoner, staller, partial := shelfOf(s.bytes), shelfOf(s.bytes), shelfOf(s.bytes)
	poisoner.change = func(_ int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error) {
		first.Do(func() { close(asked) })
		chunk = slices.Clone(chunk)
		chunk[len(chunk)/2] ^= 1
		return chunk, proof, nil
	}
	staller.change = func(_ int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error) {
		<-released
		return chunk, proof, nil
	}
	partial.change = func(i int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error) {
		if i%5 == 4 {
			return nil, nil, chain.ErrNotFound
		}
		return chunk, proof, nil
	}
	s.change = func(_ int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error) {
		<-asked
		return chunk, proof, nil
	}
	bad, slow, some, good := server(t, poisoner), server(t, staller), server(t, partial), server(t, s)
	t.Cleanup(func() { close(released) }) // before the services are closed, which wait for it
	n := fetcher(t, func(cfg *Config) { cfg.Timing.Stall = 2 * time.Second }, bad, slow, some, good)
	eventually(t, "all are connected", func() bool { return n.knows(bad) && n.knows(slow) && n.knows(some) && n.knows(good) })
	w := s.wanted()
	into := newBasket(w)
	if err := n.Fetch(t.Context(), w, into); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(into.bytes, s.bytes) {
		t.Error("other bytes came")
	}
	if i := slices.IndexFunc(into.put, func(n int) bool { return n != 1 }); i >= 0 {
		t.Errorf("chunk %d was put %d times", i, into.put[i])
	}
	if !n.bans.isBanned(bad.ID()) {
		t.Error("who sends poisoned chunks is not banned")
	}
	for name, p := range map[string]*node{"stalls": slow, "has some": some, "has all": good} {
		if n.bans.isBanned(p.ID()) {
			t.Errorf("the peer that %s is banned", name)
		}
	}
	if staller.total() == 0 || partial.total() == 0 {
		t.Error("not all peers were asked")
	}
}

// What nobody has is asked for until the caller gives up; the log says what is waited for.
func TestFetchOfUnknown(t *testing.T) {
	s := newShelf(3 * nn.ChunkSize)
	without, other := server(t, nil), server(t, newShelf(2*nn.ChunkSize))
	n := fetcher(t, func(cfg *Config) { cfg.Timing.Progress = 50 * time.Millisecond }, without, other)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Fetch(ctx, s.wanted(), newBasket(s.wanted())) }()
	eventually(t, "the log says that nobody has it", func() bool {
		for _, line := range n.logs.FilterMessage("fetching data").All() {
			if text, _ := line.ContextMap()["waiting_for"].(string); strings.Contains(text, "the 2 connected do not") {
				return true
			}
		}
		return false
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the fetch ended with %v", err)
	}
	if n.bans.isBanned(without.ID()) || n.bans.isBanned(other.ID()) {
		t.Error("a peer is banned for not having it")
	}
}

// A peer that gets the content later is asked again.
func TestFetchFromLatecomer(t *testing.T) {
	s := newShelf(2*nn.ChunkSize + 1)
	var ready sync.Map
	s.change = func(_ int, chunk []byte, proof []chain.Hash) ([]byte, []chain.Hash, error) {
		if _, ok := ready.LoadOrStore("asked before", true); !ok {
			return nil, nil, chain.ErrNotFound
		}
		return chunk, proof, nil
	}
	n := fetcher(t, nil, server(t, s))
	into := newBasket(s.wanted())
	if err := n.Fetch(t.Context(), s.wanted(), into); err != nil || !bytes.Equal(into.bytes, s.bytes) {
		t.Errorf("the fetch ended with %v", err)
	}
}

func TestFetchErrors(t *testing.T) {
	s := newShelf(20 * nn.ChunkSize)
	a := server(t, s)
	n := fetcher(t, nil, a)
	full := errors.New("disk full")
	into := newBasket(s.wanted())
	into.fault = full
	if err := n.Fetch(t.Context(), s.wanted(), into); !errors.Is(err, full) {
		t.Errorf("with a full disk: %v", err)
	}
	if n.bans.isBanned(a.ID()) || !n.knows(a) {
		t.Error("a peer is blamed for the disk")
	}
	for _, length := range []int64{-1, MaxContent + 1} {
		if err := n.Fetch(t.Context(), Wanted{"long", s.root, length}, nil); err == nil {
			t.Errorf("%d bytes are fetched", length)
		}
	}
	// The end of the service ends a fetch.
	done := make(chan error, 1)
	go func() {
		w := s.wanted()
		w.Root[0]++
		done <- n.Fetch(context.Background(), w, newBasket(w))
	}()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the fetch of a closed service ended with %v", err)
	}
}

// A fetch takes what is there from before, and asks for the rest alone.
func TestFetchResumed(t *testing.T) {
	s := newShelf(50*nn.ChunkSize + 9)
	n := fetcher(t, nil, server(t, s), server(t, s))
	into := newBasket(s.wanted())
	left := 0
	for i := range into.has {
		if into.has[i] = i%7 < 3; into.has[i] {
			copy(into.bytes[i*nn.ChunkSize:], s.bytes[i*nn.ChunkSize:min((i+1)*nn.ChunkSize, len(s.bytes))])
		} else {
			left++
		}
	}
	if err := n.Fetch(t.Context(), s.wanted(), into); err != nil || !bytes.Equal(into.bytes, s.bytes) {
		t.Errorf("the fetch ended with %v", err)
	}
	if got := s.total(); got != left {
		t.Errorf("%d chunks were sent, %d were missing", got, left)
	}
}

func TestUploads(t *testing.T) {
	var u uploads
	now := time.Unix(1000, 0)
	for range uploadsAtOnce {
		if err := u.enter("a", now); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.enter("b", now); !errors.Is(err, errBusy) {
		t.Errorf("one request too many: %v", err)
	}
	u.leave()
	if err := u.enter("b", now); err != nil {
		t.Errorf("a place is free: %v", err)
	}
	// Who takes each chunk when it may, gets the rate; so do all together.
	rate := func(peers ...peer.ID) float64 {
		begin, sent := now, 0
		for now.Before(begin.Add(10 * time.Second)) {
			var wait time.Duration
			for _, p := range peers {
				wait = max(wait, u.reserve(p, nn.ChunkSize, now))
				sent += nn.ChunkSize
			}
			now = now.Add(max(wait, time.Microsecond))
		}
		return float64(sent) / now.Sub(begin).Seconds()
	}
	if got := rate("a"); got < uploadPeerRate || got > 1.05*uploadPeerRate {
		t.Errorf("one peer gets %.0f bytes per second", got)
	}
	now = now.Add(time.Minute)
	for i := range 8 {
		u.leave()
		if err := u.enter(peer.ID(rune('p'+i)), now); err != nil {
			t.Fatal(err)
		}
	}
	if got := rate("p", "q", "r", "s", "t", "u", "v", "w"); got < uploadRate || got > 1.05*uploadRate {
		t.Errorf("eight peers get %.0f bytes per second", got)
	}
	// The memory of who got how much is bounded, and a peer that was quiet is forgotten.
	u = uploads{byPeer: map[peer.ID]*debt{}}
	for i := range maxQuotas {
		u.byPeer[peer.ID(rune(1000+i))] = &debt{bytes: 1, last: now}
	}
	if err := u.enter("new", now); !errors.Is(err, errBusy) {
		t.Errorf("a full table: %v", err)
	}
	if err := u.enter("new", now.Add(time.Second)); err != nil || len(u.byPeer) != 1 {
		t.Errorf("a table of quiet peers: %v, %d entries", err, len(u.byPeer))
	}
}

// FuzzChunksRequest feeds the server of chunks: it answers with chunks that are proved, or not at all.
func FuzzChunksRequest(f *testing.F) {
	shelf := newShelf(5*nn.ChunkSize + 3)
	for _, m := range []*minerdv1.ChunksRequest{
		{}, chunksRequest(shelf.root, span{0, 1}), chunksRequest(shelf.root, span{4, 16}), chunksRequest(shelf.root, span{6, 1}),
		chunksRequest(shelf.root, span{0, 17}), chunksRequest(chain.Hash{1}, span{0, 1}), {Root: shelf.root[:], First: 1<<32 - 1, Count: 16},
	} {
		f.Add(delimited(f, &minerdv1.Request{Kind: &minerdv1.Request_Chunks{Chunks: m}}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Service{cfg: Config{Network: testNetwork, Log: zap.NewNop(), Content: shelf}, log: zap.NewNop(), chain: newFakeChain(makeChain(1, 0)),
			peers: newPeerTable(), syncWake: make(chan struct{}, 1)}
		s.cfg.Timing = s.cfg.Timing.withDefaults()
		var st fakeStream
		err := s.serveSync(t.Context(), "p", st.messages(data))
		answer := messages{in: bufio.NewReader(&st.out)}
		chunks, ended := 0, false
		for st.out.Len() > 0 || answer.in.Buffered() > 0 {
			var resp minerdv1.Response
			if err := answer.receive(&resp, maxResponse); err != nil || ended {
				t.Fatalf("the answer goes on with %v", err)
			}
			c := resp.GetChunk()
			if ended = c == nil; ended {
				continue
			}
			data, proof, err := parseChunk(c)
			if err != nil {
				t.Fatal(err)
			}
			if !proved(shelf, data, proof) {
				t.Error("a chunk is not proved")
			}
			chunks++
		}
		if chunks > maxChunks || err == nil && !ended {
			t.Errorf("%d chunks, end %v", chunks, ended)
		}
	})
}

// proved says whether the chunk is one of the shelf's.
func proved(s *shelf, data []byte, proof []chain.Hash) bool {
	for i := range s.tree.Count() {
		if _, ok := nn.CheckChunk(s.root, i, s.tree.Count(), data, proof); ok {
			return true
		}
	}
	return false
}

// FuzzChunksAnswer feeds the asker of chunks: what it puts is what was asked for.
func FuzzChunksAnswer(f *testing.F) {
	// Short chunks would be better to fuzz; the last one is.
	s := newShelf(2*nn.ChunkSize + 40)
	w := s.wanted()
	message := func(i int) *minerdv1.Chunk {
		data, proof, err := s.Chunk(s.root, i)
		if err != nil {
			f.Fatal(err)
		}
		return chunkMessage(data, proof)
	}
	response := func(c *minerdv1.Chunk) proto.Message {
		return &minerdv1.Response{Kind: &minerdv1.Response_Chunk{Chunk: c}}
	}
	long, forged, cut := message(2), message(2), message(2)
	long.Proof = append(long.Proof, make([]byte, 32*maxProof)...)
	forged.Data = append([]byte{forged.Data[0] + 1}, forged.Data[1:]...)
	cut.Proof = cut.Proof[:31]
	for _, msgs := range [][]proto.Message{
		{response(message(2)), endMessage}, {response(message(2)), response(message(2)), endMessage}, {response(long)}, {response(forged)},
		{response(cut)}, {response(message(0))}, {response(&minerdv1.Chunk{})}, {endMessage},
		{&minerdv1.Response{Kind: &minerdv1.Response_Failure{Failure: &minerdv1.Failure{Code: minerdv1.Failure_CODE_NOT_FOUND}}}},
	} {
		f.Add(delimited(f, msgs...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for first := range 3 {
			into := newBasket(w)
			c := chunkCollector{want: w, count: 3, span: span{first, 1}, put: into.Put}
			m := messages{in: bufio.NewReader(bytes.NewReader(data))}
			for {
				resp, err := m.next()
				if err != nil || resp.GetEnd() != nil || c.take(resp) != nil {
					break
				}
			}
			for i, has := range into.has {
				lo, hi := i*nn.ChunkSize, min((i+1)*nn.ChunkSize, len(s.bytes))
				if has && (i != first || !bytes.Equal(into.bytes[lo:hi], s.bytes[lo:hi])) {
					t.Errorf("chunk %d was put where %d was asked for", i, first)
				}
			}
			if c.got > 1 {
				t.Errorf("%d chunks were put", c.got)
			}
		}
	})
}
