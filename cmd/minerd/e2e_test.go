//go:build e2e

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// event is a line of a node's JSON log.
type event struct {
	Event        string   `json:"event"`
	Level        string   `json:"level"`
	Height       uint64   `json:"height"`
	BlockID      string   `json:"block_id"`
	ParentID     string   `json:"parent_id"`
	LossBefore   float64  `json:"loss_before"`
	LossAfter    float64  `json:"loss_after"`
	Elapsed      float64  `json:"elapsed"`
	Executed     bool     `json:"executed"`
	TestAccuracy float64  `json:"test_accuracy"`
	Rule         string   `json:"rule"`
	Step         int      `json:"step"`
	Addrs        []string `json:"addrs"`
	PeerID       string   `json:"peer_id"`
	StepsPerS    float64  `json:"steps_per_s"`
	Time         string   `json:"time"`
}

// daemon is a minerd process and what it has logged.
type daemon struct {
	t    *testing.T
	name string
	dir  string
	args []string
	cmd  *exec.Cmd
	done chan error

	mu      sync.Mutex
	events  []event // of all runs
	changed chan struct{}
}

func newDaemon(t *testing.T, name string, args ...string) *daemon {
	d := &daemon{t: t, name: name, dir: filepath.Join(t.TempDir(), name), args: args, changed: make(chan struct{})}
	d.start()
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	args := append([]string{"run", "--data-dir", d.dir, "--log-format", "json", "--threads", "1", "--mdns=false",
		"--listen", "/ip4/127.0.0.1/tcp/0"}, d.args...)
	d.cmd = exec.Command(minerdBinary, args...)
	d.done = make(chan error, 1)
	out, err := d.cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	cmd, done := d.cmd, d.done
	go func() {
		d.read(out)
		done <- cmd.Wait()
	}()
	d.t.Cleanup(func() { _ = cmd.Process.Kill() })
}

// read takes the log in; lines also go to a file that stays when the test fails.
func (d *daemon) read(out io.Reader) {
	keep, err := os.OpenFile(filepath.Join(logDir, d.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer keep.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(keep, lines.Text())
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		d.mu.Lock()
		d.events = append(d.events, e)
		close(d.changed)
		d.changed = make(chan struct{})
		d.mu.Unlock()
	}
}

// all is what was logged so far, and a channel that is closed when there is more.
func (d *daemon) all() ([]event, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]event(nil), d.events...), d.changed
}

// wait waits for an event, looking at those logged from the given number on.
func (d *daemon) wait(what string, limit time.Duration, from int, is func(event) bool) event {
	d.t.Helper()
	timeout := time.After(limit)
	for {
		events, changed := d.all()
		for _, e := range events[min(from, len(events)):] {
			if is(e) {
				return e
			}
		}
		select {
		case <-changed:
		case err := <-d.done:
			d.t.Fatalf("%s ended while it was to show %s: %v; see %s", d.name, what, err, logDir)
		case <-timeout:
			d.t.Fatalf("%s did not show %s within %v; see %s", d.name, what, limit, logDir)
		}
	}
}

func (d *daemon) addr() string {
	d.t.Helper()
	e := d.wait("its address", time.Minute, 0, func(e event) bool { return e.Event == "node started" })
	for _, a := range e.Addrs {
		if strings.Contains(a, "/tcp/") {
			return a
		}
	}
	d.t.Fatalf("%s has no TCP address among %v", d.name, e.Addrs)
	return ""
}

func (d *daemon) end(sig syscall.Signal) error {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.done:
		return err
	case <-time.After(30 * time.Second):
		d.t.Fatalf("%s did not end within 30 s of %v; see %s", d.name, sig, logDir)
		return nil
	}
}

func isBlock(e event) bool { return e.Event == "block mined" || e.Event == "block accepted" }

// tip is the id at the end of the longest chain that the daemon has taken.
func (d *daemon) tip() (id string, height uint64) {
	events, _ := d.all()
	for _, e := range events {
		if isBlock(e) && e.Height > height {
			id, height = e.BlockID, e.Height
		}
	}
	return id, height
}

