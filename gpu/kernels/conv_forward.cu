// convForward of nn/plain_layers.go with its activation: rows are all samples' output positions, the fold runs over the
// taps (kernel row, kernel column, input channel). blockIdx.x = (position tile, unit tile).
#include "conv.cuh"

template <bool ALONG_TAPS>
__device__ __forceinline__ void conv_forward_tile(Quad *shared, float *y, const float *x, const float *params, int batch,
                                                  const ConvShape &s, int relu) {
  const ConvTile t;
  const int taps = s.taps(), rows = batch * s.positions(), across = tiles(s.units, ConvTile::COLS);
  const int col0 = (int)blockIdx.x % across * ConvTile::COLS, row0 = (int)blockIdx.x / across * ConvTile::ROWS;
  const ConvInput input(s);
  const Divisor positions(s.positions());
  const int size = s.in_rows * s.in_cols * s.channels, units = s.units;
  const auto a = [=](int row, int k) {
    unsigned position;
    const unsigned sample = positions.divide(row, position);
    return input.read(x + sample * size, input.position(position), input.tap(k));
  };
  const auto b = [=](int unit, int k) { return params[k * units + unit]; };
  float sum[ConvTile::THREAD_ROWS][4];
  fold_product<false, ALONG_TAPS, false>(sum, t, shared, a, row0, rows, b, col0, units, taps, taps);

  const int col = col0 + t.col(), count = units - col;
  if (count <= 0) return;
  const Quad bias = read_quad(params + taps * units + col, count, false);
  const bool wide = units % 4 == 0 && aligned(y);
  UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= rows) continue;
    Quad q;
    UNROLL for (int j = 0; j < 4; j++) {
      const float z = __fadd_rn(sum[i][j], bias.v[j]);
      q.v[j] = relu ? relu_mask(z, z) : z;
    }
    write_quad(y + row * units + col, count, wide, q);
  }
}

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_forward(float *y, const float *x, const float *params, long long stride, int batch, CONV_INTS, int relu) {
  __shared__ Quad shared[ConvTile::SHARED_QUADS];
  y = trial(y, stride), x = trial(x, stride), params = trial(params, stride);
  const ConvShape s = CONV_SHAPE;
  // Many channels lie side by side among the taps; with few, neighbouring positions do.
  if (s.channels >= ConvTile::SLICE)
    conv_forward_tile<true>(shared, y, x, params, batch, s, relu);
  else
    conv_forward_tile<false>(shared, y, x, params, batch, s, relu);
}
