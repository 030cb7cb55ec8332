package chain_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/descentnet/minerd/chain"
)

// hashOf is H(tag, x) spelled out.
func hashOf(tag string, parts ...[]byte) chain.Hash {
	t := sha256.Sum256([]byte(tag))
	return sha256.Sum256(slices.Concat(t[:], t[:], bytes.Join(parts, nil)))
}

// referenceRoot is the ledger root as the protocol defines it, over addresses that agree in the bits above depth.
func referenceRoot(accounts map[chain.Address]chain.Account, depth int) chain.Hash {
	switch len(accounts) {
	case 0:
		return chain.Hash{}
	case 1:
		for a, acc := range accounts {
			numbers := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, acc.Balance), acc.Nonce)
			return hashOf("account", a[:], numbers)
		}
	}
	var halves [2]map[chain.Address]chain.Account
	for i := range halves {
		halves[i] = map[chain.Address]chain.Account{}
	}
	for a, acc := range accounts {
		halves[a[depth/8]>>(7-depth%8)&1][a] = acc
	}
	left, right := referenceRoot(halves[0], depth+1), referenceRoot(halves[1], depth+1)
	return hashOf("node", left[:], right[:])
}

// anyAddress is one of few, many of which share a long prefix.
func anyAddress() *rapid.Generator[chain.Address] {
	return rapid.Custom(func(t *rapid.T) (a chain.Address) {
		a[0] = rapid.SampledFrom([]byte{0, 0, 0x80, 0xff}).Draw(t, "first")
		a[19] = rapid.SampledFrom([]byte{0, 1, 2, 0x80, 0x81}).Draw(t, "last")
		return a
	})
}

func anyAccount() *rapid.Generator[chain.Account] {
	return rapid.Custom(func(t *rapid.T) chain.Account {
		few := rapid.SampledFrom([]uint64{0, 0, 1, 2, 1 << 63})
		return chain.Account{Balance: few.Draw(t, "balance"), Nonce: few.Draw(t, "nonce")}
	})
}

func sortedAddresses(m map[chain.Address]chain.Account) []chain.Address {
	return slices.SortedFunc(maps.Keys(m), func(a, b chain.Address) int { return bytes.Compare(a[:], b[:]) })
}

func checkLedger(t *rapid.T, l chain.Ledger, want map[chain.Address]chain.Account) {
	if l.Root() != referenceRoot(want, 0) {
		t.Fatalf("root of %v is wrong", want)
	}
	for a, acc := range want {
		if l.Account(a) != acc {
			t.Fatalf("account %x is %v, want %v", a, l.Account(a), acc)
		}
	}
	var order []chain.Address
	l.Each(func(a chain.Address, acc chain.Account) {
		if want[a] != acc {
			t.Fatalf("Each gives %x as %v", a, acc)
		}
		order = append(order, a)
	})
	if !slices.Equal(order, sortedAddresses(want)) {
		t.Fatalf("Each goes through %x", order)
	}
}

func TestLedgerAgainstReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type moment struct {
			ledger chain.Ledger
			want   map[chain.Address]chain.Account
		}
		var l chain.Ledger
		want := map[chain.Address]chain.Account{}
		var past []moment
		for range rapid.IntRange(0, 40).Draw(t, "changes") {
			past = append(past, moment{l, maps.Clone(want)})
			a, acc := anyAddress().Draw(t, "address"), anyAccount().Draw(t, "account")
			l = l.Set(a, acc)
			if want[a] = acc; acc == (chain.Account{}) {
				delete(want, a)
			}
			checkLedger(t, l, want)
			if other := anyAddress().Draw(t, "other"); l.Account(other) != want[other] {
				t.Fatalf("account %x is %v", other, l.Account(other))
			}
		}
		for _, m := range past { // later changes left the old values as they were
			checkLedger(t, m.ledger, m.want)
		}
		var again chain.Ledger
		for _, a := range rapid.Permutation(sortedAddresses(want)).Draw(t, "order") {
			again = again.Set(a, want[a])
		}
		if again.Root() != l.Root() {
			t.Fatal("the root depends on the order of changes")
		}
	})
}

func TestLedgerApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) map[chain.Address]chain.Account {
			m := rapid.MapOfN(anyAddress(), anyAccount(), 0, 12).Draw(t, label)
			maps.DeleteFunc(m, func(_ chain.Address, acc chain.Account) bool { return acc == chain.Account{} })
			return m
		}
		before, after := draw("before"), draw("after")
		var l chain.Ledger
		for a, acc := range before {
			l = l.Set(a, acc)
		}
		var changes []chain.AccountChange
		for _, a := range slices.Concat(sortedAddresses(before), sortedAddresses(after)) {
			if !slices.ContainsFunc(changes, func(c chain.AccountChange) bool { return c.Address == a }) {
				changes = append(changes, chain.AccountChange{Address: a, Before: before[a], After: after[a]})
			}
		}
		there := l.Apply(changes, true)
		checkLedger(t, there, after)
		checkLedger(t, there.Apply(changes, false), before)
		checkLedger(t, l, before)
	})
}

// An account may change twice in one block: undoing goes backwards.
func TestLedgerApplySameAccountTwice(t *testing.T) {
	a := chain.Address{1}
	changes := []chain.AccountChange{
		{Address: a, Before: chain.Account{Balance: 1}, After: chain.Account{Balance: 2}},
		{Address: a, Before: chain.Account{Balance: 2}, After: chain.Account{Balance: 3}},
	}
	l := chain.Ledger{}.Set(a, chain.Account{Balance: 1})
	there := l.Apply(changes, true)
	if there.Account(a).Balance != 3 {
		t.Errorf("forward: %v", there.Account(a))
	}
	if back := there.Apply(changes, false); back.Root() != l.Root() {
		t.Errorf("backward: %v", back.Account(a))
	}
}

func TestGoldenLedgerRoot(t *testing.T) {
	var l chain.Ledger
	if l.Root() != (chain.Hash{}) {
		t.Errorf("root of the empty ledger is %v", l.Root())
	}
	for i := range byte(5) {
		l = l.Set(chain.Address{i / 3 << 7, i}, chain.Account{Balance: uint64(i) + 1, Nonce: uint64(i)})
	}
	if got, want := l.Root().String(), "0c7e25cec434b47f0b67d6a648360585c491ba66d6b5bf86c1389c82e04efbaa"; got != want {
		t.Errorf("root is %s, want %s", got, want)
	}
}
