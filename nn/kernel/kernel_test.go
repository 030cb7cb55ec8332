package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// each runs a test on every instruction set of this machine.
func each(t *testing.T, test func(t *testing.T, s *ISA, r *source)) {
	if len(All()) == 0 {
		t.Skip("this machine has no instruction set that kernels are written for")
	}
	for i, s := range All() {
		t.Run(s.Name(), func(t *testing.T) {
			test(t, s, &source{rand.New(rand.NewPCG(7, uint64(i)))})
		})
	}
}

// source makes test values.
type source struct{ *rand.Rand }

var special = []float32{
	0, negativeZero, 1, -1, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, 0x1.fffffcp-127, 0x1p-126,
	0x1p-96, -0x1p-96, 0x1.fffffep-97, -0x1.fffffep-97, math.MaxFloat32, -math.MaxFloat32,
	float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
}

// kinds of value: everyday ones, integers (ties, exact cancellation), any exponent, and special ones mixed in.
const kinds = 4

func (r *source) value(kind int) float32 {
	switch kind {
	case 0:
		return float32(r.NormFloat64())
	case 1:
		return float32(r.IntN(5) - 2)
	case 2:
		return math.Float32frombits(r.Uint32()&0x807fffff | (1+r.Uint32N(253))<<23)
	}
	if r.IntN(8) > 0 {
		return r.value(r.IntN(3))
	}
	return special[r.IntN(len(special))]
}

func (r *source) values(n, kind int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = r.value(kind)
	}
	return x
}

// guarded is a copy of x in an array that goes on behind it, with a check that a kernel left that alone.
func guarded(x []float32) (y []float32, check func(t *testing.T)) {
	const guard, mark = 40, 12345
	all := make([]float32, len(x)+guard)
	copy(all, x)
	for i := range guard {
		all[len(x)+i] = mark
	}
	return all[:len(x)], func(t *testing.T) {
		t.Helper()
		for i, v := range all[len(x):] {
			if v != mark {
				t.Fatalf("%g was written %d values behind the end", v, i)
			}
		}
	}
}

// same compares bits; all NaNs are one.
func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			t.Fatalf("%s: value %d is %g (%08x), want %g (%08x)", what, i, g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
}

// fma rounds x*y + z once, by rounding to odd in binary64 first.
func fma(x, y, z float32) float32 {
	p := float64(float64(x) * float64(y))
	s := p + float64(z)
	b := math.Float64bits(s)
	if s == 0 || math.IsInf(s, 0) || s != s {
		return float32(s)
	}
	t := s - p
	if e := (p - (s - t)) + (float64(z) - t); e != 0 && b&1 == 0 {
		if (e > 0) == (s > 0) {
			b++
		} else {
			b--
		}
	}
	return float32(math.Float64frombits(b))
}

func TestFMA(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		const n = 1000
		for round := range 400 {
			a, b, c := r.values(n, round%kinds), r.values(n, round%kinds), r.values(n, r.IntN(kinds))
			got, want := make([]float32, n), make([]float32, n)
			s.FMA(got, a, b, c)
			for i := range want {
				want[i] = fma(a[i], b[i], c[i])
			}
			same(t, "fma", got, want)
		}
	})
}

// foldScalar is the rule for one element.
func foldScalar(terms int, term func(k int) (a, b float32)) float32 {
	var total float32
	for lo := 0; lo < terms; lo += 256 {
		var acc float32
		for k := lo; k < min(lo+256, terms); k++ {
			a, b := term(k)
			acc = fma(a, b, acc)
		}
		if lo == 0 {
			total = acc
		} else {
			total += acc
		}
	}
	return total
}

