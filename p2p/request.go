package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// Each message of the answer may take limit, all together six times that.
func (s *Service) ask(ctx context.Context, p peer.ID, id protocol.ID, limit time.Duration, msg proto.Message, read func(*messages) error) error {
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
		if ctx.Err() != nil { // what read saw is the reset
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return err
	}
	return st.Close()
}

// askSync makes one request and takes the first message of its answer.
func (s *Service) askSync(ctx context.Context, p peer.ID, req *minerdv1.Request) (*minerdv1.Response, error) {
	var answer *minerdv1.Response
	err := s.ask(ctx, p, s.syncProtocol, s.cfg.Timing.Request, req, func(m *messages) (err error) {
		answer, err = m.next()
		return err
	})
	return answer, err
}

// askMany makes a request that is answered with several messages, each of which is given to take. They belong to sync,
// which does not wait long for anybody.
func (s *Service) askMany(ctx context.Context, p peer.ID, req *minerdv1.Request, take func(*minerdv1.Response) error) error {
	return s.ask(ctx, p, s.syncProtocol, s.cfg.Timing.Stall, req, func(m *messages) error {
		for {
			_ = m.SetReadDeadline(time.Now().Add(s.cfg.Timing.Stall))
			resp, err := m.next()
			if err != nil {
				return err
			}
			if resp.GetEnd() != nil {
				return nil
			}
			if err := take(resp); err != nil {
				return err
			}
		}
	})
}

// next reads one message of an answer; a failure is returned as FailureError.
func (m *messages) next() (*minerdv1.Response, error) {
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
	err = s.ask(ctx, p, helloProtocol, s.cfg.Timing.Request, s.hello().message(), func(m *messages) error {
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

// askHeaders asks for the headers after a locator: up to maxHeaders, fewer where the peer has no more. They are a chain
// that begins at one of the locator's ids.
func (s *Service) askHeaders(ctx context.Context, p peer.ID, locator []chain.Hash) ([]*chain.Header, error) {
	var c headerCollector
	req := &minerdv1.Request{Kind: &minerdv1.Request_Headers{Headers: headersRequest(locator)}}
	if err := s.askMany(ctx, p, req, c.take); err != nil {
		return nil, err
	}
	return c.headers, checkLinks(locator, c.headers)
}

// headerCollector takes the messages of an answer to a request for headers.
type headerCollector struct{ headers []*chain.Header }

func (c *headerCollector) take(resp *minerdv1.Response) error {
	more, err := parseHeaders(resp.GetHeaders())
	if err != nil {
		return err
	}
	if c.headers = append(c.headers, more...); len(c.headers) > maxHeaders {
		return garbage("more than %d headers", maxHeaders)
	}
	return nil
}

// checkLinks makes sure that the headers follow a block that we named and each other, so that the peer cannot keep us
// busy with loose ones.
func checkLinks(locator []chain.Hash, headers []*chain.Header) error {
	for i, h := range headers {
		if i == 0 {
			if !slices.Contains(locator, h.Parent) {
				return garbage("first header, at height %d, follows no block that was named", h.Height)
			}
			continue
		}
		if before := headers[i-1]; h.Height != before.Height+1 || h.Parent != before.ID() {
			return garbage("header at height %d does not follow the one sent before it", h.Height)
		}
	}
	return nil
}

// errNotAsked says that a peer sent another block than it was asked for, which no honest one does.
var errNotAsked = errors.New("peer sent another block than was asked for")

// askBlocks asks for blocks by id, and takes the first of them that the peer gives, at least one. Each has the id that
// was asked for and a body that belongs to it.
func (s *Service) askBlocks(ctx context.Context, p peer.ID, ids []chain.Hash) ([]*chain.Block, error) {
	c := blockCollector{ids: ids, check: s.chain.CheckBody}
	req := &minerdv1.Request{Kind: &minerdv1.Request_Blocks{Blocks: blocksRequest(ids)}}
	if err := s.askMany(ctx, p, req, c.take); err != nil {
		return nil, err
	}
	if len(c.blocks) == 0 {
		return nil, garbage("answer without a block")
	}
	return c.blocks, nil
}

// blockCollector takes the messages of an answer to a request for blocks.
type blockCollector struct {
	ids    []chain.Hash
	check  func(*chain.Block) error
	blocks []*chain.Block
	size   int
}

func (c *blockCollector) take(resp *minerdv1.Response) error {
	if resp.GetBlock() == nil {
		return garbage("answer without a block")
	}
	i := len(c.blocks)
	if i == len(c.ids) {
		return garbage("more than the %d blocks that were asked for", i)
	}
	b, err := chain.ParseBlock(resp.GetBlock().GetCanonical())
	if err != nil {
		return err
	}
	if id := b.Header.ID(); id != c.ids[i] {
		return fmt.Errorf("%w: %s at height %d, want %s", errNotAsked, id.Short(), b.Height, c.ids[i].Short())
	}
	if err := c.check(b); err != nil {
		return fmt.Errorf("body of block %s at height %d: %w", c.ids[i].Short(), b.Height, err)
	}
	if c.size += b.Size(); i > 0 && c.size > maxBatchBytes {
		return garbage("more than %d bytes of blocks", maxBatchBytes)
	}
	c.blocks = append(c.blocks, b)
	return nil
}
