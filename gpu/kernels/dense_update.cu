// denseWeightGradient of nn/plain_layers.go with the optimizer's step in one: the gradient, a fold over the batch, stays
// in registers. Rows are the inputs and, last, the bias, whose x is 1: its row of w, m and v follows the weights.
// blockIdx.x = (input tile, unit tile).
#include "fold.cuh"
#include "optimizer.cuh"

using UpdateTile = Tile<64, 64, 4, 16>;

template <class Optimizer>
__device__ __forceinline__ void dense_update_tile(Quad *shared, float *w, float *m, float *v, const float *x, const float *g,
                                                  long long stride, int batch, int inputs, int units, const float *consts, int step) {
  w = trial(w, stride), m = trial(m, stride), x = trial(x, stride), g = trial(g, stride);
  if (Optimizer::HAS_SECOND) v = trial(v, stride);
  const UpdateTile t;
  const int rows = inputs + 1, across = tiles(units, UpdateTile::COLS);
  const int col0 = (int)blockIdx.x % across * UpdateTile::COLS, row0 = (int)blockIdx.x / across * UpdateTile::ROWS;
  const auto a = [=](int input, int k) {
    const float value = x[k * inputs + least(input, inputs - 1)];
    return input < inputs ? value : 1.0f;
  };
  const auto b = [=](int unit, int k) { return g[k * units + unit]; };
  float sum[UpdateTile::THREAD_ROWS][4];
  fold_product<false, false, false>(sum, t, shared, a, row0, rows, b, col0, units, batch, batch);

  const Optimizer optimizer(consts, step);
  const int col = col0 + t.col(), count = units - col;
  const bool wide = units % 4 == 0 && aligned(w) && aligned(m) && (!Optimizer::HAS_SECOND || aligned(v));
  // All reads before all writes: the compiler could not move a read over a write, and many under way hide their delay.
  Quad ws[UpdateTile::THREAD_ROWS], ms[UpdateTile::THREAD_ROWS], vs[UpdateTile::THREAD_ROWS];
  UNROLL for (int i = 0; i < UpdateTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i), at = row * units + col;
    if (row >= rows || count <= 0) continue;
    ws[i] = read_quad(w + at, count, wide);
    ms[i] = read_quad(m + at, count, wide);
    if (Optimizer::HAS_SECOND) vs[i] = read_quad(v + at, count, wide);
  }
  UNROLL for (int i = 0; i < UpdateTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i), at = row * units + col;
    if (row >= rows || count <= 0) continue;
    UNROLL for (int j = 0; j < 4; j++) optimizer.update(ws[i].v[j], ms[i].v[j], vs[i].v[j], sum[i][j]);
    write_quad(w + at, count, wide, ws[i]);
    write_quad(m + at, count, wide, ms[i]);
    if (Optimizer::HAS_SECOND) write_quad(v + at, count, wide, vs[i]);
  }
}

extern "C" __global__ void __launch_bounds__(UpdateTile::THREADS)
dense_update_adam(float *w, float *m, float *v, const float *x, const float *g, long long stride, int batch, int inputs, int units,
                  const float *consts, const int *base, int offset) {
  __shared__ Quad shared[UpdateTile::SHARED_QUADS];
  dense_update_tile<Adam>(shared, w, m, v, x, g, stride, batch, inputs, units, consts, step_of(base, offset));
}

extern "C" __global__ void __launch_bounds__(UpdateTile::THREADS)
dense_update_sgd(float *w, float *m, const float *x, const float *g, long long stride, int batch, int inputs, int units,
                 const float *consts, const int *base, int offset) {
  __shared__ Quad shared[UpdateTile::SHARED_QUADS];
  dense_update_tile<SGD>(shared, w, m, nullptr, x, g, stride, batch, inputs, units, consts, step_of(base, offset));
}
