package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	ds "github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	"github.com/libp2p/go-libp2p/core/discovery"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/routing"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"
)

const (
	// maxFound is how many peers one search takes in; four times what a node keeps connected, as some are gone.
	maxFound = 32
	// maxProviders bounds the nodes that we remember for others to find, each some 100 bytes beside its addresses.
	maxProviders = 256
	// recordLife is how long one is remembered, advertiseMax how often it says that it is still there: thrice in that
	// time. Both are far below what is usual for files, since a node that is gone costs each finder some attempts.
	recordLife   = time.Hour
	advertiseMax = 20 * time.Minute
	searchTime   = time.Minute
)

// table is the distributed hash table. It has one use, which is to find nodes of our network: under the network's name
// there are those who advertise. Each network has its own protocol, so that tables never mix.
type table struct {
	dht  *dht.IpfsDHT
	find *routing.RoutingDiscovery
	name string
}

// openTable makes a node answer queries, unless it is known that it cannot be called; it is then a client only.
func (s *Service) openTable() error {
	name := "minerd " + s.cfg.Network.String()
	d, err := dht.New(s.host,
		dht.ProtocolPrefix(protocol.ID("/minerd/"+shortNetwork(s.cfg.Network))),
		dht.Mode(dht.ModeAutoServer),
		dht.DisableValues(),
		dht.ProviderDatastore(dssync.MutexWrap(newProviders(name))),
		dht.ProviderManagerOpts(records.ProvideValidity(recordLife), records.ProviderAddrTTL(recordLife)),
		dht.AddressFilter(toldAddrs),
	)
	if err != nil {
		return err
	}
	s.table = &table{d, routing.NewRoutingDiscovery(d), name}
	s.release = append(s.release, d.Close)
	return nil
}

// toldAddrs leaves out loopback addresses, unless there are no others, as on a single machine.
func toldAddrs(addrs []ma.Multiaddr) []ma.Multiaddr {
	var out []ma.Multiaddr
	for _, a := range addrs {
		if !manet.IsIPLoopback(a) {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return addrs
	}
	return out
}

// advertise puts us into the table: often at first, as the few nodes known then may not be those that are asked, and
// then thrice in the life of a record. Without an address to call there is nothing to say.
func (s *Service) advertise() {
	first := s.cfg.Timing.Discover
	for pause := first; s.awaitTable(); pause = min(2*pause, max(advertiseMax, first)) {
		var err error
		if len(s.host.Addrs()) > 0 {
			_, err = s.table.find.Advertise(s.life, s.table.name)
		}
		if err != nil && s.life.Err() == nil {
			s.log.Debug("not advertised in the hash table, trying again", zap.Error(err))
			pause = first
		}
		sleep(s.life, jitter(pause))
	}
}

// search looks for peers in the table while there are fewer than MinPeers. Like all hearsay they go into the address book.
func (s *Service) search() {
	for s.awaitTable() {
		if len(s.peers.list()) < s.cfg.MinPeers {
			s.searchOnce()
		}
		sleep(s.life, jitter(s.cfg.Timing.Discover))
	}
}

func (s *Service) searchOnce() {
	ctx, cancel := context.WithTimeout(s.life, searchTime)
	defer cancel()
	found, err := s.table.find.FindPeers(ctx, s.table.name, discovery.Limit(maxFound))
	if err != nil {
		s.log.Debug("search in the hash table failed", zap.Error(err))
		return
	}
	total, fresh := 0, 0
	for info := range found {
		total++
		if s.book.heardOf(info) {
			fresh++
			poke(s.dialWake)
		}
	}
	s.log.Debug("searched the hash table for peers", zap.Int("found", total), zap.Int("new", fresh))
}

// awaitTable waits until the table has somebody to ask; false at the end of the service.
func (s *Service) awaitTable() bool {
	for s.life.Err() == nil && s.table.dht.RoutingTable().Size() == 0 {
		sleep(s.life, jitter(s.cfg.Timing.BackoffMax/3))
	}
	return s.life.Err() == nil
}

// providers keeps the records of who advertises our network, and no others, up to maxProviders: then one is dropped at
// random for each that comes.
type providers struct {
	*ds.MapDatastore
	prefix string
	keys   map[ds.Key]bool
}

func newProviders(name string) *providers {
	// A record's key is that of libp2p's rendezvous: the multihash of the name.
	sum := sha256.Sum256([]byte(name))
	multihash := append([]byte{0x12, sha256.Size}, sum[:]...)
	prefix := records.ProvidersKeyPrefix + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(multihash) + "/"
	return &providers{ds.NewMapDatastore(), prefix, map[ds.Key]bool{}}
}

// Put is for the table.
func (p *providers) Put(ctx context.Context, key ds.Key, value []byte) error {
	if !strings.HasPrefix(key.String(), p.prefix) {
		return nil
	}
	if !p.keys[key] && len(p.keys) >= maxProviders {
		for victim := range p.keys {
			if err := p.Delete(ctx, victim); err != nil {
				return fmt.Errorf("making room for a record: %w", err)
			}
			break
		}
	}
	p.keys[key] = true
	return p.MapDatastore.Put(ctx, key, value)
}

// Delete is for the table.
func (p *providers) Delete(ctx context.Context, key ds.Key) error {
	delete(p.keys, key)
	return p.MapDatastore.Delete(ctx, key)
}

// Batch is for the table.
func (p *providers) Batch(context.Context) (ds.Batch, error) { return ds.NewBasicBatch(p), nil }
