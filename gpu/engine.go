package gpu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/descentnet/minerd/gpu/kernels"
	"github.com/descentnet/minerd/nn"
)

// engine trains and evaluates a net on a CUDA device, to the bits of nn's plain engine. Its states stay on the device;
// what comes back of a trial are hashes, and the trained state if it is asked for.
type engine struct {
	net  *nn.Net
	m    machine
	name string

	width  int // trials at once
	plan   *plan
	arena  Pointer // width arenas of the plan
	graphs map[graphKey]Graph

	start  Pointer // the state that trials begin from
	base   Pointer // number of the first step of the launches at hand
	consts buffer  // [steps][4]: the optimizer's numbers of each step
	index  buffer  // [trials][steps][batch]: the samples of each batch
	data   []loadedData
	host   []byte // what goes to the device or comes from it
}

// buffer is device memory that grows when needed.
type buffer struct {
	at    Pointer
	bytes int
}

// loadedData is a data set in device memory. It is known by the memory that it came from.
type loadedData struct {
	samples        nn.Samples
	pixels, labels Pointer
}

// The launches of graphSteps training steps are recorded once and replayed as one.
const graphSteps = 16

type graphKey struct {
	trials, steps int
	data          Pointer
}

// maxGraphs bounds what is recorded: usually there is one, as all trials of a network have one length.
const maxGraphs = 8

// maxDataSets is how many data sets an engine keeps on the device: training, evaluation and test split.
const maxDataSets = 3

// newEngine makes an engine that trains up to width trials side by side; 0 finds out how many suit the device, for trials
// of so many steps. The engine owns the machine and closes it, also where it fails.
func newEngine(net *nn.Net, m machine, name string, width, steps int) (*engine, error) {
	e := &engine{net: net, m: marked{m}, name: name, width: min(max(width, 1), kernels.MaxTrials), graphs: map[graphKey]Graph{}}
	err := e.allocate()
	if err == nil && width <= 0 {
		err = e.tune(steps)
	}
	if err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *engine) allocate() (err error) {
	if e.start, err = e.m.Alloc(e.net.StateSize()); err != nil {
		return err
	}
	e.base, err = e.m.Alloc(4)
	return err
}

func (e *engine) Name() string { return e.name }

// Width is how many trials the engine trains at once.
func (e *engine) Width() int { return e.width }

// Close gives the device's memory back.
func (e *engine) Close() {
	if e.m != nil {
		// The device may be lost: what can be told about that was told when it was met.
		_ = e.m.Close()
		e.m = nil
	}
}

// room makes the arenas big enough for trials of so many steps.
func (e *engine) room(steps int) error {
	if e.plan != nil && steps <= e.plan.steps {
		return nil
	}
	if err := e.forget(); err != nil {
		return err
	}
	p := newPlan(e.net, steps)
	arena, err := e.m.Alloc(4 * p.stride * e.width)
	if err != nil {
		return fmt.Errorf("%d trials of %d steps: %w", e.width, steps, err)
	}
	e.plan, e.arena = p, arena
	return nil
}

// forget frees the arenas and what was recorded on them.
func (e *engine) forget() error {
	err := e.dropGraphs()
	if e.plan != nil {
		e.m.Free(e.arena)
		e.plan = nil
	}
	return err
}

func (e *engine) dropGraphs() error {
	var errs []error
	for _, g := range e.graphs {
		errs = append(errs, g.Close())
	}
	clear(e.graphs)
	return errors.Join(errs...)
}

// grow makes a buffer of at least so many bytes. The buffer's address is in recorded launches, which are dropped.
func (e *engine) grow(b *buffer, bytes int) error {
	if bytes <= b.bytes {
		return nil
	}
	if err := e.dropGraphs(); err != nil {
		return err
	}
	if b.bytes > 0 {
		e.m.Free(b.at)
		b.bytes = 0
	}
	at, err := e.m.Alloc(bytes)
	if err != nil {
		return err
	}
	b.at, b.bytes = at, bytes
	return nil
}

