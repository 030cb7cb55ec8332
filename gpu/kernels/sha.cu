// BytesRoot of nn/hash.go: the RFC 6962 SHA-256 tree over leaves of 4096 bytes. Hash words are kept as numbers, as the
// standard (FIPS 180-4) has them, not as bytes.
#include "dev.cuh"

constexpr int LEAF_WORDS = 1024; // of 4 bytes
constexpr int TREE_THREADS = 512;

__device__ __forceinline__ unsigned rotate(unsigned x, int n) { return x >> n | x << (32 - n); }

__device__ __forceinline__ unsigned swap_bytes(unsigned x) { return (rotate(x, 8) & 0xff00ff00u) | (rotate(x, 24) & 0x00ff00ffu); }

struct Sha256 {
  unsigned h[8];
  __device__ __forceinline__ Sha256()
      : h{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

  // round is one of the 64; the caller turns the roles of s round instead of moving the words.
  template <int I> __device__ __forceinline__ static void round(unsigned (&s)[8], unsigned (&w)[16], unsigned k) {
    const unsigned a = s[(64 - I) % 8], b = s[(65 - I) % 8], c = s[(66 - I) % 8];
    const unsigned e = s[(68 - I) % 8], f = s[(69 - I) % 8], g = s[(70 - I) % 8];
    if (I >= 16) {
      const unsigned early = w[(I + 1) % 16], late = w[(I + 14) % 16];
      w[I % 16] += (rotate(early, 7) ^ rotate(early, 18) ^ early >> 3) + w[(I + 9) % 16];
      w[I % 16] += rotate(late, 17) ^ rotate(late, 19) ^ late >> 10;
    }
    const unsigned t = s[(71 - I) % 8] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + k + w[I % 16];
    s[(67 - I) % 8] += t;
    s[(71 - I) % 8] = t + (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
  }
  template <int I>
  __device__ __forceinline__ static void rounds(unsigned (&s)[8], unsigned (&w)[16], unsigned k0, unsigned k1, unsigned k2, unsigned k3) {
    round<I>(s, w, k0);
    round<I + 1>(s, w, k1);
    round<I + 2>(s, w, k2);
    round<I + 3>(s, w, k3);
  }
  // block takes 16 words, which are used up.
  __device__ __forceinline__ void block(unsigned (&w)[16]) {
    unsigned s[8];
    UNROLL for (int i = 0; i < 8; i++) s[i] = h[i];
    rounds<0>(s, w, 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5);
    rounds<4>(s, w, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5);
    rounds<8>(s, w, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3);
    rounds<12>(s, w, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174);
    rounds<16>(s, w, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc);
    rounds<20>(s, w, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da);
    rounds<24>(s, w, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7);
    rounds<28>(s, w, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967);
    rounds<32>(s, w, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13);
    rounds<36>(s, w, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85);
    rounds<40>(s, w, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3);
    rounds<44>(s, w, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070);
    rounds<48>(s, w, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5);
    rounds<52>(s, w, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3);
    rounds<56>(s, w, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208);
    rounds<60>(s, w, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2);
    UNROLL for (int i = 0; i < 8; i++) h[i] += s[i];
  }
};

// One thread for a leaf. The prefix byte 0 moves all data one byte on: a message word is the last byte of one data word
// and three of the next.
extern "C" __global__ void __launch_bounds__(64)
sha_leaves(unsigned *leaves, unsigned *bad, const unsigned *data, long long stride, int bytes, int floats) {
  const int words = bytes / 4, n = (words + LEAF_WORDS - 1) / LEAF_WORDS;
  const int leaf = blockIdx.x * 64 + threadIdx.x;
  if (leaf >= n) return;
  data = trial(data, stride) + (long long)leaf * LEAF_WORDS;
  const int length = least(words - leaf * LEAF_WORDS, LEAF_WORDS); // words of this leaf
  const int checked = floats - leaf * LEAF_WORDS;                  // words of it, and maybe more, that must be finite
  // One bit of padding and the length follow: the message's words are length (and a byte), then at least two.
  const int blocks = (length + 3 + 15) / 16;
  Sha256 sha;
  unsigned before = 0, found = 0;
  for (int block = 0; block < blocks; block++) {
    unsigned w[16];
    UNROLL for (int i = 0; i < 16; i++) {
      const int at = block * 16 + i;
      unsigned word = at < length ? data[at] : 0;
      if (at < checked && (word & 0x7f800000) == 0x7f800000) found = 1;
      // Behind the data the padding's bit, which the shift below puts behind its last byte.
      word = at == length ? 0x80000000 : swap_bytes(word);
      w[i] = before << 24 | word >> 8;
      before = word;
    }
    if (block == blocks - 1) w[15] = (unsigned)length * 32 + 8; // bits; the high word is 0
    sha.block(w);
  }
  leaves = trial(leaves, stride) + (long long)leaf * 8;
  UNROLL for (int i = 0; i < 8; i++) leaves[i] = sha.h[i];
  trial(bad, stride)[leaf] = found;
}

// The hash of an inner node: prefix byte 1, left, right; 65 bytes, so two blocks.
__device__ __forceinline__ Sha256 sha_node(const unsigned *pair) {
  Sha256 sha;
  unsigned words[16];
  UNROLL for (int i = 0; i < 16; i++) words[i] = pair[i];
  unsigned last = words[15];
  // Not unrolled: one copy of the rounds is enough.
  for (int block = 0; block < 2; block++) {
    unsigned w[16];
    UNROLL for (int i = 0; i < 16; i++) w[i] = block == 0 ? (i == 0 ? 1u : words[i == 0 ? 0 : i - 1]) << 24 | words[i] >> 8 : 0;
    if (block == 1) {
      w[0] = last << 24 | 0x800000;
      w[15] = 65 * 8;
    }
    sha.block(w);
  }
  return sha;
}

// One block for a trial. Level by level neighbours are hashed, in place, and an odd last one goes up as it is (merkleFold).
extern "C" __global__ void __launch_bounds__(TREE_THREADS)
sha_tree(unsigned *root, unsigned *leaves, const unsigned *bad, long long stride, int n) {
  __shared__ unsigned founds[TREE_THREADS];
  root = trial(root, stride), leaves = trial(leaves, stride), bad = trial(bad, stride);
  const int thread = threadIdx.x;
  unsigned found = 0;
  for (int i = thread; i < n; i += TREE_THREADS) found |= bad[i];
  founds[thread] = found;
  while (n > 1) {
    const int parents = (n + 1) / 2;
    for (int first = 0; first < parents; first += TREE_THREADS) {
      const int parent = first + thread;
      unsigned *const pair = leaves + (long long)parent * 16;
      unsigned h[8];
      if (parent < n / 2) {
        const Sha256 sha = sha_node(pair);
        UNROLL for (int i = 0; i < 8; i++) h[i] = sha.h[i];
      } else if (parent < parents) {
        UNROLL for (int i = 0; i < 8; i++) h[i] = pair[i];
      }
      // What this round of threads writes, it or an earlier one has read.
      __syncthreads();
      if (parent < parents) {
        UNROLL for (int i = 0; i < 8; i++) leaves[(long long)parent * 8 + i] = h[i];
      }
    }
    __syncthreads();
    n = parents;
  }
  __syncthreads();
  if (thread > 0) return;
  for (int i = 1; i < TREE_THREADS; i++) found |= founds[i];
  for (int i = 0; i < 8; i++) root[i] = leaves[i];
  root[8] = found != 0;
}
