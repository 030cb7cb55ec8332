// Package chain holds the consensus rules: blocks and their canonical bytes, the rules as pure functions, and the
// choice between forks. It knows no database, network or clock; times come in as arguments.
package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/descentnet/minerd/nn"
)

// Version is the version of the block rules.
const Version = 1

// Claim is all that a miner fixes before it trains.
type Claim struct {
	Version    uint32
	Network    Hash
	Height     uint64
	Parent     Hash
	Time       uint64 // Unix milliseconds
	Difficulty Uint128
	Task       Hash
	TxRoot     Hash
	LedgerRoot Hash // of the ledger after this block's transactions and before its reward
	Payout     Address
	Nonce      uint64
}

// Outcome is all that training the claim gives.
type Outcome struct {
	EarlyRoot    Hash // Merkle root of the early roots
	LogitsDigest Hash
	TrainedRoot  Hash
	StateRoot    Hash   // the network's model state after this block: the trained one or the parent's
	LossBefore   uint32 // binary32 bits of the recorded loss before and of the trained state's loss
	LossAfter    uint32
}

// Header is a claim and its outcome.
type Header struct {
	Claim
	Outcome
}

// Block is a header with what its roots stand for.
type Block struct {
	Header
	EarlyRoots   []Hash // state roots after steps 1, 2, 4, ... below the trial's length
	Transactions [][]byte
}

// Lengths of canonical encodings, in bytes.
const (
	claimSize  = 4 + 32 + 8 + 32 + 8 + 16 + 32 + 32 + 32 + 20 + 8
	HeaderSize = claimSize + 4*32 + 2*4
	// maxBlockBytes bounds every network's max_block_bytes, so that a block fits a gossip message of 64 KiB.
	maxBlockBytes = 61440
)

// appendTo appends the claim's canonical bytes: fields in order, integers little-endian.
func (c *Claim) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, c.Version)
	b = append(b, c.Network[:]...)
	b = le.AppendUint64(b, c.Height)
	b = append(b, c.Parent[:]...)
	b = le.AppendUint64(b, c.Time)
	b = le.AppendUint64(b, c.Difficulty.Lo)
	b = le.AppendUint64(b, c.Difficulty.Hi)
	b = append(b, c.Task[:]...)
	b = append(b, c.TxRoot[:]...)
	b = append(b, c.LedgerRoot[:]...)
	b = append(b, c.Payout[:]...)
	return le.AppendUint64(b, c.Nonce)
}

// ID is the claim's id.
func (c *Claim) ID() Hash { return tagged(tagClaim, c.appendTo(make([]byte, 0, claimSize))) }

// Bytes is the header's canonical form, HeaderSize long.
func (h *Header) Bytes() []byte {
	b := h.Claim.appendTo(make([]byte, 0, HeaderSize))
	b = append(b, h.EarlyRoot[:]...)
	b = append(b, h.LogitsDigest[:]...)
	b = append(b, h.TrainedRoot[:]...)
	b = append(b, h.StateRoot[:]...)
	b = binary.LittleEndian.AppendUint32(b, h.LossBefore)
	return binary.LittleEndian.AppendUint32(b, h.LossAfter)
}

// ID is the block's id.
func (h *Header) ID() Hash { return tagged(tagBlock, h.Bytes()) }

// Ticket is what must be at most the target.
func (h *Header) Ticket() Hash { return Ticket(h.Claim.ID(), h.TrainedRoot, h.LogitsDigest) }

// Ticket is the lottery number of a claim and what its training gave.
func Ticket(claimID, trained, logits Hash) Hash {
	return tagged(tagTicket, claimID[:], trained[:], logits[:])
}

// BatchSeed is the seed under which the batch of step s of a claim's trial is drawn.
func BatchSeed(claimID Hash, s uint32) [32]byte {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], s)
	return tagged(tagBatch, claimID[:], b[:])
}

