package main

import (
	"fmt"

	"github.com/descentnet/minerd/p2p"
	"github.com/spf13/cobra"
)

// reachFlags are the settings of `minerd run` about how a node is found and reached.
type reachFlags struct {
	p2p.Reach
	privateKeyFile string
}

// maxPeersAllowed is what a machine of 16 GiB has memory for, at 1 MiB a peer with its buffers.
const maxPeersAllowed = 10000

func (f *reachFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVar(&f.DHT, "dht", true, "find peers by the network's distributed hash table, and serve it")
	fs.BoolVar(&f.NAT, "nat", true, "ask the router for a port mapping (UPnP, NAT-PMP)")
	fs.StringSliceVar(&f.External, "external-address", nil, "multiaddresses that others are told, in place of those that the node finds out")
	fs.BoolVar(&f.NoListen, "no-listen", false, "accept no connections, only call others")
	fs.BoolVar(&f.RelayService, "relay-service", false, "help nodes behind routers to meet: relay short connections, if publicly reachable")
	fs.StringVar(&f.privateKeyFile, "private-network-key", "", "file of a key; only nodes with the same key connect, over TCP alone")
	fs.IntVar(&f.MaxPeers, "max-peers", 0, "most peers that are connected (default 96)")
	fs.IntVar(&f.MaxInbound, "max-inbound", 0, "most connections that others have opened (default: two thirds of --max-peers)")
	fs.IntVar(&f.MaxPeersPerIP, "max-peers-per-ip", 0, "most connections with one IPv4 address or IPv6 /56, loopback excepted (default 64)")
}

// parse checks the flags one by one and reads the key.
func (f *reachFlags) parse() (p2p.Reach, error) {
	for _, n := range []struct {
		name  string
		value int
	}{{"max-peers", f.MaxPeers}, {"max-inbound", f.MaxInbound}, {"max-peers-per-ip", f.MaxPeersPerIP}} {
		if n.value < 0 || n.value > maxPeersAllowed {
			return f.Reach, fmt.Errorf("--%s %d: allowed are 1 to %d, or 0 for the default", n.name, n.value, maxPeersAllowed)
		}
	}
	reach := f.Reach
	if f.privateKeyFile != "" {
		key, err := p2p.LoadPrivateNetworkKey(f.privateKeyFile)
		if err != nil {
			return reach, fmt.Errorf("--private-network-key: %w", err)
		}
		reach.PrivateKey = key
	}
	return reach, nil
}
