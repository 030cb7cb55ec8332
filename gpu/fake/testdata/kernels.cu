// Kernels with mistakes, which the fake must show.
#include "../host.hpp"

// rotate takes from a neighbour what that has put into shared memory.
extern "C" __global__ void rotate(unsigned *out) {
  __shared__ unsigned given[32];
  given[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = given[(threadIdx.x + 1) % 32];
}

extern "C" __global__ void rotate_without_barrier(unsigned *out) {
  __shared__ unsigned given[32];
  given[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = given[(threadIdx.x + 1) % 32];
}

// rotate_some has a barrier to which half of the threads do not come.
extern "C" __global__ void rotate_some(unsigned *out) {
  __shared__ unsigned given[32];
  if (threadIdx.x < 16) return;
  given[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = given[16 + (threadIdx.x + 1) % 16];
}

extern "C" __global__ void write_word(unsigned *out, long long at) { out[at] = 1; }
