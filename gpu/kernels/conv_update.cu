// convWeightGradient of nn/plain_layers.go, its second pass, with the optimizer's step: the parts are added in order of
// (sample, block). Where memory holds only some samples' parts, sum carries on from one launch to the next.
#include "optimizer.cuh"

template <class Optimizer>
__device__ __forceinline__ void conv_update(float *w, float *m, float *v, float *sum, const float *part, long long stride, int parts,
                                            int count, int first, int last, const float *consts, int step) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= count) return;
  part = trial(part, stride) + i;
  sum = trial(sum, stride) + i;
  float total = first ? *part : *sum;
  int p = first ? 1 : 0;
  // Reads in batches: their delay, not the sum, is what takes time.
  constexpr int AT_ONCE = 16;
  for (; p + AT_ONCE <= parts; p += AT_ONCE) {
    float next[AT_ONCE];
    UNROLL for (int j = 0; j < AT_ONCE; j++) next[j] = part[(long long)(p + j) * count];
    UNROLL for (int j = 0; j < AT_ONCE; j++) total = __fadd_rn(total, next[j]);
  }
  for (; p < parts; p++) total = __fadd_rn(total, part[(long long)p * count]);
  if (!last) {
    *sum = total;
    return;
  }
  w = trial(w, stride) + i;
  m = trial(m, stride) + i;
  float wi = *w, mi = *m, vi = 0.0f;
  if (Optimizer::HAS_SECOND) {
    v = trial(v, stride) + i;
    vi = *v;
  }
  Optimizer(consts, step).update(wi, mi, vi, total);
  *w = wi;
  *m = mi;
  if (Optimizer::HAS_SECOND) *v = vi;
}

extern "C" __global__ void __launch_bounds__(256)
conv_update_adam(float *w, float *m, float *v, float *sum, const float *part, long long stride, int parts, int count, int first, int last,
                 const float *consts, const int *base, int offset) {
  conv_update<Adam>(w, m, v, sum, part, stride, parts, count, first, last, consts, step_of(base, offset));
}

extern "C" __global__ void __launch_bounds__(256)
conv_update_sgd(float *w, float *m, float *sum, const float *part, long long stride, int parts, int count, int first, int last,
                const float *consts, const int *base, int offset) {
  conv_update<SGD>(w, m, nullptr, sum, part, stride, parts, count, first, last, consts, step_of(base, offset));
}
