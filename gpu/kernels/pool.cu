// poolForward and poolInputGradient of nn/plain_layers.go. A thread takes four neighbouring channels where their number
// allows, else one; geometry.go knows. A pooling right behind a convolution is part of that one's kernels.
#include "pool.cuh"

// Pool is where a thread works: a pixel of the layer's output (or input) and the channels from channel on.
struct PoolPlace {
  unsigned pixel, channel; // pixel counts over all samples
  int width;               // channels per thread
  __device__ __forceinline__ explicit PoolPlace(int channels) : width(channels % 4 == 0 ? 4 : 1) {
    const unsigned per_pixel = channels / width, i = blockIdx.x * 256 + threadIdx.x;
    pixel = i / per_pixel;
    channel = i % per_pixel * width;
  }
};

extern "C" __global__ void __launch_bounds__(256)
pool_forward(float *y, int *code, const float *x, long long stride, int batch, int in_rows, int in_cols, int channels, int out_rows,
             int out_cols, int window_rows, int window_cols) {
  const PoolPlace at(channels);
  if (at.pixel >= (unsigned)(batch * out_rows * out_cols)) return;
  y = trial(y, stride), code = trial(code, stride), x = trial(x, stride);
  const int col = at.pixel % out_cols, line = at.pixel / out_cols, row = line % out_rows, sample = line / out_rows;
  const bool wide = at.width == 4 && aligned(x);
  x += ((sample * in_rows + row * window_rows) * in_cols + col * window_cols) * channels + at.channel;
  Winners winners(read_quad(x, at.width, wide));
  for (int r = 0, i = 0; r < window_rows; r++) {
    for (int c = 0; c < window_cols; c++, i++) winners.meet(read_quad(x + (r * in_cols + c) * channels, at.width, wide), i);
  }
  const int out = at.pixel * channels + at.channel;
  write_quad(y + out, at.width, at.width == 4 && aligned(y), winners.best);
  UNROLL for (int j = 0; j < 4; j++)
    if (j < at.width) code[out + j] = winners.code[j];
}

// The gradient goes to the winner alone; all others, and what no window reaches, have +0.
extern "C" __global__ void __launch_bounds__(256)
pool_input_gradient(float *dx, const float *g, const int *code, const float *mask, long long stride, int batch, int in_rows, int in_cols,
                    int channels, int out_rows, int out_cols, int window_rows, int window_cols) {
  const PoolPlace at(channels);
  if (at.pixel >= (unsigned)(batch * in_rows * in_cols)) return;
  dx = trial(dx, stride), g = trial(g, stride), code = trial(code, stride), mask = trial_or_null(mask, stride);
  const int col = at.pixel % in_cols, line = at.pixel / in_cols, row = line % in_rows, sample = line / in_rows;
  const int out_row = row / window_rows, out_col = col / window_cols;
  const int in = at.pixel * channels + at.channel;
  Quad q = {{0.0f, 0.0f, 0.0f, 0.0f}};
  if (out_row < out_rows && out_col < out_cols) {
    const int here = (row - out_row * window_rows) * window_cols + (col - out_col * window_cols);
    const int out = ((sample * out_rows + out_row) * out_cols + out_col) * channels + at.channel;
    UNROLL for (int j = 0; j < 4; j++) {
      if (j >= at.width || code[out + j] != here) continue;
      const float passed = g[out + j];
      q.v[j] = mask ? relu_mask(passed, mask[in + j]) : passed;
    }
  }
  write_quad(dx + in, at.width, at.width == 4 && aligned(dx), q);
}
