package p2p

import (
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

// finder takes what mDNS finds. It only fills the address book, since mDNS reports a peer once and never again.
type finder struct {
	s *Service
}

// HandlePeerFound is for mDNS.
func (f finder) HandlePeerFound(info peer.AddrInfo) {
	if f.s.book.heardOf(info) {
		poke(f.s.dialWake)
	}
}

func (s *Service) startMDNS() error {
	service := mdns.NewMdnsService(s.host, "_minerd-"+shortNetwork(s.cfg.Network)+"._udp", finder{s})
	if err := service.Start(); err != nil {
		return err
	}
	s.release = append(s.release, service.Close)
	return nil
}
