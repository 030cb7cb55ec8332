package chain

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/descentnet/minerd/nn"
)

// ErrSideFull says that no more unverified blocks are kept.
var ErrSideFull = errors.New("too many blocks that are not on the best chain")

// ErrPostponed says that a part of a branch was verified and the rest was put off by who asked.
var ErrPostponed = errors.New("the rest of the branch is put off")

// maxSide bounds the unverified blocks that are kept: 4,096 of at most 60 KiB are 240 MiB at worst, some 4 MiB without
// transactions.
const maxSide = 4096

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
	verdicts    verdicts
	unfinished  bool // the store failed in the midst of a change of branches
}

// pendingBlock is a block that obeys all rules that can be checked without training, given its parent does; those of the
// ledger only where that is set.
type pendingBlock struct {
	block   *Block
	base    Base
	claimed Verified // what is true after it, if it is valid; without changes where ledger is nil
	ledger  *Ledger  // after it; nil until it is asked for, since it takes work to find far from the tip
	arrival Arrival
}

// Arrival says when a block came in, and from whom.
type Arrival struct {
	Number uint64 // from Arrive
	From   string // whom it counts for: a peer or an address range; "" for our own
}

// Added says what became of a block.
type Added struct {
	Known    bool  // it was there already, and nothing has changed
	Side     bool  // kept, but its chain claims no more work than the best one
	State    State // after the block
	Reverted int   // blocks that left the best chain for it
	Executed int   // blocks whose training was run again
	// Verified are the blocks that this call found valid, oldest first: the block, and before it those that it stands
	// on and that were not executed until now. Ran says of each whether its training was run, or known already.
	Verified []Verified
	Ran      []bool
}

// OpenManager reads the best chain from the store, or begins it with genesis. A change of branches that a crash cut short
// goes on: its blocks were verified before it began.
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
	if err := store.Accounts(func(a Address, acc Account) error {
		m.ledger = m.ledger.Set(a, acc)
		return nil
	}); err != nil {
		return nil, err
	}
	if err := m.checkAccounts(); err != nil {
		return nil, err
	}
	if err := m.resume(); err != nil {
		return nil, fmt.Errorf("going on with a change of branches: %w", err)
	}
	return m, nil
}

// checkAccounts holds the ledger against the root that the tip names.
func (m *Manager) checkAccounts() error {
	tip, err := m.store.Verified(m.best.ID)
	if err != nil {
		return fmt.Errorf("the tip: %w", err)
	}
	ledger := m.ledger
	if m.best.Height > 0 { // the root that a block names is of the ledger before its reward
		ledger = ledger.Apply(tip.Changes, false)
	}
	if root := ledger.Root(); root != tip.Block.LedgerRoot {
		return fmt.Errorf("%w: the accounts have ledger root %s, the tip at height %d names %s",
			ErrCorrupt, root.Short(), m.best.Height, tip.Block.LedgerRoot.Short())
	}
	return nil
}

// resume makes the verified block with the most work the tip, where that is not the tip already and finality allows it: a
// crash or a failure of the store can end adopt in the middle, or come before it. Where it came while blocks were taken
// off, those on the tip are put on first, so that finality is weighed against the chain that was to be replaced. Which of
// two equal ones arrived first is not known any more: the tip stays, and else the lower id is taken.
func (m *Manager) resume() error {
	for _, onTip := range []bool{true, false} {
		if err := m.resumeWith(onTip); err != nil {
			return err
		}
	}
	m.unfinished = false
	return nil
}

