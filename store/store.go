// Package store keeps what a node knows: blocks, the height index, the chain's states, accounts, the memory of invalid
// blocks, and model states. Badger keeps it on disk, Memory in memory; both are a chain.Store and pass the same tests.
//
// A data directory holds
//
//	lock        held while a process uses the directory; its text is that process's id
//	store.json  schema version, network, whether a chain was written, the tip at the last clean close
//	dirty       there from before the database opens until it was closed cleanly
//	db/         the Badger database
//	models/     model states, each a file <state root>.state
package store

import (
	"errors"
	"fmt"

	"github.com/descentnet/minerd/chain"
)

// Errors of this package; damage is chain.ErrCorrupt.
var (
	ErrLocked       = errors.New("data directory is in use")
	ErrOtherNetwork = errors.New("data directory of another network")
	ErrSchema       = errors.New("data directory of another schema version")
	ErrClosed       = errors.New("store is closed")
	ErrNotTip       = errors.New("block does not fit the tip")
	ErrTooLarge     = errors.New("model state too large")
)

// MaxInvalid is the number of invalid blocks that are remembered, the newest ones: about 1 MiB with their texts.
const MaxInvalid = 4096

// DefaultStateLimit is the default of Options.StateLimit. The largest model that a network may have, 2^24 parameters
// under Adam, has a state of 192 MiB and 16 bytes.
const DefaultStateLimit = 192<<20 + 16

var (
	_ chain.Store = (*Memory)(nil)
	_ chain.Store = (*Badger)(nil)
)

// checkVerified refuses what could not be read back: a caller's mistake.
func checkVerified(v chain.Verified) error {
	if id := v.Block.Header.ID(); id != v.State.ID {
		return fmt.Errorf("block %s with the state after block %s", id.Short(), v.State.ID.Short())
	}
	if v.Block.Height != v.State.Height {
		return fmt.Errorf("block at height %d with a state at height %d", v.Block.Height, v.State.Height)
	}
	if _, err := chain.ParseBlock(v.Block.Bytes()); err != nil {
		return fmt.Errorf("block %s cannot be kept: %w", v.State.ID.Short(), err)
	}
	return nil
}

// checkConnect checks that v goes on top of tip. tipErr is the error of reading tip.
func checkConnect(tip chain.State, tipErr error, v chain.Verified) error {
	switch {
	case errors.Is(tipErr, chain.ErrNotFound):
		if v.Block.Height != 0 {
			return fmt.Errorf("%w: height %d in an empty store", ErrNotTip, v.Block.Height)
		}
	case tipErr != nil:
		return tipErr
	case v.Block.Parent != tip.ID || v.Block.Height != tip.Height+1:
		return fmt.Errorf("%w: height %d on %s, the tip is height %d, %s", ErrNotTip, v.Block.Height, v.Block.Parent.Short(), tip.Height, tip.ID.Short())
	}
	return nil
}

// checkDisconnect checks that v is the tip and that parent is the state before it.
func checkDisconnect(tip chain.State, tipErr error, v chain.Verified, parent chain.State) error {
	switch {
	case tipErr != nil:
		return tipErr
	case v.State.ID != tip.ID:
		return fmt.Errorf("%w: %s is to be taken off, the tip is %s", ErrNotTip, v.State.ID.Short(), tip.ID.Short())
	case v.Block.Height == 0:
		return fmt.Errorf("%w: genesis cannot be taken off", ErrNotTip)
	case parent.ID != v.Block.Parent || parent.Height+1 != v.Block.Height:
		return fmt.Errorf("%w: %s is not the parent of %s", ErrNotTip, parent.ID.Short(), v.State.ID.Short())
	}
	return nil
}
