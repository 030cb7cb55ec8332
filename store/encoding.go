package store

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/descentnet/minerd/chain"
)

// The records of the database, by the first byte of their keys. Integers in keys are big-endian, so that they sort;
// in values little-endian. Every value ends in a checksum over key and value: what a block's id does not cover is
// covered so, and a value under another's key shows. A change of any layout needs a new schema version.
const (
	keyTip      = 't' // state
	keyVerified = 'b' // block id -> state, number of changes (u32), changes, block
	keyHeight   = 'h' // height (u64) -> block id
	keySide     = 's' // id of a block that is not on the best chain -> work of its chain (32 bytes)
	keyAccount  = 'a' // address -> balance (u64), nonce (u64)
	keyInvalid  = 'i' // sequence number (u64) -> block id, step (u64), kind, got, want (each with its length before it, u16)
	keyTask     = 'k' // task (u32) -> root, loss (u32)
	keyModel    = 'm' // state root -> height (u64), size in bytes (u64)
)

// Lengths in bytes.
const (
	stateSize  = 32 + 8 + 32 + 8 + 8 + 16 + 3*4 + 32 + 4 + 1
	changeSize = 20 + 4*8
	sumSize    = 8 // of the checksum: SHA-256 cut short
)

func tipKey() []byte                    { return []byte{keyTip} }
func verifiedKey(id chain.Hash) []byte  { return append([]byte{keyVerified}, id[:]...) }
func sideKey(id chain.Hash) []byte      { return append([]byte{keySide}, id[:]...) }
func heightKey(h uint64) []byte         { return binary.BigEndian.AppendUint64([]byte{keyHeight}, h) }
func accountKey(a chain.Address) []byte { return append([]byte{keyAccount}, a[:]...) }
func invalidKey(seq uint64) []byte      { return binary.BigEndian.AppendUint64([]byte{keyInvalid}, seq) }
func taskKey(task uint32) []byte        { return binary.BigEndian.AppendUint32([]byte{keyTask}, task) }
func modelKey(root chain.Hash) []byte   { return append([]byte{keyModel}, root[:]...) }

func sum(key, body []byte) []byte {
	d := sha256.New()
	d.Write(key)
	d.Write(body)
	return d.Sum(nil)[:sumSize]
}

// seal appends the checksum to a record's body.
func seal(key, body []byte) []byte { return append(body, sum(key, body)...) }

// reader takes fixed-width fields off a record; after the first failure it gives zeros.
type reader struct {
	b   []byte
	err error
}

// unseal checks a value against its checksum and reads its body.
func unseal(key, value []byte) *reader {
	if len(value) < sumSize {
		return &reader{err: fmt.Errorf("a value of %d bytes", len(value))}
	}
	body := value[:len(value)-sumSize]
	if string(sum(key, body)) != string(value[len(body):]) {
		return &reader{err: errors.New("its checksum differs")}
	}
	return &reader{b: body}
}

// corrupt is err as the damage of a record.
func corrupt(key []byte, err error) error {
	return fmt.Errorf("%w: record %x: %w", chain.ErrCorrupt, key, err)
}

// done is the reader's error, or that something is left.
func (r *reader) done(key []byte) error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return corrupt(key, r.err)
	}
	return nil
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(errors.New("it ends too early"))
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) hash() (h chain.Hash)       { copy(h[:], r.take(len(h))); return h }
func (r *reader) address() (a chain.Address) { copy(a[:], r.take(len(a))); return a }
func (r *reader) text() string               { return string(r.take(int(r.u16()))) }

func (r *reader) u16() (x uint16) {
	if b := r.take(2); b != nil {
		x = binary.LittleEndian.Uint16(b)
	}
	return x
}

func (r *reader) u32() (x uint32) {
	if b := r.take(4); b != nil {
		x = binary.LittleEndian.Uint32(b)
	}
	return x
}

func (r *reader) u64() (x uint64) {
	if b := r.take(8); b != nil {
		x = binary.LittleEndian.Uint64(b)
	}
	return x
}

func (r *reader) flag() bool {
	b := r.take(1)
	if b != nil && b[0] > 1 {
		r.fail(fmt.Errorf("a flag of %d", b[0]))
	}
	return b != nil && b[0] == 1
}

func appendState(b []byte, s chain.State) []byte {
	le := binary.LittleEndian
	work := s.Work.Bytes()
	b = append(b, s.ID[:]...)
	b = le.AppendUint64(b, s.Height)
	b = append(b, work[:]...)
	b = le.AppendUint64(b, s.Time)
	b = le.AppendUint64(b, s.ParentTime)
	b = le.AppendUint64(b, s.Difficulty.Lo)
	b = le.AppendUint64(b, s.Difficulty.Hi)
	b = le.AppendUint32(b, s.TaskNumber)
	b = le.AppendUint32(b, s.TaskBlocks)
	b = le.AppendUint32(b, s.TaskKept)
	b = append(b, s.ModelRoot[:]...)
	b = le.AppendUint32(b, s.Loss)
	if s.Advanced {
		return append(b, 1)
	}
	return append(b, 0)
}

func (r *reader) state() (s chain.State) {
	s.ID = r.hash()
	s.Height = r.u64()
	s.Work = chain.WorkFromBytes(r.hash())
	s.Time = r.u64()
	s.ParentTime = r.u64()
	s.Difficulty.Lo = r.u64()
	s.Difficulty.Hi = r.u64()
	s.TaskNumber = r.u32()
	s.TaskBlocks = r.u32()
	s.TaskKept = r.u32()
	s.ModelRoot = r.hash()
	s.Loss = r.u32()
	s.Advanced = r.flag()
	return s
}

