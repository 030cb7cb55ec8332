// dense.cuh: what is left of a dense layer's output when dense_forward has made its blocks.
#pragma once
#include "dev.cuh"

// dense_output is value i of [batch][units], count in all: the blocks in part[blocks][batch][units] added in order, then
// the bias, then the activation.
__device__ __forceinline__ float dense_output(const float *part, int i, int count, int blocks, float bias, int relu) {
  float sum = part[i];
  for (int block = 1; block < blocks; block++) sum = __fadd_rn(sum, part[(long long)block * count + i]);
  sum = __fadd_rn(sum, bias);
  return relu ? relu_mask(sum, sum) : sum;
}
