// denseInputGradient of nn/plain_layers.go: a fold over units. blockIdx.x = (sample tile, input tile).
#include "fold.cuh"

extern "C" __global__ void __launch_bounds__(DenseTile::THREADS)
dense_input_gradient(float *dx, const float *g, const float *params, const float *mask, long long stride, int batch, int inputs,
                     int units) {
  __shared__ Quad shared[DenseTile::SHARED_QUADS];
  dx = trial(dx, stride), g = trial(g, stride), params = trial(params, stride), mask = trial_or_null(mask, stride);
  const DenseTile t;
  const int across = tiles(inputs, DenseTile::COLS);
  const int col0 = (int)blockIdx.x % across * DenseTile::COLS, row0 = (int)blockIdx.x / across * DenseTile::ROWS;
  const auto a = [=](int sample, int k) { return g[sample * units + k]; };
  const auto b = [=](int input, int k) { return params[input * units + k]; };
  float sum[DenseTile::THREAD_ROWS][4];
  fold_product<false, true, true>(sum, t, shared, a, row0, batch, b, col0, inputs, units, units);

  const int col = col0 + t.col();
  const bool wide = inputs % 4 == 0 && aligned(dx) && aligned(mask);
  UNROLL for (int i = 0; i < DenseTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= batch || col >= inputs) continue;
    write_gradient(dx, mask, row * inputs + col, inputs - col, wide, sum[i]);
  }
}
