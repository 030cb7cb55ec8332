package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/node"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/spf13/cobra"
)

func initCommand() *cobra.Command {
	var network, dataDir, privateKeyFile string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the data directory with its peer key and payout key, and print who we are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, dir, err := networkAndDir(network, dataDir)
			if err != nil {
				return err
			}
			id, err := prepare(dir)
			if err != nil {
				return err
			}
			peerID, err := peer.IDFromPrivateKey(id.peer)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "data directory  %s\npeer id         %s\npayout address  %s\n", dir, peerID, id.payout)
			if privateKeyFile == "" {
				return nil
			}
			key, err := p2p.CreatePrivateNetworkKey(privateKeyFile)
			if err != nil {
				return fmt.Errorf("--private-network-key: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "private key     %s, fingerprint %s\n", privateKeyFile, p2p.Fingerprint(key))
			return nil
		},
	}
	addDirFlags(cmd, &network, &dataDir)
	cmd.Flags().StringVar(&privateKeyFile, "private-network-key", "", "make a new key for a private network and write it to this file")
	return cmd
}

// identity is who a data directory is.
type identity struct {
	peer   crypto.PrivKey
	payout chain.Address
}

// prepare makes the data directory and its keys where they are missing.
func prepare(dir string) (id identity, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return id, fmt.Errorf("data directory: %w: name another with --data-dir", err)
		}
		return id, fmt.Errorf("data directory: %w", err)
	}
	if id.peer, err = p2p.LoadOrCreateKey(filepath.Join(dir, "peer.key")); err != nil {
		return id, err
	}
	id.payout, err = node.PayoutKey(filepath.Join(dir, "payout.key"))
	return id, err
}
