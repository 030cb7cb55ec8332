package p2p

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"go.uber.org/zap"
)

const (
	// maxKnown bounds the address book; with maxAddrs addresses of some 60 bytes each it takes 150 KiB at most.
	maxKnown = 256
	// maxHearsay bounds those entries that no connection has confirmed, so that what peers tell cannot fill the book.
	maxHearsay = maxKnown / 2
	// maxBookFile is what a file of maxKnown entries stays below by far.
	maxBookFile = 1 << 20
	// hearsayAttempts is how often an unconfirmed address is tried.
	hearsayAttempts = 4
)

// addressBook remembers peers and where they were reached.
type addressBook struct {
	path string // "" for none
	self peer.ID

	mu      sync.Mutex
	entries map[peer.ID]*bookEntry
	dirty   bool
}

type bookEntry struct {
	addrs    []ma.Multiaddr
	met      time.Time // last connection; zero for hearsay
	failures int       // calls in vain, in a row
	retryAt  time.Time
}

// bookFile is the form on disk.
type bookFile struct {
	Peers []bookLine `json:"peers"`
}

type bookLine struct {
	ID    peer.ID   `json:"id"`
	Addrs []string  `json:"addrs"`
	Met   time.Time `json:"met"`
}

func newAddressBook(path string, self peer.ID) *addressBook {
	return &addressBook{path: path, self: self, entries: map[peer.ID]*bookEntry{}}
}

// load reads the file, if there is one. After an error the book is empty.
func (b *addressBook) load() error {
	if b.path == "" {
		return nil
	}
	f, err := os.Open(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBookFile+1))
	if err != nil {
		return err
	}
	entries, err := parseBook(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", b.path, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries = entries
	delete(b.entries, b.self)
	return nil
}

func parseBook(raw []byte) (map[peer.ID]*bookEntry, error) {
	if len(raw) > maxBookFile {
		return nil, fmt.Errorf("longer than %d bytes", maxBookFile)
	}
	var file bookFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	if len(file.Peers) > maxKnown {
		return nil, fmt.Errorf("%d peers, allowed are %d", len(file.Peers), maxKnown)
	}
	entries := map[peer.ID]*bookEntry{}
	for _, line := range file.Peers {
		if err := line.ID.Validate(); err != nil {
			return nil, err
		}
		e := &bookEntry{met: line.Met}
		for _, text := range line.Addrs {
			a, err := ma.NewMultiaddr(text)
			if err != nil {
				return nil, err
			}
			e.addrs = append(e.addrs, a)
		}
		entries[line.ID] = e
	}
	return entries, nil
}

// save writes the file if anything has changed: peers that were met.
func (b *addressBook) save() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.path == "" || !b.dirty {
		return nil
	}
	file := bookFile{Peers: []bookLine{}}
	for id, e := range b.entries {
		if e.met.IsZero() {
			continue
		}
		line := bookLine{ID: id, Met: e.met.UTC().Truncate(time.Second)}
		for _, a := range e.addrs {
			line.Addrs = append(line.Addrs, a.String())
		}
		file.Peers = append(file.Peers, line)
	}
	raw, err := json.MarshalIndent(file, "", "  ")
	if err == nil {
		err = writeFile(b.path, append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("address book: %w", err)
	}
	b.dirty = false
	return nil
}

// met notes a peer that is connected.
func (b *addressBook) met(p peer.ID, addrs []ma.Multiaddr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p == b.self || len(addrs) == 0 {
		return
	}
	e := b.entries[p]
	if e == nil {
		if len(b.entries) >= maxKnown {
			b.evict()
		}
		e = &bookEntry{}
		b.entries[p] = e
	}
	*e = bookEntry{addrs: addrs[:min(len(addrs), maxAddrs)], met: time.Now()}
	b.dirty = true
}

// evict drops the peer that was met longest ago; hearsay counts as never.
func (b *addressBook) evict() {
	var oldest peer.ID
	for p, e := range b.entries {
		if oldest == "" || e.met.Before(b.entries[oldest].met) {
			oldest = p
		}
	}
	delete(b.entries, oldest)
}

// heardOf notes a peer that another tells of, unless it is known already, and says whether it did.
func (b *addressBook) heardOf(info peer.AddrInfo) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if info.ID == b.self || b.entries[info.ID] != nil || len(info.Addrs) == 0 || len(b.entries) >= maxKnown {
		return false
	}
	hearsay := 0
	for _, e := range b.entries {
		if e.met.IsZero() {
			hearsay++
		}
	}
	if hearsay >= maxHearsay {
		return false
	}
	b.entries[info.ID] = &bookEntry{addrs: info.Addrs[:min(len(info.Addrs), maxAddrs)]}
	return true
}

// failed notes a call in vain.
func (b *addressBook) failed(p peer.ID, now time.Time, t Timing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[p]
	if e == nil {
		return
	}
	e.failures++
	e.retryAt = now.Add(t.backoff(e.failures))
	if e.met.IsZero() && e.failures >= hearsayAttempts {
		delete(b.entries, p)
	}
}

// candidates picks up to n peers to call, at random.
func (b *addressBook) candidates(n int, now time.Time, skip func(peer.ID) bool) []peer.AddrInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []peer.AddrInfo
	for p, e := range b.entries {
		if !now.Before(e.retryAt) && !skip(p) {
			out = append(out, peer.AddrInfo{ID: p, Addrs: e.addrs})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(n, len(out))]
}

// keepBook saves the address book now and then; Close does it at the end.
func (s *Service) keepBook() {
	for sleep(s.life, jitter(s.cfg.Timing.PeersPoll)) {
		if err := s.book.save(); err != nil {
			s.log.Warn("address book not saved", zap.Error(err))
		}
	}
}
