// convForward of nn/plain_layers.go with its activation and the pooling behind it: the convolution's own output stays in
// the block. A tile has whole windows: its rows are windows by their elements, in (row, column) order. Positions in no
// window are not worked out. blockIdx.x = (tile of windows, unit tile).
#include "conv.cuh"
#include "pool.cuh"

// PooledOutput writes winners: y and code, a byte each, are [window of all samples][unit].
struct PooledOutput {
  float *y;
  unsigned char *code;
  int units;
  bool wide;
  __device__ __forceinline__ void write(int window, int unit, const Winners &w) const {
    const int at = window * units + unit, count = units - unit;
    if (count <= 0) return;
    write_quad(y + at, count, wide, w.best);
    if (units % 4 == 0) { // code begins at a word
      *(unsigned *)(code + at) = w.code[0] | w.code[1] << 8 | w.code[2] << 16 | w.code[3] << 24;
      return;
    }
    UNROLL for (int j = 0; j < 4; j++)
      if (j < count) code[at + j] = w.code[j];
  }
};

constexpr int POOLED_QUADS = ConvTile::ROWS * ConvTile::COLS / 4; // a tile of outputs
static_assert(POOLED_QUADS >= ConvTile::SHARED_QUADS, "the fold and its outputs share the memory of the larger");

template <bool ALONG_TAPS>
__device__ __forceinline__ void conv_pool_forward_tile(Quad *shared, const PooledOutput &out, const float *x, const float *params,
                                                       int batch, const ConvShape &s, int relu, const PoolShape &p) {
  const ConvTile t;
  const int size = p.area(), most = ConvTile::ROWS / size, across = tiles(s.units, ConvTile::COLS);
  const int col0 = (int)blockIdx.x % across * ConvTile::COLS, window0 = (int)blockIdx.x / across * most;
  const int windows = least(batch * p.pixels() - window0, most);
  const ConvInput input(s);
  const Divisor area(size), pixels(p.pixels()), pool_cols(p.cols), window_cols(p.window_cols);
  const auto patch = [=](int i) -> Patch {
    unsigned element, pixel, col, in_col;
    const unsigned window = area.divide(i, element), sample = pixels.divide(window0 + window, pixel);
    const unsigned row = pool_cols.divide(pixel, col), in_row = window_cols.divide(element, in_col);
    return {(int)sample, input.position(row * p.window_rows + in_row, col * p.window_cols + in_col)};
  };
  float sum[ConvTile::THREAD_ROWS][4];
  conv_product<ALONG_TAPS>(sum, t, shared, x, params, input, patch, 0, windows * size, col0, relu);

  const auto row = [&](int i) -> Quad { return {{sum[i][0], sum[i][1], sum[i][2], sum[i][3]}}; };
  if (size == 4) { // a thread's runs of four rows are whole windows
    UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i += 4) {
      Winners w(row(i));
      UNROLL for (int j = 1; j < 4; j++) w.meet(row(i + j), j);
      const int window = t.row(i) / 4;
      if (window < windows) out.write(window0 + window, col0 + t.col(), w);
    }
    return;
  }
  constexpr int PITCH = ConvTile::COLS / 4;
  __syncthreads(); // all have done with the fold's last slice
  UNROLL for (int i = 0; i < ConvTile::THREAD_ROWS; i++) shared[t.row(i) * PITCH + t.col() / 4] = row(i);
  __syncthreads();
  for (int e = t.thread; e < windows * PITCH; e += ConvTile::THREADS) {
    const int window = e / PITCH, quad = e % PITCH;
    const Quad *const values = shared + window * size * PITCH + quad;
    Winners w(values[0]);
    for (int i = 1; i < size; i++) w.meet(values[i * PITCH], i);
    out.write(window0 + window, col0 + quad * 4, w);
  }
}

extern "C" __global__ void __launch_bounds__(ConvTile::THREADS)
conv_pool_forward(float *y, unsigned *code, const float *x, const float *params, long long stride, int batch, CONV_INTS, int relu,
                  POOL_INTS) {
  __shared__ Quad shared[POOLED_QUADS];
  y = trial(y, stride), code = trial(code, stride), x = trial(x, stride), params = trial(params, stride);
  const ConvShape s = CONV_SHAPE;
  const PoolShape p = POOL_SHAPE;
  const PooledOutput out = {y, (unsigned char *)code, units, units % 4 == 0 && aligned(y)};
  if (s.channels >= ConvTile::SLICE)
    conv_pool_forward_tile<true>(shared, out, x, params, batch, s, relu, p);
  else
    conv_pool_forward_tile<false>(shared, out, x, params, batch, s, relu, p);
}
