package chain

import (
	"errors"
	"fmt"
	"slices"
)

// What others ask of the best chain: those who follow it, and peers that catch up with it.

// maxChanges bounds what Changes gives at a time.
const maxChanges = 256

// Changes says how the best chain came from a former tip to now: the blocks that left it, newest first, then those that
// joined it, oldest first, at most maxChanges of these. Whoever follows the chain asks again from the last block it
// was given.
func (m *Manager) Changes(since Hash) (reverted, applied []Verified, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.store.Verified(since)
	if err != nil {
		return nil, nil, err
	}
	branch, fork, err := m.branch(v)
	if err != nil {
		return nil, nil, err
	}
	slices.Reverse(branch)
	for h := fork.State.Height + 1; h <= m.best.Height && len(applied) < maxChanges; h++ {
		v, err := m.at(h)
		if err != nil {
			return nil, nil, err
		}
		applied = append(applied, v)
	}
	return branch, applied, nil
}

// Locator lists ids of the best chain from the tip back, with steps that double after the first ten, down to genesis.
func (m *Manager) Locator() ([]Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []Hash
	step := uint64(1)
	for h := m.best.Height; ; h -= min(step, h) {
		id, err := m.store.BlockID(h)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
		if h == 0 {
			return ids, nil
		}
		if len(ids) >= 10 {
			step *= 2
		}
	}
}

// After gives up to most blocks of the best chain that follow the first id of a locator that is on it; ErrNotFound if
// none is.
func (m *Manager) After(locator []Hash, most int) ([]*Block, error) {
	ids, err := m.idsAfter(locator, most)
	if err != nil {
		return nil, err
	}
	var blocks []*Block
	for _, id := range ids { // blocks stay where they are, also if the best chain moves meanwhile
		v, err := m.store.Verified(id)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, v.Block)
	}
	return blocks, nil
}

func (m *Manager) idsAfter(locator []Hash, most int) (ids []Hash, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	height, err := m.commonHeight(locator)
	if err != nil {
		return nil, err
	}
	for h := height + 1; h <= m.best.Height && len(ids) < most; h++ {
		id, err := m.store.BlockID(h)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (m *Manager) commonHeight(locator []Hash) (uint64, error) {
	for _, id := range locator {
		v, err := m.store.Verified(id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if on, err := m.store.BlockID(v.State.Height); err == nil && on == id {
			return v.State.Height, nil
		}
	}
	return 0, fmt.Errorf("%w: no id of the locator is on the best chain", ErrNotFound)
}

func (m *Manager) at(height uint64) (Verified, error) {
	id, err := m.store.BlockID(height)
	if err != nil {
		return Verified{}, err
	}
	return m.store.Verified(id)
}
