// optimizer.cuh: AdamStep.update and Optimizer.sgd of nn/optimizer.go, for one parameter. The numbers of the step at
// hand are a row of consts, which the host works out for all steps.
#pragma once
#include "dev.cuh"

// step_of is the step at hand: base is advanced between the replays of a recorded run of launches, offset is the
// launch's place in it.
__device__ __forceinline__ int step_of(const int *base, int offset) { return *base + offset; }

// MOMENT_CUT is nn's momentCut: a moment of lesser magnitude becomes +0.
constexpr float MOMENT_CUT = 0x1p-96f;

struct Adam {
  static constexpr bool HAS_SECOND = true;
  float one_minus_beta1, one_minus_beta2, alpha, epsilon;
  __device__ __forceinline__ Adam(const float *consts, int step)
      : one_minus_beta1(consts[4 * step]), one_minus_beta2(consts[4 * step + 1]), alpha(consts[4 * step + 2]),
        epsilon(consts[4 * step + 3]) {}
  __device__ __forceinline__ void update(float &w, float &m, float &v, float g) const {
    m = __fadd_rn(m, __fmul_rn(__fsub_rn(g, m), one_minus_beta1));
    v = __fadd_rn(v, __fmul_rn(__fsub_rn(__fmul_rn(g, g), v), one_minus_beta2));
    if (m < MOMENT_CUT && m > -MOMENT_CUT) m = 0.0f;
    if (v < MOMENT_CUT) v = 0.0f;
    w = __fsub_rn(w, __fdiv_rn(__fmul_rn(m, alpha), __fadd_rn(__fsqrt_rn(v), epsilon)));
  }
};

struct SGD {
  static constexpr bool HAS_SECOND = false;
  float momentum, learning_rate;
  __device__ __forceinline__ SGD(const float *consts, int step) : momentum(consts[4 * step]), learning_rate(consts[4 * step + 1]) {}
  __device__ __forceinline__ void update(float &w, float &u, float &, float g) const {
    u = __fsub_rn(__fmul_rn(u, momentum), __fmul_rn(g, learning_rate));
    if (u < MOMENT_CUT && u > -MOMENT_CUT) u = 0.0f;
    w = __fadd_rn(w, u);
  }
};
