package p2p

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

const (
	// streamsServed is how many requests of one peer are worked on at once. Each holds at most the blocks of one message
	// of headers, 4 MiB at worst.
	streamsServed = 4
	// A peer may ask burst requests at once and rate per second. A poll, a message of headers and a batch of blocks take
	// one each: 16 are the headers and blocks of 512 blocks, more than most machines verify in a second.
	requestRate  = 16
	requestBurst = 64
	// maxQuotas bounds the memory of who asked how much; an entry takes some 100 bytes.
	maxQuotas = 1024
)

// errBusy is answered where a peer asks too much.
var errBusy = errors.New("too many requests")

// stream wraps the handler of a protocol: limits per peer, a deadline from the start, and a reset when it fails.
func (s *Service) stream(id protocol.ID, handle func(context.Context, peer.ID, *messages) error) network.StreamHandler {
	return func(st network.Stream) {
		if !s.work.enter() {
			_ = st.ResetWithError(network.StreamShutdown)
			return
		}
		defer s.work.leave()
		p := st.Conn().RemotePeer()
		_ = st.SetDeadline(time.Now().Add(s.cfg.Timing.Request))
		m := newMessages(st)
		err := s.enter(p)
		if err == nil {
			err = handle(s.life, p, m)
			s.quotas.leave(p)
		} else if id == s.syncProtocol {
			err = s.fail(m, minerdv1.Failure_CODE_BUSY, err)
		}
		if err == nil {
			_ = st.Close()
			return
		}
		s.logBadStream(p, id, err)
		switch {
		case errors.Is(err, ErrGarbage):
			_ = st.ResetWithError(network.StreamProtocolViolation)
		case errors.Is(err, errBusy):
			_ = st.ResetWithError(network.StreamRateLimited)
		default:
			_ = st.Reset()
		}
	}
}

// logBadStream warns of each peer once; more of the same is for those who look closer.
func (s *Service) logBadStream(p peer.ID, id protocol.ID, err error) {
	say := s.log.Debug
	if errors.Is(err, ErrGarbage) && s.once.first("garbage "+string(p)) {
		say = s.log.Warn
	}
	say("bad stream from peer", zap.Stringer("peer_id", p), zap.String("protocol", string(id)), zap.Error(err))
}

// fail sends why there is no answer.
func (s *Service) fail(m *messages, code minerdv1.Failure_Code, reason error) error {
	return m.send(&minerdv1.Response{Kind: &minerdv1.Response_Failure{
		Failure: &minerdv1.Failure{Code: code, Message: reason.Error()},
	}})
}

func (s *Service) serveHello(_ context.Context, p peer.ID, m *messages) error {
	var msg minerdv1.Hello
	if err := m.receive(&msg, maxHello); err != nil {
		return err
	}
	theirs, err := parseHello(&msg)
	if err != nil {
		return err
	}
	if err := m.send(s.hello().message()); err != nil {
		return err
	}
	if theirs.network != s.cfg.Network {
		// The connection is left to the side that asks, which closes it after it has read our answer. Both do ask.
		s.noteForeign(p, theirs)
	}
	return nil
}

func (s *Service) serveSync(ctx context.Context, p peer.ID, m *messages) error {
	var req minerdv1.Request
	if err := m.receive(&req, maxRequest); err != nil {
		return err
	}
	err := s.answer(ctx, p, m, &req)
	if errors.Is(err, ErrGarbage) {
		_ = s.fail(m, minerdv1.Failure_CODE_BAD_REQUEST, err)
	}
	return err
}

func (s *Service) answer(ctx context.Context, p peer.ID, m *messages, req *minerdv1.Request) error {
	switch kind := req.GetKind().(type) {
	case *minerdv1.Request_Status:
		theirs, err := parseStatus(kind.Status)
		if err != nil {
			return err
		}
		if theirs.Network != s.cfg.Network {
			return s.fail(m, minerdv1.Failure_CODE_WRONG_NETWORK, foreignError(theirs.Network, "", s.hello()))
		}
		if s.peers.update(p, theirs) && s.ahead(theirs) {
			poke(s.syncWake)
		}
		return m.send(&minerdv1.Response{Kind: &minerdv1.Response_Status{Status: statusMessage(s.chain.Status())}})
	case *minerdv1.Request_Headers:
		locator, err := parseIDs("locator", kind.Headers.GetLocator(), maxLocator)
		if err != nil {
			return err
		}
		return s.sendHeaders(p, m, locator, int(min(kind.Headers.GetMaxHeaders(), maxHeaders)))
	case *minerdv1.Request_Chunks:
		return s.sendChunks(ctx, p, m, kind.Chunks)
	case *minerdv1.Request_Blocks:
		ids, err := parseIDs("request", kind.Blocks.GetIds(), maxBatch)
		if err != nil {
			return err
		}
		return s.sendBlocks(p, m, ids)
	case *minerdv1.Request_Peers:
		return m.send(&minerdv1.Response{Kind: &minerdv1.Response_Peers{Peers: peersMessage(s.peersFor(p, m.Conn().RemoteMultiaddr()))}})
	}
	return garbage("request of no known kind")
}

