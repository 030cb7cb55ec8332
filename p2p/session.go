package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// silentPolls is after how many unanswered polls in a row a connection is given up: it may be half dead, and only a
// lost one is made anew.
const silentPolls = 3

// session is the goroutine that attends to one connected peer.
type session struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

func (x *session) over() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// watchConnections keeps a session for each connected peer.
func (s *Service) watchConnections(sub event.Subscription) {
	sessions := map[peer.ID]*session{}
	defer func() {
		for _, x := range sessions {
			x.cancel()
		}
		_ = sub.Close()
	}()
	for _, p := range s.host.Network().Peers() { // they came before Start
		s.beginSession(sessions, p)
	}
	for {
		select {
		case <-s.life.Done():
			return
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			change := e.(event.EvtPeerConnectednessChanged)
			if change.Connectedness == network.Connected {
				s.beginSession(sessions, change.Peer)
			} else if x := sessions[change.Peer]; x != nil {
				x.cancel()
			}
			for p, x := range sessions {
				if x.over() {
					x.cancel()
					delete(sessions, p)
				}
			}
			s.connections.tell()
			poke(s.dialWake)
		}
	}
}

// beginSession starts a session unless there is one. One that is ending is waited for, so that it cannot take the
// peer off the table afterwards.
func (s *Service) beginSession(sessions map[peer.ID]*session, p peer.ID) {
	old := sessions[p]
	if old != nil && old.ctx.Err() == nil && !old.over() {
		return
	}
	ctx, cancel := context.WithCancel(s.life)
	next := &session{ctx, cancel, make(chan struct{})}
	sessions[p] = next
	started := s.work.run(func() {
		defer close(next.done)
		if old != nil {
			<-old.done
		}
		s.attend(ctx, p)
	})
	if !started {
		close(next.done)
	}
}

// attend greets a peer, and polls it until the connection is lost. A peer that is not of our network is disconnected.
func (s *Service) attend(ctx context.Context, p peer.ID) {
	theirs, err := s.greet(ctx, p)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Debug("peer not greeted", zap.Stringer("peer_id", p), zap.Error(err))
			s.disconnect(p)
		}
		return
	}
	var joined bool
	var askedPeers time.Time
	for failures := 0; ; {
		status, err := s.askStatus(ctx, p)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failures++
			s.log.Debug("peer gave no status", zap.Stringer("peer_id", p), zap.Int("failures", failures), zap.Error(err))
			if failures >= silentPolls && !isBusy(err) {
				s.disconnect(p)
				break
			}
			if !sleep(ctx, s.cfg.Timing.backoff(failures)) {
				break
			}
			continue
		}
		failures = 0
		if !joined {
			joined = true
			s.welcome(p, theirs, status)
		}
		s.peers.update(p, status)
		if s.ahead(status) {
			poke(s.syncWake)
		}
		if time.Since(askedPeers) >= s.cfg.Timing.PeersPoll {
			askedPeers = time.Now()
			s.learnPeers(ctx, p)
		}
		if !sleep(ctx, jitter(s.cfg.Timing.StatusPoll)) {
			break
		}
	}
	if joined {
		s.peers.remove(p)
		s.log.Info("peer disconnected", zap.Stringer("peer_id", p))
	}
}

// greet finds out whether the peer is of our network.
func (s *Service) greet(ctx context.Context, p peer.ID) (hello, error) {
	theirs, err := s.askHello(ctx, p)
	switch {
	case ctx.Err() != nil:
		return theirs, ctx.Err()
	case err != nil && s.isStranger(p):
		s.noteStranger(p)
		return theirs, fmt.Errorf("not a minerd node: %w", err)
	case err != nil:
		if errors.Is(err, ErrGarbage) {
			s.logBadStream(p, helloProtocol, err)
		}
		return theirs, fmt.Errorf("hello: %w", err)
	case theirs.network != s.cfg.Network:
		s.noteForeign(p, theirs)
		return theirs, foreignError(theirs.network, theirs.name, s.hello())
	}
	return theirs, nil
}

func (s *Service) welcome(p peer.ID, theirs hello, status Status) {
	info := PeerInfo{ID: p, Agent: theirs.agent, Status: status, Since: time.Now()}
	fields := []zap.Field{zap.Stringer("peer_id", p), zap.String("agent", theirs.agent), zap.Uint64("height", status.Height)}
	if conns := s.host.Network().ConnsToPeer(p); len(conns) > 0 {
		info.Direction = conns[0].Stat().Direction
		fields = append(fields, zap.Stringer("addr", conns[0].RemoteMultiaddr()), zap.Stringer("direction", info.Direction))
	}
	s.peers.add(info)
	s.book.met(p, s.host.Peerstore().Addrs(p))
	s.log.Info("peer connected", fields...)
}

// learnPeers asks a peer for others.
func (s *Service) learnPeers(ctx context.Context, p peer.ID) {
	found, err := s.askPeers(ctx, p)
	if err != nil {
		s.log.Debug("peer gave no addresses", zap.Stringer("peer_id", p), zap.Error(err))
		return
	}
	fresh := false
	for _, info := range found {
		fresh = s.book.heardOf(info) || fresh
	}
	if fresh {
		poke(s.dialWake)
	}
}

func (s *Service) disconnect(p peer.ID) {
	if err := s.host.Network().ClosePeer(p); err != nil {
		s.log.Debug("closing a connection failed", zap.Stringer("peer_id", p), zap.Error(err))
	}
}
