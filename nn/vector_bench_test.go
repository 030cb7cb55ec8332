package nn

import (
	"context"
	"fmt"
	"testing"

	"github.com/descentnet/minerd/nn/kernel"
)

// eachEngineBenchmark runs a benchmark on every vector engine with 1 and 2 threads.
func eachEngineBenchmark(b *testing.B, net *Net, run func(b *testing.B, e Engine)) {
	for _, isa := range kernel.All() {
		for threads := 1; threads <= 2; threads++ {
			b.Run(fmt.Sprintf("%s/%d", isa.Name(), threads), func(b *testing.B) {
				e, err := NewVector(net, isa, threads)
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				run(b, e)
			})
		}
	}
}

// BenchmarkStep trains the default model; an operation is one step.
func BenchmarkStep(b *testing.B) {
	net := build(b, DefaultModel())
	data := drawSamples(net, "benchmark", 6400)
	start := net.Init(seedOf("benchmark"))
	eachEngineBenchmark(b, net, func(b *testing.B, e Engine) {
		train(b, e, start, data, Trial{Steps: 30, BatchSeed: batchSeeds("warm up")})
		b.ReportAllocs()
		b.ResetTimer()
		train(b, e, start, data, Trial{Steps: b.N, BatchSeed: batchSeeds("benchmark")})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "steps/s")
	})
}

// BenchmarkEvaluate evaluates the default model; an operation is one sample.
func BenchmarkEvaluate(b *testing.B) {
	net := build(b, DefaultModel())
	start := net.Init(seedOf("benchmark"))
	eachEngineBenchmark(b, net, func(b *testing.B, e Engine) {
		data := drawSamples(net, "benchmark", max(b.N, 64))
		b.ResetTimer()
		if _, _, err := e.Evaluate(context.Background(), start, data); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(data.Len())/b.Elapsed().Seconds(), "samples/s")
	})
}
