package node

import (
	"context"

	"github.com/descentnet/minerd/chain"
	"go.uber.org/zap"
)

// peers is what a node needs of its network.
type peers interface {
	// Run serves until ctx is done.
	Run(ctx context.Context) error
	// Publish passes a verified block on.
	Publish(b *chain.Block)
	// Behind says whether a peer is ahead of us.
	Behind() bool
	// CaughtUp waits until no peer is ahead of us.
	CaughtUp(ctx context.Context) error
	// Blame holds an invalid block against who sent it.
	Blame(from source, why error)
	// Credit notes a valid block of which the source was the first to tell.
	Credit(from source)
	// Standing is what is known of a source.
	Standing(from source) standing
	// Count is the number of connected peers.
	Count() int
	// Describe names the node to those who want to reach it.
	Describe() []zap.Field
	Close() error
}

// alone is a network of one node.
type alone struct{}

func (alone) Run(ctx context.Context) error      { <-ctx.Done(); return nil }
func (alone) Publish(*chain.Block)               {}
func (alone) CaughtUp(ctx context.Context) error { return ctx.Err() }
func (alone) Blame(source, error)                {}
func (alone) Credit(source)                      {}
func (alone) Standing(from source) standing      { return standing{account: string(from)} }
func (alone) Behind() bool                       { return false }
func (alone) Count() int                         { return 0 }
func (alone) Describe() []zap.Field              { return nil }
func (alone) Close() error                       { return nil }
