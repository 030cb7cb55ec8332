package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"

	"github.com/descentnet/minerd/chain"
)

const (
	// maxRPC bounds what pubsub reads at once: a block, or control messages, which are held to maxControl.
	maxRPC     = 2 * maxBlockMessage
	maxControl = 64 << 10
	// maxValidations bounds the blocks being decoded and checked at once; each takes some 200 KiB at worst.
	maxValidations  = 64
	validationQueue = 256
)

func (s *Service) topicName() string { return "/minerd/" + shortNetwork(s.cfg.Network) + "/blocks/1" }

func (s *Service) openGossip() error {
	if s.cfg.ContentOnly {
		return nil
	}
	params, thresholds := scoring(s.topicName())
	var err error
	s.gossip, err = pubsub.NewGossipSub(s.life, s.host,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(func(m *pb.Message) string { return messageID(m.Data) }),
		// All neighbours get what we publish, not the mesh alone: it is empty for the first second of a connection, and
		// a message that finds it empty is lost.
		pubsub.WithFloodPublish(true),
		pubsub.WithMaxMessageSize(maxRPC),
		pubsub.WithMaxControlMessageSize(maxControl),
		pubsub.WithValidateQueueSize(validationQueue),
		pubsub.WithPeerScore(params, thresholds),
		pubsub.WithSubscriptionFilter(pubsub.NewAllowlistSubscriptionFilter(s.topicName())),
		pubsub.WithLogger(slog.New(zapHandler{s.log.Named("pubsub")})),
	)
	if err != nil {
		return err
	}
	return s.gossip.RegisterTopicValidator(s.topicName(), s.validate, pubsub.WithValidatorConcurrency(maxValidations))
}

// joinGossip takes part in the topic. There is no subscription to read from: a block is in good hands once the
// validator has offered it to the chain.
func (s *Service) joinGossip() error {
	if s.cfg.ContentOnly {
		return nil
	}
	topic, err := s.gossip.Join(s.topicName())
	if err != nil {
		return err
	}
	if _, err := topic.Relay(); err != nil {
		return err
	}
	s.topic.Store(topic)
	return nil
}

// scoring is for a topic with a message every 10 to 15 s. Missing deliveries are no fault at that rate, and many nodes
// may share an address. What counts are refused blocks, squared: a peer with one may stay in the mesh if it has a good
// past, which is worth 20 at most; with two it is not listened to.
func scoring(topic string) (*pubsub.PeerScoreParams, *pubsub.PeerScoreThresholds) {
	const interval = 10 * time.Second
	decay := func(d time.Duration) float64 { return pubsub.ScoreParameterDecayWithBase(d, interval, 0.01) }
	return &pubsub.PeerScoreParams{
			AppSpecificScore: func(peer.ID) float64 { return 0 },
			Topics: map[string]*pubsub.TopicScoreParams{topic: {
				TopicWeight:                    1,
				TimeInMeshWeight:               1,
				TimeInMeshQuantum:              time.Minute,
				TimeInMeshCap:                  10,
				FirstMessageDeliveriesWeight:   1,
				FirstMessageDeliveriesDecay:    decay(10 * time.Minute),
				FirstMessageDeliveriesCap:      10,
				InvalidMessageDeliveriesWeight: -20,
				InvalidMessageDeliveriesDecay:  decay(time.Hour),
			}},
			BehaviourPenaltyWeight:    -1,
			BehaviourPenaltyThreshold: 6,
			BehaviourPenaltyDecay:     decay(10 * time.Minute),
			DecayInterval:             interval,
			DecayToZero:               0.01,
			RetainScore:               time.Hour,
		}, &pubsub.PeerScoreThresholds{
			GossipThreshold:             -30,
			PublishThreshold:            -40,
			GraylistThreshold:           -50,
			OpportunisticGraftThreshold: 1,
		}
}

// validate is asked about every block that comes by gossip. It accepts none of them: what Offer takes is relayed by
// Publish once its training was run again, so that a forged block gets no further than here.
func (s *Service) validate(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	if from == s.host.ID() {
		return pubsub.ValidationAccept // by Publish
	}
	if !s.mayGossip(from, len(m.Data)) {
		if s.once.first("gossip " + string(from)) {
			s.log.Warn("peer gossips more than its share; the rest is not looked at", zap.Stringer("peer_id", from))
		}
		return pubsub.ValidationIgnore
	}
	b, err := decodeBlock(m.Data)
	if err == nil {
		err = s.chain.Offer(from, b)
	}
	if err == nil {
		return pubsub.ValidationIgnore
	}
	fields := []zap.Field{zap.Stringer("peer_id", from), zap.Error(err)}
	if b != nil {
		id := b.Header.ID()
		fields = append(fields, zap.Uint64("height", b.Height), zap.String("block_id", id.String()))
	}
	if chain.VerdictOf(err) == chain.Invalid {
		s.log.Debug("gossiped block refused", fields...)
		if s.bans.strike(from) {
			s.ban(from, err)
		}
		return pubsub.ValidationReject
	}
	s.log.Debug("gossiped block not taken", fields...)
	if errors.Is(err, chain.ErrOrphan) {
		s.peers.noteOrphan(from)
		poke(s.syncWake)
	}
	return pubsub.ValidationIgnore
}

// Publish sends a block to all: one of our own, or one that came by gossip and proved valid. It is not offered to our
// own chain. Publishing a block again does nothing.
func (s *Service) Publish(ctx context.Context, b *chain.Block) error {
	data, err := encodeBlock(b)
	if err != nil {
		return err // pubsub itself would return nil and send nothing
	}
	topic := s.topic.Load()
	if topic == nil || s.life.Err() != nil {
		return fmt.Errorf("publish: %w", ErrNotStarted)
	}
	if err := topic.Publish(ctx, data); err != nil {
		return fmt.Errorf("publish block %d: %w", b.Height, err)
	}
	return nil
}
