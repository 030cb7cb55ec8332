package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/chain/specfile"
	"github.com/descentnet/minerd/node"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// runFlags are the settings of `minerd run`.
type runFlags struct {
	network, dataDir, datasetDir string
	mine                         bool
	payout                       string
	threads                      int
	device                       string
	trials                       int
	maxTemperature               int
	listen, bootstrap            []string
	mdns                         bool
	reach                        reachFlags
	logLevel, logFormat          string
}

func runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a node: verify the chain, and mine with --mine",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return run(cmd, &f) },
	}
	fs := cmd.Flags()
	addDirFlags(cmd, &f.network, &f.dataDir)
	fs.StringVar(&f.datasetDir, "dataset-dir", "", "folder with the IDX files of a network that trains on them (default: fetched from peers)")
	fs.BoolVar(&f.mine, "mine", false, "train for blocks")
	fs.StringVar(&f.payout, "payout", "", "address that rewards are paid to (default: that of payout.key in the data directory)")
	fs.IntVar(&f.threads, "threads", 0, "threads that training and verifying use (default: all cores)")
	fs.StringVar(&f.device, "device", "auto", deviceHelp)
	fs.IntVar(&f.trials, "trials", 0, "trials that a CUDA device trains at once (default: as many as suit it)")
	fs.IntVar(&f.maxTemperature, "max-temperature", 90, "temperature in °C above which a CUDA device pauses, until it is 5 degrees below; 0 is none")
	fs.StringSliceVar(&f.listen, "listen", nil, "multiaddresses to listen on (default: TCP and QUIC on port 27182, IPv4 and IPv6)")
	fs.StringSliceVar(&f.bootstrap, "bootstrap", nil, "multiaddresses of peers to join, with /p2p/ID at the end")
	fs.BoolVar(&f.mdns, "mdns", true, "find peers on the local network")
	f.reach.add(cmd)
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "", "console or json (default: console on a terminal, else json)")
	return cmd
}

func addDirFlags(cmd *cobra.Command, network, dataDir *string) {
	cmd.Flags().StringVar(network, "network", "devnet", "name of a built-in network, or a network spec file")
	cmd.Flags().StringVar(dataDir, "data-dir", "", "data directory (default: ~/.minerd/NETWORK)")
}

// dataDirOf is the data directory of a network where none was named.
func dataDirOf(named string, n *chain.Network) (string, error) {
	if named != "" {
		return named, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("name a data directory with --data-dir: %w", err)
	}
	return filepath.Join(home, ".minerd", n.Name), nil
}

// networkAndDir loads a network and gives its data directory, by the flags of addDirFlags.
func networkAndDir(network, dataDir string) (*chain.Network, string, error) {
	n, err := specfile.Load(network)
	if err != nil {
		return nil, "", err
	}
	dir, err := dataDirOf(dataDir, n)
	return n, dir, err
}

func run(cmd *cobra.Command, f *runFlags) (err error) {
	log, err := newLogger(f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	net, err := specfile.Load(f.network)
	if err != nil {
		return err
	}
	if f.threads < 0 || f.threads > 1024 {
		return fmt.Errorf("--threads %d: allowed are 0 (all cores) to 1024", f.threads)
	}
	if f.trials < 0 || f.trials > 4096 {
		return fmt.Errorf("--trials %d: allowed are 0 (as many as suit the device) to 4096", f.trials)
	}
	if f.maxTemperature < 0 || f.maxTemperature > 150 {
		return fmt.Errorf("--max-temperature %d: allowed are 0 (none) to 150 °C", f.maxTemperature)
	}
	reach, err := f.reach.parse()
	if err != nil {
		return err
	}
	dir, err := dataDirOf(f.dataDir, net)
	if err != nil {
		return err
	}
	id, err := prepare(dir)
	if err != nil {
		return err
	}
	payout := id.payout
	if f.payout != "" {
		if payout, err = chain.ParseAddress(f.payout); err != nil {
			return fmt.Errorf("--payout: %w", err)
		}
	}
	steps := 0
	for _, t := range net.Templates {
		steps = max(steps, int(t.TrialSteps))
	}
	devices, err := trainOn(f.device, f.threads, f.trials, steps, log)
	if err != nil {
		return err
	}
	var nonce [8]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return err
	}
	n, err := node.Open(cmd.Context(), node.Config{
		Network: net, DataDir: dir, DatasetDir: f.datasetDir,
		Mine: f.mine, Payout: payout, Nonce: binary.LittleEndian.Uint64(nonce[:]), Devices: devices, Threads: f.threads,
		MaxTemperature: f.maxTemperature,
		Models:         chain.DefaultModelLimits,
		Peers: &node.PeersConfig{
			Key: id.peer, Listen: f.listen, Bootstrap: f.bootstrap, MDNS: f.mdns, AddressBook: filepath.Join(dir, "peers.json"),
			Reach: reach,
		},
		Version: programVersion(), Log: log, Now: time.Now, Measure: true, ReportEvery: 10 * time.Second,
	})
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		return nil // interrupted before it ran
	}
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, n.Close())
		log.Info("stopped", zap.Bool("clean", err == nil))
	}()
	return n.Run(cmd.Context())
}