func appendAccount(b []byte, a chain.Account) []byte {
	b = binary.LittleEndian.AppendUint64(b, a.Balance)
	return binary.LittleEndian.AppendUint64(b, a.Nonce)
}

func (r *reader) account() (a chain.Account) {
	a.Balance = r.u64()
	a.Nonce = r.u64()
	return a
}

func encodeTip(s chain.State) []byte {
	return seal(tipKey(), appendState(make([]byte, 0, stateSize+sumSize), s))
}

func decodeTip(key, value []byte) (chain.State, error) {
	r := unseal(key, value)
	s := r.state()
	return s, r.done(key)
}

func encodeVerified(v chain.Verified) []byte {
	b := make([]byte, 0, stateSize+4+changeSize*len(v.Changes)+v.Block.Size()+sumSize)
	b = appendState(b, v.State)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v.Changes)))
	for _, c := range v.Changes {
		b = append(b, c.Address[:]...)
		b = appendAccount(b, c.Before)
		b = appendAccount(b, c.After)
	}
	b = append(b, v.Block.Bytes()...)
	return seal(verifiedKey(v.State.ID), b)
}

// decodeVerified also checks the block's id against the key.
func decodeVerified(key, value []byte) (v chain.Verified, err error) {
	r := unseal(key, value)
	v.State = r.state()
	n := r.u32()
	if uint64(n)*changeSize > uint64(len(r.b)) {
		r.fail(fmt.Errorf("%d changes of accounts in %d bytes", n, len(r.b)))
		n = 0
	}
	for range n {
		v.Changes = append(v.Changes, chain.AccountChange{Address: r.address(), Before: r.account(), After: r.account()})
	}
	if r.err == nil {
		v.Block, r.err = chain.ParseBlock(r.b)
		r.b = nil
	}
	if r.err == nil {
		if id := v.Block.Header.ID(); string(key) != string(verifiedKey(id)) || v.State.ID != id {
			r.err = fmt.Errorf("it holds block %s", id)
		}
	}
	return v, r.done(key)
}

func encodeHeight(height uint64, id chain.Hash) []byte { return seal(heightKey(height), id[:]) }

func decodeHeight(key, value []byte) (chain.Hash, error) {
	r := unseal(key, value)
	id := r.hash()
	return id, r.done(key)
}

func encodeSide(id chain.Hash, w chain.Work) []byte {
	b := w.Bytes()
	return seal(sideKey(id), b[:])
}

func decodeSide(key, value []byte) (b chain.SideBlock, err error) {
	r := unseal(key, value)
	if len(key) != 1+len(b.ID) {
		r.fail(errors.New("the key is no block id"))
	} else {
		copy(b.ID[:], key[1:])
	}
	b.Work = chain.WorkFromBytes(r.hash())
	return b, r.done(key)
}

func encodeAccount(a chain.Address, acc chain.Account) []byte {
	return seal(accountKey(a), appendAccount(nil, acc))
}

func decodeAccount(key, value []byte) (a chain.Address, acc chain.Account, err error) {
	r := unseal(key, value)
	if len(key) != 1+len(a) {
		r.fail(errors.New("the key is no address"))
	} else {
		copy(a[:], key[1:])
	}
	acc = r.account()
	return a, acc, r.done(key)
}

// encodeFault needs texts of at most maxText bytes.
func encodeFault(f fault) []byte {
	b := append([]byte(nil), f.id[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.err.Step))
	for _, s := range []string{string(f.err.Kind), f.err.Got, f.err.Want} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return seal(invalidKey(f.seq), b)
}

func decodeFault(key, value []byte) (f fault, err error) {
	r := unseal(key, value)
	if len(key) != 1+8 {
		r.fail(errors.New("the key is no sequence number"))
	} else {
		f.seq = binary.BigEndian.Uint64(key[1:])
	}
	f.id = r.hash()
	step := r.u64()
	if step > math.MaxInt32 {
		r.fail(fmt.Errorf("step %d", step))
	}
	f.err.Step = int(step)
	f.err.Kind = chain.Kind(r.text())
	f.err.Got = r.text()
	f.err.Want = r.text()
	return f, r.done(key)
}

func encodeTask(task uint32, t chain.TaskStart) []byte {
	return seal(taskKey(task), binary.LittleEndian.AppendUint32(append([]byte(nil), t.Root[:]...), t.Loss))
}

func decodeTask(key, value []byte) (t chain.TaskStart, err error) {
	r := unseal(key, value)
	t.Root = r.hash()
	t.Loss = r.u32()
	return t, r.done(key)
}

func encodeModel(m chain.StoredModel) []byte {
	b := binary.LittleEndian.AppendUint64(nil, m.Height)
	return seal(modelKey(m.Root), binary.LittleEndian.AppendUint64(b, uint64(m.Size)))
}

func decodeModel(key, value []byte) (m chain.StoredModel, err error) {
	r := unseal(key, value)
	if len(key) != 1+len(m.Root) {
		r.fail(errors.New("the key is no state root"))
	} else {
		copy(m.Root[:], key[1:])
	}
	m.Height = r.u64()
	size := r.u64()
	if size > math.MaxInt64 {
		r.fail(fmt.Errorf("a size of %d", size))
	}
	m.Size = int64(size)
	return m, r.done(key)
}
