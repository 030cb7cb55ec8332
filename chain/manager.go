package chain

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/descentnet/minerd/nn"
)

// ErrSideFull says that no more unverified blocks are kept.
var ErrSideFull = errors.New("too many blocks that are not on the best chain")

const (
	// maxSide bounds the unverified blocks that are kept: 2,048 of at most 60 KiB are 120 MiB at worst, some 2 MiB
	// without transactions.
	maxSide = 2048
	// sideWindow is how far below the tip unverified blocks are kept.
	sideWindow = 256
	// maxExecuted bounds the memory of executions; one is some 500 bytes.
	maxExecuted = 4096
)

// Manager chooses between forks: it takes blocks, has those executed that could make a better chain, keeps the best
// verified chain in the store, and gives the miner what to train. Its methods may be called at the same time.
type Manager struct {
	net     *Network
	store   Store
	trainer Trainer
	models  *models
	arrived atomic.Uint64
	syncing atomic.Bool

	mu          sync.Mutex
	best        State
	bestArrival uint64
	ledger      Ledger // after best
	changed     chan struct{}
	pending     map[Hash]*pendingBlock
	executed    executions
}

// pendingBlock is a block that obeys all rules that can be checked without training, given its parent does.
type pendingBlock struct {
	block   *Block
	base    Base
	claimed Verified // what is true after it, if it is valid
	ledger  Ledger
	arrival uint64
}

// Added says what became of a block.
type Added struct {
	Known    bool  // it was there already
	Side     bool  // kept, but its chain claims no more work than the best one
	State    State // after the block
	Reverted int   // blocks that left the best chain for it
	Executed int   // blocks whose training was run again
}

// OpenManager reads the best chain from the store, or begins it with genesis.
func OpenManager(ctx context.Context, net *Network, store Store, trainer Trainer, limits ModelLimits) (*Manager, error) {
	m := &Manager{
		net: net, store: store, trainer: trainer,
		changed: make(chan struct{}),
		pending: map[Hash]*pendingBlock{},
	}
	models, err := newModels(net, store, trainer, limits)
	if err != nil {
		return nil, err
	}
	m.models = models
	tip, err := store.Tip()
	if errors.Is(err, ErrNotFound) {
		return m, m.begin(ctx)
	}
	if err != nil {
		return nil, err
	}
	m.best = tip
	err = store.Accounts(func(a Address, acc Account) error {
		m.ledger = m.ledger.Set(a, acc)
		return nil
	})
	return m, err
}

func (m *Manager) begin(ctx context.Context) error {
	start, err := m.models.taskStart(ctx, 0)
	if err != nil {
		return fmt.Errorf("genesis: %w", err)
	}
	b, s := m.net.Genesis(start)
	var changes []AccountChange
	m.net.GenesisLedger().Each(func(a Address, acc Account) {
		changes = append(changes, AccountChange{Address: a, After: acc})
	})
	if err := m.store.Connect(Verified{b, s, changes}); err != nil {
		return fmt.Errorf("genesis: %w", err)
	}
	m.best, m.ledger = s, m.net.GenesisLedger()
	return nil
}

// Network is the network whose rules the manager keeps.
func (m *Manager) Network() *Network { return m.net }

// Arrive numbers the blocks in the order in which they came in; of two chains with equal work the one that came in
// first is best, whichever was verified first.
func (m *Manager) Arrive() uint64 { return m.arrived.Add(1) }

// SetSyncing says whether the node is catching up: then no finality applies.
func (m *Manager) SetSyncing(on bool) { m.syncing.Store(on) }

// Best is the state of the best verified chain, and a channel that is closed when another takes its place.
func (m *Manager) Best() (State, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.best, m.changed
}

// Ledger is the ledger after the best chain's tip.
func (m *Manager) Ledger() Ledger {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ledger
}

// Job is what a miner needs to train on the best chain. Payout and nonce of the claim are the miner's.
type Job struct {
	Claim  Claim
	Base   Base
	Start  *nn.State // shared: it must not be changed
	Target Hash
	Parent State
	Stale  <-chan struct{} // closed when another chain is best
}

// NewJob gives a job on the best chain. now is the local clock in Unix milliseconds.
func (m *Manager) NewJob(ctx context.Context, now uint64) (*Job, error) {
	m.mu.Lock()
	s, ledger, stale := m.best, m.ledger, m.changed
	m.mu.Unlock()
	base, err := m.net.Base(s, func(task uint32) (TaskStart, error) { return m.models.taskStart(ctx, task) })
	if err != nil {
		return nil, err
	}
	start, err := m.models.start(ctx, s.ID, base)
	if err != nil {
		return nil, err
	}
	claim := m.net.NextClaim(s, base, ledger, now)
	return &Job{Claim: claim, Base: base, Start: start, Target: m.net.Target(base, claim.Difficulty), Parent: s, Stale: stale}, nil
}

