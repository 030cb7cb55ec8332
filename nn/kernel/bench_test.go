package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The shapes of the default model's products: m x n by terms.
func BenchmarkFold(b *testing.B) {
	r := &source{rand.New(rand.NewPCG(1, 1))}
	for _, s := range All() {
		b.Run(s.Name(), func(b *testing.B) {
			b.Run("peak", func(b *testing.B) {
				var ops float64
				for b.Loop() {
					ops += s.Peak(10000)
				}
				b.ReportMetric(ops/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
			for _, c := range []struct {
				name            string
				m, n, terms     int
				strideA, termsA int
			}{
				{"dense forward", 32, 128, 5408, 5408, 1},
				{"dense input gradient", 16, 32, 128, 128, 1},
				{"dense weight gradient", 16, 128, 32, 1, 5408},
				{"conv forward", 26, 32, 9, 1, 28},
				{"conv weight gradient", 3, 32, 256, 1, 1},
			} {
				b.Run(c.name, func(b *testing.B) {
					x := Rows{r.values((c.m-1)*c.strideA+(c.terms-1)*c.termsA+1, 0), c.strideA}
					w := Rows{r.values(c.terms*c.n, 0), c.n}
					y := Rows{make([]float32, c.m*c.n), c.n}
					terms := Strided(c.terms, c.termsA)
					ops := 0.0
					for b.Loop() {
						s.Fold(c.m, c.n, x, terms, w, y)
						ops += 2 * float64(c.m) * float64(c.n) * float64(c.terms)
					}
					b.ReportMetric(ops/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		})
	}
}

func BenchmarkAdam(b *testing.B) {
	for _, s := range All() {
		for _, n := range []int{2048, 693962} {
			b.Run(fmt.Sprintf("%s/%d", s.Name(), n), func(b *testing.B) {
				r := &source{rand.New(rand.NewPCG(1, 1))}
				w, m, v, g := r.values(n, 0), make([]float32, n), make([]float32, n), r.values(n, 0)
				c := [4]float32{1 - float32(0.9), 1 - float32(0.999), 0.001, 1e-7}
				for b.Loop() {
					s.Adam(w, m, v, g, &c)
				}
				b.ReportMetric(b.Elapsed().Seconds()*1e9/float64(b.N)/float64(n), "ns/parameter")
			})
		}
	}
}
