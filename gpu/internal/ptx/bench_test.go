package ptx

import (
	"math/rand/v2"
	"testing"
)

// BenchmarkGemm is the usual load: fused multiply-adds, each with two loads from shared memory.
func BenchmarkGemm(b *testing.B) {
	m := parse(b, clangPTX)
	r := rand.New(rand.NewPCG(1, 1))
	const n = 64
	var mem Memory
	args := []uint64{put(b, &mem, make([]float32, n*n)), put(b, &mem, floats(r, n*n)), put(b, &mem, floats(r, n*n)), n, n, n}
	for b.Loop() {
		if err := m.Launch(&mem, "gemm", [3]int{n / 16, n / 16, 1}, [3]int{16, 16, 1}, args, Forward); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(n*n*n*float64(b.N)/b.Elapsed().Seconds()/1e6, "MFMA/s")
}

// BenchmarkSHA256 is integer arithmetic and local memory.
func BenchmarkSHA256(b *testing.B) {
	m := parse(b, clangPTX)
	const threads = 64
	var mem Memory
	args := []uint64{put(b, &mem, make([]uint32, 8*threads)), put(b, &mem, make([]uint32, 16*threads))}
	b.SetBytes(64 * threads)
	for b.Loop() {
		if err := m.Launch(&mem, "sha256", [3]int{1, 1, 1}, [3]int{threads, 1, 1}, args, Forward); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(clangPTX)))
	for b.Loop() {
		parse(b, clangPTX)
	}
}
