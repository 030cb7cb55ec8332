// convInputGradient of nn/plain_layers.go: rows are all samples' input positions, columns the input channels, the fold
// runs over (kernel row, kernel column, output channel). blockIdx.x = (position tile, channel tile).
#include "conv.cuh"
#include "pool.cuh"

// OutputGradient reads the gradient by a convolution's output, +0 if the position is not inside.
struct OutputGradient {
  const float *g;
  ConvShape s;
  __device__ __forceinline__ float read(bool inside, unsigned sample, unsigned row, unsigned col, unsigned unit) const {
    const float value = g[inside ? ((sample * s.out_rows + row) * s.out_cols + col) * s.units + unit : 0];
    return inside ? value : 0.0f;
  }
};

// PooledOutputGradient reads it through the pooling behind: it is the pooling's where the position won, else +0.
struct PooledOutputGradient {
  const float *g;
  const unsigned char *code;
  ConvShape s;
  Windows windows;
  __device__ __forceinline__ float read(bool inside, unsigned sample, unsigned row, unsigned col, unsigned unit) const {
    unsigned here;
    const unsigned pixel = windows.find(row, col, here);
    const unsigned at = inside ? (sample * windows.p.pixels() + pixel) * s.units + unit : 0;
    const float value = g[at];
    return inside && code[at] == here ? value : 0.0f;
  }
};

// ConvOutputGradient reads the gradient of the output that came from an input position by a tap: NetLayer.outputGradient.
// A stride of 1, which most have, needs no division.
template <bool UNIT_STRIDE, class Gradient> struct ConvOutputGradient {
  Gradient g;
  ConvShape s;
  Divisor in_size, in_cols, units, kernel_cols, stride;
  __device__ __forceinline__ ConvOutputGradient(const Gradient &gradient, const ConvShape &shape)
      : g(gradient), s(shape), in_size(shape.in_rows * shape.in_cols), in_cols(shape.in_cols), units(shape.units),
        kernel_cols(shape.kernel_cols), stride(shape.stride) {}
  __device__ __forceinline__ float operator()(int position, int k) const {
    unsigned pixel, row, col, unit, tap_row, tap_col, row_rest = 0, col_rest = 0;
    const unsigned sample = in_size.divide(position, pixel);
    row = in_cols.divide(pixel, col);
    tap_row = kernel_cols.divide(units.divide(k, unit), tap_col);
    // A negative place wraps round to more than any output has.
    row += s.pad_top - tap_row;
    col += s.pad_left - tap_col;
    if (!UNIT_STRIDE) {
      row = stride.divide(row, row_rest);
      col = stride.divide(col, col_rest);
    }
    const bool inside = row_rest == 0 && col_rest == 0 && row < (unsigned)s.out_rows && col < (unsigned)s.out_cols;
    return g.read(inside, sample, row, col, unit);
  }
};

template <bool UNIT_STRIDE, class Gradient>
__device__ __forceinline__ void conv_input_gradient_tile(Quad *shared, float *dx, const Gradient &g, const float *params,
                                                         const float *mask, int batch, const ConvShape &s) {
  const ConvTile t;
  const int channels = s.channels, units = s.units, terms = s.kernel_rows * s.kernel_cols * units;
  const int rows = batch * s.in_rows * s.in_cols, across = tiles(channels, ConvTile::COLS);
  const int col0 = (int)blockIdx.x % across * ConvTile::COLS, row0 = (int)blockIdx.x / across * ConvTile::ROWS;
  const ConvOutputGradient<UNIT_STRIDE, Gradient> a(g, s);
  const auto b = [=](int channel, int k) {
    unsigned unit;
    const unsigned pixel = a.units.divide(k, unit);
    return params[(pixel * channels + channel) * units + unit];
  };
  float sum[ConvTile::THREAD_ROWS][4];
  fold_product<false, true, true>(sum, t, shared, a, row0, rows, b, col0, channels, terms, terms);

  const int col = col0 + t.col();
  const bool wide = channels % 4 == 0 && aligned(dx) && aligned(mask);
  UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i++) {
    const int row = row0 + t.row(i);
    if (row >= rows || col >= channels) continue;
    write_gradient(dx, mask, row * channels + col, channels - col, wide, sum[i]);
  }
}

template <class Gradient>
__device__ __forceinline__ void conv_input_gradient_of(Quad *shared, float *dx, const Gradient &g, const float *params, const float *mask,
                                                       long long stride, int batch, const ConvShape &s) {
  dx = trial(dx, stride), params = trial(params, stride), mask = trial_or_null(mask, stride);
  if (s.stride == 1)
    conv_input_gradient_tile<true>(shared, dx, g, params, mask, batch, s);
  else
    conv_input_gradient_tile<false>(shared, dx, g, params, mask, batch, s);
}

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_input_gradient(float *dx, const float *g, const float *params, const float *mask, long long stride, int batch, CONV_INTS) {
  __shared__ Quad shared[ConvTile::SHARED_QUADS];
  const ConvShape s = CONV_SHAPE;
  conv_input_gradient_of(shared, dx, OutputGradient{trial(g, stride), s}, params, mask, stride, batch, s);
}

// g is the gradient by the pooling's output, code its winners.
extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_pool_input_gradient(float *dx, const float *g, const unsigned *code, const float *params, const float *mask, long long stride,
                         int batch, CONV_INTS, POOL_INTS) {
  __shared__ Quad shared[ConvTile::SHARED_QUADS];
  const ConvShape s = CONV_SHAPE;
  const PoolShape p = POOL_SHAPE;
  const PooledOutputGradient gradient = {trial(g, stride), (const unsigned char *)trial(code, stride), s, Windows(p)};
  conv_input_gradient_of(shared, dx, gradient, params, mask, stride, batch, s);
}
