// Command bench measures how fast the engines train and evaluate, next to what the machine's arithmetic units allow
// and, where PyTorch is installed, next to PyTorch. Usage: go run ./bench [flags]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/descentnet/minerd/nn"
	"github.com/descentnet/minerd/nn/kernel"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == serveCommand {
		return serve(args[1:], stdin, stdout)
	}
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	where := machine()
	rows, about, err := benchmark(ctx, o, stderr)
	if err != nil {
		return err
	}
	if o.json {
		return printJSON(stdout, rows)
	}
	return printTable(stdout, append(where, about...), rows)
}

// options are what the flags say.
type options struct {
	models  []benchModel
	threads []int
	rounds  int
	round   time.Duration
	json    bool
	plain   bool
	python  string
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	names := f.String("models", "", "models to measure, comma-separated: default, vgg, lenet5, mlp (all)")
	threads := f.String("threads", "", "thread counts, comma-separated (1, 2, 4, ... up to all cores)")
	f.IntVar(&o.rounds, "rounds", 5, "rounds; every figure is a median over them")
	f.DurationVar(&o.round, "round", 500*time.Millisecond, "length of one round of one row")
	f.BoolVar(&o.json, "json", false, "print one JSON object per row")
	f.BoolVar(&o.plain, "plain", false, "measure the plain engine too, which is slow")
	f.StringVar(&o.python, "python", "", "Python that has PyTorch; "+noPython+" leaves PyTorch out (python3, /usr/bin/python3)")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(stderr, "Usage: go run ./bench [flags]")
		f.SetOutput(stderr)
		f.PrintDefaults()
		return o, err
	} else if err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.rounds < 1 {
		return o, fmt.Errorf("--rounds %d: at least 1 is needed", o.rounds)
	}
	if o.round <= 0 || o.round > time.Minute {
		return o, fmt.Errorf("--round %v: allowed are up to 1m", o.round)
	}
	if o.models, err = chooseModels(*names); err != nil {
		return o, fmt.Errorf("--models: %w", err)
	}
	if o.threads, err = chooseThreads(*threads, runtime.GOMAXPROCS(0)); err != nil {
		return o, fmt.Errorf("--threads: %w", err)
	}
	return o, nil
}

// chooseThreads reads a comma-separated list of thread counts; an empty one means the powers of two and all cores.
func chooseThreads(list string, most int) (threads []int, err error) {
	if list == "" {
		for n := 1; n < most; n *= 2 {
			threads = append(threads, n)
		}
		return append(threads, most), nil
	}
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%q is not a number from 1 to %d, the threads that run at once here", s, most)
		}
		if !slices.Contains(threads, n) {
			threads = append(threads, n)
		}
	}
	return threads, nil
}

// benchmark measures all rows, and says what is to be known about the contestants. Within a model, all take turns
// round by round, so that what else the machine does hits all of them alike.
func benchmark(ctx context.Context, o options, progress io.Writer) (rows []row, about []string, err error) {
	python := ""
	if o.python != noPython {
		if python, err = findTorch(ctx, o.python); err != nil && o.python != "" {
			return nil, nil, fmt.Errorf("--python: %w", err)
		} else if err != nil {
			about = append(about, "PyTorch left out: "+err.Error())
			fmt.Fprintln(progress, about[0])
		}
	}
	roof := map[int]*limits{}
	for _, n := range o.threads {
		roof[n] = &limits{}
	}
	type result struct {
		model benchModel
		*runner
		memory float64
	}
	var results []result
	for _, m := range o.models {
		fmt.Fprintf(progress, "%s ...\n", m.name)
		runners, err := measureModel(ctx, o, m, python, roof)
		for _, r := range runners {
			results = append(results, result{m, r, r.memory()})
			r.stop()
			if r.torch && !slices.Contains(about, r.engine+": "+r.about) {
				about = append(about, r.engine+": "+r.about)
			}
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("model %s: %w", m.name, err)
		}
	}
	for _, r := range results { // only now, as the limits may have risen until the last round
		row := newRow(r.model, r.runner, *roof[r.threads], r.memory)
		if r.torch {
			for _, other := range results {
				if other.model.name == r.model.name && other.threads == r.threads && !other.torch {
					row.Ratio = ratio(r.rounds, other.rounds)
					break // the fastest engine comes first
				}
			}
		}
		rows = append(rows, row)
	}
	for _, n := range o.threads {
		if l := roof[n]; l.flops > 0 {
			about = append(about, fmt.Sprintf("peak with %d threads: %.1f GFLOP/s, Adam %.3f ns per parameter", n, l.flops/1e9, 1e9/l.adam))
		}
	}
	return rows, about, nil
}

// measureModel starts all contestants and runs their rounds. It gives those that were started, with an error too.
func measureModel(ctx context.Context, o options, m benchModel, python string, roof map[int]*limits) (runners []*runner, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	add := func(r *runner, cmd *exec.Cmd) error {
		if err := r.start(cmd, o.round); err != nil {
			return err
		}
		runners = append(runners, r)
		return nil
	}
	engine := func(name string, threads int) error {
		return add(&runner{engine: name, threads: threads},
			exec.CommandContext(ctx, self, serveCommand, m.name, name, strconv.Itoa(threads)))
	}
	for i, e := range nn.Engines() {
		if !e.Threaded { // the plain engine, which is slow: only where it is asked for, or all that there is
			if o.plain || i == 0 {
				if err := engine(e.Name, 1); err != nil {
					return runners, err
				}
			}
			continue
		}
		for _, n := range o.threads {
			if err := engine(e.Name, n); err != nil {
				return runners, err
			}
		}
	}
	if python != "" {
		for _, n := range o.threads {
			for _, tuned := range []bool{false, true} {
				name := torchName
				if tuned {
					name = torchTuned
				}
				if err := add(&runner{engine: name, threads: n, torch: true}, torchCommand(ctx, python, m.net, n, tuned)); err != nil {
					return runners, err
				}
			}
		}
	}
	for range o.rounds {
		if isa := kernel.Best(); isa != nil {
			for _, n := range o.threads {
				roof[n].measure(isa, n, 10)
			}
		}
		for _, r := range runners {
			if err := r.round(); err != nil {
				return runners, err
			}
		}
	}
	return runners, nil
}