// ParseHeader reads Bytes. Every string of HeaderSize bytes is a header.
func ParseHeader(b []byte) (h Header, err error) {
	if len(b) != HeaderSize {
		return h, fmt.Errorf("%w: header of %d bytes, needed are %d", ErrMalformed, len(b), HeaderSize)
	}
	r := reader{b: b}
	h.Version = r.u32()
	h.Network = r.hash()
	h.Height = r.u64()
	h.Parent = r.hash()
	h.Time = r.u64()
	h.Difficulty.Lo = r.u64()
	h.Difficulty.Hi = r.u64()
	h.Task = r.hash()
	h.TxRoot = r.hash()
	h.LedgerRoot = r.hash()
	copy(h.Payout[:], r.take(len(h.Payout)))
	h.Nonce = r.u64()
	h.EarlyRoot = r.hash()
	h.LogitsDigest = r.hash()
	h.TrainedRoot = r.hash()
	h.StateRoot = r.hash()
	h.LossBefore = r.u32()
	h.LossAfter = r.u32()
	return h, r.err
}

// Bytes is the block's canonical form: header, number of early roots (u32), roots, number of transactions (u32), each
// transaction with its length (u32) before it.
func (b *Block) Bytes() []byte {
	out := b.Header.Bytes()
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b.EarlyRoots)))
	for _, r := range b.EarlyRoots {
		out = append(out, r[:]...)
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b.Transactions)))
	for _, t := range b.Transactions {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(t)))
		out = append(out, t...)
	}
	return out
}

// Size is the length of Bytes.
func (b *Block) Size() int {
	n := HeaderSize + 8 + 32*len(b.EarlyRoots)
	for _, t := range b.Transactions {
		n += 4 + len(t)
	}
	return n
}

// ParseBlock reads Bytes. What is too long or not exactly in that form is ErrMalformed.
func ParseBlock(in []byte) (*Block, error) {
	if len(in) < HeaderSize || len(in) > maxBlockBytes {
		return nil, fmt.Errorf("%w: block of %d bytes, allowed are %d to %d", ErrMalformed, len(in), HeaderSize+8, maxBlockBytes)
	}
	h, err := ParseHeader(in[:HeaderSize])
	if err != nil {
		return nil, err
	}
	b := &Block{Header: h}
	r := reader{b: in[HeaderSize:]}
	for range r.count(32) {
		b.EarlyRoots = append(b.EarlyRoots, r.hash())
	}
	for range r.count(4) {
		b.Transactions = append(b.Transactions, append([]byte(nil), r.take(int(r.u32()))...))
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: block: %w", ErrMalformed, r.err)
	}
	return b, nil
}

// reader takes fixed-width fields off a byte string; after the first failure it gives zeros.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("it ends too early")

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.err = errShort
		r.b = nil
		return make([]byte, min(max(n, 0), 32))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// count reads the number of elements that take at least size bytes each, and checks it against what is left.
func (r *reader) count(size int) int {
	n := r.u32()
	if uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.err = errShort
		r.b = nil
		return 0
	}
	return int(n)
}

func (r *reader) u32() uint32       { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64       { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *reader) hash() (h Hash)    { copy(h[:], r.take(32)); return h }
func lossValue(bits uint32) float32 { return math.Float32frombits(bits) }

// TxRoot is the Merkle root over transactions' full bytes.
func TxRoot(txs [][]byte) Hash { return nn.MerkleRoot(txs) }

// EarlyRoot is the Merkle root over early roots.
func EarlyRoot(roots []Hash) Hash {
	leaves := make([][]byte, len(roots))
	for i := range roots {
		leaves[i] = roots[i][:]
	}
	return nn.MerkleRoot(leaves)
}

// Advances says whether the block moves the model: its trial's loss is strictly below the recorded one.
func (h *Header) Advances() bool { return lossValue(h.LossAfter) < lossValue(h.LossBefore) }
