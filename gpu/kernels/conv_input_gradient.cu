// convInputGradient of nn/plain_layers.go: rows are all samples' input positions, columns the input channels, the fold
// runs over (kernel row, kernel column, output channel). blockIdx.x = (position tile, channel tile).
#include "conv.cuh"

// ConvOutputGradient reads the gradient of the output that came from an input position by a tap: NetLayer.outputGradient.
// A stride of 1, which most have, needs no division.
template <bool UNIT_STRIDE> struct ConvOutputGradient {
  const float *g;
  ConvShape s;
  Divisor in_size, in_cols, units, kernel_cols, stride;
  __device__ __forceinline__ ConvOutputGradient(const float *gradient, const ConvShape &shape)
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
    const float value = g[inside ? ((sample * s.out_rows + row) * s.out_cols + col) * s.units + unit : 0];
    return inside ? value : 0.0f;
  }
};

template <bool UNIT_STRIDE>
__device__ __forceinline__ void conv_input_gradient_tile(Quad *shared, float *dx, const float *g, const float *params, const float *mask,
                                                         int batch, const ConvShape &s) {
  const ConvTile t;
  const int channels = s.channels, units = s.units, terms = s.kernel_rows * s.kernel_cols * units;
  const int rows = batch * s.in_rows * s.in_cols, across = tiles(channels, ConvTile::COLS);
  const int col0 = (int)blockIdx.x % across * ConvTile::COLS, row0 = (int)blockIdx.x / across * ConvTile::ROWS;
  const ConvOutputGradient<UNIT_STRIDE> a(g, s);
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

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_input_gradient(float *dx, const float *g, const float *params, const float *mask, long long stride, int batch, CONV_INTS) {
  __shared__ Quad shared[ConvTile::SHARED_QUADS];
  dx = trial(dx, stride), g = trial(g, stride), params = trial(params, stride), mask = trial_or_null(mask, stride);
  const ConvShape s = CONV_SHAPE;
  if (s.stride == 1)
    conv_input_gradient_tile<true>(shared, dx, g, params, mask, batch, s);
  else
    conv_input_gradient_tile<false>(shared, dx, g, params, mask, batch, s);
}
