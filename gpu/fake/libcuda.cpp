//go:build ignore

// libcuda.so.1 for tests: the functions of the CUDA driver that this project
// calls, on the CPU. The kernels are those of the project, compiled for the host.
//
// It is less forgiving than a driver. Work is queued and runs only when somebody
// waits for it, so a wait that is missing shows as wrong data. New memory and
// shared memory are full of NaNs, and a page that faults lies on both sides of an
// allocation. Asynchronous copies take page-locked memory alone.
//
// The environment, read when a device's context is made (the first two also when the driver is asked):
//   FAKECUDA_DEVICES   how many devices there are; 1 if unset
//   FAKECUDA_MEMORY    bytes of memory of each; 256 MiB if unset
//   FAKECUDA_ORDER     in which order the threads of a block run between two barriers: forward, backward or shuffled
//   FAKECUDA_FAIL      launch:N fails the N-th kernel from now on and breaks the context, alloc:N the N-th allocation
//   FAKECUDA_WRONG     N flips a bit of what the N-th kernel from now on has written
// The last two may end in @D for device D alone. Their count begins anew when the
// variable has changed, and each happens once.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "cuda.h"
#include "kernels.cu" // of the folder that build.sh names

extern "C" CUresult cuGraphInstantiateWithFlags(CUgraphExec *, CUgraph, unsigned long long); // newer than the header

#define API extern "C" __attribute__((visibility("default"))) CUresult

namespace {

struct Kernel {
  const char *name;
  host::Call (*bind)(void **);
};

const Kernel kernels[] = {
#define ENTRY(name)                                                                                   \
  {#name, [](void **arguments) {                                                                      \
     return host::bind([](auto... slots) -> decltype(name(slots...)) { name(slots...); }, arguments); \
   }},
#include "entries.h"
#undef ENTRY
};

struct Context;
using Work = std::function<CUresult(Context &)>;
using WorkList = std::vector<Work>;

struct Stream {
  Context *context;
  std::shared_ptr<WorkList> capture; // what is being recorded, if anything
  bool spoilt;                       // by a call that must not come while recording
};

struct Event {
  std::uint64_t turn; // of the queue, after which it has happened
};

// A graph and its executable form are the same here.
struct Graph {
  std::shared_ptr<const WorkList> work;
};

struct Module {
  std::string ptx;
};

struct Allocation {
  char *mapped;
  std::size_t bytes;
};

struct Context {
  int device;
  int users;
  bool destroyed;
  CUresult broken; // what every call returns, once a kernel has failed
  std::deque<Work> queue;
  std::uint64_t queued, done;
  std::map<CUdeviceptr, Allocation> memory;
  std::map<const char *, std::size_t> locked; // page-locked host memory
  std::size_t used;
  std::size_t memory_bytes;
  host::Order order;
};

// Fault is something that shall go wrong once.
struct Fault {
  const char *variable, *prefix;
  std::string text;
  long count; // what is left until it happens; 0 for never
  int device; // -1 for any

  void read() {
    const char *set = std::getenv(variable);
    if (text == (set ? set : "")) return;
    text = set ? set : "";
    count = 0;
    device = -1;
    if (text.empty() || text.compare(0, std::strlen(prefix), prefix) != 0) return;
    char *rest;
    count = std::strtol(text.c_str() + std::strlen(prefix), &rest, 10);
    if (*rest == '@') device = int(std::strtol(rest + 1, &rest, 10));
    if (count < 1 || *rest) std::fprintf(stderr, "fake cuda: %s=%s is not understood\n", variable, text.c_str()), std::abort();
  }
  bool happens(int on) { return count > 0 && (device < 0 || device == on) && --count == 0; }
};

std::mutex mutex;
bool initialised;
std::map<int, Context *> primary;
Fault launch_fault{"FAKECUDA_FAIL", "launch:", "", 0, -1};
Fault alloc_fault{"FAKECUDA_FAIL", "alloc:", "", 0, -1};
Fault wrong_fault{"FAKECUDA_WRONG", "", "", 0, -1};
thread_local Context *current;
const std::size_t page = sysconf(_SC_PAGESIZE);

