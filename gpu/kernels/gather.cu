// A step's batch as the input layer's activations: the samples that index names, each byte/255 by one division (pixel in
// nn/plain.go).
#include "optimizer.cuh"

extern "C" __global__ void __launch_bounds__(256)
gather(float *x, long long stride, const unsigned char *pixels, const int *index, const int *base, int offset, int steps, int batch,
       int size) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= batch * size) return;
  const int sample = i / size;
  index += ((long long)blockIdx.z * steps + step_of(base, offset)) * batch;
  const unsigned byte = pixels[(long long)index[sample] * size + (i - sample * size)];
  trial(x, stride)[i] = __fdiv_rn(__uint2float_rn(byte), 255.0f);
}
