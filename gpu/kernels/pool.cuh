// pool.cuh: max pooling, by itself and behind a convolution. Windows lie side by side, so an input is in one at most.
#pragma once
#include "dev.cuh"

// Winners are the best of windows of four neighbouring channels: each starts as the window's first element in (row,
// column) order and is replaced if and only if a later one is greater; code is its index in that order.
struct Winners {
  Quad best;
  unsigned code[4];
  __device__ __forceinline__ explicit Winners(const Quad &first) : best(first), code{0, 0, 0, 0} {}
  __device__ __forceinline__ void meet(const Quad &q, int index) {
    UNROLL for (int j = 0; j < 4; j++) {
      if (q.v[j] > best.v[j]) {
        best.v[j] = q.v[j];
        code[j] = index;
      }
    }
  }
};

// PoolShape is the output of a pooling and its window.
struct PoolShape {
  int rows, cols, window_rows, window_cols;
  __device__ __forceinline__ int area() const { return window_rows * window_cols; }
  __device__ __forceinline__ int pixels() const { return rows * cols; }
};

// POOL_INTS are the arguments behind PoolShape, in the order of its fields.
#define POOL_INTS int pool_rows, int pool_cols, int window_rows, int window_cols
#define POOL_SHAPE \
  { pool_rows, pool_cols, window_rows, window_cols }

// NO_CODE is the code of no winner: codes of a convolution's pooling are bytes, of windows of 128 elements at most.
constexpr unsigned NO_CODE = 255;

// Windows finds the window that an input position lies in.
struct Windows {
  PoolShape p;
  Divisor rows, cols;
  __device__ __forceinline__ explicit Windows(const PoolShape &shape) : p(shape), rows(shape.window_rows), cols(shape.window_cols) {}
  // find gives the window's pixel in the output and the position's code in the window; pixel 0 and NO_CODE if in none.
  __device__ __forceinline__ unsigned find(unsigned row, unsigned col, unsigned &code) const {
    unsigned r, c;
    row = rows.divide(row, r);
    col = cols.divide(col, c);
    const bool inside = row < (unsigned)p.rows && col < (unsigned)p.cols;
    code = inside ? r * p.window_cols + c : NO_CODE;
    return inside ? row * p.cols + col : 0;
  }
};
