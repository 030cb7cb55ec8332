package chain

// Verified is a block that was re-executed and found valid, the state of the chain after it, and what it did to the
// ledger.
type Verified struct {
	Block   *Block
	State   State
	Changes []AccountChange
}

// Store keeps what the manager knows. Every read gives what was written or an error, never something else: a record
// that is damaged is ErrCorrupt. What is not there is ErrNotFound. All methods may be called at the same time.
type Store interface {
	// Tip is the state of the best chain; ErrNotFound in a new store.
	Tip() (State, error)
	// Verified is a valid block by id, on the best chain or beside it.
	Verified(id Hash) (Verified, error)
	// BlockID is the id of the best chain's block at a height.
	BlockID(height uint64) (Hash, error)
	// PutVerified keeps a valid block that is not (yet) on the best chain.
	PutVerified(v Verified) error
	// Beside lists the valid blocks that are not on the best chain, in no order.
	Beside() ([]SideBlock, error)
	// Connect keeps the block, makes it the tip, and applies its changes to the accounts, all in one durable
	// transaction. Its parent is the tip (there is none for genesis).
	Connect(v Verified) error
	// Disconnect takes the tip v off the best chain, so that parent is the tip, and undoes its changes, all in one
	// durable transaction. The block stays.
	Disconnect(v Verified, parent State) error
	// Accounts calls do for every account that is not zero.
	Accounts(do func(Address, Account) error) error

	// Invalid is the remembered fault of a block; ErrNotFound where none is. The memory is bounded.
	Invalid(id Hash) (*InvalidError, error)
	PutInvalid(id Hash, fault *InvalidError) error

	// TaskStart is the remembered start of a task; ErrNotFound where none is.
	TaskStart(task uint32) (TaskStart, error)
	PutTaskStart(task uint32, s TaskStart) error

	// Model is a model state's canonical bytes by its root, checked against it; ErrNotFound where it is not kept.
	Model(root Hash) ([]byte, error)
	// PutModel keeps a model state durably. height is that of the block that made it.
	PutModel(root Hash, height uint64, b []byte) error
	// Models lists the kept model states.
	Models() ([]StoredModel, error)
	// DeleteModel removes a model state; none there is no error.
	DeleteModel(root Hash) error
}

// SideBlock is a valid block that is not on the best chain, with the work of its own chain.
type SideBlock struct {
	ID   Hash
	Work Work
}

// StoredModel is a kept model state: its root, the height of the block that made it, and its size in bytes.
type StoredModel struct {
	Root   Hash
	Height uint64
	Size   int64
}