func TestFold(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 300 {
			m, n, terms := 1+r.IntN(30), 1+r.IntN(3*s.Lanes()), 1+r.IntN(40)
			if round%5 == 0 {
				terms = 250 + r.IntN(600)
			}
			what := fmt.Sprintf("m=%d n=%d terms=%d", m, n, terms)
			a := Rows{r.values(3000, round%kinds), r.IntN(20)}
			offsets := NewOffsets(terms, func(int) int { return r.IntN(2000) })
			b := Rows{nil, n + r.IntN(5)}
			b.Data = r.values((terms-1)*b.Stride+n, r.IntN(kinds))
			c := Rows{nil, n + r.IntN(5)}
			size := (m-1)*c.Stride + n
			g := Groups{N: 1 + round%3, A: r.IntN(200), C: size + r.IntN(3)}
			start := r.values((g.N-1)*g.C+size, r.IntN(kinds))
			want := append([]float32(nil), start...)
			var check func(*testing.T)
			c.Data, check = guarded(start)
			eachElement := func(terms int, set func(at int, fold float32)) {
				for i := range g.N * m {
					group, i := i/m, i%m
					for j := range n {
						set(group*g.C+i*c.Stride+j, foldScalar(terms, func(k int) (float32, float32) {
							return a.Data[group*g.A+i*a.Stride+int(offsets.at[k])], b.Data[k*b.Stride+j]
						}))
					}
				}
			}
			s.FoldGroups(g, m, n, a, offsets, b, c)
			eachElement(terms, func(at int, fold float32) { want[at] = fold })
			same(t, what, c.Data, want)

			short := min(terms, BlockTerms)
			s.FoldBlock(g, m, n, a, offsets.Cut(0, short), b, c, true)
			eachElement(short, func(at int, fold float32) { want[at] += fold })
			same(t, what+" added", c.Data, want)
			check(t)
		}
	})
}

func TestFoldTileHeights(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for _, n := range []int{1, s.Lanes() - 1, s.Lanes(), 2*s.Lanes() - 1, 2 * s.Lanes(), 2*s.Lanes() + 1} {
			for m := 1; m <= 30; m++ {
				const terms = 9
				a, b := Rows{r.values(m*terms, 0), terms}, Rows{r.values(terms*n, 0), n}
				data, check := guarded(make([]float32, m*n))
				s.Fold(m, n, a, Strided(terms, 1), b, Rows{data, n})
				want := make([]float32, m*n)
				for i := range want {
					want[i] = foldScalar(terms, func(k int) (float32, float32) { return a.Data[i/n*terms+k], b.Data[k*n+i%n] })
				}
				same(t, fmt.Sprintf("m=%d n=%d", m, n), data, want)
				check(t)
			}
		}
	})
}

func relu(x float32) float32 {
	if x > 0 {
		return x
	}
	return 0
}

func TestFoldAdam(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 300 {
			m, n, terms, params := 1+r.IntN(50), 1+r.IntN(5*s.Lanes()), 1+r.IntN(40), r.IntN(3000)
			if round%5 == 0 {
				terms = 250 + r.IntN(600)
			}
			what := fmt.Sprintf("m=%d n=%d terms=%d params=%d", m, n, terms, params)
			a := Rows{r.values(3000, round%kinds), r.IntN(20)}
			offsets := NewOffsets(terms, func(int) int { return r.IntN(2000) })
			b := Rows{nil, n + r.IntN(5)}
			b.Data = r.values((terms-1)*b.Stride+n, r.IntN(kinds))
			c := Rows{nil, n + r.IntN(5)}
			size := (m-1)*c.Stride + n
			want := Rows{make([]float32, size), c.Stride}
			var checks [4]func(*testing.T)
			c.Data, checks[0] = guarded(make([]float32, size))

			numbers := [4]float32{0.1, 0.001, r.Float32(), 1e-7}
			kind := r.IntN(kinds)
			values := func() []float32 { return r.values(params, kind) }
			w, m1, m2, g := values(), values(), values(), values()
			step := AdamStep{G: g, C: &numbers}
			step.W, checks[1] = guarded(w)
			step.M, checks[2] = guarded(m1)
			step.V, checks[3] = guarded(m2)
			gotW, gotM, gotV := step.W, step.M, step.V

			s.FoldAdam(m, n, a, offsets, b, c, &step)
			s.Fold(m, n, a, offsets, b, want)
			same(t, what, c.Data, want.Data)
			s.Adam(step.W, step.M, step.V, step.G, step.C)
			s.Adam(w, m1, m2, g, &numbers)
			same(t, what+": w", gotW, w)
			same(t, what+": m", gotM, m1)
			same(t, what+": v", gotV, m2)
			for _, check := range checks {
				check(t)
			}
			if s.foldAdam != nil && m >= adamRows && n >= 2*s.Lanes() && terms >= adamTerms && params >= m/adamRows*s.Lanes() && len(step.W) == params {
				t.Errorf("%s: nothing of the step is done", what)
			}
		}
	})
}