// Train runs one trial.
func (e *engine) Train(ctx context.Context, start *nn.State, data nn.Samples, t nn.Trial) (*nn.Trained, error) {
	r := &nn.Trained{}
	onRoot := func(step int, root nn.Hash) error {
		r.EarlyRoots = append(r.EarlyRoots, root)
		if t.OnRoot != nil {
			return t.OnRoot(step, root)
		}
		return nil
	}
	if !t.EarlyRoots {
		onRoot = nil
	}
	outcomes, after, err := e.run(ctx, start, data, []nn.Trial{t}, onRoot)
	if err != nil {
		return nil, err
	}
	if outcomes[0].Err != nil {
		return nil, outcomes[0].Err
	}
	r.Root, r.LogitsDigest = outcomes[0].Root, outcomes[0].LogitsDigest
	if r.State, err = e.download(0, after); err != nil {
		return nil, err
	}
	r.BatchLosses, err = e.batchLosses(t.Steps)
	return r, err
}

// TrainMany runs trials of equal length side by side and gives their hashes.
func (e *engine) TrainMany(ctx context.Context, start *nn.State, data nn.Samples, trials []nn.Trial) ([]nn.Outcome, error) {
	if len(trials) == 0 || len(trials) > e.width {
		return nil, fmt.Errorf("%d trials at once on %s, possible are 1 to %d", len(trials), e.name, e.width)
	}
	for _, t := range trials {
		if t.Steps != trials[0].Steps {
			return nil, fmt.Errorf("trials of %d and %d steps cannot be trained side by side", trials[0].Steps, t.Steps)
		}
	}
	outcomes, _, err := e.run(ctx, start, data, trials, nil)
	return outcomes, err
}

// run trains the trials, all from start. The early roots of the first are made if onRoot is given. after has the
// scalars of the state after the last step.
func (e *engine) run(ctx context.Context, start *nn.State, data nn.Samples, trials []nn.Trial, onRoot func(int, nn.Hash) error) (outcomes []nn.Outcome, after scalars, err error) {
	steps := trials[0].Steps
	d, err := e.load(data)
	if err != nil {
		return nil, after, err
	}
	if err := e.room(steps); err != nil {
		return nil, after, err
	}
	after, err = e.prepare(start, data, trials)
	if err != nil {
		return nil, after, err
	}
	var at scalars
	at.of(start)
	for done := 0; done < steps; {
		if err := ctx.Err(); err != nil {
			return nil, after, err
		}
		n := min(graphSteps, steps-done)
		if onRoot != nil { // to the next power of two, where a root is asked for
			next := 1
			for next <= done {
				next *= 2
			}
			n = min(n, next-done)
		}
		if onStep := trials[0].OnStep; onStep != nil {
			for i := range n {
				if err := onStep(done + i); err != nil {
					return nil, after, err
				}
			}
		}
		if err := e.trainSteps(d, len(trials), steps, done, n); err != nil {
			return nil, after, err
		}
		for range n {
			at.step(&e.net.Model.Optimizer)
		}
		done += n
		if onRoot != nil && done < steps && done&(done-1) == 0 {
			o, err := e.roots(1, at, 0)
			if err != nil {
				return nil, after, err
			}
			if o[0].Err != nil {
				return nil, after, fmt.Errorf("after step %d: %w", done, o[0].Err)
			}
			if err := onRoot(done, o[0].Root); err != nil {
				return nil, after, err
			}
		} else if trials[0].OnStep != nil {
			// Not far ahead of the device: a trial that was stopped should stop.
			if err := e.m.Sync(); err != nil {
				return nil, after, err
			}
		}
	}
	outcomes, err = e.roots(len(trials), after, steps)
	for i := range outcomes {
		if outcomes[i].Err != nil {
			outcomes[i].Err = fmt.Errorf("after step %d: %w", steps, outcomes[i].Err)
		}
	}
	return outcomes, after, err
}

// scalars are a state's scalars alone; its parameters are on the device.
type scalars struct{ nn.State }

func (s *scalars) of(from *nn.State) { s.P1, s.P2, s.Steps = from.P1, from.P2, from.Steps }