// Remember keeps what a miner's own re-run of a claim gave, so that Add does not run it once more.
func (m *Manager) Remember(claimID Hash, x *Execution, trained *nn.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.executed.put(claimID, x)
	m.models.remember(x.TrainedRoot, trained)
}

// Model is the network's model state after a verified block. It must not be changed.
func (m *Manager) Model(ctx context.Context, id Hash) (*nn.State, error) {
	return m.models.after(ctx, id)
}

// Precheck makes the checks of a block that cost little: form, known faults, and all rules up to the training where
// its parent is verified. It keeps nothing. now is the local clock in Unix milliseconds.
func (m *Manager) Precheck(b *Block, now uint64) (known bool, err error) {
	if err := m.net.CheckForm(b); err != nil {
		return false, err
	}
	if b.Time > now+m.net.MaxFuture {
		return false, fmt.Errorf("%w: %d ms ahead, allowed are %d", ErrFuture, b.Time-now, m.net.MaxFuture)
	}
	id := b.Header.ID()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pending[id] != nil {
		return true, nil
	}
	if known, err := m.judged(id); known || err != nil {
		return known, err
	}
	parent, err := m.parentOf(b)
	if errors.Is(err, errNeedsStart) {
		return false, nil // its task's start is not worked out yet: that is for Add
	}
	if err != nil {
		return false, err
	}
	return false, m.checkContext(parent, b)
}

