package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/zap"
)

// datasetsDir is the folder of the data directory for files that came from peers, each named by its root.
const datasetsDir = "datasets"

// library is the files that a node has in memory, for peers to fetch. It is not changed once it is used.
type library map[chain.Hash]*book

// book is one file. Its tree is made when it is asked for the first time.
type book struct {
	bytes []byte
	tree  func() *nn.ChunkTree
}

func (l library) add(root chain.Hash, bytes []byte) {
	l[root] = &book{bytes, sync.OnceValue(func() *nn.ChunkTree { return nn.NewChunkTree(bytes) })}
}

// Chunk gives a chunk of a file with its proof.
func (l library) Chunk(root chain.Hash, index int) (chunk []byte, proof []chain.Hash, err error) {
	b := l[root]
	if b == nil || index < 0 || index >= nn.ChunkCount(int64(len(b.bytes))) {
		return nil, nil, chain.ErrNotFound
	}
	lo := index * nn.ChunkSize
	return b.bytes[lo:min(lo+nn.ChunkSize, len(b.bytes))], b.tree().Proof(index), nil
}

// noChain is what a node says of its chain before it has the data that genesis needs: nothing.
type noChain struct{ network chain.Hash }

var errNoChain = fmt.Errorf("%w: the data of the network are still being fetched", chain.ErrNotFound)

func (c noChain) Status() p2p.Status                             { return p2p.Status{Network: c.network} }
func (noChain) Offer(peer.ID, *chain.Block) error                { return errNoChain }
func (noChain) Locator() []chain.Hash                            { return nil }
func (noChain) After([]chain.Hash, int) ([]*chain.Block, error)  { return nil, errNoChain }
func (noChain) Block(chain.Hash) (*chain.Block, error)           { return nil, errNoChain }
func (noChain) StateAfter(chain.Hash) (s chain.State, err error) { return s, errNoChain }
func (noChain) CheckBody(*chain.Block) error                     { return errNoChain }
func (noChain) CheckHeader(peer.ID, chain.State, *chain.Header) (s chain.State, err error) {
	return s, errNoChain
}
func (noChain) Ingest(context.Context, peer.ID, []*chain.Block) (int, error) { return 0, errNoChain }

// loadOrFetch loads the data sets, once what is missing of them has come from peers.
func (n *Node) loadOrFetch(ctx context.Context) (data []splits, err error) {
	cfg := n.cfg
	data, n.files, err = loadData(cfg.Network, cfg.dataFolders())
	if !errors.Is(err, ErrNoData) || cfg.Peers == nil || cfg.DataDir == "" {
		return data, err
	}
	if err := fetchData(ctx, cfg); err != nil {
		return nil, err
	}
	data, n.files, err = loadData(cfg.Network, cfg.dataFolders())
	return data, err
}

// fetchData gets from peers what is missing of the network's data sets and keeps it in the data directory. It goes on
// until all is there, or ctx ends. The network side that it opens is there for that alone, since genesis cannot be made
// without the data; it is closed before the chain's is opened.
func fetchData(ctx context.Context, cfg Config) (err error) {
	var files []wantedFile
	for _, set := range cfg.Network.DataSets {
		_, err := obtain(set, cfg.dataFolders())
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrNoData) {
			return fmt.Errorf("data set %q: %w", set.Name, err)
		}
		if err := checkSize(set); err != nil {
			return fmt.Errorf("data set %q: %w", set.Name, err)
		}
		files = append(files, wantedFile{set.Name + " images", set.Images}, wantedFile{set.Name + " labels", set.Labels})
	}
	pc := p2pConfig(cfg)
	pc.ContentOnly = true
	service, err := p2p.New(pc, noChain{cfg.Network.ID})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	if err := service.Start(ctx); err != nil {
		return err
	}
	for _, f := range files {
		if err := f.fetch(ctx, cfg, service); err != nil {
			return fmt.Errorf("fetching %s (%s): %w", f.name, f.file.Root.Short(), err)
		}
	}
	return nil
}

// checkSize holds the lengths that a spec gives against what may be read into memory later.
func checkSize(set chain.DataSet) error {
	images, labels := set.Images.Length, set.Labels.Length
	if images > dataset.MaxBytes || labels > dataset.MaxBytes-images {
		return fmt.Errorf("%w: %d and %d bytes, allowed are %d together", dataset.ErrTooLarge, images, labels, dataset.MaxBytes)
	}
	return nil
}

// wantedFile is a file of a data set.
type wantedFile struct {
	name string
	file chain.File
}