func TestAddBias(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 200 {
			m, n, kind := 1+r.IntN(6), 1+r.IntN(5*s.Lanes()), round%kinds
			src, dst := Rows{nil, n + r.IntN(4)}, Rows{nil, n + r.IntN(4)}
			src.Data = r.values((m-1)*src.Stride+n, kind)
			start := r.values((m-1)*dst.Stride+n, kind)
			bias := r.values(n, kind)
			for _, withReLU := range []bool{false, true} {
				want := append([]float32(nil), start...)
				for i := range m {
					for j := range n {
						v := src.Data[i*src.Stride+j] + bias[j]
						if withReLU {
							v = relu(v)
						}
						want[i*dst.Stride+j] = v
					}
				}
				var check func(*testing.T)
				dst.Data, check = guarded(start)
				s.AddBias(m, n, dst, src, bias, withReLU)
				same(t, fmt.Sprintf("m=%d n=%d relu=%v", m, n, withReLU), dst.Data, want)
				check(t)
			}
		}
	})
}

func TestSum(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 200 {
			m, n := 1+r.IntN(700), 1+r.IntN(3*s.Lanes())
			x := Rows{nil, n + r.IntN(4)}
			x.Data = r.values((m-1)*x.Stride+n, round%kinds)
			got, check := guarded(make([]float32, n))
			s.Sum(m, n, x, got)
			want := make([]float32, n)
			for j := range want {
				want[j] = foldScalar(m, func(k int) (float32, float32) { return x.Data[k*x.Stride+j], 1 })
			}
			same(t, fmt.Sprintf("m=%d n=%d", m, n), got, want)
			check(t)
		}
	})
}

func TestMaxPool(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 400 {
			kind := round % kinds
			rows, cols, n, channels := 1+r.IntN(3), 1+r.IntN(3), 1+r.IntN(6), 1+r.IntN(3*s.Lanes())
			width := (n*cols + r.IntN(3)) * channels
			window := NewOffsets(rows*cols, func(i int) int { return i/cols*width + i%cols*channels })
			x, bias := r.values(rows*width, kind), r.values(channels, kind)
			if round%2 == 0 {
				bias = NoBias(channels)
			}
			g := r.values(n*channels, kind)
			for _, withReLU := range []bool{false, true} {
				wantY, wantDX := make([]float32, n*channels), r.values(len(x), 0)
				gotDX, checkDX := guarded(wantDX)
				for p := range n {
					for c := range channels {
						at := func(i int) int { return i/cols*width + (p*cols+i%cols)*channels + c }
						value := func(i int) float32 {
							v := x[at(i)] + bias[c]
							if withReLU {
								v = relu(v)
							}
							return v
						}
						best := 0
						for i := range rows * cols {
							if value(i) > value(best) {
								best = i
							}
							wantDX[at(i)] = 0
						}
						wantY[p*channels+c] = value(best)
						if !withReLU || value(best) > 0 {
							wantDX[at(best)] = g[p*channels+c]
						}
					}
				}
				what := fmt.Sprintf("window %dx%d, %d positions, %d channels, relu %v", rows, cols, n, channels, withReLU)
				y, check := guarded(make([]float32, n*channels))
				code := make([]int32, n*channels)
				s.MaxPool(n, channels, x, cols*channels, window, bias, withReLU, y, code)
				same(t, what, y, wantY)
				check(t)
				s.MaxPoolGradient(n, channels, g, code, gotDX, cols*channels, window)
				same(t, what+", gradient", gotDX, wantDX)
				checkDX(t)
			}
		}
	})
}

func TestReLUGradientAndAdd(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for n := range 5 * s.Lanes() {
			for kind := range kinds {
				start, x := r.values(n, kind), r.values(n, kind)
				want := append([]float32(nil), start...)
				for i := range want {
					if !(x[i] > 0) {
						want[i] = 0
					}
				}
				got, check := guarded(start)
				s.ReLUGradient(got, x)
				same(t, "relu gradient", got, want)
				check(t)

				got, check = guarded(start)
				s.Add(got, x)
				for i := range want {
					want[i] = start[i] + x[i]
				}
				same(t, "add", got, want)
				check(t)
			}
		}
	})
}

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

