package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/descentnet/minerd/nn"
)

// Every row of the table is a process of its own, so that its memory is its own: this program run again, or Python.
// All speak the same protocol, a line of JSON each way: a task, then what was measured.

// task is one round: so many training steps, then so many images evaluated.
type task struct {
	Steps  int `json:"steps"`
	Images int `json:"images"`
}

// measured is the answer. The first line of a process is such an answer too, which says that it is ready.
type measured struct {
	Step   float64 `json:"step"`   // seconds of one training step, the mean of the round
	Images float64 `json:"images"` // evaluated per second
	Root   float64 `json:"root"`   // seconds of one state root; 0 where there is none
	About  string  `json:"about"`  // in the first line: version and settings
}

const (
	serveCommand = "serve" // go run ./bench serve MODEL ENGINE THREADS: the other side of a runner
	dataSize     = 2048    // images drawn
)

// serve measures an engine of this program, task by task, until its input ends.
func serve(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("%s MODEL ENGINE THREADS", serveCommand)
	}
	m, err := chooseModels(args[0])
	if err != nil {
		return err
	}
	threads, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	net := m[0].net
	engine, err := newEngine(net, args[1], threads)
	if err != nil {
		return err
	}
	defer engine.Close()

	random := rand.NewChaCha8([32]byte{1})
	data := nn.Samples{Pixels: make([]byte, dataSize*net.Model.Input.Size()), Labels: make([]byte, dataSize), Size: net.Model.Input.Size()}
	_, _ = random.Read(data.Pixels) // never fails
	for i := range data.Labels {
		data.Labels[i] = byte(random.Uint64() % uint64(net.Outputs))
	}
	w := &worker{engine, data, net.Init([32]byte{2}), threads, 0}

	reply := json.NewEncoder(out)
	if err := reply.Encode(measured{}); err != nil {
		return err
	}
	for tasks := json.NewDecoder(in); ; {
		var t task
		if err := tasks.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r, err := w.run(t)
		if err != nil {
			return err
		}
		if err := reply.Encode(r); err != nil {
			return err
		}
	}
}

func newEngine(net *nn.Net, name string, threads int) (nn.Engine, error) {
	for _, e := range nn.Engines() {
		if e.Name == name {
			return e.New(net, threads)
		}
	}
	return nil, fmt.Errorf("no engine %q on this machine", name)
}

type worker struct {
	engine  nn.Engine
	data    nn.Samples
	state   *nn.State
	threads int
	batches uint64
}

// run trains on from where the last round ended. The clock runs from the second step to the end of the last one: a
// trial's copy of the state and its root are not part of a step.
func (w *worker) run(t task) (r measured, err error) {
	ctx := context.Background()
	var begin, end time.Time
	trained, err := w.engine.Train(ctx, w.state, w.data, nn.Trial{
		Steps: t.Steps + 2,
		BatchSeed: func(uint32) [32]byte {
			w.batches++
			return [32]byte{3, byte(w.batches), byte(w.batches >> 8), byte(w.batches >> 16)}
		},
		OnStep: func(step int) error {
			switch step {
			case 1:
				begin = time.Now()
			case t.Steps + 1:
				end = time.Now()
			}
			return nil
		},
	})
	if err != nil {
		return r, err
	}
	w.state = trained.State
	r.Step = end.Sub(begin).Seconds() / float64(t.Steps)

	begin = time.Now()
	if _, err := w.state.Root(w.threads); err != nil {
		return r, err
	}
	r.Root = time.Since(begin).Seconds()

	begin = time.Now()
	for done := 0; done < t.Images; {
		n := min(t.Images-done, w.data.Len())
		part := nn.Samples{Pixels: w.data.Pixels[:n*w.data.Size], Labels: w.data.Labels[:n], Size: w.data.Size}
		if _, _, err := w.engine.Evaluate(ctx, w.state, part); err != nil {
			return r, err
		}
		done += n
	}
	r.Images = float64(t.Images) / time.Since(begin).Seconds()
	return r, nil
}

// runner is the process behind a row.
type runner struct {
	engine  string
	threads int
	torch   bool
	about   string
	task    task
	rounds  []measured

	cmd     *exec.Cmd
	stdin   io.WriteCloser
	tasks   *json.Encoder
	replies *json.Decoder
	errors  bytes.Buffer
}

// start starts the process, waits until it is ready, and finds out how much work makes a round of the given length.
func (r *runner) start(cmd *exec.Cmd, round time.Duration) (err error) {
	r.cmd = cmd
	cmd.Stderr = &r.errors
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r.tasks, r.replies = json.NewEncoder(r.stdin), json.NewDecoder(stdout)
	var ready measured
	if err := r.replies.Decode(&ready); err != nil {
		return r.failed(err)
	}
	r.about = ready.About
	r.task = task{2, 64}
	// The first time warms up, the second is still rough for fast models, the third is good.
	for range 3 {
		m, err := r.ask()
		if err != nil {
			return err
		}
		r.task = m.fill(round)
	}
	return nil
}

// fill is the task that takes about the given time, three quarters of it training. A few of either must do where one
// alone takes longer.
func (m measured) fill(round time.Duration) task {
	return task{
		Steps:  min(max(int(round.Seconds()*3/4/m.Step), 3), 100_000),
		Images: min(max(int(round.Seconds()/4*m.Images)/64*64, 64), 1<<20),
	}
}

// round runs one round and keeps its result.
func (r *runner) round() error {
	m, err := r.ask()
	if err == nil {
		r.rounds = append(r.rounds, m)
	}
	return err
}

func (r *runner) ask() (m measured, err error) {
	if err := r.tasks.Encode(r.task); err != nil {
		return m, r.failed(err)
	}
	if err := r.replies.Decode(&m); err != nil {
		return m, r.failed(err)
	}
	return m, nil
}

func (r *runner) failed(err error) error {
	r.stop()
	if said := strings.TrimSpace(r.errors.String()); said != "" {
		err = errors.New(said)
	}
	return fmt.Errorf("%s with %d threads: %w", r.engine, r.threads, err)
}

// stop ends the process and waits for it.
func (r *runner) stop() {
	r.stdin.Close()
	_ = r.cmd.Wait() // its work is done, or what went wrong was seen before
}

// memory is the most that the process ever had resident, in MiB; 0 where the system does not tell.
func (r *runner) memory() float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, _ := strconv.ParseFloat(kb, 64)
	return n / 1024
}
