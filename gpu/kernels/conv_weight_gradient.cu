// convWeightGradient of nn/plain_layers.go, its first pass: one fold block of every sum, over up to 256 row-major output
// positions of one sample. Rows are the taps and, last, the bias, whose x is 1. conv_update.cu adds the parts in order.
// blockIdx.x = (group of parts, tap tile, unit tile).
#include "conv.cuh"

// FewTapsTile is for kernels of few taps, as first layers have: a tile of many rows would be mostly empty. Each group,
// which is a warp, makes a part of its own.
using FewTapsTile = Tile<16, 32, 4, 8, 4>;
constexpr int FEW_TAPS = 64; // rows up to which it is used; geometry.go repeats this

static_assert(FewTapsTile::THREADS == ConvTile::THREADS, "both run in blocks of the same size");
static_assert(FewTapsTile::SHARED_QUADS >= ConvTile::SHARED_QUADS, "they share the memory of the larger");

template <class T, bool ALONG_POSITIONS>
__device__ __forceinline__ void conv_weight_gradient_tile(Quad *shared, float *part, const float *x, const float *g, int first_sample,
                                                          int samples, const ConvShape &s) {
  const T t;
  const int rows = s.taps() + 1, positions = s.positions(), units = s.units, blocks = fold_blocks(positions);
  const int across = tiles(units, T::COLS), down = tiles(rows, T::ROWS);
  const int col0 = (int)blockIdx.x % across * T::COLS, row0 = (int)blockIdx.x / across % down * T::ROWS;
  const int index = (int)blockIdx.x / across / down * T::GROUPS + t.group, parts = samples * blocks;
  // A group without a part goes along with the last one's numbers and writes nothing.
  const int here = least(index, parts - 1), sample = first_sample + here / blocks, first = here % blocks * FOLD_BLOCK;
  x += sample * (s.in_rows * s.in_cols * s.channels);
  g += (sample * positions + first) * units;
  const ConvInput input(s);
  const auto a = [=](int row, int k) {
    const float value = input.read(x, input.position(first + k), input.tap(least(row, rows - 2)));
    return row < rows - 1 ? value : 1.0f;
  };
  const auto b = [=](int unit, int k) { return g[k * units + unit]; };
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

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_weight_gradient(float *part, const float *x, const float *g, long long stride, int first_sample, int samples, CONV_INTS) {
  __shared__ Quad shared[FewTapsTile::SHARED_QUADS];
  part = trial(part, stride), x = trial(x, stride), g = trial(g, stride);
  const ConvShape s = CONV_SHAPE;
  if (s.taps() + 1 <= FEW_TAPS)
    conv_weight_gradient_tile<FewTapsTile, true>(shared, part, x, g, first_sample, samples, s);
  else if (s.channels < ConvTile::SLICE)
    conv_weight_gradient_tile<ConvTile, true>(shared, part, x, g, first_sample, samples, s);
  else
    conv_weight_gradient_tile<ConvTile, false>(shared, part, x, g, first_sample, samples, s);
}
