package p2p

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// Content is what a node has for others beside blocks: byte strings that are known by their Merkle root. Its method may
// be called at the same time.
type Content interface {
	// Chunk gives a chunk of nn.ChunkSize bytes, the last one what is left, with its proof as of nn.ChunkTree;
	// chain.ErrNotFound where there is no such content here or it has no such chunk. The chunk is not changed.
	Chunk(root chain.Hash, index int) (chunk []byte, proof []chain.Hash, err error)
}

const (
	// maxChunks is how many chunks are asked for at once, 1 MiB as with blocks.
	maxChunks = 16
	// maxProof is the length of a proof: 16 levels above the chunks are enough for MaxContent.
	maxProof = 16
	// MaxContent is the length of the longest content that can be fetched, in bytes: 4 GiB.
	MaxContent = nn.ChunkSize << maxProof
	// uploadsAtOnce bounds the requests for chunks that are answered at once. Each holds a chunk and its message, so that
	// all take 4 MiB.
	uploadsAtOnce = 32
	// uploadRate and uploadPeerRate are the bytes per second of chunks that all peers together and each of them get. The
	// first is what a line of 150 Mbit/s carries, and takes some 10 % of a core; the second leaves room for a second peer,
	// and brings MNIST (47 MB) to one in 6 s. What was not used is lent out at once for up to uploadBurst.
	uploadRate     = 16 << 20
	uploadPeerRate = 8 << 20
	uploadBurst    = time.Second / 8 // the chunks of one request, at uploadPeerRate
)

func chunksRequest(root chain.Hash, s span) *minerdv1.ChunksRequest {
	return &minerdv1.ChunksRequest{Root: root[:], First: uint32(s.first), Count: uint32(s.count)}
}

func parseChunksRequest(m *minerdv1.ChunksRequest) (root chain.Hash, s span, err error) {
	if root, err = parseHash("root", m.GetRoot()); err != nil {
		return root, s, err
	}
	if n := m.GetCount(); n == 0 || n > maxChunks {
		return root, s, garbage("request for %d chunks, allowed are 1 to %d", n, maxChunks)
	}
	if i := m.GetFirst(); i >= 1<<maxProof {
		return root, s, garbage("request for chunk %d, the last possible one is %d", i, 1<<maxProof-1)
	}
	return root, span{int(m.GetFirst()), int(m.GetCount())}, nil
}

func chunkMessage(data []byte, proof []chain.Hash) *minerdv1.Chunk {
	m := &minerdv1.Chunk{Data: data}
	for _, h := range proof {
		m.Proof = append(m.Proof, h[:]...)
	}
	return m
}

func parseChunk(m *minerdv1.Chunk) (data []byte, proof []chain.Hash, err error) {
	raw := m.GetProof()
	if n := len(raw); n%len(chain.Hash{}) != 0 || n > maxProof*len(chain.Hash{}) {
		return nil, nil, garbage("proof of %d bytes, allowed are up to %d of %d bytes", n, maxProof, len(chain.Hash{}))
	}
	for ; len(raw) > 0; raw = raw[len(chain.Hash{}):] {
		proof = append(proof, chain.Hash(raw))
	}
	return m.GetData(), proof, nil
}

// sendChunks answers with the first of the chunks that were asked for: up to one that is not known here.
func (s *Service) sendChunks(ctx context.Context, p peer.ID, m *messages, req *minerdv1.ChunksRequest) error {
	root, want, err := parseChunksRequest(req)
	if err != nil {
		return err
	}
	if s.cfg.Content == nil {
		return s.fail(m, minerdv1.Failure_CODE_NOT_FOUND, chain.ErrNotFound)
	}
	if err := s.uploads.enter(p, time.Now()); err != nil {
		return s.fail(m, minerdv1.Failure_CODE_BUSY, err)
	}
	defer s.uploads.leave()
	// The asker gives up by then too, and who reads slowly must not keep the place for long.
	ctx, cancel := context.WithTimeout(ctx, 6*s.cfg.Timing.Stall)
	defer cancel()
	for i := range want.count {
		data, proof, err := s.cfg.Content.Chunk(root, want.first+i)
		switch {
		case errors.Is(err, chain.ErrNotFound) && i == 0:
			return s.fail(m, minerdv1.Failure_CODE_NOT_FOUND, err)
		case errors.Is(err, chain.ErrNotFound):
			return s.sendNext(m, endMessage)
		case err != nil:
			s.log.Error("data for a peer could not be read", zap.Stringer("root", root), zap.Error(err))
			return s.fail(m, minerdv1.Failure_CODE_INTERNAL, errors.New("data could not be read"))
		}
		sleep(ctx, s.uploads.reserve(p, len(data), time.Now()))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.sendNext(m, &minerdv1.Response{Kind: &minerdv1.Response_Chunk{Chunk: chunkMessage(data, proof)}}); err != nil {
			return err
		}
	}
	return s.sendNext(m, endMessage)
}

// uploads paces the sending of chunks. Each request has one chunk under way at most, so that none waits for longer than
// the chunks of all others take, an eighth of a second.
type uploads struct {
	mu     sync.Mutex
	active int
	all    debt
	byPeer map[peer.ID]*debt
}

// debt is the number of bytes that were sent and that time has not made up for yet.
type debt struct {
	bytes float64
	last  time.Time
}

// enter takes a place for a request, or gives errBusy.
func (u *uploads) enter(p peer.ID, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.active == uploadsAtOnce {
		return errBusy
	}
	if u.byPeer[p] == nil {
		if len(u.byPeer) >= maxQuotas {
			for q, d := range u.byPeer {
				if d.recover(now, uploadPeerRate); d.bytes == 0 {
					delete(u.byPeer, q)
				}
			}
		}
		if len(u.byPeer) >= maxQuotas {
			return errBusy
		}
		if u.byPeer == nil {
			u.byPeer = map[peer.ID]*debt{}
		}
		u.byPeer[p] = &debt{last: now}
	}
	u.active++
	return nil
}

func (u *uploads) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
}

// reserve says how long to wait before n bytes are sent to the peer.
func (u *uploads) reserve(p peer.ID, n int, now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	wait := u.all.add(n, now, uploadRate)
	if d := u.byPeer[p]; d != nil { // else it was forgotten meanwhile, having nothing left to make up for
		wait = max(wait, d.add(n, now, uploadPeerRate))
	}
	return wait
}

func (d *debt) recover(now time.Time, rate float64) {
	d.bytes = max(0, d.bytes-rate*now.Sub(d.last).Seconds())
	d.last = now
}

func (d *debt) add(n int, now time.Time, rate float64) time.Duration {
	d.recover(now, rate)
	wait := time.Duration(d.bytes/rate*float64(time.Second)) - uploadBurst
	d.bytes += float64(n)
	return max(0, wait)
}
