package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/descentnet/minerd/p2p"
	"github.com/spf13/cobra"
)

// addressBookName is the address book's file in the data directory, as in run.
const addressBookName = "peers.json"

func peersCommand() *cobra.Command {
	var network, dataDir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "List the peers that a node knows, and whom it keeps out and why",
		Long: `List the peers that a node knows, and the peers and address ranges that it keeps out, with reason and end. It reads the
files in the data directory, whether the node runs or not; a running node writes bans within a second or so and
known peers once a minute. Bans that have run out are left out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, dir, err := networkAndDir(network, dataDir)
			if err != nil {
				return err
			}
			list, err := readPeers(dir, time.Now())
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(list)
			}
			return list.print(cmd.OutOrStdout(), time.Now())
		},
	}
	addDirFlags(cmd, &network, &dataDir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// peerList is what the files of a node tell about others.
type peerList struct {
	Known  []p2p.KnownPeer `json:"known"`
	Banned []p2p.Ban       `json:"banned"`
}

// readPeers reads the files in a data directory, and leaves out the bans that have run out by now.
func readPeers(dir string, now time.Time) (peerList, error) {
	list := peerList{Known: []p2p.KnownPeer{}, Banned: []p2p.Ban{}}
	if info, err := os.Stat(dir); err != nil {
		return list, fmt.Errorf("data directory: %w", err)
	} else if !info.IsDir() {
		return list, fmt.Errorf("data directory: %s is a file", dir)
	}
	book := filepath.Join(dir, addressBookName)
	known, bookErr := p2p.ReadAddressBook(book)
	list.Known = append(list.Known, known...)
	bans, banErr := p2p.ReadBans(p2p.BanFile(book))
	for _, b := range bans {
		if now.Before(b.Until) {
			list.Banned = append(list.Banned, b)
		}
	}
	if err := errors.Join(bookErr, banErr); err != nil {
		return list, fmt.Errorf("%w; the node writes the file anew by itself", err)
	}
	return list, nil
}

func (l peerList) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(l.Known) == 0 {
		fmt.Fprintln(w, "no known peers")
	} else {
		fmt.Fprintln(w, "KNOWN PEER\tLAST MET\tADDRESS")
	}
	for _, p := range l.Known {
		met := "never"
		if !p.Met.IsZero() {
			met = p.Met.Local().Format(time.DateTime)
		}
		if len(p.Addrs) == 0 {
			fmt.Fprintf(w, "%s\t%s\t-\n", p.ID, met)
		}
		for i, a := range p.Addrs {
			if i == 0 {
				fmt.Fprintf(w, "%s\t%s\t%s\n", p.ID, met, a)
			} else {
				fmt.Fprintf(w, "\t\t%s\n", a)
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if len(l.Banned) == 0 {
		_, err := fmt.Fprintln(out, "nobody is banned")
		return err
	}
	fmt.Fprintln(w, "BANNED\tUNTIL\tFOR ANOTHER\tREASON")
	for _, b := range l.Banned {
		who := b.Range
		if b.Peer != "" {
			who = b.Peer.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", who, b.Until.Local().Format(time.DateTime), b.Until.Sub(now).Round(time.Second), b.Reason)
	}
	return w.Flush()
}
