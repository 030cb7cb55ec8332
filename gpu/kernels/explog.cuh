// explog.cuh: exp and log by the very operations of nn/explog.go, where they are explained. Their coefficients, order and
// roundings are consensus.
#pragma once
#include "dev.cuh"

constexpr float LOG2_E = 0x1.715476p+0f, LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f, RINT_ADD = 0x1.8p+23f;

__device__ __forceinline__ float exp_of(float x) {
  if (x < -104.0f) return 0.0f;
  if (x > 88.72284f) return float_of(0x7f800000);
  if (x != x) return x;
  const float t = __fmaf_rn(x, LOG2_E, RINT_ADD);
  const int n = (int)(bits_of(t) - bits_of(RINT_ADD));
  const float nf = __fsub_rn(t, RINT_ADD);
  float r = __fmaf_rn(nf, -LN2_HIGH, x);
  r = __fmaf_rn(nf, -LN2_LOW, r);
  float q = __fmaf_rn(0x1.6ac74ep-10f, r, 0x1.123dep-7f);
  q = __fmaf_rn(q, r, 0x1.555858p-5f);
  q = __fmaf_rn(q, r, 0x1.55548cp-3f);
  q = __fmaf_rn(q, r, 0x1.fffffcp-2f);
  float p = __fadd_rn(__fmaf_rn(q, __fmul_rn(r, r), r), 1.0f);
  const int half = n >> 1;
  p = __fmul_rn(p, float_of((unsigned)(half + 127) << 23));
  return __fmul_rn(p, float_of((unsigned)(n - half + 127) << 23));
}

__device__ __forceinline__ float log_of(float x) {
  if (x != x) return x;
  const int u = (int)bits_of(x);
  const int e = (int)((unsigned)u - 0x3f3504f3u) >> 23; // wraps round as in Go
  const float f = __fsub_rn(float_of((unsigned)u - ((unsigned)e << 23)), 1.0f);
  const float ef = __int2float_rn(e);
  float q = __fmaf_rn(0x1.14579cp-4f, f, -0x1.de4046p-4f);
  q = __fmaf_rn(q, f, 0x1.e6f2aep-4f);
  q = __fmaf_rn(q, f, -0x1.fc218ep-4f);
  q = __fmaf_rn(q, f, 0x1.23373cp-3f);
  q = __fmaf_rn(q, f, -0x1.555c4ep-3f);
  q = __fmaf_rn(q, f, 0x1.99a4b8p-3f);
  q = __fmaf_rn(q, f, -0x1.000006p-2f);
  q = __fmaf_rn(q, f, 0x1.555548p-2f);
  float g = __fmaf_rn(q, f, -0.5f);
  g = __fmaf_rn(ef, LN2_LOW, __fmul_rn(g, __fmul_rn(f, f)));
  return __fmaf_rn(ef, LN2_HIGH, __fadd_rn(f, g));
}
