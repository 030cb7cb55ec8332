package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/descentnet/minerd/nn"
)

// ModelLimits bounds the model states that are kept.
type ModelLimits struct {
	Recent   int   // distinct states kept, newest first, besides snapshots
	MaxBytes int64 // of all kept files; fewer recent ones are kept where they would take more. 0 is no bound
}

// DefaultModelLimits keeps the last 64 distinct states, in at most 1 GiB with the snapshots.
var DefaultModelLimits = ModelLimits{Recent: 64, MaxBytes: 1 << 30}

// cachedModels is the number of model states held in memory: the tip's, its parent's, and a few just trained.
const cachedModels = 4

// models finds model states: in memory, in the store, or by training again from the last one that is kept.
type models struct {
	net     *Network
	store   Store
	trainer Trainer
	limits  ModelLimits

	starts sync.Mutex // held while the start of a task is worked out
	mu     sync.Mutex
	cache  map[Hash]*nn.State
	order  []Hash // of the cache, least recently used first
	stored map[Hash]StoredModel
}

func newModels(net *Network, store Store, trainer Trainer, limits ModelLimits) (*models, error) {
	m := &models{net: net, store: store, trainer: trainer, limits: limits, cache: map[Hash]*nn.State{}, stored: map[Hash]StoredModel{}}
	list, err := store.Models()
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		m.stored[s.Root] = s
	}
	return m, nil
}

// taskStart is where a task starts. Where it is not kept, one caller works it out and the others wait for it.
func (m *models) taskStart(ctx context.Context, task uint32) (TaskStart, error) {
	if s, err := m.store.TaskStart(task); !errors.Is(err, ErrNotFound) {
		return s, err
	}
	m.starts.Lock()
	defer m.starts.Unlock()
	if s, err := m.store.TaskStart(task); !errors.Is(err, ErrNotFound) {
		return s, err
	}
	s, err := m.net.EvaluateStart(ctx, m.trainer, task)
	if err != nil {
		return TaskStart{}, err
	}
	if err := m.store.PutTaskStart(task, s); err != nil {
		return TaskStart{}, notNow(fmt.Errorf("keeping the start of task %d: %w", task, err))
	}
	return s, nil
}

// start is the model state that children of parent train from.
func (m *models) start(ctx context.Context, parent Hash, base Base) (*nn.State, error) {
	if base.Fresh {
		if s := m.cached(base.Root); s != nil {
			return s, nil
		}
		s := m.net.ModelInit(base.TaskNumber)
		m.remember(base.Root, s)
		return s, nil
	}
	return m.after(ctx, parent)
}