std::size_t up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

long setting(const char *variable, long unset) {
  const char *text = std::getenv(variable);
  return text && *text ? std::atol(text) : unset;
}

int devices() { return int(setting("FAKECUDA_DEVICES", 1)); }
std::size_t device_memory() { return std::size_t(setting("FAKECUDA_MEMORY", 256l << 20)); }

CUresult complain(CUresult result, const char *what) {
  std::fprintf(stderr, "fake cuda: %s\n", what);
  return result;
}

// ENTER is how every call begins that needs a context.
#define ENTER                                             \
  std::lock_guard<std::mutex> lock(mutex);                \
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;    \
  if (!current) return CUDA_ERROR_INVALID_CONTEXT;        \
  if (current->destroyed) return CUDA_ERROR_CONTEXT_IS_DESTROYED; \
  if (current->broken) return current->broken;            \
  Context &context = *current;                            \
  (void)context

// run_until does queued work up to and with that turn.
CUresult run_until(Context &c, std::uint64_t turn) {
  while (c.done < turn && !c.broken) {
    Work work = std::move(c.queue.front());
    c.queue.pop_front();
    c.done++;
    c.broken = work(c);
  }
  return c.broken;
}

CUresult run_all(Context &c) { return run_until(c, c.queued); }

CUresult enqueue(Context &c, CUstream s, Work work) {
  auto stream = reinterpret_cast<Stream *>(s);
  if (!stream || stream->context != &c) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->capture) {
    stream->capture->push_back(std::move(work));
  } else {
    c.queue.push_back(std::move(work));
    c.queued++;
  }
  return CUDA_SUCCESS;
}

bool inside(const Context &c, CUdeviceptr at, std::size_t bytes) {
  auto next = c.memory.upper_bound(at);
  if (next == c.memory.begin()) return false;
  const auto &[start, allocation] = *--next;
  return at - start <= allocation.bytes && bytes <= allocation.bytes - (at - start);
}

bool is_locked(const Context &c, const void *at, std::size_t bytes) {
  const char *p = static_cast<const char *>(at);
  auto next = c.locked.upper_bound(p);
  if (next == c.locked.begin()) return false;
  const auto &[start, size] = *--next;
  return std::size_t(p - start) <= size && bytes <= size - std::size_t(p - start);
}

// unmap gives memory back and says whether the bytes behind its end, up to the
// page that faults, are as they were.
bool unmap(CUdeviceptr at, const Allocation &a) {
  const char *begin = reinterpret_cast<char *>(at);
  bool whole = true;
  for (const char *p = begin + a.bytes; p < begin + up(a.bytes, 256); p++) whole = whole && *p == char(0xff);
  munmap(a.mapped, up(a.bytes, page) + 2 * page);
  return whole;
}

void destroy(Context &c) {
  for (auto &[at, allocation] : c.memory) unmap(at, allocation);
  for (auto &[at, bytes] : c.locked) std::free(const_cast<char *>(at));
  c.memory.clear();
  c.locked.clear();
  c.queue.clear();
  c.destroyed = true; // and is kept, since handles to it may still be used
  primary.erase(c.device);
}

CUresult run_kernel(Context &c, const Kernel &kernel, Index3 grid, Index3 block, const host::Call &call) {
  if (launch_fault.happens(c.device)) return CUDA_ERROR_LAUNCH_FAILED;
  std::string what;
  const host::Outcome outcome = host::run(grid, block, c.order, call, what);
  if (outcome != host::Outcome::ok) {
    complain(CUDA_SUCCESS, (std::string(kernel.name) + ": " + what).c_str());
    return outcome == host::Outcome::bad_address ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED;
  }
  // The lowest bit of a float's exponent: wrong, but finite.
  if (call.output && wrong_fault.happens(c.device)) *static_cast<std::uint32_t *>(call.output) ^= 1u << 23;
  return CUDA_SUCCESS;
}

} // namespace