func cut(x float32) float32 {
	if x < 0x1p-96 && x > -0x1p-96 {
		return 0
	}
	return x
}

// atCut gives moments around the size at which they are cut.
func (r *source) atCut(n int) []float32 {
	x := r.values(n, 3)
	for i := range x {
		if r.IntN(2) == 0 {
			x[i] = float32(r.NormFloat64()) * 0x1p-96
		}
	}
	return x
}

func TestOptimizers(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for round := range 300 {
			n := r.IntN(5 * s.Lanes())
			kind := round % kinds
			w, m, v, g := r.values(n, kind), r.values(n, kind), r.values(n, kind), r.values(n, kind)
			if round%3 == 0 {
				m, v = r.atCut(n), r.atCut(n)
				g = make([]float32, n)
			}
			for i := range v {
				if round%7 > 0 {
					v[i] = float32(math.Abs(float64(v[i])))
				}
			}
			c := [4]float32{1 - float32(0.9), 1 - float32(0.999), 0.002, 1e-7}
			gotW, checkW := guarded(w)
			gotM, checkM := guarded(m)
			gotV, checkV := guarded(v)
			s.Adam(gotW, gotM, gotV, g, &c)
			wantW, wantM, wantV := make([]float32, n), make([]float32, n), make([]float32, n)
			for i := range w {
				mi := cut(m[i] + float32((g[i]-m[i])*c[0]))
				vi := v[i] + float32((float32(g[i]*g[i])-v[i])*c[1])
				if vi < 0x1p-96 {
					vi = 0
				}
				wantM[i], wantV[i], wantW[i] = mi, vi, w[i]-float32(mi*c[2])/(sqrt(vi)+c[3])
			}
			same(t, "adam m", gotM, wantM)
			same(t, "adam v", gotV, wantV)
			same(t, "adam w", gotW, wantW)

			copy(gotW, w)
			copy(gotM, m)
			d := [2]float32{0.9, 0.01}
			s.SGD(gotW, gotM, g, &d)
			for i := range w {
				u := cut(float32(m[i]*d[0]) - float32(g[i]*d[1]))
				wantM[i], wantW[i] = u, w[i]+u
			}
			same(t, "sgd u", gotM, wantM)
			same(t, "sgd w", gotW, wantW)
			for _, check := range []func(*testing.T){checkW, checkM, checkV} {
				check(t)
			}
		}
	})
}

func TestPixels(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for _, n := range []int{0, 1, 15, 16, 33, 256, 300} {
			src := make([]byte, n)
			want := make([]float32, n)
			for i := range src {
				src[i] = byte(i)
				want[i] = float32(byte(i)) / 255
			}
			got, check := guarded(make([]float32, n))
			s.Pixels(got, src)
			same(t, "pixels", got, want)
			check(t)
		}
	})
}

func TestTranspose(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, r *source) {
		for range 200 {
			m, n := 1+r.IntN(40), 1+r.IntN(40)
			src, dst := Rows{nil, n + r.IntN(4)}, Rows{nil, m + r.IntN(4)}
			src.Data = r.values((m-1)*src.Stride+n, 3)
			start := r.values((n-1)*dst.Stride+m, 3)
			want := append([]float32(nil), start...)
			for i := range m {
				for j := range n {
					want[j*dst.Stride+i] = src.Data[i*src.Stride+j]
				}
			}
			var check func(*testing.T)
			dst.Data, check = guarded(start)
			s.Transpose(m, n, dst, src)
			same(t, fmt.Sprintf("%dx%d", m, n), dst.Data, want)
			check(t)
		}
	})
}

func TestPrefetch(t *testing.T) {
	each(t, func(_ *testing.T, s *ISA, _ *source) {
		for n := range 40 {
			s.Prefetch(Rows{make([]float32, 3*n), n}, 3, n) // has no effect that could be seen
		}
	})
}

