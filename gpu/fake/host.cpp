//go:build ignore

#include "host.hpp"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

Index3 threadIdx, blockIdx, blockDim, gridDim;

// The linker's names for where the section of shared memory begins and ends. The
// byte makes it exist where no kernel has any.
extern "C" char __start_gpushared[], __stop_gpushared[];
__attribute__((section("gpushared"), used)) static char shared_anchor;

// host_switch saves the registers that a function must keep and the stack pointer,
// and goes on where another fiber, or the scheduler, stopped.
extern "C" void host_switch(void **save, void *load);
#if defined(__x86_64__)
constexpr int kSavedWords = 6, kReturnWord = 6;
__asm__(".text\n.hidden host_switch\n.globl host_switch\nhost_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");
#elif defined(__aarch64__)
constexpr int kSavedWords = 20, kReturnWord = 11;
__asm__(".text\n.hidden host_switch\n.globl host_switch\nhost_switch:\n"
        "sub sp, sp, #160\n"
        "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
        "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\n"
        "stp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
        "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
        "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\n"
        "ldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\nret\n");
#else
#error "host_switch is not written for this processor"
#endif

namespace {

constexpr std::size_t kStackBytes = 64 << 10, kGuardBytes = 64 << 10;

struct Fiber {
  void *stack, *sp;
  Index3 index;
  bool done;
};

std::vector<Fiber> fibers;
std::vector<void *> stacks; // that no fiber uses
std::vector<std::size_t> sequence; // in which the block's threads run
std::mt19937 random_bits;
void *scheduler;
Fiber *current;
const std::function<void()> *body;
thread_local sigjmp_buf *rescue; // set while a kernel runs on this thread
void *fault_address;

// new_stack returns the low end of a stack that faults where it is overrun.
void *new_stack() {
  char *p = static_cast<char *>(mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (p == MAP_FAILED || mprotect(p, kGuardBytes, PROT_NONE) != 0) {
    std::perror("fake cuda: stack");
    std::abort();
  }
  return p + kGuardBytes;
}

void enter() {
  (*body)();
  current->done = true;
  host_switch(&current->sp, scheduler);
  std::abort();
}

// start gives a fiber a stack. A kernel without barriers ends each fiber before
// the next starts, so that one warm stack serves all.
void start(Fiber &f, std::size_t number) {
  if (stacks.empty()) stacks.push_back(new_stack());
  f.stack = stacks.back();
  stacks.pop_back();
  // Tops of stacks that were alike would all compete for the same cache lines.
  auto top = reinterpret_cast<std::uintptr_t>(f.stack) + kStackBytes - number % 32 * 192;
  auto word = reinterpret_cast<void **>(top & ~std::uintptr_t(15));
#if defined(__x86_64__)
  word -= kSavedWords + 2; // below the address that enter, which does not return, would return to
#else
  word -= kSavedWords;
#endif
  std::memset(word, 0, sizeof *word * kSavedWords);
  word[kReturnWord] = reinterpret_cast<void *>(enter);
  f.sp = word;
}

void on_fault(int signal, siginfo_t *info, void *context);

struct sigaction fault_action_before[2];
constexpr int kFaultSignals[2] = {SIGSEGV, SIGBUS};

void catch_faults() {
  static const bool once = [] {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 2; i++) sigaction(kFaultSignals[i], &action, &fault_action_before[i]);
    return true;
  }();
  (void)once;
}

void on_fault(int signal, siginfo_t *info, void *context) {
  if (rescue) {
    fault_address = info->si_addr;
    siglongjmp(*rescue, 1);
  }
  // Not ours: to whoever had it before, who is there in a Go program.
  const struct sigaction &before = fault_action_before[signal == kFaultSignals[1]];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else {
    sigaction(signal, &before, nullptr); // and the instruction faults again
  }
}

// run_block takes the block's threads from barrier to barrier. It returns false if
// some came to a barrier and others to the end.
bool run_block(std::size_t threads, host::Order order) {
  std::memset(__start_gpushared, 0xff, __stop_gpushared - __start_gpushared);
  for (std::size_t i = 0; i < threads; i++) {
    fibers[i].stack = nullptr;
    fibers[i].done = false;
    fibers[i].index = {unsigned(i % blockDim.x), unsigned(i / blockDim.x % blockDim.y), unsigned(i / blockDim.x / blockDim.y)};
  }
  for (std::size_t ended = 0; ended == 0;) {
    if (order == host::Order::shuffled) std::shuffle(sequence.begin(), sequence.end(), random_bits);
    for (std::size_t i : sequence) {
      current = &fibers[i];
      if (!current->stack) start(*current, i);
      threadIdx = current->index;
      host_switch(&scheduler, current->sp);
      if (current->done) {
        stacks.push_back(current->stack);
        ended++;
      }
    }
    if (ended && ended != threads) return false;
  }
  return true;
}

bool run_grid(host::Order order) {
  const std::size_t threads = std::size_t(blockDim.x) * blockDim.y * blockDim.z;
  if (fibers.size() < threads) fibers.resize(threads);
  sequence.resize(threads);
  for (std::size_t i = 0; i < threads; i++) sequence[i] = order == host::Order::backward ? threads - 1 - i : i;
  random_bits.seed(1);
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x; x++) {
        blockIdx = {x, y, z};
        if (!run_block(threads, order)) return false;
      }
  return true;
}

} // namespace

void __syncthreads() { host_switch(&current->sp, scheduler); }

host::Outcome host::run(Index3 grid, Index3 block, Order order, const Call &call, std::string &what) {
  catch_faults();
  gridDim = grid, blockDim = block, body = &call.thread;
  Outcome outcome = Outcome::ok;
  sigjmp_buf here;
  if (sigsetjmp(here, 1) == 0) {
    rescue = &here;
    if (run_grid(order)) {
      rescue = nullptr;
      return Outcome::ok;
    }
    what = "a barrier that not every thread of the block comes to";
    outcome = Outcome::bad_barrier;
  } else {
    char text[160];
    std::snprintf(text, sizeof text, "bad address %p in block (%u, %u, %u), thread (%u, %u, %u)", fault_address, blockIdx.x, blockIdx.y,
                  blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    what = text;
    outcome = Outcome::bad_address;
  }
  rescue = nullptr;
  stacks.clear(); // some threads are still on theirs; such a launch is rare enough to lose them all
  return outcome;
}
