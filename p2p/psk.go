package p2p

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/libp2p/go-libp2p/core/pnet"
)

const (
	// privateKeyLen is the length of a private network key in bytes.
	privateKeyLen = 32
	// maxPrivateKeyFile is some times the longest form, 64 hexadecimal digits below two header lines.
	maxPrivateKeyFile = 1024

	privateKeyHeader = "/key/swarm/psk/1.0.0/"
)

// ErrPrivateNetworkKey says that a file does not hold a private network key.
var ErrPrivateNetworkKey = errors.New("not a private network key")

// LoadPrivateNetworkKey reads the key of a private network in libp2p's usual form: the line /key/swarm/psk/1.0.0/, a line
// /base16/, /base64/ or /bin/, and 32 bytes in that encoding.
func LoadPrivateNetworkKey(path string) (pnet.PSK, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("private network key: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPrivateKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("private network key: %w", err)
	}
	key, err := parsePrivateNetworkKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; `minerd init --private-network-key FILE` makes one", ErrPrivateNetworkKey, path, err)
	}
	return key, nil
}

func parsePrivateNetworkKey(raw []byte) (pnet.PSK, error) {
	if len(raw) > maxPrivateKeyFile {
		return nil, fmt.Errorf("longer than %d bytes", maxPrivateKeyFile)
	}
	lines := bytes.SplitN(raw, []byte("\n"), 3)
	if string(bytes.TrimRight(lines[0], "\r")) != privateKeyHeader {
		return nil, fmt.Errorf("it does not begin with the line %s", privateKeyHeader)
	}
	if len(lines) < 3 {
		return nil, errors.New("it ends after its first lines")
	}
	// pnet takes the first 32 bytes of what is there; a file with more was not meant for it.
	body, encoding := lines[2], string(bytes.TrimRight(lines[1], "\r"))
	want := privateKeyLen
	switch encoding {
	case "/base16/":
		body, want = bytes.TrimSpace(body), hex.EncodedLen(privateKeyLen)
	case "/base64/":
		body, want = bytes.TrimSpace(body), (privateKeyLen+2)/3*4
	case "/bin/":
	default:
		return nil, fmt.Errorf("its encoding is %.20q, there are /base16/, /base64/ and /bin/", encoding)
	}
	if len(body) != want {
		return nil, fmt.Errorf("its key is %d bytes long in encoding %s, needed are %d", len(body), encoding, want)
	}
	return pnet.DecodeV1PSK(bytes.NewReader(raw))
}

// CreatePrivateNetworkKey makes a key and writes it to path, which must not exist, readable by the owner alone.
func CreatePrivateNetworkKey(path string) (pnet.PSK, error) {
	key := make(pnet.PSK, privateKeyLen)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("private network key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("private network key: %w, and is left as it is; run with it, or name another", err)
	}
	if err != nil {
		return nil, fmt.Errorf("private network key: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\n/base16/\n%x\n", privateKeyHeader, []byte(key))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("private network key: %w", errors.Join(err, os.Remove(path)))
	}
	return key, nil
}

// Fingerprint is what tells one private network key from another and may be shown to anybody.
func Fingerprint(key pnet.PSK) string {
	sum := sha256.Sum256(append([]byte("minerd private network key fingerprint\n"), key...))
	return hex.EncodeToString(sum[:8])
}
