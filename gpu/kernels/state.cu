// The model states of trials: all start as one, and each ends in its optimizer's scalars.
#include "dev.cuh"

extern "C" __global__ void __launch_bounds__(256)
copy_state(float *state, const float *start, long long stride, int words) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < words) trial(state, stride)[i] = start[i];
}

// set_scalars writes the first count (0 to 4) of a, b, c, d.
extern "C" __global__ void __launch_bounds__(1)
set_scalars(unsigned *words, long long stride, int count, unsigned a, unsigned b, unsigned c, unsigned d) {
  words = trial(words, stride);
  if (count > 0) words[0] = a;
  if (count > 1) words[1] = b;
  if (count > 2) words[2] = c;
  if (count > 3) words[3] = d;
}
