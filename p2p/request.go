package p2p

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/descentnet/minerd/chain"
	minerdv1 "github.com/descentnet/minerd/proto/minerd/v1"
)

// FailureError is a peer's word that it does not answer.
type FailureError struct {
	Code    minerdv1.Failure_Code
	Message string
}

func (e *FailureError) Error() string {
	return fmt.Sprintf("peer answers %s: %s", e.Code, e.Message)
}

// isBusy says whether a request failed for a limit of the peer's, which is no sign of anything.
func isBusy(err error) bool {
	var failure *FailureError
	if errors.As(err, &failure) {
		return failure.Code == minerdv1.Failure_CODE_BUSY
	}
	// libp2p's own limits show as a reset at the first read.
	var reset *network.StreamError
	return errors.As(err, &reset) && (reset.ErrorCode == network.StreamResourceLimitExceeded || reset.ErrorCode == network.StreamRateLimited)
}

// ask opens a stream, sends one message and hands the rest to read. There must be a connection: asking dials nobody.
// Each message of the answer may take Timing.Request, all together six times that.
func (s *Service) ask(ctx context.Context, p peer.ID, id protocol.ID, msg proto.Message, read func(*messages) error) error {
	limit := s.cfg.Timing.Request
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "request"), 6*limit)
	defer cancel()
	opening, opened := context.WithTimeout(ctx, limit)
	st, err := s.host.NewStream(opening, p, id)
	opened()
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	m := newMessages(st)
	_ = m.SetDeadline(time.Now().Add(limit))
	// A peer that is busy answers without having read the request, which can make our writing fail. So it is the answer
	// that counts; where the stream is really broken, reading fails as well.
	if err := m.send(msg); err == nil {
		_ = m.CloseWrite()
	}
	if err := read(m); err != nil {
		_ = st.Reset()
		return err
	}
	return st.Close()
}

// askSync makes one request and takes the first message of its answer.
func (s *Service) askSync(ctx context.Context, p peer.ID, req *minerdv1.Request) (*minerdv1.Response, error) {
	var answer *minerdv1.Response
	err := s.ask(ctx, p, s.syncProtocol, req, func(m *messages) (err error) {
		answer, err = s.next(m)
		return err
	})
	return answer, err
}

// next reads one message of an answer; a failure is returned as FailureError.
func (s *Service) next(m *messages) (*minerdv1.Response, error) {
	_ = m.SetReadDeadline(time.Now().Add(s.cfg.Timing.Request))
	var resp minerdv1.Response
	if err := m.receive(&resp, maxResponse); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if f := resp.GetFailure(); f != nil {
		return nil, &FailureError{Code: f.GetCode(), Message: cut(f.GetMessage())}
	}
	return &resp, nil
}

func (s *Service) askHello(ctx context.Context, p peer.ID) (theirs hello, err error) {
	err = s.ask(ctx, p, helloProtocol, s.hello().message(), func(m *messages) error {
		var msg minerdv1.Hello
		if err := m.receive(&msg, maxHello); err != nil {
			return err
		}
		var err error
		theirs, err = parseHello(&msg)
		return err
	})
	return theirs, err
}

func (s *Service) askStatus(ctx context.Context, p peer.ID) (Status, error) {
	req := &minerdv1.Request{Kind: &minerdv1.Request_Status{Status: statusMessage(s.chain.Status())}}
	resp, err := s.askSync(ctx, p, req)
	if err != nil {
		return Status{}, err
	}
	if resp.GetStatus() == nil {
		return Status{}, garbage("answer without a status")
	}
	return parseStatus(resp.GetStatus())
}

func (s *Service) askPeers(ctx context.Context, p peer.ID) ([]peer.AddrInfo, error) {
	resp, err := s.askSync(ctx, p, &minerdv1.Request{Kind: &minerdv1.Request_Peers{Peers: &minerdv1.PeersRequest{}}})
	if err != nil {
		return nil, err
	}
	if resp.GetPeers() == nil {
		return nil, garbage("answer without peers")
	}
	return parsePeers(resp.GetPeers())
}

// askBlocks asks for the blocks after a locator. The answer is a chain that begins at one of the locator's ids; more
// says that the peer has others after it.
func (s *Service) askBlocks(ctx context.Context, p peer.ID, locator []chain.Hash) (blocks []*chain.Block, more bool, err error) {
	req := &minerdv1.Request{Kind: &minerdv1.Request_Blocks{Blocks: locatorMessage(locator)}}
	err = s.ask(ctx, p, s.syncProtocol, req, func(m *messages) error {
		for {
			resp, err := s.next(m)
			if err != nil {
				return err
			}
			if end := resp.GetBlocksEnd(); end != nil {
				more = end.GetMore()
				return nil
			}
			if resp.GetBlock() == nil {
				return garbage("answer without a block")
			}
			b, err := chain.ParseBlock(resp.GetBlock().GetCanonical())
			if err != nil {
				return err
			}
			if len(blocks) == maxBatch {
				return garbage("more than %d blocks", maxBatch)
			}
			blocks = append(blocks, b)
		}
	})
	if err != nil {
		return nil, false, err
	}
	return blocks, more, checkLinks(locator, blocks)
}

// checkLinks makes sure that the blocks follow a block that we have and each other, so that the peer cannot keep us
// busy with loose ones.
func checkLinks(locator []chain.Hash, blocks []*chain.Block) error {
	for i, b := range blocks {
		if i == 0 {
			known := false
			for _, id := range locator {
				known = known || id == b.Parent
			}
			if !known {
				return garbage("first block, at height %d, follows none that was named", b.Height)
			}
			continue
		}
		if before := blocks[i-1]; b.Parent != before.Header.ID() || b.Height != before.Height+1 {
			return garbage("block at height %d does not follow the one sent before it", b.Height)
		}
	}
	return nil
}
