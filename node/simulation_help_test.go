package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/descentnet/minerd/chain"
	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/p2p"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	simlinks "github.com/marcopolo/simnet"
	quicgo "github.com/quic-go/quic-go"
	"go.uber.org/fx"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

var (
	simNodes = flag.Int("nodes", 50, "nodes of the largest simulations, 40 or more; a fifth of them mine")
	simSeed  = flag.Uint64("seed", 1, "seed of the simulations; 0 draws one")
	simDebug = flag.Bool("simlog", false, "write all that the nodes of a simulation log, debug lines too, to standard error")
)

// What the simulated world is like.
const (
	simInterval = 10 * time.Second
	simFuture   = simInterval            // max_future
	simVerify   = 200 * time.Millisecond // that a node takes to verify a block
	simTrials   = 40                     // that all miners together train in an interval
	minDelay    = 50 * time.Millisecond  // of a link, each way
	maxDelay    = 150 * time.Millisecond
	minLoss     = 0.01 // of a link's packets
	maxLoss     = 0.05
	linkSpeed   = 20_000_000 // bits per second, each way
)

// simulation is a network of whole nodes in virtual time. Nothing but clock, links, store and the speed of the devices
// is simulated.
//
// From the seed come keys, nonces, delays, which packets of a link are lost, speeds, who bootstraps from whom, and who
// leaves. Not from the seed come the order in which goroutines run, the random choices of libp2p and of the nodes (of
// peers, of pauses) and what TLS draws: with the same seed the world is the same, and what happens in it is not quite.
type simulation struct {
	*testing.T
	random *rand.Rand // of the test's goroutine
	seed   uint64
	spec   *chain.Network
	data   string // folder of the data set
	links  *links
	log    *simLog
	nodes  []*simNode   // that ever were, by number
	size   int          // nodes to begin with, a fifth of them miners
	stalls atomic.Int64 // requests for blocks that stallers were sent
	began  time.Time
}

// simNode is a node of a simulation.
type simNode struct {
	*Node
	number  int
	id      peer.ID
	addr    string
	staller bool
	cancel  context.CancelFunc
	done    chan error
	gone    bool
}

// simulate runs a test of so many nodes in virtual time.
func simulate(t *testing.T, size int, test func(*simulation)) {
	t.Helper()
	t.Parallel()
	seed := *simSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	data := t.TempDir()
	spec := simSpec(t, data)
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{
			T: t, random: rand.New(rand.NewPCG(seed, 0)), seed: seed, spec: spec, data: data, links: newLinks(seed),
			log: newSimLog(), size: size, began: time.Now(),
		}
		s.links.net.Start()
		defer s.links.net.Close()
		defer func() {
			if t.Failed() {
				t.Logf("seed %d, run again with -seed %[1]d; the last lines of the nodes:\n%s", seed, s.log.tail())
			}
		}()
		defer s.end() // also after a failure, or the bubble would never end
		test(s)
		s.report()
	})
}

// skipShort skips what a run with -short leaves out.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds of CPU time; run without -short")
	}
}