API cuInit(unsigned) {
  std::lock_guard<std::mutex> lock(mutex);
  if (devices() == 0) return CUDA_ERROR_NO_DEVICE;
  initialised = true;
  return CUDA_SUCCESS;
}

API cuDriverGetVersion(int *version) {
  *version = 12040;
  return CUDA_SUCCESS;
}

API cuGetErrorName(CUresult result, const char **name) {
  switch (int(result)) {
#define NAME(code) case code: *name = #code; return CUDA_SUCCESS;
    NAME(CUDA_ERROR_INVALID_VALUE)
    NAME(CUDA_ERROR_OUT_OF_MEMORY)
    NAME(CUDA_ERROR_NOT_INITIALIZED)
    NAME(CUDA_ERROR_NO_DEVICE)
    NAME(CUDA_ERROR_INVALID_DEVICE)
    NAME(CUDA_ERROR_INVALID_CONTEXT)
    NAME(CUDA_ERROR_INVALID_HANDLE)
    NAME(CUDA_ERROR_INVALID_PTX)
    NAME(CUDA_ERROR_NOT_FOUND)
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS)
    NAME(CUDA_ERROR_LAUNCH_FAILED)
    NAME(CUDA_ERROR_CONTEXT_IS_DESTROYED)
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
    NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
#undef NAME
  }
  *name = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

API cuGetErrorString(CUresult, const char **text) {
  *text = "says the fake driver";
  return CUDA_SUCCESS;
}

API cuDeviceGetCount(int *count) {
  *count = devices();
  return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

API cuDeviceGet(CUdevice *device, int ordinal) {
  if (ordinal < 0 || ordinal >= devices()) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

API cuDeviceGetName(char *name, int bytes, CUdevice) {
  std::snprintf(name, bytes, "Fake GPU");
  return CUDA_SUCCESS;
}

API cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
  std::memset(uuid, 0xfa, sizeof *uuid);
  uuid->bytes[sizeof *uuid - 1] = char(device);
  return CUDA_SUCCESS;
}

API cuDeviceTotalMem(size_t *bytes, CUdevice) {
  *bytes = device_memory();
  return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 6; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 4; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1000000; return CUDA_SUCCESS; // kHz
  default: return complain(CUDA_ERROR_INVALID_VALUE, "an attribute that it does not have");
  }
}

API cuDeviceGetPCIBusId(char *text, int bytes, CUdevice device) {
  std::snprintf(text, bytes, "0000:%02x:00.0", device + 1);
  return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxSetFlags(CUdevice, unsigned) { return CUDA_SUCCESS; }

API cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  Context *&c = primary[device];
  if (!c) {
    c = new Context{};
    c->device = device;
    c->memory_bytes = device_memory();
    const char *order = std::getenv("FAKECUDA_ORDER");
    const std::string name = order ? order : "forward";
    if (name != "forward" && name != "backward" && name != "shuffled") return complain(CUDA_ERROR_INVALID_VALUE, "FAKECUDA_ORDER is not understood");
    c->order = name == "forward" ? host::Order::forward : name == "backward" ? host::Order::backward : host::Order::shuffled;
    for (Fault *f : {&launch_fault, &alloc_fault, &wrong_fault}) f->read();
  }
  c->users++;
  *context = reinterpret_cast<CUcontext>(c);
  return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxReset(CUdevice device) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = primary.find(device);
  if (found != primary.end()) destroy(*found->second);
  return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease(CUdevice device) {
  std::lock_guard<std::mutex> lock(mutex);
  auto found = primary.find(device);
  if (found != primary.end() && --found->second->users == 0) destroy(*found->second);
  return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext context) {
  current = reinterpret_cast<Context *>(context);
  return CUDA_SUCCESS;
}

API cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned options, CUjit_option *option, void **value) {
  ENTER;
  auto made = std::make_unique<Module>(Module{static_cast<const char *>(image)});
  if (made->ptx.find(".version") == std::string::npos) {
    char *log = nullptr;
    size_t bytes = 0;
    for (unsigned i = 0; i < options; i++) {
      if (option[i] == CU_JIT_ERROR_LOG_BUFFER) log = static_cast<char *>(value[i]);
      if (option[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) bytes = reinterpret_cast<size_t>(value[i]);
    }
    if (log) std::snprintf(log, bytes, "fatal: missing .version directive");
    return CUDA_ERROR_INVALID_PTX;
  }
  *module = reinterpret_cast<CUmodule>(made.release());
  return CUDA_SUCCESS;
}

API cuModuleUnload(CUmodule module) {
  ENTER;
  delete reinterpret_cast<Module *>(module);
  return CUDA_SUCCESS;
}

API cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  ENTER;
  if (reinterpret_cast<Module *>(module)->ptx.find(".entry " + std::string(name) + "(") == std::string::npos) return CUDA_ERROR_NOT_FOUND;
  for (const Kernel &kernel : kernels)
    if (std::strcmp(kernel.name, name) == 0) {
      *function = reinterpret_cast<CUfunction>(const_cast<Kernel *>(&kernel));
      return CUDA_SUCCESS;
    }
  return complain(CUDA_ERROR_NOT_FOUND, (std::string("built without the kernel ") + name).c_str());
}

