// fold.cuh: the product of two matrices in which every sum is a fold (nn.Fold): terms in chains of 256 fused
// multiply-adds from +0, the chains' results added left to right, the first taken as it is.
#pragma once
#include "dev.cuh"

constexpr int FOLD_BLOCK = 256;

__device__ __forceinline__ int fold_blocks(int terms) { return (terms + FOLD_BLOCK - 1) / FOLD_BLOCK; }

__device__ __forceinline__ int tiles(int n, int edge) { return (n + edge - 1) / edge; }

// Tile says how a block of threads shares the work: each of GROUPS groups makes ROWS x COLS sums, each of its threads
// THREAD_ROWS x 4 of them. SLICE terms at a time lie in shared memory, twice, so that one slice is read while the next
// is written and a slice costs one barrier. geometry.go repeats ROWS, COLS, GROUPS and THREADS.
template <int ROWS_, int COLS_, int THREAD_ROWS_, int SLICE_, int GROUPS_ = 1> struct Tile {
  static constexpr int ROWS = ROWS_, COLS = COLS_, THREAD_ROWS = THREAD_ROWS_, SLICE = SLICE_, GROUPS = GROUPS_;
  static constexpr int GROUP_THREADS = ROWS / THREAD_ROWS * (COLS / 4);
  static constexpr int THREADS = GROUPS * GROUP_THREADS;
  // Four floats of padding spread a column over the banks and keep quads aligned.
  static constexpr int A_PITCH = ROWS + 4, B_PITCH = COLS + 4;
  static constexpr int SLICE_FLOATS = SLICE * (A_PITCH + B_PITCH);
  static constexpr int SHARED_QUADS = GROUPS * 2 * SLICE_FLOATS / 4;
  static_assert(FOLD_BLOCK % SLICE == 0, "a slice must not straddle two fold blocks");
  static_assert(ROWS * SLICE % GROUP_THREADS == 0 && COLS * SLICE % GROUP_THREADS == 0, "threads load equally many");

  int thread, group; // thread of its group
  __device__ __forceinline__ Tile() : thread(threadIdx.x % GROUP_THREADS), group(GROUPS == 1 ? 0 : threadIdx.x / GROUP_THREADS) {}
  // row i of the thread's THREAD_ROWS, in the tile: runs of four, so that shared memory is read in quads.
  __device__ __forceinline__ int row(int i) const {
    return i / 4 * (ROWS / (THREAD_ROWS / 4)) + thread / (COLS / 4) * 4 + i % 4;
  }
  // col is the first of the thread's four columns in the tile.
  __device__ __forceinline__ int col() const { return thread % (COLS / 4) * 4; }
};

// DenseTile is that of dense_forward (samples x units) and of dense_input_gradient (samples x inputs).
using DenseTile = Tile<32, 64, 4, 16>;

// load takes a thread's share of a slice: EDGE x SLICE values m(line, k) of lines line0.., terms k0... Neighbouring
// threads take neighbouring terms if ALONG_K, else neighbouring lines: whichever lie side by side in memory. Past the
// end of lines or terms it reads the last one, which needs no branch; the sums that this would go into are not kept,
// the terms not folded.
template <class T, int EDGE, bool ALONG_K, class M>
__device__ __forceinline__ void load(float (&part)[EDGE * T::SLICE / T::GROUP_THREADS], const T &t, const M &m, int line0, int lines,
                                     int k0, int terms) {
  UNROLL for (int i = 0; i < EDGE * T::SLICE / T::GROUP_THREADS; i++) {
    const int e = t.thread + i * T::GROUP_THREADS;
    part[i] = m(least(line0 + (ALONG_K ? e / T::SLICE : e % EDGE), lines - 1), least(k0 + (ALONG_K ? e % T::SLICE : e / EDGE), terms - 1));
  }
}

// put writes what load took to shared memory, as [SLICE][PITCH].
template <class T, int EDGE, int PITCH, bool ALONG_K>
__device__ __forceinline__ void put(float *shared, const T &t, const float (&part)[EDGE * T::SLICE / T::GROUP_THREADS]) {
  UNROLL for (int i = 0; i < EDGE * T::SLICE / T::GROUP_THREADS; i++) {
    const int e = t.thread + i * T::GROUP_THREADS;
    shared[ALONG_K ? e % T::SLICE * PITCH + e / T::SLICE : e / EDGE * PITCH + e % EDGE] = part[i];
  }
}