// judged says whether the block is verified (known) or remembered as invalid (its fault).
func (m *Manager) judged(id Hash) (known bool, err error) {
	_, err = m.store.Verified(id)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	fault, err := m.store.Invalid(id)
	if err == nil {
		return false, fault
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	return false, nil
}

// parentLink is what is known of a block's parent.
type parentLink struct {
	state  State
	ledger Ledger
	base   Base // of its children
}

// errNeedsStart says that a task's start must be worked out first, which takes an evaluation.
var errNeedsStart = errors.New("start of the task is not known yet")

func (m *Manager) parentOf(b *Block) (l parentLink, err error) {
	if p := m.pending[b.Parent]; p != nil {
		l.state, l.ledger = p.claimed.State, p.ledger
	} else {
		v, err := m.store.Verified(b.Parent)
		if errors.Is(err, ErrNotFound) {
			if fault, err := m.store.Invalid(b.Parent); err == nil {
				return l, &InvalidError{Kind: ErrInvalidParent, Got: fmt.Sprintf("%s: %v", b.Parent.Short(), fault)}
			}
			return l, fmt.Errorf("%w: %s", ErrOrphan, b.Parent.Short())
		}
		if err != nil {
			return l, err
		}
		l.state = v.State
		if l.ledger, err = m.ledgerAfter(v); err != nil {
			return l, err
		}
	}
	l.base, err = m.net.Base(l.state, func(task uint32) (TaskStart, error) {
		s, err := m.store.TaskStart(task)
		if errors.Is(err, ErrNotFound) {
			err = errNeedsStart
		}
		return s, err
	})
	return l, err
}

func (m *Manager) checkContext(l parentLink, b *Block) error {
	if err := m.net.CheckClaim(l.state, l.base, l.ledger, b); err != nil {
		return err
	}
	return m.net.CheckOutcome(l.base, b)
}

// ledgerAfter is the ledger after a verified block: the best one, with what lies between undone and done.
func (m *Manager) ledgerAfter(v Verified) (Ledger, error) {
	if v.State.ID == m.best.ID {
		return m.ledger, nil
	}
	branch, fork, err := m.branch(v)
	if err != nil {
		return Ledger{}, err
	}
	ledger := m.ledger
	for h := m.best.Height; h > fork.State.Height; h-- {
		u, err := m.at(h)
		if err != nil {
			return Ledger{}, err
		}
		ledger = ledger.Apply(u.Changes, false)
	}
	for _, u := range branch {
		ledger = ledger.Apply(u.Changes, true)
	}
	return ledger, nil
}

// branch is the verified blocks from the best chain (fork, not included) up to v, oldest first.
func (m *Manager) branch(v Verified) (branch []Verified, fork Verified, err error) {
	for {
		id, err := m.store.BlockID(v.State.Height)
		if err == nil && id == v.State.ID {
			break
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, v, err
		}
		branch = append(branch, v)
		if v, err = m.store.Verified(v.Block.Parent); err != nil {
			return nil, v, err
		}
	}
	for i, j := 0, len(branch)-1; i < j; i, j = i+1, j-1 {
		branch[i], branch[j] = branch[j], branch[i]
	}
	return branch, v, nil
}

func (m *Manager) at(height uint64) (Verified, error) {
	id, err := m.store.BlockID(height)
	if err != nil {
		return Verified{}, err
	}
	return m.store.Verified(id)
}

// Add takes a block. It executes it (and unverified ancestors) if its chain claims more work than the best one, or
// as much and came in first, and makes it the tip if it proves valid. now is the local clock in Unix milliseconds,
// arrival from Arrive when the block came in. onStep may block at each training step; it may be nil.
//
// The error is an InvalidError, a reason why the block is not judged (ErrOrphan, ErrFuture, ErrFinality, ErrSideFull),
// or a local fault; VerdictOf tells them apart.
func (m *Manager) Add(ctx context.Context, b *Block, now, arrival uint64, onStep func(int) error) (Added, error) {
	if err := m.net.CheckForm(b); err != nil {
		return Added{}, m.remember(b, err)
	}
	if b.Time > now+m.net.MaxFuture {
		return Added{}, fmt.Errorf("%w: %d ms ahead, allowed are %d", ErrFuture, b.Time-now, m.net.MaxFuture)
	}
	p, known, err := m.link(ctx, b, arrival)
	if err != nil {
		return Added{}, m.remember(b, err)
	}
	if known {
		return Added{Known: true}, nil
	}
	var added Added
	for {
		m.mu.Lock()
		better := m.better(p)
		var path []*pendingBlock
		if better {
			path, err = m.unverified(p)
		}
		if err == nil && better && len(path) == 0 {
			added.Reverted, err = m.adopt(p)
			added.State = p.claimed.State
			m.mu.Unlock()
			if err == nil {
				m.models.retain(added.State)
			}
			return added, err
		}
		m.mu.Unlock()
		if err != nil {
			return added, err
		}
		if !better {
			added.Side, added.State = true, p.claimed.State
			return added, nil
		}
		ran, err := m.verify(ctx, path[0], onStep)
		if ran {
			added.Executed++
		}
		if err != nil {
			m.drop(path[0], err)
			if path[0] != p && VerdictOf(err) == Invalid {
				err = &InvalidError{Kind: ErrInvalidParent, Got: fmt.Sprintf("height %d: %v", path[0].block.Height, err)}
			}
			return added, err
		}
	}
}

// remember keeps a fault that the header proves.
func (m *Manager) remember(b *Block, err error) error {
	var fault *InvalidError
	if errors.As(err, &fault) && fault.Remember() {
		if perr := m.store.PutInvalid(b.Header.ID(), fault); perr != nil {
			return errors.Join(err, perr)
		}
	}
	return err
}

// link checks the block against its parent and keeps it as pending.
func (m *Manager) link(ctx context.Context, b *Block, arrival uint64) (p *pendingBlock, known bool, err error) {
	id := b.Header.ID()
	for {
		m.mu.Lock()
		if p := m.pending[id]; p != nil {
			m.mu.Unlock()
			return p, false, nil
		}
		if known, err := m.judged(id); known || err != nil {
			m.mu.Unlock()
			return nil, known, err
		}
		l, err := m.parentOf(b)
		if !errors.Is(err, errNeedsStart) {
			if err == nil {
				err = m.checkContext(l, b)
			}
			if err == nil && len(m.pending) >= maxSide {
				err = ErrSideFull
			}
			if err == nil {
				next, changes := m.net.Apply(l.state, l.base, l.ledger, b)
				p = &pendingBlock{b, l.base, Verified{b, next, changes}, l.ledger.Apply(changes, true), arrival}
				m.pending[id] = p
			}
			m.mu.Unlock()
			return p, false, err
		}
		task, _ := m.net.NextTask(l.state)
		m.mu.Unlock()
		if _, err := m.models.taskStart(ctx, task); err != nil {
			return nil, false, err
		}
	}
}

// better says whether p's chain is to be preferred to the best one.
func (m *Manager) better(p *pendingBlock) bool {
	c := p.claimed.State.Work.Cmp(m.best.Work)
	return c > 0 || c == 0 && p.claimed.State.ID != m.best.ID && p.arrival < m.bestArrival
}

// unverified is the path of pending ancestors of p and p itself that are not verified, oldest first; ErrFinality where
// the chain would replace too much.
func (m *Manager) unverified(p *pendingBlock) ([]*pendingBlock, error) {
	var path []*pendingBlock
	q := p
	for {
		if _, err := m.store.Verified(q.claimed.State.ID); errors.Is(err, ErrNotFound) {
			path = append(path, q)
		} else if err != nil {
			return nil, err
		}
		parent := m.pending[q.block.Parent]
		if parent == nil {
			break
		}
		q = parent
	}
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	v, err := m.store.Verified(q.block.Parent)
	if err != nil {
		return nil, err
	}
	_, fork, err := m.branch(v)
	if err != nil {
		return nil, err
	}
	depth := m.best.Height - fork.State.Height
	if depth > uint64(m.net.FinalityDepth) && !m.syncing.Load() {
		old := m.best.Work.Sub(fork.State.Work)
		if p.claimed.State.Work.Sub(fork.State.Work).Cmp(old.AddWork(old)) < 0 {
			return nil, fmt.Errorf("%w: %d blocks, %d allowed, and it has less than twice the work", ErrFinality, depth, m.net.FinalityDepth)
		}
	}
	return path, nil
}

// verify judges one block whose parent is verified, by what is remembered of its claim or by running it.
func (m *Manager) verify(ctx context.Context, p *pendingBlock, onStep func(int) error) (ran bool, err error) {
	claimID := p.block.Claim.ID()
	m.mu.Lock()
	x := m.executed.get(claimID)
	m.mu.Unlock()
	if x != nil {
		if err := m.net.CheckExecution(p.block, x); err != nil {
			return false, err
		}
	}
	if x == nil || !x.Complete {
		start, err := m.models.start(ctx, p.block.Parent, p.base)
		if err != nil {
			return false, err
		}
		x, trained, err := m.net.Execute(ctx, m.trainer, p.base.Template, start, p.block, onStep)
		m.mu.Lock()
		if len(x.EarlyRoots) > 0 {
			m.executed.put(claimID, x)
		}
		if x.Complete {
			m.models.remember(x.TrainedRoot, trained)
		}
		m.mu.Unlock()
		if err != nil {
			return true, err
		}
		ran = true
	}
	if p.claimed.State.Advanced {
		if err := m.models.save(p.claimed.State.ModelRoot, p.block.Height); err != nil {
			return ran, err
		}
	}
	return ran, m.store.PutVerified(p.claimed)
}

// drop forgets a pending block that could not be verified; if it is invalid, that is remembered, and all that stands
// on it goes too.
func (m *Manager) drop(p *pendingBlock, err error) {
	if VerdictOf(err) != Invalid {
		return // it stays, and is tried again with the next block on it, or when it is sent again
	}
	_ = m.remember(p.block, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := []Hash{p.claimed.State.ID}
	for len(gone) > 0 {
		id := gone[0]
		gone = gone[1:]
		delete(m.pending, id)
		for child, q := range m.pending {
			if q.block.Parent == id {
				gone = append(gone, child)
			}
		}
	}
}

// adopt makes p, which is verified, the tip: blocks are disconnected down to the fork and connected up to p, each in a
// transaction of its own, so that a crash leaves a valid, shorter chain.
func (m *Manager) adopt(p *pendingBlock) (reverted int, err error) {
	v, err := m.store.Verified(p.claimed.State.ID)
	if err != nil {
		return 0, err
	}
	branch, fork, err := m.branch(v)
	if err != nil {
		return 0, err
	}
	defer func() {
		close(m.changed)
		m.changed = make(chan struct{})
	}()
	for m.best.ID != fork.State.ID {
		tip, err := m.store.Verified(m.best.ID)
		if err != nil {
			return reverted, err
		}
		parent, err := m.store.Verified(tip.Block.Parent)
		if err != nil {
			return reverted, err
		}
		if err := m.store.Disconnect(tip, parent.State); err != nil {
			return reverted, err
		}
		m.best, m.ledger = parent.State, m.ledger.Apply(tip.Changes, false)
		m.bestArrival = 0
		reverted++
	}
	for _, b := range branch {
		if err := m.store.Connect(b); err != nil {
			return reverted, err
		}
		m.best, m.ledger = b.State, m.ledger.Apply(b.Changes, true)
	}
	m.bestArrival = p.arrival
	for id, q := range m.pending {
		if _, err := m.store.Verified(id); err == nil || q.block.Height+sideWindow < m.best.Height {
			delete(m.pending, id)
		}
	}
	return reverted, nil
}

// executions remembers what claims gave, the newest maxExecuted of them.
type executions struct {
	byClaim map[Hash]*Execution
	order   []Hash
}

func (e *executions) get(claim Hash) *Execution { return e.byClaim[claim] }

func (e *executions) put(claim Hash, x *Execution) {
	if e.byClaim == nil {
		e.byClaim = map[Hash]*Execution{}
	}
	old := e.byClaim[claim]
	if old == nil {
		e.order = append(e.order, claim)
	} else if old.Complete || len(old.EarlyRoots) > len(x.EarlyRoots) {
		return
	}
	e.byClaim[claim] = x
	if len(e.order) > maxExecuted {
		delete(e.byClaim, e.order[0])
		e.order = e.order[1:]
	}
}
