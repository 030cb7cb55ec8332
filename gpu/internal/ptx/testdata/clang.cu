// Kernels of the tests, as our compiler makes them:
//   clang-19 -x cuda --cuda-device-only --cuda-gpu-arch=sm_60 -nocudainc -nocudalib -nostdinc -O3 -ffp-contract=off
//     -fno-fast-math -std=c++17 -S -o clang.ptx clang.cu
#define GLOBAL extern "C" __attribute__((global))
#define THREAD __nvvm_read_ptx_sreg_tid_x()
#define BLOCK __nvvm_read_ptx_sreg_ctaid_x()
typedef unsigned u32;

static __attribute__((device)) __attribute__((constant)) u32 K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
	0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
	0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
	0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
	0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
	0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__attribute__((device)) u32 counter[3] = {5, 6};

static __attribute__((device)) inline u32 rotr(u32 x, int n) { return __builtin_rotateright32(x, n); }

// One SHA-256 compression per thread, with the message schedule in local memory. The blocks are as bytes.
GLOBAL void sha256(u32 *state, const u32 *block) {
	state += 8 * THREAD;
	block += 16 * THREAD;
	u32 w[64];
	for (int i = 0; i < 16; i++) w[i] = __builtin_bswap32(block[i]);
#pragma clang loop unroll(disable)
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
	u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
	for (int i = 0; i < 64; i++) {
		u32 t1 = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (e & f ^ ~e & g) + K[i] + w[i];
		u32 t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + (a & b ^ a & c ^ b & c);
		h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
	}
	state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

// y = a*x, tiles of 16 by 16 through shared memory, one fused chain per element.
GLOBAL __attribute__((launch_bounds(256))) void gemm(float *y, const float *a, const float *x, int m, int n, int k) {
	static __attribute__((shared)) float as[16][17], xs[16][17];
	int c = THREAD, r = __nvvm_read_ptx_sreg_tid_y(), col = BLOCK * 16 + c, row = __nvvm_read_ptx_sreg_ctaid_y() * 16 + r;
	float sum = 0;
	for (int at = 0; at < k; at += 16) {
		as[r][c] = row < m && at + c < k ? a[row * k + at + c] : 0;
		xs[r][c] = col < n && at + r < k ? x[(at + r) * n + col] : 0;
		__syncthreads();
		for (int i = 0; i < 16; i++) sum = __nvvm_fma_rn_f(as[r][i], xs[i][c], sum);
		__syncthreads();
	}
	if (row < m && col < n) y[row * n + col] = sum;
}

struct __attribute__((aligned(16))) quad { float x, y, z, w; };

// Vectors, bytes, shorts, a switch, 64-bit division and a variable in global memory.
GLOBAL void mix(quad *q, signed char *bytes, short *shorts, long long *wide, float s, bool flip, int kind) {
	u32 t = THREAD + BLOCK * __nvvm_read_ptx_sreg_ntid_x();
	quad v = q[t];
	v.x = __nvvm_fma_rn_f(v.x, s, v.y);
	v.z = v.z > v.x ? v.z : v.x;
	v.y = __nvvm_sqrt_rn_f(__builtin_fabsf(v.y));
	v.w = __nvvm_div_rn_f(flip ? -v.w : v.w, v.y != v.y ? 1 : v.y);
	q[t] = v;
	bytes[t] = bytes[t] < 0 ? bytes[t] + 100 : -bytes[t] / 3;
	shorts[t] = shorts[t] > bytes[t] ? -1 : shorts[t];
	long long n = wide[t];
	switch ((t + kind) % 5) {
	case 0: n = n / (kind + 3); break;
	case 1: n = n % (long long)(counter[1] + t); break;
	case 2: n = (int)n; break;
	case 3: n = (long long)(float)n; break;
	default: n = n << (t & 7);
	}
	wide[t] = n;
}