func (w wantedFile) fetch(ctx context.Context, cfg Config, service *p2p.Service) (err error) {
	dir := filepath.Join(cfg.DataDir, datasetsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := openPart(dir, w.file)
	if err != nil || p == nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.checkSpace(cfg); err != nil {
		return err
	}
	log, missing := cfg.Log.Named("p2p"), p.missing()
	log.Info("data is missing here and is fetched from peers", zap.String("content", w.name), zap.Stringer("root", w.file.Root),
		zap.Uint64("bytes", w.file.Length), zap.Int64("missing_bytes", missing))
	began := time.Now()
	if err := service.Fetch(ctx, p2p.Wanted{Name: w.name, Root: w.file.Root, Length: int64(w.file.Length)}, p); err != nil {
		return err
	}
	if err := p.finish(); err != nil {
		return err
	}
	elapsed := time.Since(began)
	log.Info("data fetched", zap.String("content", w.name), zap.Int64("bytes", missing), zap.Duration("elapsed", elapsed.Round(time.Millisecond)),
		zap.Int64("bytes_per_second", int64(float64(missing)/elapsed.Seconds())))
	return nil
}

// part is a file of which some chunks are there. Beside it is a file with the roots of these chunks, 32 bytes each and
// zero for one that is missing. A chunk counts as there if it has its root, so that after a crash, in whatever order the
// disk has got the writes, just what is damaged is fetched again.
type part struct {
	path  string // of the whole file
	want  chain.File
	bytes *os.File
	list  *os.File
	roots []chain.Hash
	has   []bool
}

const (
	partSuffix = ".part"
	listSuffix = ".chunks"
)

// openPart opens what is there of a file, or gives nil if it is whole. One that is damaged is begun anew.
func openPart(dir string, want chain.File) (p *part, err error) {
	path := filepath.Join(dir, want.Root.String())
	switch _, err := readKept(path, want); {
	case err == nil:
		return nil, nil
	case !errors.Is(err, ErrNoData):
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	count := nn.ChunkCount(int64(want.Length))
	p = &part{path: path, want: want, roots: make([]chain.Hash, count), has: make([]bool, count)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.bytes, err = openSized(path+partSuffix, int64(want.Length)); err != nil {
		return nil, err
	}
	if p.list, err = openSized(path+listSuffix, int64(count*len(chain.Hash{}))); err != nil {
		return nil, err
	}
	return p, p.look()
}

// openSized opens a file and gives it a length; what was not written is zero and takes no space.
func openSized(name string, length int64) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(length); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// look finds out which chunks are there.
func (p *part) look() error {
	buf := make([]byte, nn.ChunkSize)
	for i := range p.roots {
		var root chain.Hash
		if _, err := p.list.ReadAt(root[:], int64(i*len(root))); err != nil {
			return err
		}
		if root == (chain.Hash{}) {
			continue
		}
		chunk := buf[:p.length(i)]
		if _, err := p.bytes.ReadAt(chunk, int64(i)*nn.ChunkSize); err != nil {
			return err
		}
		if nn.BytesRoot(chunk) == root {
			p.roots[i], p.has[i] = root, true
		}
	}
	if !slices.Contains(p.has, false) && nn.ChunkTreeOf(p.roots).Root() != p.want.Root {
		clear(p.has) // the list itself is damaged, or that of other data
	}
	return nil
}

// missing is the number of bytes that are missing.
func (p *part) missing() (n int64) {
	for i, has := range p.has {
		if !has {
			n += p.length(i)
		}
	}
	return n
}

// length is that of a chunk, in bytes.
func (p *part) length(index int) int64 {
	return min(nn.ChunkSize, int64(p.want.Length)-int64(index)*nn.ChunkSize)
}

// checkSpace is ErrDiskFull unless there is space for what is missing, and for the chain to go on afterwards.
func (p *part) checkSpace(cfg Config) error {
	free, err := cfg.freeSpace()()
	if err != nil {
		cfg.Log.Debug("free space is not known", zap.Error(err))
		return nil
	}
	if need := uint64(p.missing()) + newDiskGuard(cfg.Network, nil, nil).low; free < need {
		return fmt.Errorf("%w: %d MiB are free in %s, needed are %d", ErrDiskFull, free>>20, cfg.DataDir, need>>20)
	}
	return nil
}

// Has says whether a chunk is there.
func (p *part) Has(index int) bool { return p.has[index] }

// Put writes a chunk and notes its root.
func (p *part) Put(index int, chunk []byte, root chain.Hash) error {
	if _, err := p.bytes.WriteAt(chunk, int64(index)*nn.ChunkSize); err != nil {
		return err
	}
	if _, err := p.list.WriteAt(root[:], int64(index*len(root))); err != nil {
		return err
	}
	p.roots[index], p.has[index] = root, true
	return nil
}

// finish checks the root of the whole, makes it durable and gives it its name.
func (p *part) finish() error {
	if root := nn.ChunkTreeOf(p.roots).Root(); root != p.want.Root {
		return fmt.Errorf("%s: %w: all chunks were checked, and together they have the root %s", p.path, dataset.ErrRoot, root)
	}
	if err := p.bytes.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.path+partSuffix, p.path); err != nil {
		return err
	}
	if err := os.Remove(p.path + listSuffix); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(p.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (p *part) close() (err error) {
	for _, f := range []*os.File{p.bytes, p.list} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// readKept reads a file that was fetched. One that is missing or damaged is ErrNoData.
func readKept(path string, want chain.File) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there", ErrNoData, path)
	}
	if err != nil {
		return nil, err
	}
	if uint64(info.Size()) != want.Length { // before memory is taken for it
		return nil, fmt.Errorf("%w: %s is damaged: it has %d bytes, wanted are %d", ErrNoData, path, info.Size(), want.Length)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if root := nn.BytesRoot(b); root != want.Root {
		return nil, fmt.Errorf("%w: %s is damaged: its root is %s", ErrNoData, path, root)
	}
	return b, nil
}