// resumeWith makes the best verified block that may replace the tip the tip, of those on the tip only if onTip is set.
func (m *Manager) resumeWith(onTip bool) error {
	beside, err := m.store.Beside()
	if err != nil {
		return err
	}
	slices.SortFunc(beside, func(a, b SideBlock) int { return cmp.Or(b.Work.Cmp(a.Work), bytes.Compare(a.ID[:], b.ID[:])) })
	below := map[Hash]bool{} // a block that was passed over: less work and the same fork
	for _, b := range beside {
		if b.Work.Cmp(m.best.Work) <= 0 {
			break
		}
		if below[b.ID] {
			continue
		}
		v, err := m.store.Verified(b.ID)
		if err != nil {
			return err
		}
		branch, fork, err := m.branch(v)
		if err != nil {
			return err
		}
		if onTip && fork.State.ID == m.best.ID || !onTip && m.checkFinality(v.State, fork.State) == nil {
			_, err = m.adopt(b.ID, Arrival{})
			return err
		}
		for _, u := range branch {
			below[u.State.ID] = true
		}
	}
	return nil
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
func (m *Manager) Arrive(from string) Arrival { return Arrival{m.arrived.Add(1), from} }

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

// NewJob gives a job on the best chain. now is the local clock in Unix milliseconds. The error is ErrNotNow where the
// store has failed and may work again.
func (m *Manager) NewJob(ctx context.Context, now uint64) (*Job, error) {
	m.mu.Lock()
	if m.unfinished {
		if err := m.resume(); err != nil {
			m.mu.Unlock()
			return nil, notNow(fmt.Errorf("going on with a change of branches: %w", err))
		}
	}
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
	m.executed.put(claimID, x, forGood) // the miner ran it twice
	m.models.remember(x.TrainedRoot, trained)
}

// Model is the network's model state after a verified block. It must not be changed.
func (m *Manager) Model(ctx context.Context, id Hash) (*nn.State, error) {
	return m.models.after(ctx, id)
}

// Precheck makes the checks of a block that cost little: form, known faults, and all rules up to the training where
// its parent is known. It keeps nothing. known says that there is nothing to do. now is the local clock in Unix
// milliseconds.
func (m *Manager) Precheck(b *Block, now uint64) (known bool, err error) {
	id := b.Header.ID()
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, err := m.judged(id, now); known || err != nil {
		return known, err
	}
	if err := m.checkForm(b, now); err != nil {
		return false, err
	}
	if p := m.pending[id]; p != nil {
		return !m.better(p.claimed.State, p.arrival), nil
	}
	_, err = m.check(b, now)
	if errors.Is(err, errNeedsStart) {
		err = nil // its task's start is not worked out yet: that is for Add
	}
	return false, err
}

func (m *Manager) checkForm(b *Block, now uint64) error {
	if err := m.net.CheckForm(b); err != nil {
		return err
	}
	if b.Time > now+m.net.MaxFuture {
		return fmt.Errorf("%w: %d ms ahead, allowed are %d", ErrFuture, b.Time-now, m.net.MaxFuture)
	}
	return nil
}

// judged says whether the block is on the best chain, or verified and no better (known), or remembered as invalid (its
// fault).
func (m *Manager) judged(id Hash, now uint64) (known bool, err error) {
	v, err := m.store.Verified(id)
	if err == nil {
		return v.State.Work.Cmp(m.best.Work) <= 0, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	fault, err := m.fault(id, now)
	if err != nil {
		return false, err
	}
	if fault != nil {
		return false, fault
	}
	return false, nil
}

// fault is what is remembered against a block; nil where nothing is, or where a verdict of this machine has lapsed.
func (m *Manager) fault(id Hash, now uint64) (*InvalidError, error) {
	f, err := m.store.Invalid(id)
	if err == nil && f.Proved() {
		return f, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	v, ok := m.verdicts.byID[id]
	switch {
	case !ok:
		return nil, nil
	case v.lapsed(now):
		m.executed.lapse(v.claim, now)
		return nil, nil
	}
	return v.fault, nil
}

// errNeedsStart says that a task's start must be worked out first, which takes an evaluation.
var errNeedsStart = errors.New("start of the task is not known yet")

// check holds a block of good form against its parent, all rules up to the training, and against what is remembered of
// its claim's training. The ledger is left for settle where that after the parent is not at hand: to find it, all blocks
// down to the parent are read, which forged blocks beside the chain must not bring about.
func (m *Manager) check(b *Block, now uint64) (*pendingBlock, error) {
	var parent State
	var before *Ledger
	if p := m.pending[b.Parent]; p != nil {
		parent, before = p.claimed.State, p.ledger
	} else {
		v, err := m.store.Verified(b.Parent)
		if errors.Is(err, ErrNotFound) {
			if fault, err := m.fault(b.Parent, now); err != nil {
				return nil, err
			} else if fault != nil {
				return nil, invalidParent(b.Parent.Short(), fault)
			}
			return nil, fmt.Errorf("%w: %s", ErrOrphan, b.Parent.Short())
		}
		if err != nil {
			return nil, err
		}
		parent = v.State
		if parent.ID == m.best.ID {
			before = &m.ledger
		}
	}
	task, _ := m.net.NextTask(parent)
	base, err := m.net.Base(parent, func(uint32) (TaskStart, error) {
		s, err := m.store.TaskStart(task)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("%w: task %d", errNeedsStart, task)
		}
		return s, err
	})
	if err != nil {
		return nil, err
	}
	if err := m.net.CheckClaim(parent, base, b); err != nil {
		return nil, err
	}
	if err := m.net.CheckOutcome(base, b); err != nil {
		return nil, err
	}
	if x := m.executed.get(b.Claim.ID()); x != nil {
		if err := m.net.CheckExecution(b, x); err != nil {
			return nil, err
		}
	}
	if parent.Height+uint64(m.net.FinalityDepth)+maxSide < m.best.Height && !m.syncing.Load() {
		return nil, fmt.Errorf("%w: its parent is at height %d", ErrFinality, parent.Height)
	}
	if err := m.net.checkTransactions(b); err != nil {
		return nil, err
	}
	p := &pendingBlock{block: b, base: base, claimed: Verified{Block: b, State: m.net.next(parent, base, b)}}
	if before != nil {
		if err := m.settleOn(p, *before); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// settle holds a pending block whose parent is verified against the ledger after that, if check has not done so.
func (m *Manager) settle(p *pendingBlock) error {
	if p.ledger != nil {
		return nil
	}
	if q := m.pending[p.block.Parent]; q != nil && q.ledger != nil {
		return m.settleOn(p, *q.ledger)
	}
	v, err := m.store.Verified(p.block.Parent)
	if err != nil {
		return err
	}
	before, err := m.ledgerAfter(v)
	if err != nil {
		return err
	}
	return m.settleOn(p, before)
}

func (m *Manager) settleOn(p *pendingBlock, before Ledger) error {
	if err := m.net.CheckLedger(before, p.block); err != nil {
		return err
	}
	p.claimed.Changes = m.net.changes(before, p.block)
	after := before.Apply(p.claimed.Changes, true)
	p.ledger = &after
	return nil
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
	slices.Reverse(branch)
	return branch, v, nil
}

// Add takes a block. It executes it (and unverified ancestors) if its chain claims more work than the best one, or
// as much and came in first, and makes it the tip if it proves valid. All of a new branch is verified before the old one
// is left; where a block of it proves invalid or cannot be judged, those below it are taken if they are better by
// themselves. now is the local clock in Unix milliseconds, arrival from Arrive when the block came in.
//
// The error is an InvalidError, a reason why the block is not judged (ErrOrphan, ErrFuture, ErrFinality, ErrSideFull),
// or a local fault; VerdictOf tells them apart.
func (m *Manager) Add(ctx context.Context, b *Block, now uint64, arrival Arrival) (added Added, err error) {
	return m.AddWhile(ctx, b, now, arrival, nil)
}

// AddWhile is Add for who has other things to do: goOn, if not nil, is asked before each block of a branch but the first
// that is executed, with how many were. Where it is false, the error is ErrPostponed, and a later call with the same block
// goes on from there.
func (m *Manager) AddWhile(ctx context.Context, b *Block, now uint64, arrival Arrival, goOn func(executed int) bool) (added Added, err error) {
	p, known, err := m.link(ctx, b, now, arrival)
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		return added, m.remember(b, err, now)
	}
	if known {
		return Added{Known: true}, nil
	}
	seen := p.block != b // it came before and waits beside the best chain
	var snapshots []Hash // roots of model states on the way that are kept, however long the branch is
	for {
		path, best, err := m.advance(p, &added)
		if err != nil {
			return added, err
		}
		if len(path) == 0 {
			if !added.Known && !added.Side {
				m.models.retain(added.State, nil)
			}
			added.Known = added.Known || added.Side && seen
			return added, nil
		}
		for _, next := range path {
			if tip, _ := m.Best(); tip.ID != best.ID {
				break // another call has made another block the tip: look again
			}
			if added.Executed > 0 && goOn != nil && !goOn(added.Executed) {
				return added, errors.Join(ErrPostponed, m.adoptPart(&added, arrival))
			}
			ran, err := m.verify(ctx, next, now)
			if ran {
				added.Executed++
			}
			if err != nil {
				if VerdictOf(err) == Invalid {
					m.drop(next, err, now)
					if next != p {
						err = invalidParent(fmt.Sprintf("height %d", next.block.Height), err)
					}
				}
				return added, errors.Join(err, m.adoptPart(&added, arrival))
			}
			added.Verified = append(added.Verified, next.claimed)
			added.Ran = append(added.Ran, ran)
			if len(path) > 1 {
				if next.block.Height%uint64(m.net.SnapshotInterval) == 0 {
					snapshots = append(snapshots, next.claimed.State.ModelRoot)
				}
				m.models.retain(best, append(snapshots[:len(snapshots):len(snapshots)], next.claimed.State.ModelRoot))
			}
		}
	}
}

// advance gives the blocks that must be verified before p can be the tip, oldest first, and the best chain that it is
// held against; where there are none, it makes p the tip or leaves it beside.
func (m *Manager) advance(p *pendingBlock, added *Added) (path []*pendingBlock, best State, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, better := p.claimed.State.ID, m.better(p.claimed.State, p.arrival)
	if m.pending[id] != p { // another call has judged it meanwhile, or it had to make room
		_, err := m.store.Verified(id)
		if errors.Is(err, ErrNotFound) {
			if _, err = m.judged(id, 0); err == nil {
				err = ErrSideFull
			}
		}
		if err != nil {
			return nil, best, err
		}
		if !better {
			added.Known = true
			return nil, best, nil
		}
	}
	added.State = p.claimed.State
	if !better {
		added.Side = true
		return nil, best, nil
	}
	path, err = m.unverified(p)
	if err != nil || len(path) > 0 {
		return path, m.best, err
	}
	added.Reverted, err = m.adopt(p.claimed.State.ID, p.arrival)
	return nil, best, err
}

// adoptPart makes the last of the blocks that a call has verified the tip if it is better, though one above it was not
// found valid. Finality is weighed again, by what is verified: what the branch claimed above cost hashes only. Where that
// is not enough, it stays beside.
func (m *Manager) adoptPart(added *Added, arrival Arrival) (err error) {
	if len(added.Verified) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	last := added.Verified[len(added.Verified)-1].State
	if last.Work.Cmp(m.best.Work) <= 0 {
		return nil
	}
	reverted, err := m.adopt(last.ID, arrival)
	if errors.Is(err, ErrFinality) {
		return nil
	}
	added.State, added.Reverted = last, reverted
	return err
}

// remember keeps a fault: for good one that the header proves, for a while one that training here has shown.
func (m *Manager) remember(b *Block, err error, now uint64) error {
	var fault *InvalidError
	if !errors.As(err, &fault) || !fault.Remember() {
		return err
	}
	id := b.Header.ID()
	if !fault.Proved() {
		if known, _ := m.fault(id, now); known == nil {
			m.verdicts.put(id, b.Claim.ID(), fault, now)
		}
		return err
	}
	if perr := m.store.PutInvalid(id, fault); perr != nil {
		return errors.Join(err, perr)
	}
	return err
}

// link checks the block and keeps it as pending.
func (m *Manager) link(ctx context.Context, b *Block, now uint64, arrival Arrival) (p *pendingBlock, known bool, err error) {
	id := b.Header.ID()
	for {
		p, known, err := m.tryLink(b, id, now, arrival)
		if !errors.Is(err, errNeedsStart) {
			return p, known, err
		}
		parent, err := m.parentState(b.Parent)
		if err != nil {
			return nil, false, err
		}
		task, _ := m.net.NextTask(parent)
		if _, err := m.models.taskStart(ctx, task); err != nil {
			return nil, false, err
		}
	}
}

func (m *Manager) parentState(id Hash) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pending[id]; p != nil {
		return p.claimed.State, nil
	}
	v, err := m.store.Verified(id)
	return v.State, err
}

func (m *Manager) tryLink(b *Block, id Hash, now uint64, arrival Arrival) (p *pendingBlock, known bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unfinished {
		if err := m.resume(); err != nil {
			return nil, false, err
		}
	}
	if known, err := m.judged(id, now); known || err != nil {
		return nil, known, err
	}
	if err := m.checkForm(b, now); err != nil {
		return nil, false, err
	}
	if p := m.pending[id]; p != nil {
		return p, false, nil
	}
	if p, err = m.check(b, now); err != nil {
		return nil, false, err
	}
	p.arrival = arrival
	if err := m.makeRoom(p); err != nil {
		return nil, false, err
	}
	m.pending[id] = p
	return p, false, nil
}

// makeRoom keeps the number of pending blocks bounded. A block whose chain would be the best always finds room; the
// others share what there is: the sender of the most blocks gives up the one that claims least.
func (m *Manager) makeRoom(p *pendingBlock) error {
	if len(m.pending) < maxSide {
		return nil
	}
	count := map[string]int{}
	parents := map[Hash]bool{p.block.Parent: true}
	for _, q := range m.pending {
		count[q.arrival.From]++
		parents[q.block.Parent] = true
	}
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	if count[p.arrival.From] == most && !m.better(p.claimed.State, p.arrival) {
		return ErrSideFull
	}
	var victim *pendingBlock
	for id, q := range m.pending {
		if count[q.arrival.From] == most && !parents[id] && (victim == nil || q.claimed.State.Work.Cmp(victim.claimed.State.Work) < 0) {
			victim = q
		}
	}
	if victim == nil {
		return ErrSideFull
	}
	delete(m.pending, victim.claimed.State.ID)
	return nil
}

// better says whether a chain that ends in s is to be preferred to the best one.
func (m *Manager) better(s State, arrival Arrival) bool {
	c := s.Work.Cmp(m.best.Work)
	return c > 0 || c == 0 && s.ID != m.best.ID && arrival.Number < m.bestArrival
}

// unverified is the path of pending ancestors of p and p itself that are not verified, oldest first; ErrFinality where
// the chain would replace too much.
func (m *Manager) unverified(p *pendingBlock) (path []*pendingBlock, err error) {
	var v Verified // the last one that is; below it all are
	for id := p.claimed.State.ID; ; {
		v, err = m.store.Verified(id)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		q := m.pending[id]
		if q == nil {
			return nil, fmt.Errorf("%w: %s, below a block that was kept", ErrOrphan, id.Short())
		}
		path = append(path, q)
		id = q.block.Parent
	}
	slices.Reverse(path)
	_, fork, err := m.branch(v)
	if err != nil {
		return nil, err
	}
	return path, m.checkFinality(p.claimed.State, fork.State)
}

// checkFinality is ErrFinality where a chain that leaves the best one at fork and ends in s would replace too much.
func (m *Manager) checkFinality(s, fork State) error {
	depth := m.best.Height - fork.Height
	if depth <= uint64(m.net.FinalityDepth) || m.syncing.Load() {
		return nil
	}
	old := m.best.Work.Sub(fork.Work)
	if s.Work.Sub(fork.Work).Cmp(old.AddWork(old)) < 0 {
		return fmt.Errorf("%w: %d blocks, %d allowed, and it has less than twice the work", ErrFinality, depth, m.net.FinalityDepth)
	}
	return nil
}

// verify judges one block whose parent is verified: by the ledger, and by what is remembered of its claim or by running it.
func (m *Manager) verify(ctx context.Context, p *pendingBlock, now uint64) (ran bool, err error) {
	claimID := p.block.Claim.ID()
	m.mu.Lock()
	err = m.settle(p)
	x := m.executed.get(claimID)
	m.mu.Unlock()
	if err != nil {
		return false, err
	}
	if x != nil {
		if err := m.net.CheckExecution(p.block, x); err != nil {
			return false, err
		}
	}
	if x == nil || !x.Complete { // a remembered fault was returned above
		start, err := m.models.start(ctx, p.block.Parent, p.base)
		if err != nil {
			return false, err
		}
		x, trained, err := m.net.Execute(ctx, m.trainer, p.base.Template, start, p.block)
		m.mu.Lock()
		m.executed.put(claimID, x, now)
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
	if err := m.store.PutVerified(p.claimed); err != nil {
		return ran, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.executed.confirm(claimID)
	return ran, nil
}

// drop forgets a pending block that is invalid, and all that stands on it, and remembers the fault. One that could not
// be judged stays, and is tried again with the next block on it, or when it is sent again.
func (m *Manager) drop(p *pendingBlock, err error, now uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.remember(p.block, err, now)
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

// adopt makes a verified block the tip: blocks are disconnected down to the fork and connected up to it, each in a
// transaction of its own, so that a crash leaves a valid, shorter chain, from which resume goes on. ErrFinality where that
// would replace too much.
func (m *Manager) adopt(id Hash, arrival Arrival) (reverted int, err error) {
	v, err := m.store.Verified(id)
	if err != nil {
		return 0, err
	}
	branch, fork, err := m.branch(v)
	if err != nil {
		return 0, err
	}
	if err := m.checkFinality(v.State, fork.State); err != nil {
		return 0, err
	}
	m.unfinished = true
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
	m.bestArrival, m.unfinished = arrival.Number, false
	for id, q := range m.pending {
		if _, err := m.store.Verified(id); err == nil || q.block.Height+uint64(m.net.FinalityDepth) < m.best.Height {
			delete(m.pending, id)
		}
	}
	return reverted, nil
}
