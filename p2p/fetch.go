package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

const (
	// fetchesAtOnce bounds the peers that are asked for chunks at once. Each takes a message and the chunk read from it,
	// so that all hold 1 MiB.
	fetchesAtOnce = 8
	fetchPoll     = 250 * time.Millisecond // how often new peers, and those to ask again, are looked for
)

// errBadChunk says that a peer sent a chunk that does not belong to the content, which no honest one does.
var errBadChunk = errors.New("peer sent a chunk that is not the content's")

// Wanted names a content to fetch.
type Wanted struct {
	Name   string // for the log
	Root   chain.Hash
	Length int64 // bytes, at most MaxContent
}

func (w Wanted) chunkLength(index int) int {
	return int(min(nn.ChunkSize, w.Length-int64(index)*nn.ChunkSize))
}

// Sink keeps the chunks of a content that is fetched. Its methods are called by one goroutine at a time.
type Sink interface {
	// Has says whether a chunk is there from before. It is asked once for each, before the first Put.
	Has(index int) bool
	// Put keeps a chunk that was checked against the content's root; root is its own, over its leaves. The chunk is the
	// sink's. An error ends the fetch.
	Put(index int, chunk []byte, root chain.Hash) error
}

// span is a number of consecutive chunks.
type span struct{ first, count int }