// sendHeaders answers with up to n headers of the best chain after a locator. Each message but the first costs the peer
// another request of its share.
func (s *Service) sendHeaders(p peer.ID, m *messages, locator []chain.Hash, n int) error {
	if n == 0 {
		return garbage("request for no headers")
	}
	for sent := 0; sent < n; {
		if sent > 0 {
			s.charge(p, 1)
		}
		asked := min(n-sent, headersPerMessage)
		blocks, err := s.chain.After(locator, asked)
		if err != nil { // also where the best chain has moved away from what was sent
			return s.failToRead(m, err)
		}
		if len(blocks) > 0 {
			if err := s.sendNext(m, &minerdv1.Response{Kind: &minerdv1.Response_Headers{Headers: headersMessage(blocks)}}); err != nil {
				return err
			}
			sent += len(blocks)
			locator = []chain.Hash{blocks[len(blocks)-1].Header.ID()}
		}
		if len(blocks) < asked {
			break
		}
	}
	return s.sendNext(m, endMessage)
}

// sendBlocks answers with the first of the blocks: up to one that is not known here, or maxBatchBytes. Each chargeEvery
// bytes cost the peer another request of its share.
func (s *Service) sendBlocks(p peer.ID, m *messages, ids []chain.Hash) error {
	total := 0
	defer func() { s.charge(p, total/chargeEvery) }()
	for i, id := range ids {
		b, err := s.chain.Block(id)
		if err != nil && i == 0 {
			return s.failToRead(m, err)
		}
		if err != nil {
			break
		}
		if i > 0 && total+b.Size() > maxBatchBytes {
			break
		}
		total += b.Size()
		if err := s.sendNext(m, &minerdv1.Response{Kind: &minerdv1.Response_Block{Block: &minerdv1.Block{Canonical: b.Bytes()}}}); err != nil {
			return err
		}
	}
	return s.sendNext(m, endMessage)
}

var endMessage = &minerdv1.Response{Kind: &minerdv1.Response_End{End: &minerdv1.End{}}}

// sendNext sends one of several messages, which has its own time to go.
func (s *Service) sendNext(m *messages, msg proto.Message) error {
	_ = m.SetDeadline(time.Now().Add(s.cfg.Timing.Request))
	return m.send(msg)
}

// failToRead answers where the chain does not give what was asked for.
func (s *Service) failToRead(m *messages, err error) error {
	if errors.Is(err, chain.ErrNotFound) {
		return s.fail(m, minerdv1.Failure_CODE_NOT_FOUND, err)
	}
	s.log.Error("blocks for a peer could not be read", zap.Error(err))
	return s.fail(m, minerdv1.Failure_CODE_INTERNAL, errors.New("blocks could not be read"))
}

// quotas holds each peer to its share: streamsServed at once, and a token bucket.
type quotas struct {
	mu     sync.Mutex
	byPeer map[peer.ID]*quota
}

type quota struct {
	active int
	spent  float64 // tokens; grows back with time
	last   time.Time
}

// enter takes a place for a request, or gives errBusy.
func (q *quotas) enter(p peer.ID, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byPeer == nil {
		q.byPeer = map[peer.ID]*quota{}
	}
	e := q.byPeer[p]
	if e == nil {
		if len(q.byPeer) >= maxQuotas {
			q.sweep(now)
		}
		if len(q.byPeer) >= maxQuotas {
			return fmt.Errorf("%w from all peers together", errBusy)
		}
		e = &quota{last: now}
		q.byPeer[p] = e
	}
	e.recover(now)
	if e.active >= streamsServed {
		return fmt.Errorf("%w at once, allowed are %d", errBusy, streamsServed)
	}
	if e.spent+1 > requestBurst {
		return fmt.Errorf("%w, allowed are %d a second", errBusy, requestRate)
	}
	e.active++
	e.spent++
	return nil
}

func (q *quotas) leave(p peer.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.byPeer[p].active--
}

// charge takes more requests of the peer's share, also where none is left: then the next ones wait longer.
func (q *quotas) charge(p peer.ID, requests int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.byPeer[p]; e != nil {
		e.spent += float64(requests)
	}
}

// sweep forgets peers that have their full share again.
func (q *quotas) sweep(now time.Time) {
	for p, e := range q.byPeer {
		if e.recover(now); e.active == 0 && e.spent == 0 {
			delete(q.byPeer, p)
		}
	}
}

func (e *quota) recover(now time.Time) {
	e.spent = max(0, e.spent-requestRate*now.Sub(e.last).Seconds())
	e.last = now
}

// isTimeout says whether a peer took too long.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
