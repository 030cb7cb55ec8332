//go:build cuda

// gorgonia.org/cu calls the driver's functions by name, so the linker wants them
// defined. They are defined here, each as one jump through a pointer, and the
// pointer leads to unloaded() until shim_load has opened the real library. So the
// program does not depend on libcuda.so.1 and starts where there is none.

#define _GNU_SOURCE
#include "shim.h"
#include <dlfcn.h>
#include <stddef.h>

static CUresult unloaded(void) { return CUDA_ERROR_NOT_INITIALIZED; }

#if defined(__x86_64__)
#define JUMP(slot) "jmp *" slot "(%rip)\n"
#elif defined(__aarch64__)
// x16 is free for a caller's veneers, so no argument is in it.
#define JUMP(slot) "adrp x16, " slot "\nldr x16, [x16, :lo12:" slot "]\nbr x16\n"
#else
#error "the CUDA engine runs on amd64 and arm64"
#endif

// Hidden, lest the real library's own calls land here.
#define SYMBOL(f) \
	__attribute__((visibility("hidden"), used)) void *slot_##f = (void *)unloaded; \
	__asm__(".pushsection .text\n.globl " #f "\n.hidden " #f "\n.type " #f ", %function\n" \
		#f ":\n" JUMP("slot_" #f) ".size " #f ", .-" #f "\n.popsection\n");
#include "symbols.h"
#include "calls.h"
#undef SYMBOL

static const struct {
	const char *name;
	void **slot;
} symbols[] = {
#define SYMBOL(f) {#f, &slot_##f},
#include "symbols.h"
#include "calls.h"
#undef SYMBOL
};

// gorgonia.org/cu calls cuInit when the program starts, and ends the program if
// that fails: so this one always succeeds, and shim_load calls the real one.
__attribute__((visibility("hidden"))) CUresult cuInit(unsigned flags) {
	(void)flags;
	return CUDA_SUCCESS;
}

const char *shim_load(const char *path, CUresult *result) {
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) return dlerror();
	CUresult (*init)(unsigned) = (CUresult (*)(unsigned))dlsym(library, "cuInit");
	if (init == NULL) return "it is no CUDA driver: there is no cuInit in it";
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		// One that the driver lacks, being older or newer, stays unloaded().
		void *f = dlsym(library, symbols[i].name);
		if (f != NULL) *symbols[i].slot = f;
	}
	*result = init(0);
	return NULL;
}

CUresult shim_launch(CUfunction kernel, CUstream stream, const unsigned *grid, const unsigned *block,
	const uint64_t *arguments, int count) {
	void *pointers[SHIM_MAX_ARGUMENTS];
	if (count < 0 || count > SHIM_MAX_ARGUMENTS) return CUDA_ERROR_INVALID_VALUE;
	for (int i = 0; i < count; i++) pointers[i] = (void *)(arguments + i);
	return cuLaunchKernel(kernel, grid[0], grid[1], grid[2], block[0], block[1], block[2], 0, stream, pointers, NULL);
}
