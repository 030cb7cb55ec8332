// host.hpp: the words of CUDA C for a C++ compiler, and what runs a kernel on the
// CPU. One fiber is one CUDA thread; __syncthreads() is where fibers take turns,
// so a block of threads goes from barrier to barrier.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
// One block runs at a time, so its shared memory may be static. All of it lies in
// one section, which is filled with NaNs before every block.
#define __shared__ static __attribute__((section("gpushared")))

struct Index3 { unsigned x, y, z; };
extern Index3 threadIdx, blockIdx, blockDim, gridDim;
void __syncthreads();

// Compiled with -ffp-contract=off, the operators round once each.
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
static inline float __int2float_rn(int a) { return static_cast<float>(a); }
static inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }

namespace host {

// Order is the order in which the threads of a block run between two barriers.
enum class Order { forward, backward, shuffled };

// Outcome says how a launch ended, and in words what was wrong.
enum class Outcome { ok, bad_address, bad_barrier };

// Call is a kernel with its arguments.
struct Call {
  std::function<void()> thread; // what one thread runs
  void *output;                 // the first pointer that the kernel may write through, or null
};

// run runs the kernel for every thread of every block.
Outcome run(Index3 grid, Index3 block, Order, const Call &, std::string &what);

// A Slot becomes whatever type a kernel's parameter has. A call with Slots finds the
// kernel even where function templates have its name too, which its address would not.
struct Slot {
  const std::uint64_t *at;
  template <class T> operator T() const {
    static_assert(sizeof(T) <= sizeof *at);
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
};

// Written becomes a pointer that one may write through, and nothing else.
struct Written {
  template <class T, class = std::enable_if_t<!std::is_const_v<T>>> operator T *() const;
};

template <class T, std::size_t> using Repeat = T;

template <class F, std::size_t... I> constexpr bool takes(std::index_sequence<I...>) { return std::is_invocable_v<F, Repeat<Slot, I>...>; }

template <class F, std::size_t N = 0> constexpr std::size_t parameters() {
  if constexpr (takes<F>(std::make_index_sequence<N>()))
    return N;
  else
    return parameters<F, N + 1>();
}

template <class F, std::size_t AT, std::size_t... I> constexpr bool writes(std::index_sequence<I...>) {
  return std::is_invocable_v<F, std::conditional_t<I == AT, Written, Slot>...>;
}

template <class F, std::size_t... I> Call bind(F kernel, void **arguments, std::index_sequence<I...> all) {
  std::array<std::uint64_t, sizeof...(I)> slots;
  ((void)std::memcpy(&slots[I], arguments[I], sizeof slots[I]), ...);
  std::uint64_t output = 0;
  ((output = output == 0 && writes<F, I>(all) ? slots[I] : output), ...);
  return {[kernel, slots] { kernel(Slot{&slots[I]}...); }, reinterpret_cast<void *>(output)};
}

// bind takes the arguments now, as a launch does; each pointer leads to one, in a
// slot of 8 bytes. F calls the kernel with what it is called with.
template <class F> Call bind(F kernel, void **arguments) {
  return bind(kernel, arguments, std::make_index_sequence<parameters<F>()>());
}

} // namespace host