// The end, rounded up to 256 bytes, touches a page that faults; so does the page
// with the beginning.
API cuMemAlloc(CUdeviceptr *at, size_t bytes) {
  ENTER;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (alloc_fault.happens(context.device) || bytes > context.memory_bytes - context.used) return CUDA_ERROR_OUT_OF_MEMORY;
  const size_t middle = up(bytes, page);
  char *p = static_cast<char *>(mmap(nullptr, middle + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (p == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  mprotect(p, page, PROT_NONE);
  mprotect(p + page + middle, page, PROT_NONE);
  std::memset(p + page, 0xff, middle);
  *at = reinterpret_cast<CUdeviceptr>(p + page + middle - up(bytes, 256));
  context.memory[*at] = {p, bytes};
  context.used += bytes;
  return CUDA_SUCCESS;
}

API cuMemFree(CUdeviceptr at) {
  ENTER;
  auto found = context.memory.find(at);
  if (found == context.memory.end()) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult failed = run_all(context)) return failed;
  context.used -= found->second.bytes;
  const bool whole = unmap(at, found->second);
  context.memory.erase(found);
  return whole ? CUDA_SUCCESS : context.broken = complain(CUDA_ERROR_ILLEGAL_ADDRESS, "something wrote behind the end of this memory");
}

API cuMemGetInfo(size_t *free, size_t *total) {
  ENTER;
  *free = context.memory_bytes - context.used;
  *total = context.memory_bytes;
  return CUDA_SUCCESS;
}

API cuMemHostAlloc(void **at, size_t bytes, unsigned) {
  ENTER;
  *at = std::aligned_alloc(page, up(bytes, page));
  if (!*at) return CUDA_ERROR_OUT_OF_MEMORY;
  context.locked[static_cast<char *>(*at)] = bytes;
  return CUDA_SUCCESS;
}

API cuMemFreeHost(void *at) {
  ENTER;
  if (!context.locked.erase(static_cast<char *>(at))) return CUDA_ERROR_INVALID_VALUE;
  std::free(at);
  return CUDA_SUCCESS;
}

API cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
  ENTER;
  if (!inside(context, to, bytes)) return complain(CUDA_ERROR_INVALID_VALUE, "copy to what is no device memory");
  if (!is_locked(context, from, bytes)) return complain(CUDA_ERROR_INVALID_VALUE, "asynchronous copy from memory that is not page-locked");
  return enqueue(context, stream, [=](Context &) {
    std::memcpy(reinterpret_cast<void *>(to), from, bytes);
    return CUDA_SUCCESS;
  });
}

API cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
  ENTER;
  if (!inside(context, from, bytes)) return complain(CUDA_ERROR_INVALID_VALUE, "copy from what is no device memory");
  if (!is_locked(context, to, bytes)) return complain(CUDA_ERROR_INVALID_VALUE, "asynchronous copy to memory that is not page-locked");
  return enqueue(context, stream, [=](Context &) {
    std::memcpy(to, reinterpret_cast<void *>(from), bytes);
    return CUDA_SUCCESS;
  });
}

