package node

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/dataset"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// squares is a network that trains on files: two classes of images of 28 x 28 pixels. It leaves the files in dir; the
// image file is a header of 16 bytes and 784 per image, the label file one of 8 bytes and 1 per image.
func squares(t testing.TB, dir string, count int) *chain.Network {
	t.Helper()
	const rows = 28
	images := []byte{0, 0, 8, 3, 0, byte(count >> 16), byte(count >> 8), byte(count), 0, 0, 0, rows, 0, 0, 0, rows}
	labels := []byte{0, 0, 8, 1, 0, byte(count >> 16), byte(count >> 8), byte(count)}
	random := rand.NewChaCha8([32]byte{1})
	for i := range count {
		image := make([]byte, rows*rows)
		_, _ = random.Read(image)
		for j := range image {
			image[j] = image[j]/4 + byte(i%2)*128
		}
		images = append(images, image...)
		labels = append(labels, byte(i%2))
	}
	for name, b := range map[string][]byte{"images-idx3-ubyte": images, "labels-idx1-ubyte": labels} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := uint32(count)
	spec := chain.Spec{
		Name: "squares", GenesisTime: uint64(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()),
		Interval: 1000, HalfLife: 21000, MaxFuture: 1000, MaxBlockBytes: 61440, MaxBlockTxs: 1024, MaxTaskBlocks: 1000, PlateauBlocks: 64,
		VerifyRate: 1e10, FinalityDepth: 1000, SnapshotInterval: 10, InitialReward: 10, HalvingInterval: 1000,
		DataSets: []chain.DataSet{{
			Name: "squares", Kind: chain.IDX, Count: n,
			Images: chain.File{Root: nn.BytesRoot(images), Length: uint64(len(images))},
			Labels: chain.File{Root: nn.BytesRoot(labels), Length: uint64(len(labels))},
			Train:  chain.Range{From: 0, To: n - 40}, Evaluation: chain.Range{From: n - 40, To: n - 20}, Test: chain.Range{From: n - 20, To: n},
		}},
		Templates: []chain.Template{{Name: "flat", Data: "squares", TrialSteps: 64, Model: nn.Model{
			Input: nn.Shape{Rows: rows, Cols: rows, Channels: 1}, Layers: []nn.Layer{{Kind: nn.Flatten}, {Kind: nn.Dense, Units: 2}},
			Loss: nn.SoftmaxCrossEntropy, Batch: 16, Optimizer: nn.Optimizer{Kind: nn.SGD, LearningRate: 0.01, Momentum: 0.5},
		}}},
	}
	net, err := spec.Build()
	if err != nil {
		t.Fatal(err)
	}
	return net
}

// at is a node of the network with its data directory, listening on loopback.
func at(t testing.TB, net *chain.Network, dataDir, datasetDir string, log *zap.Logger, bootstrap ...string) Config {
	return Config{
		Network: net, DataDir: dataDir, DatasetDir: datasetDir, Payout: chain.Address{1}, Threads: 1, Models: chain.DefaultModelLimits,
		Log: log, Now: time.Now, ReportEvery: time.Minute,
		Peers: &PeersConfig{Key: peerKey(t), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Bootstrap: bootstrap, Timing: quick},
	}
}

// quick is for tests: what is waited for comes soon.
var quick = p2p.Timing{StatusPoll: 200 * time.Millisecond, BackoffMin: 50 * time.Millisecond, BackoffMax: 500 * time.Millisecond}

func peerKey(t testing.TB) crypto.PrivKey {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// runNode opens a node and runs it until the test ends.
func runNode(t testing.TB, cfg Config) *running {
	t.Helper()
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{n, cancel, make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

// A node that has nothing but the spec and one peer gets the data and mines on them; a third gets them from it.
func TestDataFromPeers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("nodes", func(t *testing.T) {
		files := t.TempDir()
		net := squares(t, files, 1000) // 12 chunks of images, 1 of labels
		first := runNode(t, at(t, net, t.TempDir(), files, zap.NewNop()))
		dir := t.TempDir()
		second := at(t, net, dir, "", zap.NewNop(), first.addr())
		second.Mine = true
		miner := runNode(t, second)
		first.reach(t, 2)
		for _, f := range []struct{ name, root string }{
			{"images-idx3-ubyte", net.DataSets[0].Images.Root.String()}, {"labels-idx1-ubyte", net.DataSets[0].Labels.Root.String()},
		} {
			want, err := os.ReadFile(filepath.Join(files, f.name))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, datasetsDir, f.root)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s came as %d bytes (%v), want %d", f.name, len(got), err, len(want))
			}
		}
		if entries, err := os.ReadDir(filepath.Join(dir, datasetsDir)); err != nil || len(entries) != 2 {
			t.Errorf("%d files were left (%v), want 2", len(entries), err)
		}
		third := runNode(t, at(t, net, t.TempDir(), t.TempDir(), zap.NewNop(), miner.addr()))
		third.reach(t, 2)

		_, done, err := OpenTrainer(net, "", dir, CPU(1))
		if err != nil {
			t.Fatalf("fsck does not find the data: %v", err)
		}
		done()
	})
}

