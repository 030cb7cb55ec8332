// sampleLoss of nn/loss.go, one block of 32 threads for a sample, and the mean over a batch.
#include "explog.cuh"
#include "fold.cuh"
#include "optimizer.cuh"

constexpr int MAX_OUTPUTS = 256; // nn.Model.Build allows no more: a fold over outputs is one chain
constexpr int LOSS_THREADS = 32;

enum LossKind { SOFTMAX_CROSS_ENTROPY = 1, MEAN_SQUARED_ERROR = 2 }; // the numbers of nn.LossKind

// The outputs' work is shared out; what goes in order (the greatest output, the folds) every thread does for itself from
// shared memory. Adding is folding with ones: fma(e, 1, acc) is e + acc.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
loss(const float *z, float *g, float *losses, float *logits, long long stride, const unsigned char *labels, const int *index,
     const int *base, int offset, int steps, int batch, int outputs, int kind, int relu, float scale) {
  __shared__ float zs[MAX_OUTPUTS];
  __shared__ float terms[MAX_OUTPUTS]; // exp(z - m), or d*d
  const int sample = blockIdx.x, step = step_of(base, offset);
  const long long record = (long long)step * batch + sample; // in losses and, per output, in logits
  z = trial(z, stride) + sample * outputs;
  logits = trial(logits, stride) + record * outputs;
  const int label = labels[index[(long long)blockIdx.z * steps * batch + record]];
  if (g) g = trial(g, stride) + sample * outputs;

  for (int j = threadIdx.x; j < outputs; j += LOSS_THREADS) {
    const float value = z[j];
    zs[j] = value;
    logits[j] = value;
    if (kind == MEAN_SQUARED_ERROR) {
      const float d = __fsub_rn(value, j == label ? 1.0f : 0.0f);
      terms[j] = __fmul_rn(d, d);
      if (g) {
        const float dz = __fmul_rn(__fadd_rn(d, d), scale);
        g[j] = relu ? relu_mask(dz, value) : dz;
      }
    }
  }
  __syncthreads();
  float greatest = zs[0];
  if (kind == SOFTMAX_CROSS_ENTROPY) {
    for (int j = 1; j < outputs; j++) greatest = zs[j] > greatest ? zs[j] : greatest;
    for (int j = threadIdx.x; j < outputs; j += LOSS_THREADS) terms[j] = exp_of(__fsub_rn(zs[j], greatest));
    __syncthreads();
  }
  float sum = 0.0f;
  for (int j = 0; j < outputs; j++) sum = __fadd_rn(sum, terms[j]);
  if (kind == SOFTMAX_CROSS_ENTROPY && g) {
    for (int j = threadIdx.x; j < outputs; j += LOSS_THREADS) {
      const float dz = __fmul_rn(__fsub_rn(__fdiv_rn(terms[j], sum), j == label ? 1.0f : 0.0f), scale);
      g[j] = relu ? relu_mask(dz, zs[j]) : dz;
    }
  }
  if (threadIdx.x == 0) {
    trial(losses, stride)[record] = kind == SOFTMAX_CROSS_ENTROPY ? __fsub_rn(log_of(sum), __fsub_rn(zs[label], greatest))
                                                                   : __fdiv_rn(sum, __int2float_rn(outputs));
  }
}

// mean[step] = fold of the step's losses with ones, divided by their number.
extern "C" __global__ void __launch_bounds__(32)
mean_losses(float *mean, const float *losses, long long stride, int steps, int batch) {
  const int step = blockIdx.x * 32 + threadIdx.x;
  if (step >= steps) return;
  losses = trial(losses, stride) + (long long)step * batch;
  float total = 0.0f;
  for (int first = 0; first < batch; first += FOLD_BLOCK) {
    float acc = 0.0f;
    for (int i = first; i < least(first + FOLD_BLOCK, batch); i++) acc = __fadd_rn(acc, losses[i]);
    total = first == 0 ? acc : __fadd_rn(total, acc);
  }
  trial(mean, stride)[step] = __fdiv_rn(total, __int2float_rn(batch));
}
