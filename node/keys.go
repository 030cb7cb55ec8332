package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/descentnet/minerd/chain"
)

// ErrKey is the kind of a key file that cannot be used.
var ErrKey = errors.New("bad key file")

// PayoutKey reads the Ed25519 key that rewards are paid to, or makes one if the file is missing, and gives its address.
// The file is PEM with PKCS #8, readable by its owner alone.
func PayoutKey(file string) (chain.Address, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return newPayoutKey(file)
	}
	if err != nil {
		return chain.Address{}, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return chain.Address{}, fmt.Errorf("%w: %s is not PEM: restore it from a copy, or move it away to get a new key", ErrKey, file)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return chain.Address{}, fmt.Errorf("%w: %s: %w", ErrKey, file, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return chain.Address{}, fmt.Errorf("%w: %s holds a %T, wanted is an Ed25519 key", ErrKey, file, key)
	}
	return addressOf(private), nil
}

func newPayoutKey(file string) (chain.Address, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return chain.Address{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return chain.Address{}, err
	}
	return addressOf(private), writeNew(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func addressOf(private ed25519.PrivateKey) chain.Address {
	return chain.AddressOf(private.Public().(ed25519.PublicKey))
}

// writeNew writes a secret so that a crash leaves all of it or nothing, and an existing file is never replaced.
func writeNew(file string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // created with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file)
}
