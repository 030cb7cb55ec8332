package chain

import (
	"crypto/sha256"

	"github.com/descentnet/minerd/nn"
)

// Hash is a SHA-256 value: an id or a Merkle root.
type Hash = nn.Hash

// The tags of all tagged hashes, one per use.
const (
	tagNetwork = "network" // spec encoding -> network id
	tagTask    = "task"    // task description -> task id
	tagInit    = "init"    // network id, task number -> seed of the initial weights
	tagClaim   = "claim"   // claim bytes -> claim id
	tagBlock   = "block"   // header bytes -> block id
	tagBatch   = "batch"   // claim id, step -> seed of the batch
	tagTicket  = "ticket"  // claim id, trained root, logits digest -> ticket
	tagAccount = "account" // ledger leaf
	tagNode    = "node"    // ledger inner node
)

// tagged is H(tag, x) = SHA-256(SHA-256(tag) || SHA-256(tag) || x), x being the parts one after the other (BIP 340).
func tagged(tag string, parts ...[]byte) (h Hash) {
	t := sha256.Sum256([]byte(tag))
	d := sha256.New()
	d.Write(t[:])
	d.Write(t[:])
	for _, p := range parts {
		d.Write(p)
	}
	d.Sum(h[:0])
	return h
}
