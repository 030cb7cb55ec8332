package chain

import (
	"bytes"
	"encoding/binary"
)

// Account is what the ledger holds for an address.
type Account struct {
	Balance uint64
	Nonce   uint64 // of the next transaction
}

// AccountChange is what a block did to an account.
type AccountChange struct {
	Address       Address
	Before, After Account
}

// Ledger maps addresses to accounts. It is a value: Set gives a new ledger that shares what did not change, so that
// every branch of the chain has its own for little.
//
// Its root is that of a binary tree over the bits of addresses, first bit at the top, of all accounts that are not
// zero: an empty subtree is 32 zero bytes, a subtree of one account is H("account", address || balance || nonce) at
// whatever depth, any other is H("node", left, right). The shape depends on the accounts alone.
type Ledger struct{ root *ledgerNode }

type ledgerNode struct {
	hash        Hash
	left, right *ledgerNode // nil where empty; both nil in a leaf
	address     Address     // of a leaf
	account     Account
}

func (n *ledgerNode) leaf() bool { return n.left == nil && n.right == nil }

func newLeaf(a Address, acc Account) *ledgerNode {
	b := make([]byte, 0, 36)
	b = append(b, a[:]...)
	b = binary.LittleEndian.AppendUint64(b, acc.Balance)
	b = binary.LittleEndian.AppendUint64(b, acc.Nonce)
	return &ledgerNode{hash: tagged(tagAccount, b), address: a, account: acc}
}

func newInner(left, right *ledgerNode) *ledgerNode {
	// A subtree of one account is its leaf, at whatever depth.
	if left == nil && (right == nil || right.leaf()) {
		return right
	}
	if right == nil && left.leaf() {
		return left
	}
	var l, r Hash
	if left != nil {
		l = left.hash
	}
	if right != nil {
		r = right.hash
	}
	return &ledgerNode{hash: tagged(tagNode, l[:], r[:]), left: left, right: right}
}

func bit(a Address, depth int) bool { return a[depth/8]>>(7-depth%8)&1 == 1 }

// Root is the ledger's root.
func (l Ledger) Root() Hash {
	if l.root == nil {
		return Hash{}
	}
	return l.root.hash
}

// Account is the account of an address, zero where there is none.
func (l Ledger) Account(a Address) Account {
	n := l.root
	for depth := 0; n != nil; depth++ {
		if n.leaf() {
			if n.address == a {
				return n.account
			}
			return Account{}
		}
		if bit(a, depth) {
			n = n.right
		} else {
			n = n.left
		}
	}
	return Account{}
}

// Set is the ledger with the account of a replaced.
func (l Ledger) Set(a Address, acc Account) Ledger { return Ledger{set(l.root, a, acc, 0)} }

func set(n *ledgerNode, a Address, acc Account, depth int) *ledgerNode {
	zero := acc == Account{}
	switch {
	case n == nil && zero:
		return nil
	case n == nil:
		return newLeaf(a, acc)
	case n.leaf() && n.address == a && zero:
		return nil
	case n.leaf() && n.address == a:
		return newLeaf(a, acc)
	case n.leaf() && zero:
		return n
	}
	left, right := n.left, n.right
	if n.leaf() { // another account's: push it one level down
		if bit(n.address, depth) {
			right = n
		} else {
			left = n
		}
	}
	if bit(a, depth) {
		right = set(right, a, acc, depth+1)
	} else {
		left = set(left, a, acc, depth+1)
	}
	return newInner(left, right)
}

// Apply makes the changes in order, or where not forward undoes them, the last one first.
func (l Ledger) Apply(changes []AccountChange, forward bool) Ledger {
	if forward {
		for _, c := range changes {
			l = l.Set(c.Address, c.After)
		}
		return l
	}
	for i := len(changes) - 1; i >= 0; i-- {
		l = l.Set(changes[i].Address, changes[i].Before)
	}
	return l
}

// Each calls do for all accounts in the order of their addresses.
func (l Ledger) Each(do func(Address, Account)) {
	var walk func(*ledgerNode)
	walk = func(n *ledgerNode) {
		switch {
		case n == nil:
		case n.leaf():
			do(n.address, n.account)
		default:
			walk(n.left)
			walk(n.right)
		}
	}
	walk(l.root)
}

func compareAddresses(a, b Address) int { return bytes.Compare(a[:], b[:]) }