// waitSameTip waits until all daemons have the same tip at the height or above.
func waitSameTip(t *testing.T, limit time.Duration, height uint64, all ...*daemon) (string, uint64) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		_, changed := all[0].all()
		id, h := all[0].tip()
		same := h >= height
		for _, d := range all[1:] {
			if other, _ := d.tip(); other != id {
				same = false
			}
		}
		if same {
			return id, h
		}
		select {
		case <-changed:
		case <-time.After(200 * time.Millisecond): // another daemon may have come to it
		}
		if time.Now().After(deadline) {
			for _, d := range all {
				id, h := d.tip()
				t.Logf("%s: height %d, tip %s", d.name, h, id)
			}
			t.Fatalf("no common tip at height %d within %v; see %s", height, limit, logDir)
		}
	}
}

var minerdBinary, logDir string

func TestMain(m *testing.M) {
	if os.Getenv("MINERD_HOSTILE") != "" {
		if err := hostile(os.Getenv("MINERD_HOSTILE"), os.Getenv("MINERD_HOSTILE_NETWORK"), os.Getenv("MINERD_HOSTILE_DATA")); err != nil {
			fmt.Fprintln(os.Stderr, "hostile:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestEndToEnd: two miners and a verifier make one chain on real digits, refuse a hostile peer's blocks, and take back
// a killed miner and a late joiner.
func TestEndToEnd(t *testing.T) {
	var err error
	if logDir, err = os.MkdirTemp("", "minerd-e2e-"); err != nil {
		t.Fatal(err)
	}
	minerdBinary = filepath.Join(logDir, "minerd")
	if out, err := exec.Command("go", "build", "-o", minerdBinary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	network, data := "mnist10k", filepath.Join("..", "..", "..", "shared", "data", "mnist")
	if dir := os.Getenv("MINERD_MNIST"); dir != "" {
		data = dir
	}
	if _, err := os.Stat(data); errors.Is(err, os.ErrNotExist) {
		t.Logf("%s is absent: running on digits that the program draws", data)
		network, data = "devnet", ""
	}
	args := []string{"--network", network, "--dataset-dir", data}
	with := func(more ...string) []string { return append(append([]string(nil), args...), more...) }

	verifier := newDaemon(t, "verifier", args...)
	addr := verifier.addr()
	a := newDaemon(t, "miner-a", with("--mine", "--bootstrap", addr)...)
	b := newDaemon(t, "miner-b", with("--mine", "--bootstrap", addr)...)
	began := time.Now()

	verifier.wait("its third block", 3*time.Minute, 0, func(e event) bool { return isBlock(e) && e.Height == 3 })
	bad := runHostile(t, addr, network, data)

	id, height := waitSameTip(t, 6*time.Minute, 20, verifier, a, b)
	t.Logf("height %d after %.0f s: one block in %.1f s", height, time.Since(began).Seconds(), time.Since(began).Seconds()/float64(height))
	checkChain(t, id, height, verifier, a, b)
	verifier.wait("95 % on the test split", time.Minute, 0, func(e event) bool { return e.TestAccuracy >= 0.95 })
	checkRefusals(t, <-bad, verifier)

	// One is killed and comes back.
	_ = b.end(syscall.SIGKILL)
	_, height = verifier.tip()
	events, _ := verifier.all()
	verifier.wait("a block without miner-b", 2*time.Minute, len(events), isBlock)
	seen, _ := b.all()
	b.start()
	b.wait("its start", time.Minute, len(seen), func(e event) bool { return e.Event == "node started" && e.Height > 0 })
	_, height = waitSameTip(t, 3*time.Minute, height+1, verifier, a, b)

	// One joins late.
	late := newDaemon(t, "late", with("--bootstrap", addr)...)
	joined := time.Now()
	_, height = waitSameTip(t, 3*time.Minute, height, verifier, a, b, late)
	t.Logf("a late joiner had %d blocks after %.0f s", height, time.Since(joined).Seconds())

	for _, d := range []*daemon{late, b, a, verifier} {
		if err := d.end(syscall.SIGTERM); err != nil {
			t.Errorf("%s ended with %v; see %s", d.name, err, logDir)
		}
		for _, e := range first(d.all()) {
			if e.Level == "error" {
				t.Errorf("%s logged an error: %s; see %s", d.name, e.Event, logDir)
			}
		}
	}
	report(t, verifier, a, b)
	if !t.Failed() {
		_ = os.RemoveAll(logDir)
	}
}

func first(events []event, _ <-chan struct{}) []event { return events }

// checkChain: each miner has at least three blocks in the chain below id, all others have re-executed each block, and
// no block but an advancing one moved the loss.
func checkChain(t *testing.T, id string, height uint64, verifier *daemon, miners ...*daemon) {
	t.Helper()
	blocks := map[string]event{}
	minedBy := map[string]*daemon{}
	executed := map[string]int{}
	for _, d := range append([]*daemon{verifier}, miners...) {
		for _, e := range first(d.all()) {
			switch e.Event {
			case "block mined":
				blocks[e.BlockID], minedBy[e.BlockID] = e, d
			case "block accepted":
				blocks[e.BlockID] = e
				if e.Executed {
					executed[e.BlockID]++
				}
			}
		}
	}
	count := map[*daemon]int{}
	for h := height; h > 0; h-- {
		e, ok := blocks[id]
		if !ok || e.Height != h {
			t.Fatalf("block %s at height %d is in nobody's log", id, h)
		}
		if executed[id] < len(miners) {
			t.Errorf("block %d was re-executed by %d nodes, want %d", h, executed[id], len(miners))
		}
		count[minedBy[id]]++
		id = e.ParentID
	}
	for _, d := range miners {
		t.Logf("%s has %d of %d blocks", d.name, count[d], height)
		if count[d] < 3 {
			t.Errorf("%s has %d blocks in the chain, want at least 3", d.name, count[d])
		}
	}
}

// sent is a hostile block, and the rule by which it must be refused.
type sent struct {
	Attack  string `json:"attack"`
	BlockID string `json:"block_id"`
	Rule    string `json:"rule"`
	Step    int    `json:"step"`
}

// runHostile runs the hostile process and gives what it sent.
func runHostile(t *testing.T, addr, network, data string) <-chan []sent {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MINERD_HOSTILE="+addr, "MINERD_HOSTILE_NETWORK="+network, "MINERD_HOSTILE_DATA="+data)
	errs, err := os.Create(filepath.Join(logDir, "hostile.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	result := make(chan []sent, 1)
	go func() {
		var all []sent
		dec := json.NewDecoder(out)
		for {
			var s sent
			if dec.Decode(&s) != nil {
				break
			}
			all = append(all, s)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("hostile process: %v; see %s", err, logDir)
		}
		result <- all
	}()
	return result
}

// checkRefusals: each hostile block was refused by the rule that it breaks, at the step where it does.
func checkRefusals(t *testing.T, all []sent, d *daemon) {
	t.Helper()
	if len(all) < 5 {
		t.Errorf("the hostile process sent %d blocks, meant are 5; see %s", len(all), logDir)
	}
	for _, s := range all {
		e := d.wait("the refusal of "+s.Attack, time.Minute, 0, func(e event) bool { return e.Event == "block refused" && e.BlockID == s.BlockID })
		t.Logf("%s: refused after %.2f s: %s, step %d", s.Attack, e.Elapsed, e.Rule, e.Step)
		if e.Rule != s.Rule || e.Step != s.Step {
			t.Errorf("%s: refused by %q at step %d, want %q at step %d", s.Attack, e.Rule, e.Step, s.Rule, s.Step)
		}
	}
}

// report prints what the run measured.
func report(t *testing.T, verifier *daemon, miners ...*daemon) {
	t.Helper()
	sum, n := 0.0, 0
	for _, e := range first(verifier.all()) {
		if e.Event == "block accepted" && e.Executed {
			sum += e.Elapsed
			n++
		}
	}
	if n > 0 {
		t.Logf("the verifier took %.2f s per block", sum/float64(n))
	}
	for _, d := range miners {
		sum, n := 0.0, 0
		for _, e := range first(d.all()) {
			if e.Event == "mining rate" {
				sum += e.StepsPerS
				n++
			}
		}
		if n > 0 {
			t.Logf("%s trained %.0f steps per second", d.name, sum/float64(n))
		}
	}
}
