package store

import (
	"bytes"
	"errors"
	"testing"

	"github.com/descentnet/minerd/chain"
)

// records are one record of each kind, by their keys, and how each is read and written again.
func records() map[string][]byte {
	c := newBranch(1).grow(3)
	v := c.tip()
	id := v.State.ID
	a := chain.Address{4, 5}
	return map[string][]byte{
		string(tipKey()):        encodeTip(v.State),
		string(verifiedKey(id)): encodeVerified(v),
		string(heightKey(2)):    encodeHeight(2, id),
		string(sideKey(id)):     encodeSide(id, v.State.Work),
		string(accountKey(a)):   encodeAccount(a, chain.Account{Balance: 1 << 60, Nonce: 3}),
		string(invalidKey(7)):   encodeFault(fault{seq: 7, id: id, err: chain.InvalidError{Kind: chain.ErrTicket, Step: 5, Got: "a", Want: "b"}}),
		string(taskKey(9)):      encodeTask(9, chain.TaskStart{Root: id, Loss: 77}),
		string(modelKey(id)):    encodeModel(chain.StoredModel{Root: id, Height: 6, Size: 8_000_000}),
	}
}

// recode decodes a record and encodes it again. ok is false where key is none of ours.
func recode(key, value []byte) (out []byte, ok bool, err error) {
	switch key[0] {
	case keyTip:
		s, err := decodeTip(key, value)
		return encodeTip(s), len(key) == 1, err
	case keyVerified:
		v, err := decodeVerified(key, value)
		if err != nil {
			return nil, true, err
		}
		return encodeVerified(v), true, nil
	case keyHeight:
		id, err := decodeHeight(key, value)
		return seal(key, id[:]), true, err
	case keySide:
		b, err := decodeSide(key, value)
		return encodeSide(b.ID, b.Work), true, err
	case keyAccount:
		a, acc, err := decodeAccount(key, value)
		return encodeAccount(a, acc), true, err
	case keyInvalid:
		f, err := decodeFault(key, value)
		return encodeFault(f), true, err
	case keyTask:
		task, err := decodeTask(key, value)
		return seal(key, encodeTask(0, task)[:36]), true, err
	case keyModel:
		m, err := decodeModel(key, value)
		return encodeModel(m), true, err
	}
	return nil, false, nil
}

func checkRecode(t *testing.T, key, value []byte) {
	t.Helper()
	out, ok, err := recode(key, value)
	if !ok {
		return
	}
	if err != nil {
		if !errors.Is(err, chain.ErrCorrupt) {
			t.Fatalf("%x: got %v, want %v", key, err, chain.ErrCorrupt)
		}
		return
	}
	if !bytes.Equal(out, value) {
		t.Fatalf("%x: %x was read and gives %x", key, value, out)
	}
}

func TestRecords(t *testing.T) {
	for key, value := range records() {
		if _, _, err := recode([]byte(key), value); err != nil {
			t.Errorf("%q: %v", key, err)
		}
		checkRecode(t, []byte(key), value)
		// Any flipped bit and any shorter value is damage, also under another's key.
		for i := range value {
			bad := bytes.Clone(value)
			bad[i] ^= 1 << (i % 8)
			if _, _, err := recode([]byte(key), bad); !errors.Is(err, chain.ErrCorrupt) {
				t.Errorf("%q with byte %d changed: %v", key, i, err)
			}
			if _, _, err := recode([]byte(key), value[:i]); !errors.Is(err, chain.ErrCorrupt) {
				t.Errorf("%q cut to %d bytes: %v", key, i, err)
			}
		}
		if len(key) > 1 {
			other := []byte(key)
			other[len(other)-1]++
			if _, _, err := recode(other, value); !errors.Is(err, chain.ErrCorrupt) {
				t.Errorf("%q under another key: %v", key, err)
			}
		}
	}
}

// FuzzRecords reads garbage as it is, and with a right checksum, so that the rest of the decoders is reached.
func FuzzRecords(f *testing.F) {
	for key, value := range records() {
		f.Add([]byte(key), value[:len(value)-sumSize])
		f.Add([]byte(key), []byte{})
	}
	f.Fuzz(func(t *testing.T, key, body []byte) {
		if len(key) == 0 {
			return
		}
		checkRecode(t, key, body)
		checkRecode(t, key, seal(key, bytes.Clone(body)))
	})
}

// FuzzReadBlock reads garbage as a block's record. What is taken for a block has the id that its key names.
func FuzzReadBlock(f *testing.F) {
	v := newBranch(5).grow(2).tip()
	good := encodeVerified(v)
	f.Add(good)
	for _, at := range []int{3, stateSize, stateSize + 10, len(good) - 40, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		f.Add(bad)
	}
	key := verifiedKey(v.State.ID)
	f.Fuzz(func(t *testing.T, value []byte) {
		b, whole, err := readBlock(key, value)
		if b != nil && b.Header.ID() != v.State.ID || whole != nil && (b == nil || err != nil) || b == nil && err == nil {
			t.Errorf("%v, %v, %v", b, whole, err)
		}
	})
}
