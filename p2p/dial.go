package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
)

const (
	// dialsAtOnce bounds the calls to known peers that run at the same time.
	dialsAtOnce = 4
	// complainEvery is how many failed attempts at a bootstrap peer pass between warnings, some ten minutes.
	complainEvery = 20
)

func (s *Service) connected(p peer.ID) bool {
	return s.host.Network().Connectedness(p) == network.Connected
}

// dial connects to a peer, whatever libp2p's own back-off says: ours is in charge.
func (s *Service) dial(ctx context.Context, info peer.AddrInfo) error {
	err := s.dialDirect(ctx, info)
	if err == nil || ctx.Err() != nil || !slices.ContainsFunc(info.Addrs, isRelayed) {
		return err
	}
	return errors.Join(err, s.dialRelayed(ctx, info))
}

func (s *Service) dialDirect(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, "minerd"), s.cfg.Timing.Dial)
	defer cancel()
	return s.host.Connect(ctx, info)
}

// dialRelayed connects by way of a relay, and waits for the direct connection that the peer then makes if both routers
// allow it. The relayed one is too narrow for blocks and serves for nothing else.
func (s *Service) dialRelayed(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "hole punching"), s.cfg.Timing.Dial)
	defer cancel()
	if err := s.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("by way of a relay: %w", err)
	}
	for {
		change := s.connections.next()
		if s.connected(info.ID) {
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return errors.New("reached by way of a relay, but no direct connection could be made")
		}
	}
}

func isRelayed(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// keepConnected calls a bootstrap peer for as long as the service runs.
func (s *Service) keepConnected(info peer.AddrInfo) {
	ctx := s.life
	for failures := 0; ctx.Err() == nil; {
		if until := s.bans.noDialBefore(info.ID); !until.IsZero() {
			sleep(ctx, time.Until(until))
			continue
		}
		err := s.dial(ctx, info)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if s.stayConnected(ctx, info.ID) >= s.cfg.Timing.BackoffMax {
				failures = 0
			}
		} else {
			say := s.log.Debug
			if failures%complainEvery == 0 {
				say = s.log.Warn
			}
			fields := []zap.Field{zap.Stringer("peer_id", info.ID), zap.Stringers("addrs", info.Addrs), zap.Int("attempts", failures+1), zap.Error(err)}
			if hint := s.dialHint(err); hint != "" {
				fields = append(fields, zap.String("hint", hint))
			}
			say("bootstrap peer not reached, trying on", fields...)
		}
		failures++
		sleep(ctx, s.cfg.Timing.backoff(failures))
	}
}

// dialHint says what may be behind an error that looks like two different private network keys, or one. Such peers read
// noise from each other, or wait for more of it; libp2p can tell no more.
func (s *Service) dialHint(err error) string {
	noise := strings.Contains(err.Error(), "failed to negotiate")
	switch {
	case s.cfg.PrivateKey != nil && (noise || errors.Is(err, context.DeadlineExceeded)):
		return "the peer may have another private network key, or none; compare key_fingerprint in its log"
	case s.cfg.PrivateKey == nil && noise:
		return "the peer may be of a private network, which takes its key"
	}
	return ""
}

// stayConnected returns once the peer is not connected any more, with how long it was.
func (s *Service) stayConnected(ctx context.Context, p peer.ID) time.Duration {
	start := time.Now()
	for {
		change := s.connections.next()
		if !s.connected(p) {
			return time.Since(start)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return time.Since(start)
		}
	}
}

// keepPeers calls known peers while there are fewer than MinPeers.
func (s *Service) keepPeers() {
	for s.life.Err() == nil {
		need := s.cfg.MinPeers - len(s.peers.list())
		if need > 0 {
			s.callKnown(min(need, dialsAtOnce))
		}
		pause := time.NewTimer(jitter(s.cfg.Timing.BackoffMax / 3))
		select {
		case <-s.life.Done():
		case <-s.dialWake:
			sleep(s.life, jitter(s.cfg.Timing.BackoffMin)) // what wakes us comes in swarms
		case <-pause.C:
		}
		pause.Stop()
	}
}

// callKnown calls up to n peers of the address book, and waits for the outcome.
func (s *Service) callKnown(n int) {
	skip := func(p peer.ID) bool { return s.connected(p) || !s.bans.noDialBefore(p).IsZero() }
	var calls sync.WaitGroup
	for _, info := range s.book.candidates(n, time.Now(), skip) {
		calls.Go(func() {
			err := s.dial(s.life, info)
			if err == nil || s.life.Err() != nil {
				return
			}
			s.log.Debug("known peer not reached", zap.Stringer("peer_id", info.ID), zap.Error(err))
			s.book.failed(info.ID, time.Now(), s.cfg.Timing)
		})
	}
	calls.Wait()
}