// Arguments that are too short must never reach the assembly.
func TestBounds(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, _ *source) {
		f := func(n int) []float32 { return make([]float32, n) }
		three, code := Strided(3, 1), make([]int32, 8)
		block := func(g Groups, terms int) {
			s.FoldBlock(g, 1, 1, Rows{f(300), 0}, Strided(terms, 1), Rows{f(300), 1}, Rows{f(1), 1}, false)
		}
		foldAdam := func(a, b, c, moments int) {
			step := AdamStep{f(1024), f(moments)[:moments:moments], f(1024), f(1024), &[4]float32{}}
			s.FoldAdam(16, 32, Rows{f(a), 8}, Strided(8, 1), Rows{f(b), 32}, Rows{f(c), 32}, &step)
			s.Adam(step.W, step.M, step.V, step.G, step.C)
		}
		calls := map[string]func(){
			"fold A":           func() { s.Fold(2, 4, Rows{f(5), 3}, three, Rows{f(12), 4}, Rows{f(8), 4}) },
			"fold B":           func() { s.Fold(2, 4, Rows{f(6), 3}, three, Rows{f(11), 4}, Rows{f(8), 4}) },
			"fold C":           func() { s.Fold(2, 4, Rows{f(6), 3}, three, Rows{f(12), 4}, Rows{f(7), 4}) },
			"fold stride":      func() { s.Fold(2, 4, Rows{f(6), -1}, three, Rows{f(12), 4}, Rows{f(8), 4}) },
			"fold block":       func() { block(Groups{N: 1}, 257) },
			"fold groups A":    func() { block(Groups{2, 298, 0}, 4) },
			"fold groups C":    func() { block(Groups{2, 0, 1}, 4) },
			"fold groups":      func() { block(Groups{2, -1, 0}, 4) },
			"fold adam A":      func() { foldAdam(127, 256, 512, 1024) },
			"fold adam B":      func() { foldAdam(128, 255, 512, 1024) },
			"fold adam C":      func() { foldAdam(128, 256, 511, 1024) },
			"fold adam step":   func() { foldAdam(128, 256, 512, 1023) },
			"negative offset":  func() { NewOffsets(1, func(int) int { return -1 }) },
			"bias":             func() { s.AddBias(1, 4, Rows{f(4), 4}, Rows{f(4), 4}, f(3)[:3:3], false) },
			"bias destination": func() { s.AddBias(2, 4, Rows{f(7), 4}, Rows{f(8), 4}, f(4), false) },
			"bias source":      func() { s.AddBias(2, 4, Rows{f(8), 4}, Rows{f(7), 4}, f(4), false) },
			"sum block":        func() { s.SumBlock(257, 1, Rows{f(300), 1}, f(1), false) },
			"sum rows":         func() { s.Sum(2, 4, Rows{f(7), 4}, f(4)) },
			"sum destination":  func() { s.Sum(2, 4, Rows{f(8), 4}, f(3)[:3:3]) },
			"pool input":       func() { s.MaxPool(2, 4, f(15), 8, Strided(2, 4), f(4), false, f(8), code) },
			"pool output":      func() { s.MaxPool(2, 4, f(16), 8, Strided(2, 4), f(4), false, f(7)[:7:7], code) },
			"pool codes":       func() { s.MaxPool(2, 4, f(16), 8, Strided(2, 4), f(4), false, f(8), code[:7:7]) },
			"pool gradient":    func() { s.MaxPoolGradient(2, 4, f(8), code, f(15), 8, Strided(2, 4)) },
			"relu gradient":    func() { s.ReLUGradient(f(3), f(2)[:2:2]) },
			"add":              func() { s.Add(f(3), f(2)[:2:2]) },
			"adam":             func() { s.Adam(f(3), f(3), f(2)[:2:2], f(3), &[4]float32{}) },
			"sgd":              func() { s.SGD(f(3), f(3), f(2)[:2:2], &[2]float32{}) },
			"pixels":           func() { s.Pixels(f(2)[:2:2], make([]byte, 3)) },
			"transpose":        func() { s.Transpose(3, 2, Rows{f(5), 3}, Rows{f(6), 2}) },
			"scalar fma":       func() { s.FMA(f(2), f(2), f(1)[:1:1], f(2)) },
		}
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				call()
			})
		}
	})
}

func TestPeak(t *testing.T) {
	each(t, func(t *testing.T, s *ISA, _ *source) {
		if ops := s.Peak(10); ops < 10*2*8*8 {
			t.Errorf("%g operations", ops)
		}
		if ops := s.Peak(0); ops != 0 {
			t.Errorf("%g operations in no rounds", ops)
		}
	})
}