// step advances the scalars by a step and gives that step's numbers for the kernels.
func (s *scalars) step(o *nn.Optimizer) [4]float32 {
	if o.Kind == nn.SGD {
		s.Steps++
		return [4]float32{o.Momentum, o.LearningRate}
	}
	c := o.Adam(&s.State)
	return [4]float32{c.OneMinusBeta1, c.OneMinusBeta2, c.Alpha, c.Epsilon}
}

// words are the scalars as they stand at the end of the state's bytes.
func (s *scalars) words(kind nn.OptimizerKind) []uint32 {
	steps := []uint32{uint32(s.Steps), uint32(s.Steps >> 32)}
	if kind == nn.SGD {
		return steps
	}
	return append([]uint32{math.Float32bits(s.P1), math.Float32bits(s.P2)}, steps...)
}

// prepare brings to the device what the trials need: the state, the samples of each batch, the numbers of each step. It
// gives the scalars after the last step.
func (e *engine) prepare(start *nn.State, data nn.Samples, trials []nn.Trial) (after scalars, err error) {
	batch, steps := e.net.Model.Batch, trials[0].Steps
	perTrial := 4 * steps * batch
	if err := e.grow(&e.index, len(trials)*perTrial); err != nil {
		return after, err
	}
	e.host = slices.Grow(e.host[:0], len(trials)*perTrial)[:len(trials)*perTrial]
	var drawing sync.WaitGroup
	for i, t := range trials { // at once: the device waits for it
		drawing.Go(func() { drawTrial(t, data.Len(), batch, e.host[i*perTrial:(i+1)*perTrial]) })
	}
	drawing.Wait()
	if err := e.m.ToDevice(e.index.at, e.host); err != nil {
		return after, err
	}
	if err := e.grow(&e.consts, 16*steps); err != nil {
		return after, err
	}
	after.of(start)
	e.host = e.host[:0]
	for range steps {
		for _, c := range after.step(&e.net.Model.Optimizer) {
			e.word(math.Float32bits(c))
		}
	}
	if err := e.m.ToDevice(e.consts.at, e.host); err != nil {
		return after, err
	}
	return after, e.upload(start, len(trials))
}

// drawTrial writes the samples of all batches of a trial, as 32-bit words.
func drawTrial(t nn.Trial, samples, batch int, to []byte) {
	draw := make([]int, batch)
	for s := range t.Steps {
		nn.DrawBatch(t.BatchSeed(uint32(s)), samples, draw)
		for i, sample := range draw {
			binary.LittleEndian.PutUint32(to[4*(s*batch+i):], uint32(sample))
		}
	}
}

func (e *engine) word(w uint32) {
	e.host = binary.LittleEndian.AppendUint32(e.host, w)
}

// upload gives a state to the first trials.
func (e *engine) upload(s *nn.State, trials int) error {
	at := e.start
	for _, part := range [][]float32{s.Params, s.First, s.Second} {
		if len(part) == 0 {
			continue
		}
		if err := e.m.ToDevice(at, wordBytes(part)); err != nil {
			return err
		}
		at += Pointer(4 * len(part))
	}
	words := int(at-e.start) / 4
	grid, block := kernels.CopyState(words, trials)
	return e.m.Launch("copy_state", grid, block, e.at(e.plan.state), uint64(e.start), e.stride(), uint64(words))
}

// download reads the trained state of a trial.
func (e *engine) download(trial int, after scalars) (*nn.State, error) {
	s := e.net.NewState()
	s.P1, s.P2, s.Steps = after.P1, after.P2, after.Steps
	at := e.arena + Pointer(4*(trial*e.plan.stride+e.plan.state))
	for _, part := range [][]float32{s.Params, s.First, s.Second} {
		if len(part) == 0 {
			continue
		}
		if err := e.m.FromDevice(wordBytes(part), at); err != nil {
			return nil, err
		}
		at += Pointer(4 * len(part))
	}
	return s, nil
}