// after is the model state after a verified block. Where it is not kept, the blocks since the last one that is are
// trained again.
func (m *models) after(ctx context.Context, id Hash) (*nn.State, error) {
	var again []Verified // advancing blocks to train again, newest first
	var s *nn.State
	for s == nil {
		v, err := m.store.Verified(id)
		if err != nil {
			return nil, err
		}
		if s, err = m.find(v.State); err != nil {
			return nil, err
		}
		if s != nil {
			break
		}
		first := v.State.TaskBlocks <= 1 // of its task, or genesis
		if v.State.Height > 0 && v.State.Advanced {
			again = append(again, v)
		}
		if first {
			s = m.net.ModelInit(v.State.TaskNumber)
		}
		id = v.Block.Parent
	}
	for i := len(again) - 1; i >= 0; i-- {
		v := again[i]
		template := m.net.TemplateIndex(v.State.TaskNumber)
		trained, err := m.trainer.Train(ctx, template, s, m.net.Trial(template, v.Block.Claim.ID()))
		if err != nil {
			return nil, fmt.Errorf("training block %d again: %w", v.State.Height, err)
		}
		if trained.Root != v.State.ModelRoot {
			return nil, fmt.Errorf("training block %d again gives %s instead of %s: this machine computes wrongly, or did so before",
				v.State.Height, trained.Root.Short(), v.State.ModelRoot.Short())
		}
		s = trained.State
		m.remember(trained.Root, s)
		if i == 0 {
			if err := m.save(trained.Root, v.State.Height); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// find looks in memory and in the store; nil where the state is in neither.
func (m *models) find(s State) (*nn.State, error) {
	if c := m.cached(s.ModelRoot); c != nil {
		return c, nil
	}
	b, err := m.store.Model(s.ModelRoot)
	if errors.Is(err, ErrNotFound) {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.stored, s.ModelRoot) // it may have been damaged: then it is to be written again
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := m.net.Template(s.TaskNumber).Net.ReadState(b)
	if err != nil {
		return nil, fmt.Errorf("%w: model state %s: %w", ErrCorrupt, s.ModelRoot.Short(), err)
	}
	m.remember(s.ModelRoot, st)
	return st, nil
}

func (m *models) cached(root Hash) *nn.State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.cache[root]
	if s != nil {
		m.touch(root)
	}
	return s
}

func (m *models) touch(root Hash) {
	for i, r := range m.order {
		if r == root {
			m.order = append(append(m.order[:i:i], m.order[i+1:]...), root)
			return
		}
	}
	m.order = append(m.order, root)
}

// remember keeps a state in memory.
func (m *models) remember(root Hash, s *nn.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cache[root] = s
	m.touch(root)
	if len(m.order) > cachedModels {
		delete(m.cache, m.order[0])
		m.order = m.order[1:]
	}
}

// save writes a state that is in memory to the store; one that is not can be trained again.
func (m *models) save(root Hash, height uint64) error {
	m.mu.Lock()
	s := m.cache[root]
	_, have := m.stored[root]
	m.mu.Unlock()
	if s == nil || have {
		return nil
	}
	b := s.Bytes()
	if err := m.store.PutModel(root, height, b); err != nil {
		return fmt.Errorf("model state of block %d: %w", height, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored[root] = StoredModel{Root: root, Height: height, Size: int64(len(b))}
	return nil
}

// retain deletes model states that the limits do not keep: all but the newest, those in force at the heights of
// snapshots down to the finality depth, the tip's, and those of a branch that is being verified, of which the last is
// what its next block trains from. Where they take too many bytes, the oldest of the newest go, and then the oldest
// snapshots.
func (m *models) retain(tip State, branch []Hash) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var total int64
	var list []StoredModel
	for _, s := range m.stored {
		total += s.Size
		list = append(list, s)
	}
	large := func() bool { return m.limits.MaxBytes > 0 && total > m.limits.MaxBytes }
	if len(list) <= m.limits.Recent && !large() {
		return
	}
	needed := map[Hash]bool{tip.ModelRoot: true}
	keep := m.snapshots(tip)
	for _, root := range branch {
		keep[root] = true
	}
	if len(branch) > 0 {
		needed[branch[len(branch)-1]] = true
	}
	slices.SortFunc(list, func(a, b StoredModel) int { return cmp.Compare(b.Height, a.Height) })
	for _, snapshots := range []bool{false, true} {
		for i := len(list) - 1; i >= 0; i-- {
			s := list[i]
			spare := !keep[s.Root] && (i >= m.limits.Recent || large()) || snapshots && large()
			if _, there := m.stored[s.Root]; !there || !spare || needed[s.Root] {
				continue
			}
			if err := m.store.DeleteModel(s.Root); err != nil {
				return // it is tried again after the next block
			}
			delete(m.stored, s.Root)
			total -= s.Size
		}
	}
}

// snapshots are the roots of the states in force at heights divisible by the snapshot interval.
func (m *models) snapshots(tip State) map[Hash]bool {
	keep := map[Hash]bool{}
	step := uint64(m.net.SnapshotInterval)
	for h := tip.Height - tip.Height%step; h+uint64(m.net.FinalityDepth) >= tip.Height; h -= step {
		if id, err := m.store.BlockID(h); err == nil {
			if v, err := m.store.Verified(id); err == nil {
				keep[v.State.ModelRoot] = true
			}
		}
		if h < step {
			break
		}
	}
	return keep
}
