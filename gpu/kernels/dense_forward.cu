// denseForward of nn/plain_layers.go, in two passes: dense_forward makes one fold block of every sum, dense_finish adds
// the blocks in order, then the bias, then the activation. Of the last layer, dense_loss in loss.cu does that.
#include "dense.cuh"
#include "fold.cuh"

// part[block][sample][unit]: x by w over inputs 256*block..; blockIdx.x = (block, sample tile, unit tile).
extern "C" __global__ void __launch_bounds__(DenseTile::THREADS)
dense_forward(float *part, const float *x, const float *params, long long stride, int batch, int inputs, int units) {
  __shared__ Quad shared[DenseTile::SHARED_QUADS];
  part = trial(part, stride), x = trial(x, stride), params = trial(params, stride);
  const DenseTile t;
  const int across = tiles(units, DenseTile::COLS), down = tiles(batch, DenseTile::ROWS);
  const int col0 = (int)blockIdx.x % across * DenseTile::COLS, row0 = (int)blockIdx.x / across % down * DenseTile::ROWS;
  const int block = (int)blockIdx.x / across / down;
  const int terms = least(inputs - block * FOLD_BLOCK, FOLD_BLOCK);
  x += block * FOLD_BLOCK;
  params += block * FOLD_BLOCK * units;
  const auto a = [=](int sample, int k) { return x[sample * inputs + k]; };
  const auto b = [=](int unit, int k) { return params[k * units + unit]; };
  float sum[DenseTile::THREAD_ROWS][4];
  fold_product<true, true, false>(sum, t, shared, a, row0, batch, b, col0, units, terms, terms);

  const int col = col0 + t.col();
  const bool wide = units % 4 == 0 && aligned(part);
  UNROLL for (int i = 0; i < DenseTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= batch || col >= units) continue;
    write_quad(part + ((long long)block * batch + row) * units + col, units - col, wide, {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}});
  }
}

extern "C" __global__ void __launch_bounds__(256)
dense_finish(float *y, const float *part, const float *bias, long long stride, int batch, int units, int blocks, int relu) {
  y = trial(y, stride), part = trial(part, stride), bias = trial(bias, stride);
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < batch * units) y[i] = dense_output(part, i, batch * units, blocks, bias[i % units], relu);
}