// wordBytes are the bytes of x in memory. CUDA knows little-endian machines alone.
func wordBytes(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// load brings a data set to the device, or finds it there.
func (e *engine) load(data nn.Samples) (*loadedData, error) {
	if err := e.net.CheckSamples(data); err != nil {
		return nil, err
	}
	for i := range e.data {
		d := &e.data[i]
		if unsafe.SliceData(d.samples.Pixels) == unsafe.SliceData(data.Pixels) && unsafe.SliceData(d.samples.Labels) == unsafe.SliceData(data.Labels) &&
			d.samples.Len() == data.Len() {
			return d, nil
		}
	}
	if len(e.data) == maxDataSets {
		if err := e.dropGraphs(); err != nil { // they have the data set's address in them
			return nil, err
		}
		e.m.Free(e.data[0].pixels)
		e.m.Free(e.data[0].labels)
		e.data = append(e.data[:0], e.data[1:]...)
	}
	d := loadedData{samples: data}
	var err error
	if d.pixels, err = e.m.Alloc(len(data.Pixels)); err != nil {
		return nil, fmt.Errorf("data set of %d bytes: %w", len(data.Pixels), err)
	}
	if d.labels, err = e.m.Alloc(len(data.Labels)); err != nil {
		e.m.Free(d.pixels)
		return nil, err
	}
	if err = e.m.ToDevice(d.pixels, data.Pixels); err == nil {
		err = e.m.ToDevice(d.labels, data.Labels)
	}
	if err != nil {
		e.m.Free(d.pixels)
		e.m.Free(d.labels)
		return nil, err
	}
	e.data = append(e.data, d)
	return &e.data[len(e.data)-1], nil
}

// roots hashes the states of the first trials, with their scalars, and the logits of so many steps.
func (e *engine) roots(trials int, at scalars, steps int) ([]nn.Outcome, error) {
	p := e.plan
	kind := e.net.Model.Optimizer.Kind
	words := at.words(kind)
	var four [4]uint64
	for i, w := range words {
		four[i] = uint64(w)
	}
	floats := e.net.StateSize()/4 - len(words)
	grid, block := kernels.SetScalars(trials)
	if err := e.m.Launch("set_scalars", grid, block, e.at(p.state+floats), e.stride(), uint64(len(words)), four[0], four[1], four[2], four[3]); err != nil {
		return nil, err
	}
	if err := e.hash(trials, p.state, e.net.StateSize(), floats, p.roots); err != nil {
		return nil, err
	}
	count := rootWords
	if steps > 0 {
		if err := e.hash(trials, p.logits, 4*steps*e.net.Model.Batch*e.net.Outputs, 0, p.roots+rootWords); err != nil {
			return nil, err
		}
		count = 2 * rootWords
	}
	outcomes := make([]nn.Outcome, trials)
	finite := isFinite(at.P1) && isFinite(at.P2)
	buf := make([]byte, 4*count)
	for t := range outcomes {
		if err := e.m.FromDevice(buf, e.arena+Pointer(4*(t*p.stride+p.roots))); err != nil {
			return nil, err
		}
		o := &outcomes[t]
		root, bad := readRoot(buf)
		if bad || !finite {
			o.Err = nn.ErrNotFinite
			continue
		}
		o.Root = root
		if steps > 0 {
			o.LogitsDigest, _ = readRoot(buf[4*rootWords:])
		}
	}
	return outcomes, nil
}

func isFinite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }

// readRoot reads what the tree kernel wrote: the hash's big-endian words as numbers, and the flag.
func readRoot(b []byte) (h nn.Hash, bad bool) {
	for i := range 8 {
		for j := range 4 {
			h[4*i+j] = b[4*i+3-j]
		}
	}
	return h, b[32]|b[33]|b[34]|b[35] != 0
}

// hash makes the Merkle roots over so many bytes of each trial.
func (e *engine) hash(trials, from, bytes, floats, to int) error {
	p := e.plan
	n := leafCount(bytes)
	grid, block := kernels.ShaLeaves(bytes, trials)
	if err := e.m.Launch("sha_leaves", grid, block, e.at(p.leaves), e.at(p.bad), e.at(from), e.stride(), uint64(bytes), uint64(floats)); err != nil {
		return err
	}
	grid, block = kernels.ShaTree(trials)
	return e.m.Launch("sha_tree", grid, block, e.at(to), e.at(p.leaves), e.at(p.bad), e.stride(), uint64(n))
}

