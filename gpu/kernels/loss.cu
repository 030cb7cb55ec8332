// sampleLoss of nn/loss.go, one block of 32 threads for a sample, and the mean over a batch.
#include "dense.cuh"
#include "explog.cuh"
#include "fold.cuh"
#include "optimizer.cuh"

constexpr int MAX_OUTPUTS = 256; // nn.Model.Build allows no more: a fold over outputs is one chain
constexpr int LOSS_THREADS = 32;

enum LossKind { SOFTMAX_CROSS_ENTROPY = 1, MEAN_SQUARED_ERROR = 2 }; // the numbers of nn.LossKind

// Scratch is what a block shares: the sample's outputs, and exp(z - m) or d*d of each.
struct Scratch { float z[MAX_OUTPUTS], terms[MAX_OUTPUTS]; };

// Targets are the samples' labels and where the losses go: losses[steps][batch], logits[steps][batch][outputs].
struct Targets {
  float *losses, *logits;
  const unsigned char *labels;
  const int *index; // [trials][steps][batch]
  int step, steps, batch, outputs;
};

// The outputs' work is shared out; what goes in order (the greatest output, the folds) every thread does for itself from
// shared memory. Adding is folding with ones: fma(e, 1, acc) is e + acc. z(i) is value i of the outputs [batch][outputs].
template <class Z>
__device__ __forceinline__ void sample_loss(Scratch &shared, const Z &z, float *g, const Targets &to, long long stride, int kind, int relu,
                                            float scale) {
  float *const zs = shared.z, *const terms = shared.terms;
  const int sample = blockIdx.x, outputs = to.outputs;
  const long long record = (long long)to.step * to.batch + sample; // in losses and, per output, in logits
  float *const logits = trial(to.logits, stride) + record * outputs;
  const int label = to.labels[to.index[(long long)blockIdx.z * to.steps * to.batch + record]];
  if (g) g = trial(g, stride) + sample * outputs;

  for (int j = threadIdx.x; j < outputs; j += LOSS_THREADS) {
    const float value = z(sample * outputs + j);
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
    trial(to.losses, stride)[record] = kind == SOFTMAX_CROSS_ENTROPY ? __fsub_rn(log_of(sum), __fsub_rn(zs[label], greatest))
                                                                      : __fdiv_rn(sum, __int2float_rn(outputs));
  }
}

extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
loss(const float *z, float *g, float *losses, float *logits, long long stride, const unsigned char *labels, const int *index,
     const int *base, int offset, int steps, int batch, int outputs, int kind, int relu, float scale) {
  __shared__ Scratch shared;
  z = trial(z, stride);
  const Targets to = {losses, logits, labels, index, step_of(base, offset), steps, batch, outputs};
  sample_loss(shared, [=](int i) { return z[i]; }, g, to, stride, kind, relu, scale);
}

// dense_loss is dense_finish and loss in one, for a model whose last layer is dense. relu is that layer's activation.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS)
dense_loss(const float *part, const float *bias, float *g, float *losses, float *logits, long long stride, int blocks,
           const unsigned char *labels, const int *index, const int *base, int offset, int steps, int batch, int outputs, int kind,
           int relu, float scale) {
  __shared__ Scratch shared;
  part = trial(part, stride), bias = trial(bias, stride);
  const Targets to = {losses, logits, labels, index, step_of(base, offset), steps, batch, outputs};
  const auto z = [=](int i) { return dense_output(part, i, batch * outputs, blocks, bias[i % outputs], relu); };
  sample_loss(shared, z, g, to, stride, kind, relu, scale);
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
