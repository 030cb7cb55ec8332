// convForward of nn/plain_layers.go with its activation: rows are all samples' output positions. blockIdx.x = (position
// tile, unit tile).
#include "conv.cuh"

template <bool ALONG_TAPS>
__device__ __forceinline__ void conv_forward_tile(Quad *shared, float *y, const float *x, const float *params, int batch,
                                                  const ConvShape &s, int relu) {
  const ConvTile t;
  const int units = s.units, rows = batch * s.positions(), across = tiles(units, ConvTile::COLS);
  const int col0 = (int)blockIdx.x % across * ConvTile::COLS, row0 = (int)blockIdx.x / across * ConvTile::ROWS;
  const ConvInput input(s);
  const Divisor positions(s.positions());
  const auto patch = [=](int row) -> Patch {
    unsigned position;
    const unsigned sample = positions.divide(row, position);
    return {(int)sample, input.position(position)};
  };
  float sum[ConvTile::THREAD_ROWS][4];
  conv_product<ALONG_TAPS>(sum, t, shared, x, params, input, patch, row0, rows, col0, relu);

  const int col = col0 + t.col();
  const bool wide = units % 4 == 0 && aligned(y);
  UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= rows || col >= units) continue;
    write_quad(y + row * units + col, units - col, wide, {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}});
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