template <class T>
__device__ __forceinline__ void fold_term(float (&acc)[T::THREAD_ROWS][4], const float *as, const float *bs) {
  const Quad b = *(const Quad *)bs;
  UNROLL for (int r = 0; r < T::THREAD_ROWS; r += 4) {
    const Quad a = *(const Quad *)(as + r / 4 * (T::ROWS / (T::THREAD_ROWS / 4)));
    UNROLL for (int i = 0; i < 4; i++)
      UNROLL for (int j = 0; j < 4; j++) acc[r + i][j] = __fmaf_rn(a.v[i], b.v[j], acc[r + i][j]);
  }
}

// fold_product gives a thread its sums: sum[i][j] = fold over k < terms of a(row0 + t.row(i), k) * b(col0 + t.col() + j, k),
// for rows below rows and columns below cols; the others are of no meaning. most is the block's greatest number of
// terms (the groups may differ, but all must come to the same barriers). ONE_BLOCK promises most <= FOLD_BLOCK.
template <bool ONE_BLOCK, bool A_ALONG_K, bool B_ALONG_K, class T, class A, class B>
__device__ __forceinline__ void fold_product(float (&sum)[T::THREAD_ROWS][4], const T &t, Quad *shared, const A &a, int row0, int rows,
                                             const B &b, int col0, int cols, int terms, int most) {
  float acc[T::THREAD_ROWS][4];
  UNROLL for (int i = 0; i < T::THREAD_ROWS; i++)
    UNROLL for (int j = 0; j < 4; j++) acc[i][j] = 0.0f;
  float apart[T::ROWS * T::SLICE / T::GROUP_THREADS], bpart[T::COLS * T::SLICE / T::GROUP_THREADS];
  load<T, T::ROWS, A_ALONG_K>(apart, t, a, row0, rows, 0, terms);
  load<T, T::COLS, B_ALONG_K>(bpart, t, b, col0, cols, 0, terms);
  float *slice = (float *)shared + t.group * 2 * T::SLICE_FLOATS, *other = slice + T::SLICE_FLOATS;
  for (int k0 = 0; k0 < most; k0 += T::SLICE) {
    float *const as = slice, *const bs = slice + T::SLICE * T::A_PITCH;
    put<T, T::ROWS, T::A_PITCH, A_ALONG_K>(as, t, apart);
    put<T, T::COLS, T::B_PITCH, B_ALONG_K>(bs, t, bpart);
    // Who passes this barrier has done with the other slice's last use, one turn ago.
    __syncthreads();
    const int next = k0 + T::SLICE;
    if (next < most) {
      load<T, T::ROWS, A_ALONG_K>(apart, t, a, row0, rows, next, terms);
      load<T, T::COLS, B_ALONG_K>(bpart, t, b, col0, cols, next, terms);
    }
    const float *const ar = as + t.row(0), *const bc = bs + t.col();
    if (next <= terms) {
      UNROLL for (int k = 0; k < T::SLICE; k++) fold_term<T>(acc, ar + k * T::A_PITCH, bc + k * T::B_PITCH);
    } else {
      // No term may be made up: fma(0, 0, -0) is +0.
      for (int k = 0; k < terms - k0; k++) fold_term<T>(acc, ar + k * T::A_PITCH, bc + k * T::B_PITCH);
    }
    if (!ONE_BLOCK && (next % FOLD_BLOCK == 0 || next >= most)) {
      const bool first = k0 < FOLD_BLOCK;
      UNROLL for (int i = 0; i < T::THREAD_ROWS; i++)
        UNROLL for (int j = 0; j < 4; j++) {
          sum[i][j] = first ? acc[i][j] : __fadd_rn(sum[i][j], acc[i][j]);
          acc[i][j] = 0.0f;
        }
    }
    float *const swap = slice;
    slice = other;
    other = swap;
  }
  if (ONE_BLOCK) {
    UNROLL for (int i = 0; i < T::THREAD_ROWS; i++)
      UNROLL for (int j = 0; j < 4; j++) sum[i][j] = acc[i][j];
  }
}

// write_gradient writes a thread's row of four sums to dx[at], masked by the activations there if mask is not null.
__device__ __forceinline__ void write_gradient(float *dx, const float *mask, int at, int count, bool wide, const float (&sum)[4]) {
  Quad q = {{sum[0], sum[1], sum[2], sum[3]}};
  if (mask) {
    const Quad activation = read_quad(mask + at, count, wide);
    UNROLL for (int j = 0; j < 4; j++) q.v[j] = relu_mask(q.v[j], activation.v[j]);
  }
  write_quad(dx + at, count, wide, q);
}