// batchLosses are the mean losses of the first trial's batches.
func (e *engine) batchLosses(steps int) ([]float32, error) {
	p := e.plan
	grid, block := kernels.MeanLosses(steps, 1)
	if err := e.m.Launch("mean_losses", grid, block, e.at(p.means), e.at(p.losses), e.stride(), uint64(steps), uint64(e.net.Model.Batch)); err != nil {
		return nil, err
	}
	losses := make([]float32, steps)
	return losses, e.m.FromDevice(wordBytes(losses), e.arena+Pointer(4*p.means))
}

// Evaluate spreads the samples over all arenas: each takes batch after batch of its share.
func (e *engine) Evaluate(ctx context.Context, s *nn.State, data nn.Samples) (float32, int, error) {
	d, err := e.load(data)
	if err != nil {
		return 0, 0, err
	}
	batch, outputs := e.net.Model.Batch, e.net.Outputs
	batches := (data.Len() + batch - 1) / batch
	trials := min(e.width, batches)
	steps := (batches + trials - 1) / trials
	if err := e.room(steps); err != nil {
		return 0, 0, err
	}
	if err := e.grow(&e.index, 4*trials*steps*batch); err != nil {
		return 0, 0, err
	}
	e.host = e.host[:0]
	for i := range trials * steps * batch {
		e.word(uint32(min(i, data.Len()-1))) // what is beyond the last sample is not looked at
	}
	if err := e.m.ToDevice(e.index.at, e.host); err != nil {
		return 0, 0, err
	}
	if err := e.upload(s, trials); err != nil {
		return 0, 0, err
	}
	for step := range steps {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		if err := e.m.Fill(e.base, uint32(step), 1); err != nil {
			return 0, 0, err
		}
		l := launcher{e: e, trials: trials, steps: steps, data: d}
		l.forward()
		l.loss(0)
		if l.err != nil {
			return 0, 0, l.err
		}
	}
	losses := make([]float32, trials*steps*batch)
	logits := make([]float32, len(losses)*outputs)
	for t := range trials {
		n := steps * batch
		from := e.arena + Pointer(4*t*e.plan.stride)
		if err := e.m.FromDevice(wordBytes(losses[t*n:(t+1)*n]), from+Pointer(4*e.plan.losses)); err != nil {
			return 0, 0, err
		}
		if err := e.m.FromDevice(wordBytes(logits[t*n*outputs:(t+1)*n*outputs]), from+Pointer(4*e.plan.logits)); err != nil {
			return 0, 0, err
		}
	}
	return e.net.Evaluation(losses[:data.Len()], logits, data.Labels)
}

// at is the address of a word of the first trial's arena.
func (e *engine) at(word int) uint64 { return uint64(e.arena) + 4*uint64(word) }

func (e *engine) stride() uint64 { return uint64(e.plan.stride) }

// tune finds out how many trials to train at once: as many as still make the device faster, within its memory.
func (e *engine) tune(trialSteps int) error {
	const steps, most, worth = 32, 256, 1.05
	net := e.net
	data := nn.Samples{Pixels: make([]byte, net.Model.Input.Size()), Labels: make([]byte, 1), Size: net.Model.Input.Size()}
	for i := range data.Pixels {
		data.Pixels[i] = byte(i)
	}
	start := net.Init([32]byte{})
	trial := nn.Trial{Steps: steps, BatchSeed: func(s uint32) [32]byte { return [32]byte{byte(s)} }}
	best, bestRate := 1, 0.0
	for width := 1; width <= most; width *= 2 {
		if err := e.forget(); err != nil {
			return err
		}
		free, _, err := e.m.FreeMemory()
		if err != nil {
			return err
		}
		if 4*newPlan(net, max(steps, trialSteps)).stride*width > free/2 {
			break
		}
		e.width = width
		trials := slices.Repeat([]nn.Trial{trial}, width)
		var began time.Time
		for range 2 { // the first run records and warms up
			began = time.Now()
			if _, err := e.TrainMany(context.Background(), start, data, trials); err != nil {
				return err
			}
		}
		rate := float64(width) / time.Since(began).Seconds()
		if rate < worth*bestRate {
			break
		}
		best, bestRate = width, rate
	}
	e.width = best
	return e.forget()
}