// simSpec is the smallest network that can be mined: two classes of images of four pixels. It leaves the data in dir.
func simSpec(t *testing.T, dir string) *chain.Network {
	t.Helper()
	const count = 60
	images, labels := []byte{0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2}, []byte{0, 0, 8, 1, 0, 0, 0, count}
	for i := range count {
		y := byte(i % 2)
		images = append(images, byte(i), 200*y, byte(i*i), 100)
		labels = append(labels, y)
	}
	for name, b := range map[string][]byte{"images-idx3-ubyte": images, "labels-idx1-ubyte": labels} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := chain.Spec{
		Name:        "simulation",
		GenesisTime: uint64(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()), // when virtual time begins
		Interval:    uint64(simInterval.Milliseconds()), HalfLife: 21 * uint64(simInterval.Milliseconds()), MaxFuture: uint64(simFuture.Milliseconds()),
		MaxBlockBytes: 61440, MaxBlockTxs: 1024, MaxTaskBlocks: 25, PlateauBlocks: 12, VerifyRate: 1e9, FinalityDepth: 1000, SnapshotInterval: 10,
		InitialReward: 10, HalvingInterval: 1000,
		DataSets: []chain.DataSet{{
			Name: "dots", Kind: chain.IDX, Count: count,
			Images: chain.File{Root: nn.BytesRoot(images), Length: uint64(len(images))},
			Labels: chain.File{Root: nn.BytesRoot(labels), Length: uint64(len(labels))},
			Train:  chain.Range{From: 0, To: 40}, Evaluation: chain.Range{From: 40, To: 50}, Test: chain.Range{From: 50, To: 60},
		}},
		Templates: []chain.Template{{Name: "tiny", Data: "dots", TrialSteps: 64, Model: nn.Model{
			Input: nn.Shape{Rows: 2, Cols: 2, Channels: 1}, Layers: []nn.Layer{{Kind: nn.Flatten}, {Kind: nn.Dense, Units: 2}},
			Loss: nn.SoftmaxCrossEntropy, Batch: 16, Optimizer: nn.Optimizer{Kind: nn.SGD, LearningRate: 0.01, Momentum: 0.5},
		}}},
	}
	n, err := spec.Build()
	if err == nil {
		spec.GenesisDifficulty = chain.U128(simTrials * n.Templates[0].Cost.Lo)
		n, err = spec.Build()
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// paced is an engine on a simulated device: training takes virtual time. The miner's trials are those of TrainMany.
type paced struct {
	nn.Engine
	mine, verify time.Duration // of a trial
}

func (p paced) Width() int { return 1 }

func (p paced) Train(ctx context.Context, start *nn.State, data nn.Samples, trial nn.Trial) (*nn.Trained, error) {
	if err := pause(ctx, p.verify); err != nil {
		return nil, err
	}
	return p.Engine.Train(ctx, start, data, trial)
}

func (p paced) TrainMany(ctx context.Context, start *nn.State, data nn.Samples, trials []nn.Trial) ([]nn.Outcome, error) {
	trial := trials[0]
	for step := range trial.Steps {
		if err := trial.OnStep(step); err != nil {
			return nil, err
		}
		if err := pause(ctx, p.mine/time.Duration(trial.Steps)); err != nil {
			return nil, err
		}
	}
	trial.OnStep = nil
	r, err := p.Engine.Train(ctx, start, data, trial)
	if errors.Is(err, nn.ErrNotFinite) {
		return []nn.Outcome{{Err: err}}, nil
	}
	if err != nil {
		return nil, err
	}
	return []nn.Outcome{{Root: r.Root, LogitsDigest: r.LogitsDigest}}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// simOptions say what a node is like.
type simOptions struct {
	mines   bool
	staller bool
	skew    time.Duration // of its clock
}

// start starts a node, which is told of up to three of those that run.
func (s *simulation) start(o simOptions) *simNode {
	s.Helper()
	return s.startKnowing(o, func(*simNode) bool { return true })
}

// startKnowing starts a node, which is told of up to three of those that run and are such.
func (s *simulation) startKnowing(o simOptions, such func(*simNode) bool) *simNode {
	s.Helper()
	n := &simNode{number: len(s.nodes), staller: o.staller}
	raw := make([]byte, ed25519.SeedSize)
	for i := range raw {
		raw[i] = byte(s.random.Uint32())
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(raw))
	if err == nil {
		n.id, err = peer.IDFromPrivateKey(key)
	}
	if err != nil {
		s.Fatal(err)
	}
	listen := fmt.Sprintf("/ip4/%s/udp/%d/quic-v1", simlinks.IntToPublicIPv4(n.number), p2p.DefaultPort)
	n.addr = listen + "/p2p/" + n.id.String()
	known := slices.DeleteFunc(s.live(), func(n *simNode) bool { return !such(n) })
	s.random.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	var bootstrap []string
	for _, other := range known[:min(3, len(known))] {
		bootstrap = append(bootstrap, other.addr)
	}
	// All miners together train simTrials in an interval; some are up to three times as fast as others.
	mine := time.Duration(float64(simInterval) * float64(s.size) / 5 / simTrials / (0.5 + s.random.Float64()))
	log := zap.New(simCore{s.log, n.number})
	cfg := Config{
		Network: s.spec, DatasetDir: s.data, Mine: o.mines, Payout: chain.Address{1, byte(n.number), byte(n.number >> 8)},
		Nonce: s.random.Uint64(), Threads: 1, Models: chain.DefaultModelLimits, Version: "simulated", Log: log, ReportEvery: time.Hour,
		Now: func() time.Time { return time.Now().Add(o.skew) },
		Devices: []Device{{Name: "simulated", Engine: func(net *nn.Net) (nn.Engine, error) {
			return paced{nn.NewPlain(net), mine, simVerify}, nil
		}}},
	}
	peers := &PeersConfig{Key: key, Listen: []string{listen}, Bootstrap: bootstrap, Transports: s.links.transports(n.number)}
	if !o.staller {
		cfg.Peers = peers
	}
	if n.Node, err = Open(context.Background(), cfg); err != nil {
		s.Fatal(err)
	}
	if o.staller {
		n.stall(s, peers, log)
	}
	s.nodes = append(s.nodes, n)
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	n.done = make(chan error, 1)
	go func() { n.done <- n.Run(ctx) }()
	return n
}

// stalling takes its time to give a block, longer than anybody waits, and then does not.
type stalling struct {
	peerChain
	asked *atomic.Int64
}

func (s stalling) Block(chain.Hash) (*chain.Block, error) {
	s.asked.Add(1)
	time.Sleep(time.Minute)
	return nil, chain.ErrNotFound
}

// stall opens a node to the network as openPeers does, except that it never gives a block that is asked for.
func (n *simNode) stall(s *simulation, p *PeersConfig, log *zap.Logger) {
	s.Helper()
	c := peerChain{n.manager, n.store, n.verifier, log}
	service, err := p2p.New(p2p.Config{
		Key: p.Key, Listen: p.Listen, Bootstrap: p.Bootstrap, Transports: p.Transports,
		Network: s.spec.ID, NetworkName: s.spec.Name, Version: "stalling", Log: log,
	}, stalling{c, &s.stalls})
	if err != nil {
		s.Fatal(err)
	}
	n.peers = &network{service: service, chain: c, log: log, expects: len(p.Bootstrap) > 0}
}

// populate starts count nodes, a fifth of them miners, some time apart. change, if not nil, changes what they are like.
func (s *simulation) populate(count int, change func(i int, o *simOptions)) {
	s.Helper()
	for i := range count {
		o := simOptions{mines: i%5 == 1}
		if change != nil {
			change(i, &o)
		}
		s.start(o)
		time.Sleep(100 * time.Millisecond)
	}
}

// leave ends a node.
func (n *simNode) leave() error {
	n.cancel()
	n.gone = true
	return errors.Join(<-n.done, n.Close())
}

// churn ends count nodes, every second of them without a word to its peers, and starts another for each.
func (s *simulation) churn(count int) {
	s.Helper()
	live := s.live()
	s.random.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	for i, n := range live[:count] {
		if i%2 == 1 {
			s.links.unplug(n.number)
		}
		if err := n.leave(); err != nil {
			s.Errorf("node %d ended with %v", n.number, err)
		}
		s.start(simOptions{mines: n.cfg.Mine})
	}
}

// end ends all nodes, at once.
func (s *simulation) end() {
	var wg sync.WaitGroup
	for _, n := range s.live() {
		n.gone = true
		wg.Go(func() {
			n.cancel()
			if err := errors.Join(<-n.done, n.Close()); err != nil {
				s.Errorf("node %d ended with %v", n.number, err)
			}
		})
	}
	wg.Wait()
}

// live is the nodes that run.
func (s *simulation) live() (out []*simNode) {
	for _, n := range s.nodes {
		if !n.gone {
			out = append(out, n)
		}
	}
	return out
}

// honest is the nodes that run and keep to the protocol.
func (s *simulation) honest() []*simNode {
	return slices.DeleteFunc(s.live(), func(n *simNode) bool { return n.staller })
}

func (n *simNode) tip() chain.State {
	tip, _ := n.Manager().Best()
	return tip
}

// intervals passes time.
func (s *simulation) intervals(n float64) { time.Sleep(time.Duration(n * float64(simInterval))) }

// agree waits until all honest nodes have one tip, for so many intervals at most. Mining goes on meanwhile.
func (s *simulation) agree(within int) chain.State {
	s.Helper()
	return s.agreeAmong(s.honest(), within)
}

func (s *simulation) agreeAmong(nodes []*simNode, within int) chain.State {
	s.Helper()
	began := time.Now()
	for {
		tips := map[chain.Hash][]int{}
		for _, n := range nodes {
			id := n.tip().ID
			tips[id] = append(tips[id], n.number)
		}
		waited := time.Since(began)
		if len(tips) == 1 {
			tip := nodes[0].tip()
			s.Logf("%v: %d nodes agree on height %d after %.1f intervals", time.Since(s.began), len(nodes), tip.Height, waited.Seconds()/simInterval.Seconds())
			return tip
		}
		if waited > time.Duration(within)*simInterval {
			for id, numbers := range tips {
				tip := s.nodes[numbers[0]].tip()
				s.Logf("tip %s at height %d, work %v: nodes %v", id.Short(), tip.Height, tip.Work, numbers)
			}
			s.Fatalf("after %d intervals there are %d tips", within, len(tips))
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// follow says whether the tips of the nodes are on the chain of another, up to ten blocks back.
func (s *simulation) follow(nodes []*simNode, other *simNode) bool {
	for _, n := range nodes {
		reverted, applied, err := other.Manager().Changes(n.tip().ID)
		if err != nil || len(reverted) > 0 || len(applied) > 10 {
			return false
		}
	}
	return true
}

// grown makes sure that the chain has grown, and not much faster than the spec calls for. That it grows slower can be
// chance in so few intervals.
func (s *simulation) grown(tip chain.State) {
	s.Helper()
	due := time.Since(s.began).Seconds() / simInterval.Seconds()
	if tip.Height == 0 || float64(tip.Height) > 3*due {
		s.Errorf("the chain has height %d, due are about %.0f", tip.Height, due)
	}
}

// report says what happened, and fails if an honest node banned another or refused its blocks.
func (s *simulation) report() {
	s.Helper()
	s.links.mu.Lock()
	sent, lost := s.links.sent, s.links.lost
	s.links.mu.Unlock()
	connections, trials := 0, uint64(0)
	for _, n := range s.live() {
		connections += n.peers.Count()
		for _, w := range n.workers {
			trials += w.miner.Stats().Trials
		}
	}
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.Logf("seed %d: %v of virtual time, %d nodes, %.1f peers each, %d packets sent, %d of them lost, %d goroutines in the process",
		s.seed, time.Since(s.began).Round(time.Second), len(s.live()), float64(connections)/float64(len(s.live())), sent, lost, runtime.NumGoroutine())
	s.Logf("%d trials, blocks mined %d, orphaned %d; reorgs %d, by depth: %v", trials, s.log.mined, s.log.orphaned, len(s.log.reorgs), s.log.depths())
	if n := s.stalls.Load(); n > 0 {
		s.Logf("%d requests for blocks were not answered", n)
	}
	for _, what := range slices.Sorted(maps.Keys(s.log.loud)) {
		s.Logf("%4d times: %s", s.log.loud[what], what)
	}
	for _, b := range s.log.bans {
		if of := s.byID(b.of); of != nil && !of.staller && !s.nodes[b.by].staller {
			s.Errorf("node %d banned node %d: %s", b.by, of.number, b.why)
		}
	}
}

func (s *simulation) byID(id string) *simNode {
	for _, n := range s.nodes {
		if n.id.String() == id {
			return n
		}
	}
	return nil
}

// links are the simulated links between nodes: every pair has a delay and a loss of its own.
type links struct {
	net  *simlinks.Simnet
	seed uint64

	mu         sync.Mutex
	count      map[[2]int]uint64   // packets from one node to another
	cut        func(a, b int) bool // says that nothing comes through between two nodes; nil for no such pair
	unplugged  map[int]bool
	sent, lost int
}

func newLinks(seed uint64) *links {
	l := &links{seed: seed, count: map[[2]int]uint64{}, unplugged: map[int]bool{}}
	l.net = &simlinks.Simnet{
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		LatencyFunc: func(p *simlinks.Packet) time.Duration {
			delay, _ := l.between(numberAt(p.From), numberAt(p.To))
			return delay
		},
	}
	return l
}

// numberAt is the number of the node at an address of simlinks.IntToPublicIPv4.
func numberAt(a net.Addr) int {
	return int(binary.BigEndian.Uint32(a.(*net.UDPAddr).IP.To4())&0xffffff) - 1
}

// between is what the link between two nodes is like, both ways.
func (l *links) between(a, b int) (delay time.Duration, loss float64) {
	var r rand.PCG
	r.Seed(l.seed, uint64(min(a, b))<<32|uint64(max(a, b)))
	delay = minDelay + time.Duration(share(&r)*float64(maxDelay-minDelay))
	return delay, minLoss + share(&r)*(maxLoss-minLoss)
}

// share draws from [0, 1).
func share(r *rand.PCG) float64 { return float64(r.Uint64()>>11) / (1 << 53) }

// drops says whether a packet is lost: which of a link's packets are does not depend on what other links carry.
func (l *links) drops(from, to int) bool {
	_, loss := l.between(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.count[[2]int{from, to}]++
	var r rand.PCG
	r.Seed(l.seed^l.count[[2]int{from, to}]<<32, uint64(from)<<32|uint64(to))
	lost := l.unplugged[from] || l.unplugged[to] || l.cut != nil && l.cut(from, to) || share(&r) < loss
	if lost {
		l.lost++
	}
	return lost
}

func (l *links) setCut(cut func(a, b int) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

// unplug takes a node off the network for good.
func (l *links) unplug(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unplugged[number] = true
}

// endpoint is a node's end of its links.
type endpoint struct {
	*simlinks.SimConn
	links  *links
	number int
}

func (e endpoint) WriteTo(p []byte, to net.Addr) (int, error) {
	if e.links.drops(e.number, numberAt(to)) {
		return len(p), nil
	}
	return e.SimConn.WriteTo(p, to)
}

// ownIP is the address that a node's packets come from.
type ownIP struct{ ip net.IP }

func (s ownIP) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) { return s.ip, nil }

// transports is QUIC over simulated links.
func (l *links) transports(number int) []libp2p.Option {
	speed := simlinks.LinkSettings{BitsPerSecond: linkSpeed}
	return []libp2p.Option{
		libp2p.Transport(quic.NewTransport),
		libp2p.QUICReuse(
			func(life fx.Lifecycle, reset quicgo.StatelessResetKey, token quicgo.TokenGeneratorKey, opts ...quicreuse.Option) (*quicreuse.ConnManager, error) {
				m, err := quicreuse.NewConnManager(reset, token, opts...)
				if err == nil {
					life.Append(fx.StopHook(m.Close)) // the host closes none that it did not make
				}
				return m, err
			},
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) {
				return ownIP{simlinks.IntToPublicIPv4(number)}, nil
			}),
			quicreuse.OverrideListenUDP(func(_ string, at *net.UDPAddr) (net.PacketConn, error) {
				return endpoint{l.net.NewEndpoint(at, simlinks.NodeBiDiLinkSettings{Downlink: speed, Uplink: speed}), l, number}, nil
			}),
		),
		libp2p.DisableIdentifyAddressDiscovery(), // it never rests, so that virtual time would not pass
	}
}

// simLog takes what the nodes log.
type simLog struct {
	began time.Time

	mu              sync.Mutex
	lines           []string       // the latest
	loud            map[string]int // warnings and errors
	reorgs          []reorg
	bans            []ban
	mined, orphaned int
}

type reorg struct {
	node  int
	depth int
}

type ban struct {
	by      int
	of, why string
}

const keptLines = 300

func newSimLog() *simLog {
	return &simLog{began: time.Now(), loud: map[string]int{}}
}

func (l *simLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// depths counts the reorgs of each depth. l.mu must be held.
func (l *simLog) depths() map[int]int {
	out := map[int]int{}
	for _, r := range l.reorgs {
		out[r.depth]++
	}
	return out
}

// deepest is the depth of the deepest reorg of a node.
func (l *simLog) deepest(node int) (depth int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.reorgs {
		if r.node == node {
			depth = max(depth, r.depth)
		}
	}
	return depth
}

// simCore is a node's log.
type simCore struct {
	*simLog
	node int
}

func (c simCore) Enabled(l zapcore.Level) bool {
	return l >= zapcore.InfoLevel || *simDebug
}

func (c simCore) With([]zapcore.Field) zapcore.Core { return c }

func (c simCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c simCore) Sync() error { return nil }

func (c simCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	var line bytes.Buffer
	fmt.Fprintf(&line, "%8.3f node %d %s %s: %s", e.Time.Sub(c.began).Seconds(), c.node, e.Level, e.LoggerName, e.Message)
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		fmt.Fprintf(&line, " %s=%v", k, enc.Fields[k])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if *simDebug {
		fmt.Fprintln(os.Stderr, line.String())
	}
	c.lines = append(c.lines, line.String())
	if len(c.lines) > 2*keptLines {
		c.lines = slices.Clone(c.lines[keptLines:])
	}
	if e.Level >= zapcore.WarnLevel {
		c.loud[e.Level.String()+": "+e.Message]++
	}
	switch e.Message {
	case "reorg":
		c.reorgs = append(c.reorgs, reorg{c.node, int(enc.Fields["reverted"].(int64))})
	case "peer banned":
		c.bans = append(c.bans, ban{c.node, fmt.Sprint(enc.Fields["peer_id"]), fmt.Sprint(enc.Fields["reason"])})
	case "block mined":
		c.mined++
	case "mined block orphaned":
		c.orphaned++
	}
	return nil
}
