// SPDX-License-Identifier: Apache-2.0
// Canvas noise along one row, a group of places at a time: the numbers of common/philox.h and
// common/normal.h, bit for bit.
#pragma once

#include <cmath>
#include <utility>

#include "common/normal.h"
#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

typedef uint32_t U32 __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
typedef int32_t I32 __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
typedef uint64_t U64 __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
typedef int64_t I64 __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
typedef uint32_t HalfU32 __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));
typedef int32_t HalfI32 __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));
typedef float HalfF32 __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));

// Places of a group: as many blocks of four as a vector has lanes.
constexpr int64_t kGroup = 4 * lanes<float>;

// The product of the low halves of 64-bit lanes; their high halves do not count.
INTARSIA_INLINE U64 multiply_low(U64 a, uint32_t b) {
#if defined(__AVX512F__)
  return (U64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
  return (U64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (U64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffffu) * static_cast<uint64_t>(b);
#endif
}

template <class F>
INTARSIA_INLINE F square_root(F x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(x[0]) == 4) return (F)_mm512_sqrt_ps((__m512)x);
  if constexpr (sizeof(x[0]) == 8) return (F)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  if constexpr (sizeof(x[0]) == 4) return (F)_mm256_sqrt_ps((__m256)x);
  if constexpr (sizeof(x[0]) == 8) return (F)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
  if constexpr (sizeof(x[0]) == 4) return (F)_mm_sqrt_ps((__m128)x);
  if constexpr (sizeof(x[0]) == 8) return (F)_mm_sqrt_pd((__m128d)x);
#else
  for (size_t i = 0; i < sizeof(F) / sizeof(x[0]); ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

struct ManyFloats {
  using A = float;
  using F = V<float>;
  using I = I32;
  using U = U32;
  using F32 = V<float>;

  static INTARSIA_INLINE F from_integer(I i) { return __builtin_convertvector(i, F); }
  static INTARSIA_INLINE F widen(F x) { return x; }
  static INTARSIA_INLINE F mul(F a, F b) { return a * b; }
  static INTARSIA_INLINE F root(F x) { return square_root(x); }
  static INTARSIA_INLINE F negate_if_bit_31(U word, F x) { return (F)((U)x ^ (word & 0x80000000u)); }
  static INTARSIA_INLINE F choose_if_bit_30(U word, F then, F otherwise) {
    return (word & 0x40000000u) != 0 ? then : otherwise;
  }
};

struct ManyDoubles {
  using A = double;
  using F = V<double>;
  using I = HalfI32;
  using U = HalfU32;
  using F32 = HalfF32;

  static INTARSIA_INLINE F32 from_integer(I i) { return __builtin_convertvector(i, F32); }
  static INTARSIA_INLINE F widen(F32 x) { return __builtin_convertvector(x, F); }
  static INTARSIA_INLINE F mul(F a, F b) { return a * b; }
  static INTARSIA_INLINE F root(F x) { return square_root(x); }
  static INTARSIA_INLINE F negate_if_bit_31(U word, F x) {
    return (F)((U64)x ^ (__builtin_convertvector(word & 0x80000000u, U64) << 32));
  }
  static INTARSIA_INLINE F choose_if_bit_30(U word, F then, F otherwise) {
    return __builtin_convertvector(word & 0x40000000u, I64) != 0 ? then : otherwise;
  }
};

// What the first three of Philox's rounds leave of a row: along it only the block changes, so that the other
// products are made once.
struct RowStart {
  uint32_t e[5];
  NoiseKey key;  // of the fourth round

  explicit RowStart(const NoiseRow& row) : key(row.key) {
    const auto next = [this] { key.k0 += kPhiloxW0, key.k1 += kPhiloxW1; };
    e[0] = product_high(kPhiloxM1, row.x1) ^ key.k0;
    const uint32_t c1 = kPhiloxM1 * row.x1, c3 = kPhiloxM0 * row.channel;
    const uint32_t c2 = product_high(kPhiloxM0, row.channel) ^ row.x0 ^ key.k1;
    next();
    e[1] = c3 ^ key.k1;
    const uint32_t c0 = product_high(kPhiloxM1, c2) ^ c1 ^ key.k0;
    const uint32_t low = kPhiloxM1 * c2;
    next();
    e[2] = low ^ key.k0;
    e[3] = product_high(kPhiloxM0, c0) ^ key.k1;
    e[4] = kPhiloxM0 * c0;
    next();
  }
};

// Philox of two halves of a group's blocks, each in the low halves of 64-bit lanes; so are the words.
template <class E>
INTARSIA_INLINE void philox_lanes(U64 block, const E (&e)[5], NoiseKey key, U64 (&c)[4]) {
  const U64 first = multiply_low(block ^ e[0], kPhiloxM0);
  const U64 second = multiply_low((first >> 32) ^ e[1], kPhiloxM1);
  c[0] = (second >> 32) ^ e[2], c[1] = second, c[2] = first ^ e[3], c[3] = U64{} + e[4];
  for (int round = 3; round < kPhiloxRounds; ++round) {
    const U64 p0 = multiply_low(c[0], kPhiloxM0), p1 = multiply_low(c[2], kPhiloxM1);
    c[0] = (p1 >> 32) ^ c[1] ^ static_cast<uint64_t>(key.k0), c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ static_cast<uint64_t>(key.k1), c[3] = p0;
    key.k0 += kPhiloxW0, key.k1 += kPhiloxW1;
  }
}

// Lane 4 l + j computes block (lanes / 4) j + l of a group: a transposition of each 128 bits by itself then
// puts all places in their order.
constexpr int64_t block_of_lane(int64_t lane) {
  return lanes<float> / 4 * (lane % 4) + lane / 4;
}

struct BlockNumbers {
  alignas(INTARSIA_VECTOR_BYTES) uint64_t even[lanes<double>], odd[lanes<double>];
  constexpr BlockNumbers() : even{}, odd{} {
    for (int64_t i = 0; i < lanes<double>; ++i)
      even[i] = block_of_lane(2 * i), odd[i] = block_of_lane(2 * i + 1);
  }
};

// word[i] of the blocks first, first + 1, ... (modulo 2^32) in the order of block_of_lane.
INTARSIA_INLINE void group_words(const RowStart& row, uint32_t first, U32 (&word)[4]) {
  static constexpr BlockNumbers numbers{};
  const uint64_t e[5] = {row.e[0], row.e[1], row.e[2], row.e[3], row.e[4]};
  U64 even[4], odd[4];
  const auto block = [&](const uint64_t* number) { return Memory<uint64_t, uint64_t>::load(number) + first; };
  philox_lanes(block(numbers.even), e, row.key, even);
  philox_lanes(block(numbers.odd), e, row.key, odd);
  for (int i = 0; i < 4; ++i) word[i] = (U32)((even[i] & 0xffffffffu) | (odd[i] << 32));
}

// [lane 4 l + j] of part i to [4 l + i] of part j: the transposition within each 128 bits.
template <class X>
INTARSIA_INLINE void transpose_quarters(X (&part)[4]) {
#if defined(__AVX512F__)
  __m512 t[4];
  for (int i = 0; i < 4; i += 2) {
    t[i] = _mm512_unpacklo_ps((__m512)part[i], (__m512)part[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps((__m512)part[i], (__m512)part[i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    part[2 * i] = (X)_mm512_unpacklo_pd((__m512d)t[i], (__m512d)t[i + 2]);
    part[2 * i + 1] = (X)_mm512_unpackhi_pd((__m512d)t[i], (__m512d)t[i + 2]);
  }
#elif defined(__AVX2__)
  __m256 t[4];
  for (int i = 0; i < 4; i += 2) {
    t[i] = _mm256_unpacklo_ps((__m256)part[i], (__m256)part[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps((__m256)part[i], (__m256)part[i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    part[2 * i] = (X)_mm256_unpacklo_pd((__m256d)t[i], (__m256d)t[i + 2]);
    part[2 * i + 1] = (X)_mm256_unpackhi_pd((__m256d)t[i], (__m256d)t[i + 2]);
  }
#else
  const X from[4] = {part[0], part[1], part[2], part[3]};
  for (int i = 0; i < 4; ++i) {
    for (int64_t lane = 0; lane < lanes<float>; ++lane) {
      part[lane % 4][lane / 4 * 4 + i] = from[i][lane];
    }
  }
#endif
}

// out[j] = the normal (T = float, double) or the word (uint32_t) of place 4 * first + j, j < kGroup.
INTARSIA_INLINE void noise_group(float* out, const RowStart& row, uint32_t first) {
  U32 word[4];
  V<float> z[4];
  group_words(row, first, word);
  box_muller<ManyFloats>(word[0], word[1], z[0], z[1]);
  box_muller<ManyFloats>(word[2], word[3], z[2], z[3]);
  transpose_quarters(z);
  for (int i = 0; i < 4; ++i) Memory<float, float>::store(out + i * lanes<float>, z[i]);
}

INTARSIA_INLINE void noise_group(uint32_t* out, const RowStart& row, uint32_t first) {
  U32 word[4];
  group_words(row, first, word);
  transpose_quarters(word);
  for (int i = 0; i < 4; ++i) memcpy(out + i * lanes<float>, &word[i], sizeof word[i]);
}

INTARSIA_INLINE void noise_group(double* out, const RowStart& row, uint32_t first) {
  constexpr int64_t L = lanes<double>;
  U32 word[4];
  group_words(row, first, word);
  alignas(INTARSIA_VECTOR_BYTES) double z[4][2 * L];
  for (int pair = 0; pair < 4; pair += 2) {
    for (int half = 0; half < 2; ++half) {
      HalfU32 a, b;
      memcpy(&a, reinterpret_cast<const char*>(&word[pair]) + half * sizeof a, sizeof a);
      memcpy(&b, reinterpret_cast<const char*>(&word[pair + 1]) + half * sizeof b, sizeof b);
      V<double> z0, z1;
      box_muller<ManyDoubles>(a, b, z0, z1);
      memcpy(z[pair] + half * L, &z0, sizeof z0);
      memcpy(z[pair + 1] + half * L, &z1, sizeof z1);
    }
  }
  for (int64_t lane = 0; lane < 2 * L; ++lane) {
    for (int i = 0; i < 4; ++i) out[4 * block_of_lane(lane) + i] = z[i][lane];
  }
}

// out[j] = what place x + j of a row holds, for j < n: as T says, a normal (float, double) or an integer.
// x is the signed coordinate along the last axis; x + n - 1 is one, too.
template <class T>
INTARSIA_INLINE void noise_run(T* out, const NoiseRow& row, int64_t x, int64_t n) {
  const RowStart start(row);
  const int64_t skip = x & 3;
  uint32_t block = static_cast<uint32_t>(x >> 2);
  int64_t done = 0;
  alignas(INTARSIA_VECTOR_BYTES) T group[kGroup];
  if (skip) {
    noise_group(group, start, block);
    done = kGroup - skip < n ? kGroup - skip : n;
    memcpy(out, group + skip, done * sizeof(T));
    block += kGroup / 4;
  }
  for (; n - done >= kGroup; done += kGroup, block += kGroup / 4) noise_group(out + done, start, block);
  if (done < n) {
    noise_group(group, start, block);
    memcpy(out + done, group, (n - done) * sizeof(T));
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