// Fetch gets the chunks of a content that the sink lacks, from all connected peers that have them. Where nobody has them
// it goes on asking until ctx ends, or the service. It fails with the sink's error, or for a content that is too long.
// The service must have been started.
func (s *Service) Fetch(ctx context.Context, want Wanted, sink Sink) error {
	if want.Length < 0 || want.Length > MaxContent {
		return fmt.Errorf("content %s of %d bytes cannot be fetched, allowed are up to %d", want.Name, want.Length, int64(MaxContent))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(s.life, cancel)()
	f := &fetching{
		s: s, want: want, sink: sink, count: nn.ChunkCount(want.Length),
		byPeer: map[peer.ID]*source{}, results: make(chan fetched), began: time.Now(),
	}
	defer f.end(cancel)
	f.plan()
	poll := time.NewTicker(fetchPoll)
	defer poll.Stop()
	report := time.NewTicker(s.cfg.Timing.Progress)
	defer report.Stop()
	for f.open > 0 || f.running > 0 {
		f.assign(ctx)
		select {
		case r := <-f.results:
			if err := f.settle(r); err != nil {
				return err
			}
		case <-poll.C:
		case <-report.C:
			s.log.Info("fetching data", f.fields(s.cfg.Timing.Progress)...)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// fetching is a content on its way. Its goroutine is Fetch's, except for put.
type fetching struct {
	s       *Service
	want    Wanted
	count   int    // chunks
	todo    []span // that nobody is asked for
	open    int    // chunks in todo
	byPeer  map[peer.ID]*source
	running int // requests
	results chan fetched
	failure error // the last one of a peer

	mu    sync.Mutex // for the sink
	sink  Sink
	bytes atomic.Int64 // that are there

	began  time.Time
	before int64 // bytes, at the last line in the log
}

// source is what is known of a peer.
type source struct {
	busy     bool
	lacks    bool // the content, at the last look
	failures int  // in a row
	retryAt  time.Time
}

// fetched is the outcome of a request: the first got chunks of the span are kept.
type fetched struct {
	peer peer.ID
	span span
	got  int
	err  error
}

// sinkError is a fault of this machine.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// plan lists what is missing.
func (f *fetching) plan() {
	for i := range f.count {
		if f.sink.Has(i) {
			f.bytes.Add(int64(f.want.chunkLength(i)))
			continue
		}
		if n := len(f.todo); n > 0 && f.todo[n-1].first+f.todo[n-1].count == i {
			f.todo[n-1].count++
		} else {
			f.todo = append(f.todo, span{i, 1})
		}
		f.open++
	}
	f.before = f.bytes.Load()
}

// assign gives each idle peer some of what is missing. One that failed last time gets a single chunk.
func (f *fetching) assign(ctx context.Context) {
	now := time.Now()
	able := 0
	var idle []peer.ID
	present := map[peer.ID]bool{}
	for _, p := range f.s.peers.snapshot() {
		id := p.info.ID
		present[id] = true
		h := f.byPeer[id]
		if h == nil {
			h = &source{}
			f.byPeer[id] = h
		}
		if h.failures == 0 {
			able++
		}
		if !h.busy && !now.Before(h.retryAt) {
			idle = append(idle, id)
		}
	}
	for id, h := range f.byPeer {
		if !present[id] && !h.busy {
			delete(f.byPeer, id)
		}
	}
	for _, id := range idle {
		if f.open == 0 || f.running == fetchesAtOnce {
			return
		}
		most := 1
		if f.byPeer[id].failures == 0 {
			// Towards the end in small pieces, so that all peers are done at about the same time.
			most = max(1, min(maxChunks, f.open/(2*able)))
		}
		f.ask(ctx, id, f.take(most))
	}
}

// take is the first of what is missing.
func (f *fetching) take(most int) span {
	s := f.todo[0]
	if s.count <= most {
		f.todo = f.todo[1:]
	} else {
		f.todo[0] = span{s.first + most, s.count - most}
		s.count = most
	}
	f.open -= s.count
	return s
}

// ask asks a peer for chunks.
func (f *fetching) ask(ctx context.Context, p peer.ID, want span) {
	c := chunkCollector{want: f.want, count: f.count, span: want, put: f.put}
	started := f.s.work.run(func() {
		req := &minerdv1.Request{Kind: &minerdv1.Request_Chunks{Chunks: chunksRequest(f.want.Root, want)}}
		err := f.s.askMany(ctx, p, req, c.take)
		if err == nil && c.got == 0 {
			err = garbage("answer without a chunk")
		}
		f.results <- fetched{p, want, c.got, err}
	})
	if !started { // the service ends, and so does ctx
		f.giveBack(want)
		return
	}
	f.byPeer[p].busy = true
	f.running++
}

func (f *fetching) put(index int, chunk []byte, root chain.Hash) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.sink.Put(index, chunk, root); err != nil {
		return &sinkError{err}
	}
	f.bytes.Add(int64(len(chunk)))
	return nil
}

func (f *fetching) giveBack(s span) {
	if s.count > 0 {
		f.todo = append([]span{s}, f.todo...)
		f.open += s.count
	}
}

// settle draws the conclusions from a request. A peer that sent a wrong chunk is banned, one that fails is left alone
// for a while, a failure of the sink ends it all.
func (f *fetching) settle(r fetched) error {
	f.running--
	f.giveBack(span{r.span.first + r.got, r.span.count - r.got})
	h := f.byPeer[r.peer]
	h.busy = false
	if r.err == nil {
		h.failures, h.lacks = 0, false
		return nil
	}
	var local *sinkError
	if errors.As(r.err, &local) {
		return local.err
	}
	if errors.Is(r.err, errBadChunk) {
		f.failure = r.err
		f.s.dropLiar(r.peer, r.err)
		return nil
	}
	var refusal *FailureError
	if h.lacks = errors.As(r.err, &refusal) && refusal.Code != minerdv1.Failure_CODE_BUSY; !h.lacks {
		f.failure = r.err
	}
	h.failures++
	wait := f.s.cfg.Timing.backoff(h.failures)
	h.retryAt = time.Now().Add(wait)
	f.s.log.Debug("chunks not delivered", zap.Stringer("peer_id", r.peer), zap.Int("failures", h.failures),
		zap.Duration("retry_in", wait.Round(time.Millisecond)), zap.Error(r.err))
	return nil
}

// end waits for the requests that are under way.
func (f *fetching) end(cancel context.CancelFunc) {
	cancel()
	for ; f.running > 0; f.running-- {
		<-f.results
	}
}

// fields describe how it goes on, with the rate since the last time.
func (f *fetching) fields(interval time.Duration) []zap.Field {
	lack, fail, able := 0, 0, 0
	for _, h := range f.byPeer {
		switch {
		case h.lacks:
			lack++
		case h.failures > 0:
			fail++
		default:
			able++
		}
	}
	now := f.bytes.Load()
	rate := float64(now-f.before) / interval.Seconds()
	f.before = now
	fields := []zap.Field{
		zap.String("content", f.want.Name), zap.Float64("percent", float64(now*1000/f.want.Length)/10), zap.Int("peers", able),
		zap.Int64("bytes_per_second", int64(rate)),
	}
	if rate > 0 {
		eta := time.Duration(float64(f.want.Length-now) / rate * float64(time.Second))
		return append(fields, zap.Duration("eta", eta.Round(time.Second)))
	}
	var waiting string
	switch {
	case len(f.byPeer) == 0:
		waiting = "peers: none is connected"
	case able > 0:
		waiting = "an answer"
	case fail > 0:
		waiting = fmt.Sprintf("peers that are asked again, after: %v", f.failure)
	default:
		waiting = fmt.Sprintf("a peer that has it: the %d connected do not", lack)
	}
	return append(fields, zap.String("waiting_for", waiting))
}

// chunkCollector takes the messages of an answer to a request for chunks. Nothing is put that is not proved.
type chunkCollector struct {
	want  Wanted
	count int // chunks of the content
	span  span
	put   func(index int, chunk []byte, root chain.Hash) error
	got   int
}

func (c *chunkCollector) take(resp *minerdv1.Response) error {
	if resp.GetChunk() == nil {
		return garbage("answer without a chunk")
	}
	if c.got == c.span.count {
		return garbage("more than the %d chunks that were asked for", c.got)
	}
	data, proof, err := parseChunk(resp.GetChunk())
	if err != nil {
		return err
	}
	i := c.span.first + c.got
	if len(data) != c.want.chunkLength(i) {
		return fmt.Errorf("%w: chunk %d of %s has %d bytes, want %d", errBadChunk, i, c.want.Root.Short(), len(data), c.want.chunkLength(i))
	}
	own, ok := nn.CheckChunk(c.want.Root, i, c.count, data, proof)
	if !ok {
		return fmt.Errorf("%w: chunk %d of %s is not proved", errBadChunk, i, c.want.Root.Short())
	}
	if err := c.put(i, data, own); err != nil {
		return err
	}
	c.got++
	return nil
}
