package store

import (
	"bytes"
	"maps"
	"sync"

	"github.com/descentnet/minerd/chain"
)

// Memory is a store in memory, for simulations and tests. It has no goroutines. What is put into it is not copied but
// for model states: a block must not be changed afterwards.
type Memory struct {
	mu       sync.Mutex
	tip      *chain.State
	verified map[chain.Hash]chain.Verified
	heights  []chain.Hash
	accounts map[chain.Address]chain.Account
	tasks    map[uint32]chain.TaskStart
	models   map[chain.Hash]memoryModel

	invalidMu sync.Mutex
	faults    *faults
}

type memoryModel struct {
	height uint64
	bytes  []byte
}

// NewMemory is an empty store.
func NewMemory() *Memory {
	return &Memory{
		verified: make(map[chain.Hash]chain.Verified),
		accounts: make(map[chain.Address]chain.Account),
		tasks:    make(map[uint32]chain.TaskStart),
		models:   make(map[chain.Hash]memoryModel),
		faults:   newFaults(),
	}
}

func (m *Memory) readTip() (chain.State, error) {
	if m.tip == nil {
		return chain.State{}, chain.ErrNotFound
	}
	return *m.tip, nil
}

// Tip is that of chain.Store, as are all methods below.
func (m *Memory) Tip() (chain.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.readTip()
}

func (m *Memory) Verified(id chain.Hash) (chain.Verified, error) {
	return lookUp(&m.mu, m.verified, id)
}

func (m *Memory) BlockID(height uint64) (chain.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if height >= uint64(len(m.heights)) {
		return chain.Hash{}, chain.ErrNotFound
	}
	return m.heights[height], nil
}

func (m *Memory) PutVerified(v chain.Verified) error {
	if err := checkVerified(v); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.verified[v.State.ID] = v
	return nil
}

func (m *Memory) Beside() (out []chain.SideBlock, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, v := range m.verified {
		if h := v.State.Height; h >= uint64(len(m.heights)) || m.heights[h] != id {
			out = append(out, chain.SideBlock{ID: id, Work: v.State.Work})
		}
	}
	return out, nil
}

func (m *Memory) Connect(v chain.Verified) error {
	if err := checkVerified(v); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	tip, err := m.readTip()
	if err := checkConnect(tip, err, v); err != nil {
		return err
	}
	m.verified[v.State.ID] = v
	m.heights = append(m.heights, v.State.ID)
	m.tip = &v.State
	for _, c := range v.Changes {
		m.setAccount(c.Address, c.After)
	}
	return nil
}

func (m *Memory) Disconnect(v chain.Verified, parent chain.State) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tip, err := m.readTip()
	if err := checkDisconnect(tip, err, v, parent); err != nil {
		return err
	}
	m.heights = m.heights[:len(m.heights)-1]
	m.tip = &parent
	for i := len(v.Changes) - 1; i >= 0; i-- {
		m.setAccount(v.Changes[i].Address, v.Changes[i].Before)
	}
	return nil
}

func (m *Memory) setAccount(a chain.Address, acc chain.Account) {
	if acc == (chain.Account{}) {
		delete(m.accounts, a)
		return
	}
	m.accounts[a] = acc
}

func (m *Memory) Accounts(do func(chain.Address, chain.Account) error) error {
	m.mu.Lock()
	accounts := maps.Clone(m.accounts) // so that do may use the store
	m.mu.Unlock()
	for a, acc := range accounts {
		if err := do(a, acc); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) Invalid(id chain.Hash) (*chain.InvalidError, error) { return m.faults.get(id) }

func (m *Memory) PutInvalid(id chain.Hash, e *chain.InvalidError) error {
	m.invalidMu.Lock()
	defer m.invalidMu.Unlock()
	if a, _, ok := m.faults.next(id, e); ok {
		m.faults.add(a)
	}
	return nil
}

func (m *Memory) TaskStart(task uint32) (chain.TaskStart, error) { return lookUp(&m.mu, m.tasks, task) }

func (m *Memory) PutTaskStart(task uint32, t chain.TaskStart) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks[task] = t
	return nil
}

func (m *Memory) Model(root chain.Hash) ([]byte, error) {
	v, err := lookUp(&m.mu, m.models, root)
	return bytes.Clone(v.bytes), err
}

func (m *Memory) PutModel(root chain.Hash, height uint64, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.models[root] = memoryModel{height, bytes.Clone(b)}
	return nil
}

func (m *Memory) Models() ([]chain.StoredModel, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []chain.StoredModel
	for root, v := range m.models {
		out = append(out, chain.StoredModel{Root: root, Height: v.height, Size: int64(len(v.bytes))})
	}
	sortModels(out)
	return out, nil
}

func (m *Memory) DeleteModel(root chain.Hash) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.models, root)
	return nil
}

func lookUp[K comparable, V any](mu *sync.Mutex, from map[K]V, key K) (V, error) {
	mu.Lock()
	defer mu.Unlock()
	v, ok := from[key]
	if !ok {
		return v, chain.ErrNotFound
	}
	return v, nil
}
