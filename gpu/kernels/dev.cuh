// dev.cuh: the few words of CUDA C that the kernels use, for three compilers:
//   nvcc           has them built in;
//   clang, NVPTX   without the CUDA SDK: attributes and NVVM builtins (-nocudainc -nocudalib), this is what ships;
//   host C++17     no GPU at all, for tests: ../fake/host.hpp.
#pragma once
#if defined(__NVCC__)
  #define UNROLL _Pragma("unroll")
  #define KEEP_APART
#elif defined(__NVPTX__)
  #define UNROLL _Pragma("unroll")
  // Behind a wide access: clang would merge parts of it with those of the narrow branch. It is no instruction.
  #define KEEP_APART asm volatile("")
  #define __global__ __attribute__((global))
  #define __device__ __attribute__((device))
  #define __shared__ __attribute__((shared))
  #define __forceinline__ inline __attribute__((always_inline))
  #define __launch_bounds__(n) __attribute__((launch_bounds(n)))
  namespace dev {
    struct ThreadIdx {
      __declspec(property(get = get_x)) unsigned x;
      static __device__ __forceinline__ unsigned get_x() { return __nvvm_read_ptx_sreg_tid_x(); }
    };
    struct BlockIdx {
      __declspec(property(get = get_x)) unsigned x;
      __declspec(property(get = get_z)) unsigned z;
      static __device__ __forceinline__ unsigned get_x() { return __nvvm_read_ptx_sreg_ctaid_x(); }
      static __device__ __forceinline__ unsigned get_z() { return __nvvm_read_ptx_sreg_ctaid_z(); }
    };
  }
  extern const __device__ __attribute__((weak)) dev::ThreadIdx threadIdx;
  extern const __device__ __attribute__((weak)) dev::BlockIdx blockIdx;
  // __syncthreads() is a builtin of clang for NVPTX.
  #define __fmaf_rn(a, b, c) __nvvm_fma_rn_f(a, b, c)
  #define __fmul_rn(a, b) __nvvm_mul_rn_f(a, b)
  #define __fadd_rn(a, b) __nvvm_add_rn_f(a, b)
  #define __fsub_rn(a, b) __nvvm_add_rn_f(a, -(b)) // the same bits for all but NaN: negation is exact
  #define __fdiv_rn(a, b) __nvvm_div_rn_f(a, b)
  #define __fsqrt_rn(a) __nvvm_sqrt_rn_f(a)
  #define __int2float_rn(a) __nvvm_i2f_rn(a)
  #define __uint2float_rn(a) __nvvm_ui2f_rn(a)
#else
  #define UNROLL
  #define KEEP_APART
  #include "../fake/host.hpp"
#endif

// Every float operation of the kernels is one of the intrinsics above, so that no compiler may contract, reorder or
// approximate it. Floats are compared by <, > alone and chosen by ?:, as nn does; min and max treat NaN otherwise.

// The limits of a model (nn.MaxParams, nn.MaxBatchValues) keep the index of any parameter and of any activation of a
// batch below 2^31: those are int. What lies beyond (strides, data sets, what all steps leave behind) is long long.

// trial moves a pointer of trial 0 to this block's trial, stride words on for each.
template <class T> __device__ __forceinline__ T *trial(T *p, long long stride) { return p + stride * (long long)blockIdx.z; }

// trial_or_null is trial for a pointer that may be null, and stays null.
template <class T> __device__ __forceinline__ T *trial_or_null(T *p, long long stride) { return p ? trial(p, stride) : p; }

__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }

__device__ __forceinline__ unsigned bits_of(float x) {
  union { float f; unsigned u; } v;
  v.f = x;
  return v.u;
}

__device__ __forceinline__ float float_of(unsigned x) {
  union { float f; unsigned u; } v;
  v.u = x;
  return v.f;
}

// relu_mask passes the gradient g where the activation is > 0.
__device__ __forceinline__ float relu_mask(float g, float activation) { return activation > 0.0f ? g : 0.0f; }

// Divisor divides many numbers by one: multiply by a reciprocal rounded down, which is short by at most one, then correct.
struct Divisor {
  unsigned by, reciprocal;
  __device__ __forceinline__ explicit Divisor(int n) : by(n), reciprocal(0xffffffffu / (unsigned)n) {}
  __device__ __forceinline__ unsigned divide(unsigned n, unsigned &rest) const {
    unsigned q = (unsigned)((unsigned long long)n * reciprocal >> 32);
    rest = n - q * by;
    if (rest >= by) {
      rest -= by;
      q++;
    }
    return q;
  }
};

// Quad is four neighbouring floats. It moves as one access where its address is a multiple of 16.
struct alignas(16) Quad { float v[4]; };

__device__ __forceinline__ bool aligned(const void *p) { return ((unsigned long long)p & 15) == 0; }

// read_quad takes the first count floats of the four at p, the rest are of no meaning; as one access if wide, for which p
// must be aligned and count at least 4. In the narrow way the last float is read again instead of a branch.
__device__ __forceinline__ Quad read_quad(const float *p, int count, bool wide) {
  if (wide) {
    const Quad q = *(const Quad *)p;
    KEEP_APART;
    return q;
  }
  Quad q;
  UNROLL for (int j = 0; j < 4; j++) q.v[j] = p[least(j, count - 1)];
  return q;
}

__device__ __forceinline__ void write_quad(float *p, int count, bool wide, const Quad &q) {
  if (wide) {
    *(Quad *)p = q;
    KEEP_APART;
    return;
  }
  UNROLL for (int j = 0; j < 4; j++)
    if (j < count) p[j] = q.v[j];
}