// gated gives chunks until it has given most, and then none before it is opened.
type gated struct {
	library
	most int
	open chan struct{}
	full chan struct{} // closed when most were given

	mu    sync.Mutex
	given map[chain.Hash]map[int]int
}

func newGated(l library, most int) *gated {
	return &gated{library: l, most: most, open: make(chan struct{}), full: make(chan struct{}), given: map[chain.Hash]map[int]int{}}
}

func (g *gated) Chunk(root chain.Hash, index int) ([]byte, []chain.Hash, error) {
	chunk, proof, err := g.library.Chunk(root, index)
	if err != nil {
		return nil, nil, err
	}
	g.mu.Lock()
	if g.given[root] == nil {
		g.given[root] = map[int]int{}
	}
	g.given[root][index]++
	n := 0
	for _, m := range g.given {
		n += len(m)
	}
	if n == g.most {
		close(g.full)
	}
	g.mu.Unlock()
	if n >= g.most {
		<-g.open
	}
	return chunk, proof, nil
}

// serveContent answers for content until the test ends, and gives its address.
func serveContent(t testing.TB, net *chain.Network, c p2p.Content) string {
	t.Helper()
	s, err := p2p.New(p2p.Config{
		Key: peerKey(t), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Network: net.ID, NetworkName: net.Name, Version: "test", Log: zap.NewNop(),
		Content: c, ContentOnly: true, Timing: quick,
	}, noChain{net.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Addrs()[0].String()
}

func libraryOf(t testing.TB, net *chain.Network, files string) library {
	t.Helper()
	_, l, err := loadData(net, foldersOf(files, ""))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// copyDir is what a kill leaves of a directory.
func copyDir(t testing.TB, from string) (to string) {
	t.Helper()
	to = t.TempDir()
	if err := os.CopyFS(filepath.Join(to, datasetsDir), os.DirFS(filepath.Join(from, datasetsDir))); err != nil {
		t.Fatal(err)
	}
	return to
}

// A fetch that is killed goes on with what was missing; of that, what a crash has damaged is fetched again.
func TestFetchKilled(t *testing.T) {
	files := t.TempDir()
	net := squares(t, files, 3000) // 36 chunks of images
	images := net.DataSets[0].Images
	const before = 20
	first := newGated(libraryOf(t, net, files), before)
	address := serveContent(t, net, first)
	t.Cleanup(func() { close(first.open) }) // before the service is closed, which waits for it
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		n, err := Open(ctx, at(t, net, dir, "", zap.NewNop(), address))
		done <- errors.Join(err, n.Close())
	}()
	<-first.full
	// All that was given before the one at the gate may still be under way.
	list := filepath.Join(dir, datasetsDir, images.Root.String()+listSuffix)
	noted := func() (n int) {
		b, err := os.ReadFile(list)
		for i := 0; err == nil && i+32 <= len(b); i += 32 {
			if [32]byte(b[i:]) != [32]byte{} {
				n++
			}
		}
		return n
	}
	eventually(t, "the chunks are kept", func() bool { return noted() == before-1 })
	killed := copyDir(t, dir)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("the fetch ended with %v", err)
	}

	part := filepath.Join(killed, datasetsDir, images.Root.String()+partSuffix)
	b, err := os.ReadFile(part)
	if err != nil {
		t.Fatal(err)
	}
	b[3*nn.ChunkSize+5] ^= 1
	if err := os.WriteFile(part, b, 0o600); err != nil {
		t.Fatal(err)
	}
	second := newGated(libraryOf(t, net, files), -1)
	close(second.open)
	n, err := Open(context.Background(), at(t, net, killed, "", zap.NewNop(), serveContent(t, net, second)))
	if err := errors.Join(err, n.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := len(second.given[images.Root]), 36-(before-1)+1; got != want {
		t.Errorf("%d chunks were fetched again, want %d", got, want)
	}
	for i, times := range second.given[images.Root] {
		if first.given[images.Root][i] > 0 && i != 3 && i != before-1 || times != 1 {
			t.Errorf("chunk %d was fetched %d times, before %d times", i, times, first.given[images.Root][i])
		}
	}
}

// A file that was damaged after it came is fetched again.
func TestKeptDataDamaged(t *testing.T) {
	files := t.TempDir()
	net := squares(t, files, 300)
	dir := t.TempDir()
	address := serveContent(t, net, libraryOf(t, net, files))
	open := func() error {
		n, err := Open(context.Background(), at(t, net, dir, "", zap.NewNop(), address))
		return errors.Join(err, n.Close())
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func(name string) error{
		func(name string) error { return os.Truncate(name, 100) },
		os.Remove,
		func(name string) error {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			b[1000] ^= 1
			return os.WriteFile(name, b, 0o600)
		},
	} {
		if err := damage(filepath.Join(dir, datasetsDir, net.DataSets[0].Images.Root.String())); err != nil {
			t.Fatal(err)
		}
		if err := open(); err != nil {
			t.Error(err)
		}
	}
}

// What is asked for is bounded before anything is written, and needs space.
func TestFetchRefused(t *testing.T) {
	files := t.TempDir()
	net := squares(t, files, 300)
	address := serveContent(t, net, libraryOf(t, net, files))
	dir := t.TempDir()
	cfg := at(t, net, dir, "", zap.NewNop(), address)
	cfg.FreeSpace = func() (uint64, error) { return 1 << 20, nil }
	n, err := Open(context.Background(), cfg)
	if !errors.Is(err, ErrDiskFull) {
		t.Errorf("on a full disk: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}

	for _, length := range []uint64{dataset.MaxBytes, 1 << 63, 1<<64 - 1} {
		spec := net.Spec
		set := spec.DataSets[0]
		set.Images.Length = length
		spec.DataSets = []chain.DataSet{set}
		huge, err := spec.Build()
		if err != nil {
			continue // refused earlier
		}
		dir := t.TempDir()
		n, err := Open(context.Background(), at(t, huge, dir, "", zap.NewNop(), address))
		if !errors.Is(err, dataset.ErrTooLarge) {
			t.Errorf("%d bytes: %v", length, err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, datasetsDir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d bytes: something was written: %v", length, err)
		}
	}

	// Without peers or a place to keep them, data that are missing are an error, and so is a folder that is not there.
	cfg = at(t, net, "", "", zap.NewNop(), address)
	if _, err := Open(context.Background(), cfg); !errors.Is(err, ErrNoData) {
		t.Errorf("without a data directory: %v", err)
	}
	cfg = at(t, net, t.TempDir(), t.TempDir(), zap.NewNop())
	cfg.Peers = nil
	n, err = Open(context.Background(), cfg)
	if !errors.Is(err, ErrNoData) || !errors.Is(err, dataset.ErrNoFiles) {
		t.Errorf("without peers: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	cfg = at(t, net, t.TempDir(), filepath.Join(files, "typo"), zap.NewNop())
	n, err = Open(context.Background(), cfg)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a folder that is not there: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// Where nobody has the data, the node says so and goes on asking, until it is told to stop.
func TestDataThatNobodyHas(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("nodes", func(t *testing.T) {
		net := squares(t, t.TempDir(), 300)
		core, logs := observer.New(zap.InfoLevel)
		cfg := at(t, net, t.TempDir(), "", zap.New(core), serveContent(t, net, nil))
		cfg.Peers.Timing.Progress = 50 * time.Millisecond
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			n, err := Open(ctx, cfg)
			done <- errors.Join(err, n.Close())
		}()
		eventually(t, "the log says so", func() bool {
			for _, line := range logs.FilterMessage("fetching data").All() {
				if strings.Contains(fmt.Sprint(line.ContextMap()["waiting_for"]), "the 1 connected do not") {
					return true
				}
			}
			return false
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
}
