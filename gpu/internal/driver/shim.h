#include <cuda.h>

// shim_load opens the driver library at path and initialises it. It returns NULL
// and cuInit's result, or why the library cannot be used.
const char *shim_load(const char *path, CUresult *result);

// shim_launch is cuLaunchKernel for arguments that lie in 8-byte slots, at most
// SHIM_MAX_ARGUMENTS of them.
#define SHIM_MAX_ARGUMENTS 32
CUresult shim_launch(CUfunction kernel, CUstream stream, const unsigned *grid, const unsigned *block,
	const uint64_t *arguments, int count);

// From CUDA 11.4 on; the header has it not.
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags);
