package p2p

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	// maxReason bounds the text that is kept with a ban.
	maxReason = 200
	// maxBanFile is what a file of two full lists stays below: a line of it takes some 400 bytes, escaped text up to six
	// times maxReason.
	maxBanFile = 16 << 20
)

// Ban is a ban as it is on disk: of a peer or of an address range.
type Ban struct {
	Peer   peer.ID   `json:"peer,omitempty"`
	Range  string    `json:"range,omitempty"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

type banFile struct {
	Bans []Ban `json:"bans"`
}

// KnownPeer is a peer of the address book.
type KnownPeer struct {
	ID    peer.ID        `json:"id"`
	Addrs []ma.Multiaddr `json:"addrs"`
	Met   time.Time      `json:"met"` // last connection
}

// BanFile is where the bans of a node are kept that keeps its address book at the given path; "" for none.
func BanFile(addressBook string) string {
	if addressBook == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(addressBook), "bans.json")
}

// ReadBans reads the file of bans of a node that may be running, those that end last first. No file is no bans. Bans that
// have run out may be among them.
func ReadBans(path string) ([]Ban, error) {
	raw, err := readBounded(path, maxBanFile)
	if raw == nil || err != nil {
		return nil, err
	}
	bans, err := parseBans(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return bans, nil
}

// ReadAddressBook reads the file of known peers of a node that may be running, the last met first. No file is no peers.
func ReadAddressBook(path string) ([]KnownPeer, error) {
	raw, err := readBounded(path, maxBookFile)
	if raw == nil || err != nil {
		return nil, err
	}
	entries, err := parseBook(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var known []KnownPeer
	for id, e := range entries {
		known = append(known, KnownPeer{id, e.addrs, e.met})
	}
	slices.SortFunc(known, func(a, b KnownPeer) int {
		if c := b.Met.Compare(a.Met); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return known, nil
}

// readBounded reads a file of at most the given length; nil where there is none.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("%s: longer than %d bytes", path, most)
	}
	return raw, err
}

func parseBans(raw []byte) ([]Ban, error) {
	var file banFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	if len(file.Bans) > 2*maxBans {
		return nil, fmt.Errorf("%d bans, allowed are %d", len(file.Bans), 2*maxBans)
	}
	for i, b := range file.Bans {
		switch {
		case (b.Peer == "") == (b.Range == ""):
			return nil, fmt.Errorf("ban %d is not of either a peer or an address range", i)
		case b.Range != "" && !isRange(b.Range):
			return nil, fmt.Errorf("ban %d: %q is no address range", i, b.Range)
		}
		file.Bans[i].Reason = cutTo(b.Reason, maxReason)
	}
	slices.SortStableFunc(file.Bans, func(a, b Ban) int { return b.Until.Compare(a.Until) })
	return file.Bans, nil
}

// load takes over the bans of the file that have not run out. None lasts longer than a new one would: the clock may have
// been wrong when it was written. After an error there are no bans.
func (l *banList) load(path string, longest time.Duration) error {
	if path == "" {
		return nil
	}
	bans, err := ReadBans(path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, b := range bans {
		if !now.Before(b.Until) {
			break
		}
		kept := ban{b.Reason, b.Since, b.Until}
		if last := now.Add(longest); kept.until.After(last) {
			kept.until = last
		}
		if b.Range != "" {
			putBan(l.ranges, b.Range, kept)
		} else {
			putBan(l.banned, b.Peer, kept)
		}
	}
	return nil
}

// save writes the file if there are new bans, and forgets those that have run out.
func (l *banList) save(path string) error {
	raw, err := l.encode()
	if path == "" || raw == nil || err != nil {
		return err
	}
	if err := writeFile(path, raw); err != nil {
		l.mu.Lock()
		l.dirty = true
		l.mu.Unlock()
		return fmt.Errorf("file of bans: %w", err)
	}
	return nil
}

func (l *banList) encode() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dirty {
		return nil, nil
	}
	now := l.now()
	file := banFile{Bans: []Ban{}}
	for p, b := range l.banned {
		if !now.Before(b.until) {
			delete(l.banned, p)
			continue
		}
		file.Bans = append(file.Bans, Ban{Peer: p, Reason: b.reason, Since: onDisk(b.since), Until: onDisk(b.until)})
	}
	for name, b := range l.ranges {
		if !now.Before(b.until) {
			delete(l.ranges, name)
			continue
		}
		file.Bans = append(file.Bans, Ban{Range: name, Reason: b.reason, Since: onDisk(b.since), Until: onDisk(b.until)})
	}
	slices.SortFunc(file.Bans, func(a, b Ban) int { return b.Until.Compare(a.Until) })
	raw, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, err
	}
	l.dirty = false
	return append(raw, '\n'), nil
}

func onDisk(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// cutTo bounds a text that is kept and shown, and makes it fit for a terminal.
func cutTo(s string, most int) string {
	s = strings.ToValidUTF8(s[:min(len(s), most)], "")
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
