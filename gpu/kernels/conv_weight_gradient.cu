// convWeightGradient of nn/plain_layers.go, its first pass: one fold block of every sum, over up to 256 row-major output
// positions of one sample. Rows are the taps and, last, the bias, whose x is 1. conv_update.cu adds the parts in order.
// blockIdx.x = (group of parts, tap tile, unit tile).
#include "conv.cuh"
#include "pool.cuh"

// FewTapsTile is for kernels of few taps, as first layers have: a tile of many rows would be mostly empty. Each group,
// which is a warp, makes a part of its own.
using FewTapsTile = Tile<16, 32, 4, 8, 4>;
constexpr int FEW_TAPS = 64; // rows up to which it is used; geometry.go repeats this

static_assert(FewTapsTile::THREADS == ConvTile::THREADS, "both run in blocks of the same size");
static_assert(FewTapsTile::SHARED_QUADS >= ConvTile::SHARED_QUADS, "they share the memory of the larger");

// BlockGradient reads the gradient by the outputs of a fold block: positions from first on in a sample.
struct BlockGradient {
  const float *g;
  int units;
  template <class T> __device__ __forceinline__ void at(const T &, const ConvShape &s, int sample, int first) {
    units = s.units;
    g += (sample * s.positions() + first) * units;
  }
  __device__ __forceinline__ float operator()(int unit, int k) const { return g[k * units + unit]; }
};

// PooledBlockGradient reads it through the pooling behind: it is the pooling's where a position won, else +0. Which
// window each position lies in is worked out once, into shared memory: places has FOLD_BLOCK words for each group.
struct PooledBlockGradient {
  const float *g;
  const unsigned char *code;
  PoolShape p;
  unsigned *places; // pixel << 8 | code; nn.MaxActivations bounds the pixels
  int units;
  template <class T> __device__ __forceinline__ void at(const T &t, const ConvShape &s, int sample, int first) {
    units = s.units;
    g += sample * p.pixels() * units;
    code += sample * p.pixels() * units;
    places += t.group * FOLD_BLOCK;
    const Windows windows(p);
    const Divisor out_cols(s.out_cols);
    for (int k = t.thread; k < FOLD_BLOCK; k += T::GROUP_THREADS) {
      unsigned col, here;
      const unsigned row = out_cols.divide(first + k, col);
      const unsigned pixel = windows.find(row, col, here);
      places[k] = pixel << 8 | here;
    }
    __syncthreads();
  }
  __device__ __forceinline__ float operator()(int unit, int k) const {
    const unsigned place = places[k], at = (place >> 8) * units + unit;
    const float value = g[at];
    return code[at] == (place & 255) ? value : 0.0f;
  }
};

template <class T, bool ALONG_POSITIONS, class Gradient>
__device__ __forceinline__ void conv_weight_gradient_tile(Quad *shared, float *part, const float *x, Gradient b, int first_sample,
                                                          int samples, const ConvShape &s) {
  const T t;
  const int rows = s.taps() + 1, positions = s.positions(), units = s.units, blocks = fold_blocks(positions);
  const int across = tiles(units, T::COLS), down = tiles(rows, T::ROWS);
  const int col0 = (int)blockIdx.x % across * T::COLS, row0 = (int)blockIdx.x / across % down * T::ROWS;
  const int index = (int)blockIdx.x / across / down * T::GROUPS + t.group, parts = samples * blocks;
  // A group without a part goes along with the last one's numbers and writes nothing.
  const int here = least(index, parts - 1), sample = first_sample + here / blocks, first = here % blocks * FOLD_BLOCK;
  x += sample * (s.in_rows * s.in_cols * s.channels);
  b.at(t, s, sample, first);
  const ConvInput input(s);
  const auto a = [=](int row, int k) {
    const float value = input.read(x, input.position(first + k), input.tap(least(row, rows - 2)));
    return row < rows - 1 ? value : 1.0f;
  };
  float sum[T::THREAD_ROWS][4];
  fold_product<true, ALONG_POSITIONS, false>(sum, t, shared, a, row0, rows, b, col0, units, least(positions - first, FOLD_BLOCK),
                                             least(positions, FOLD_BLOCK));

  const int col = col0 + t.col();
  if (index >= parts || col >= units) return;
  part += (long long)index * rows * units;
  const bool wide = units % 4 == 0 && aligned(part);
  UNROLL for (int i = 0; i < T::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= rows) continue;
    write_quad(part + row * units + col, units - col, wide, {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}});
  }
}

template <class Gradient>
__device__ __forceinline__ void conv_weight_gradient_of(Quad *shared, float *part, const float *x, const Gradient &g, long long stride,
                                                        int first_sample, int samples, const ConvShape &s) {
  part = trial(part, stride), x = trial(x, stride);
  if (s.taps() + 1 <= FEW_TAPS)
    conv_weight_gradient_tile<FewTapsTile, true>(shared, part, x, g, first_sample, samples, s);
  else if (s.channels < ConvTile::SLICE)
    conv_weight_gradient_tile<ConvTile, true>(shared, part, x, g, first_sample, samples, s);
  else
    conv_weight_gradient_tile<ConvTile, false>(shared, part, x, g, first_sample, samples, s);
}

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_weight_gradient(float *part, const float *x, const float *g, long long stride, int first_sample, int samples, CONV_INTS) {
  __shared__ Quad shared[FewTapsTile::SHARED_QUADS];
  const ConvShape s = CONV_SHAPE;
  conv_weight_gradient_of(shared, part, x, BlockGradient{trial(g, stride), 0}, stride, first_sample, samples, s);
}

// g is the gradient by the pooling's output, code its winners.
extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_pool_weight_gradient(float *part, const float *x, const float *g, const unsigned *code, long long stride, int first_sample,
                          int samples, CONV_INTS, POOL_INTS) {
  __shared__ Quad shared[FewTapsTile::SHARED_QUADS];
  __shared__ unsigned places[FewTapsTile::GROUPS * FOLD_BLOCK];
  const ConvShape s = CONV_SHAPE;
  const PoolShape p = POOL_SHAPE;
  const PooledBlockGradient gradient = {trial(g, stride), (const unsigned char *)trial(code, stride), p, places, 0};
  conv_weight_gradient_of(shared, part, x, gradient, stride, first_sample, samples, s);
}
