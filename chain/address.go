package chain

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcutil/bech32"
	"golang.org/x/crypto/ripemd160" //nolint:staticcheck // the protocol's address hash, as in Bitcoin
)

// Address names an account: RIPEMD-160(SHA-256(public key)).
type Address [20]byte

// addressPrefix is the human-readable part of a written address.
const addressPrefix = "md"

// ErrAddress is the kind of a written address that cannot be read.
var ErrAddress = errors.New("bad address")

// AddressOf is the address of an Ed25519 public key.
func AddressOf(publicKey []byte) (a Address) {
	s := sha256.Sum256(publicKey)
	r := ripemd160.New()
	r.Write(s[:])
	copy(a[:], r.Sum(nil))
	return a
}

// String writes the address in bech32m (BIP 350).
func (a Address) String() string {
	five, err := bech32.ConvertBits(a[:], 8, 5, true)
	if err != nil {
		panic(err) // only for input of more than 8 bits
	}
	s, err := bech32.EncodeM(addressPrefix, five)
	if err != nil {
		panic(err)
	}
	return s
}

// MarshalText is String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress.
func (a *Address) UnmarshalText(text []byte) error {
	v, err := ParseAddress(string(text))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

// ParseAddress reads an address as String writes it.
func ParseAddress(s string) (a Address, err error) {
	prefix, five, version, err := bech32.DecodeGeneric(s)
	if err != nil {
		return a, fmt.Errorf("%w %q: %w", ErrAddress, s, err)
	}
	if version != bech32.VersionM || prefix != addressPrefix {
		return a, fmt.Errorf("%w %q: it must be bech32m and start with %q", ErrAddress, s, addressPrefix+"1")
	}
	b, err := bech32.ConvertBits(five, 5, 8, false)
	if err != nil || len(b) != len(a) {
		return a, fmt.Errorf("%w %q: it must hold %d bytes", ErrAddress, s, len(a))
	}
	copy(a[:], b)
	return a, nil
}
