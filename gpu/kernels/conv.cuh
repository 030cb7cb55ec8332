// conv.cuh: the shape of a convolution and what its three products read.
#pragma once
#include "fold.cuh"

struct ConvShape {
  int in_rows, in_cols, channels, out_rows, out_cols, units, kernel_rows, kernel_cols, stride, pad_top, pad_left;
  __device__ __forceinline__ int taps() const { return kernel_rows * kernel_cols * channels; }
  __device__ __forceinline__ int positions() const { return out_rows * out_cols; }
};

// CONV_INTS are the arguments behind ConvShape, in the order of its fields.
#define CONV_INTS \
  int in_rows, int in_cols, int in_channels, int out_rows, int out_cols, int units, int kernel_rows, int kernel_cols, int conv_stride, \
      int pad_top, int pad_left
#define CONV_SHAPE \
  { in_rows, in_cols, in_channels, out_rows, out_cols, units, kernel_rows, kernel_cols, conv_stride, pad_top, pad_left }

// Many rows (positions or taps) by channels.
using ConvTile = Tile<128, 32, 8, 8>;

// A tap's place in a kernel, and an output position's in the input: rows and columns add up to the input's.
struct Place { int row, col, channel; };

// ConvInput reads the input that an output position and a tap meet: NetLayer.input of nn/plain_layers.go.
struct ConvInput {
  ConvShape s;
  Divisor channels, kernel_cols, out_cols;
  __device__ __forceinline__ explicit ConvInput(const ConvShape &shape)
      : s(shape), channels(shape.channels), kernel_cols(shape.kernel_cols), out_cols(shape.out_cols) {}
  __device__ __forceinline__ Place tap(int k) const {
    unsigned row, col, channel;
    const unsigned pixel = channels.divide(k, channel);
    row = kernel_cols.divide(pixel, col);
    return {(int)row, (int)col, (int)channel};
  }
  __device__ __forceinline__ Place position(int p) const {
    unsigned row, col;
    row = out_cols.divide(p, col);
    return position(row, col);
  }
  __device__ __forceinline__ Place position(int row, int col) const { return {row * s.stride - s.pad_top, col * s.stride - s.pad_left, 0}; }
  // read gives sample x at the position's tap, +0 outside. It reads x[0] there: a branch would cost more.
  __device__ __forceinline__ float read(const float *x, const Place &position, const Place &tap) const {
    const int row = position.row + tap.row, col = position.col + tap.col;
    const bool inside = (unsigned)row < (unsigned)s.in_rows && (unsigned)col < (unsigned)s.in_cols;
    const float value = x[inside ? (row * s.in_cols + col) * s.channels + tap.channel : 0];
    return inside ? value : 0.0f;
  }
};

// Patch is where an output's taps begin: a sample and a position's place in it.
struct Patch { int sample; Place place; };

// conv_product gives a thread its outputs, activated: sum[i][j] of row row0 + t.row(i), which patch places, and of unit
// col0 + t.col() + j. The fold runs over the taps (kernel row, kernel column, input channel).
template <bool ALONG_TAPS, class P>
__device__ __forceinline__ void conv_product(float (&sum)[ConvTile::THREAD_ROWS][4], const ConvTile &t, Quad *shared, const float *x,
                                             const float *params, const ConvInput &input, const P &patch, int row0, int rows, int col0,
                                             int relu) {
  const int size = input.s.in_rows * input.s.in_cols * input.s.channels, units = input.s.units, taps = input.s.taps();
  const auto a = [=](int row, int k) {
    const Patch p = patch(row);
    return input.read(x + p.sample * size, p.place, input.tap(k));
  };
  const auto b = [=](int unit, int k) { return params[k * units + unit]; };
  fold_product<false, ALONG_TAPS, false>(sum, t, shared, a, row0, rows, b, col0, units, taps, taps);

  const int col = col0 + t.col();
  if (col >= units) return;
  const Quad bias = read_quad(params + taps * units + col, units - col, false);
  UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i++)
    UNROLL for (int j = 0; j < 4; j++) {
      const float z = __fadd_rn(sum[i][j], bias.v[j]);
      sum[i][j] = relu ? relu_mask(z, z) : z;
    }
}