API cuMemsetD32Async(CUdeviceptr to, unsigned word, size_t words, CUstream stream) {
  ENTER;
  if (to % 4 || !inside(context, to, 4 * words)) return complain(CUDA_ERROR_INVALID_VALUE, "fill of what is no device memory");
  return enqueue(context, stream, [=](Context &) {
    for (size_t i = 0; i < words; i++) reinterpret_cast<unsigned *>(to)[i] = word;
    return CUDA_SUCCESS;
  });
}

API cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   CUstream stream, void **arguments, void **) {
  ENTER;
  const size_t threads = size_t(bx) * by * bz;
  if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 0xffff || gz > 0xffff || !threads || threads > 1024 || bz > 64) return CUDA_ERROR_INVALID_VALUE;
  const Kernel &kernel = *reinterpret_cast<const Kernel *>(function);
  return enqueue(context, stream, [=, call = kernel.bind(arguments), &kernel](Context &c) {
    return run_kernel(c, kernel, {gx, gy, gz}, {bx, by, bz}, call);
  });
}

API cuStreamCreate(CUstream *stream, unsigned) {
  ENTER;
  *stream = reinterpret_cast<CUstream>(new Stream{&context, nullptr, false});
  return CUDA_SUCCESS;
}

API cuStreamDestroy(CUstream stream) {
  ENTER;
  delete reinterpret_cast<Stream *>(stream);
  return CUDA_SUCCESS;
}

API cuStreamSynchronize(CUstream s) {
  ENTER;
  auto stream = reinterpret_cast<Stream *>(s);
  if (stream->capture) {
    stream->spoilt = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return run_all(context);
}

API cuEventCreate(CUevent *event, unsigned) {
  ENTER;
  *event = reinterpret_cast<CUevent>(new Event{});
  return CUDA_SUCCESS;
}

API cuEventDestroy(CUevent event) {
  ENTER;
  delete reinterpret_cast<Event *>(event);
  return CUDA_SUCCESS;
}

API cuEventRecord(CUevent event, CUstream stream) {
  ENTER;
  if (reinterpret_cast<Stream *>(stream)->capture) return complain(CUDA_ERROR_INVALID_VALUE, "an event in a graph, which it cannot do");
  reinterpret_cast<Event *>(event)->turn = context.queued;
  return CUDA_SUCCESS;
}

API cuEventSynchronize(CUevent event) {
  ENTER;
  return run_until(context, reinterpret_cast<Event *>(event)->turn);
}

API cuStreamBeginCapture(CUstream s, CUstreamCaptureMode) {
  ENTER;
  auto stream = reinterpret_cast<Stream *>(s);
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_shared<WorkList>();
  stream->spoilt = false;
  return CUDA_SUCCESS;
}

API cuStreamEndCapture(CUstream s, CUgraph *graph) {
  ENTER;
  auto stream = reinterpret_cast<Stream *>(s);
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  auto work = std::move(stream->capture);
  stream->capture = nullptr;
  if (stream->spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = reinterpret_cast<CUgraph>(new Graph{work});
  return CUDA_SUCCESS;
}

API cuGraphInstantiateWithFlags(CUgraphExec *ready, CUgraph graph, unsigned long long) {
  ENTER;
  *ready = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph *>(graph)));
  return CUDA_SUCCESS;
}

API cuGraphLaunch(CUgraphExec graph, CUstream stream) {
  ENTER;
  return enqueue(context, stream, [work = reinterpret_cast<Graph *>(graph)->work](Context &c) {
    for (const Work &w : *work)
      if (CUresult failed = w(c)) return failed;
    return CUDA_SUCCESS;
  });
}

API cuGraphDestroy(CUgraph graph) {
  delete reinterpret_cast<Graph *>(graph);
  return CUDA_SUCCESS;
}

API cuGraphExecDestroy(CUgraphExec graph) {
  delete reinterpret_cast<Graph *>(graph);
  return CUDA_SUCCESS;
}
