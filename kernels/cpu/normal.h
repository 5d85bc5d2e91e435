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
  return (U64)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi64(b));
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
  if constexpr (sizeof(x[0]) == 4) return (F)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
  if constexpr (sizeof(x[0]) == 8) return (F)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
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
// products are made once. E is a word, or a vector of words in 64-bit lanes with a row in each.
template <class E>
struct RowStart {
  E e[5];
  NoiseKey key;  // of the fourth round

  INTARSIA_INLINE RowStart(NoiseKey key, E channel, E x0, E x1) : key(key) {
    const E p0 = product(channel, kPhiloxM0), p1 = product(x1, kPhiloxM1);
    e[0] = high(p1) ^ this->key.k0;
    const E c2 = high(p0) ^ x0 ^ this->key.k1;
    next();
    e[1] = p0 ^ this->key.k1;
    const E p2 = product(c2, kPhiloxM1), c0 = high(p2) ^ p1 ^ this->key.k0;
    next();
    const E p3 = product(c0, kPhiloxM0);
    e[2] = p2 ^ this->key.k0, e[3] = high(p3) ^ this->key.k1, e[4] = p3;
    next();
  }

 private:
  static INTARSIA_INLINE E product(E a, uint32_t b) {
    if constexpr (sizeof(E) == 8) {
      return (a & 0xffffffffu) * b;
    } else {
      return multiply_low(a, b);
    }
  }
  static INTARSIA_INLINE E high(E product) { return product >> 32; }
  INTARSIA_INLINE void next() { key.k0 += kPhiloxW0, key.k1 += kPhiloxW1; }
};

// The words of the blocks in the low halves of 64-bit lanes; what the high halves hold does not count.
template <class E>
INTARSIA_INLINE void philox_lanes(U64 block, const RowStart<E>& row, U64 (&c)[4]) {
  const U64 p = multiply_low(block ^ row.e[0], kPhiloxM0);
  const U64 q = multiply_low((p >> 32) ^ row.e[1], kPhiloxM1);
  c[0] = (q >> 32) ^ row.e[2], c[1] = q, c[2] = p ^ row.e[3], c[3] = U64{} + row.e[4];
  NoiseKey key = row.key;
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

// A number for each block of a group, in the order of the lanes: [0] of the even ones, [1] of the odd ones.
struct alignas(INTARSIA_VECTOR_BYTES) LaneNumbers {
  uint64_t of[2][lanes<double>];

  INTARSIA_INLINE U64 half(int odd) const { return Memory<uint64_t, uint64_t>::load(of[odd]); }
  INTARSIA_INLINE uint64_t& block(int64_t number) {
    const int64_t quarter = lanes<float> / 4, lane = number % quarter * 4 + number / quarter;
    return of[lane % 2][lane / 2];
  }
  static constexpr LaneNumbers counting() {
    LaneNumbers numbers{};
    for (int64_t lane = 0; lane < lanes<float>; ++lane) numbers.of[lane % 2][lane / 2] = block_of_lane(lane);
    return numbers;
  }
};

INTARSIA_INLINE U32 join(U64 even, U64 odd) {
  return (U32)((even & 0xffffffffu) | (odd << 32));
}

// word[i] of the blocks first, first + 1, ... (modulo 2^32) of a row, in the order of the lanes.
INTARSIA_INLINE void group_words(const RowStart<uint64_t>& row, uint32_t first, U32 (&word)[4]) {
  static constexpr LaneNumbers numbers = LaneNumbers::counting();
  U64 even[4], odd[4];
  philox_lanes(numbers.half(0) + first, row, even);
  philox_lanes(numbers.half(1) + first, row, odd);
  for (int i = 0; i < 4; ++i) word[i] = join(even[i], odd[i]);
}

// word[i] of one block in as many rows as a group has blocks.
INTARSIA_INLINE void group_words(const RowStart<U64> (&rows)[2], uint32_t block, U32 (&word)[4]) {
  U64 even[4], odd[4];
  philox_lanes(U64{} + block, rows[0], even);
  philox_lanes(U64{} + block, rows[1], odd);
  for (int i = 0; i < 4; ++i) word[i] = join(even[i], odd[i]);
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
#elif defined(__SSE2__)
  __m128 t[4];
  for (int i = 0; i < 4; i += 2) {
    t[i] = _mm_unpacklo_ps((__m128)part[i], (__m128)part[i + 1]);
    t[i + 1] = _mm_unpackhi_ps((__m128)part[i], (__m128)part[i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    part[2 * i] = (X)_mm_unpacklo_pd((__m128d)t[i], (__m128d)t[i + 2]);
    part[2 * i + 1] = (X)_mm_unpackhi_pd((__m128d)t[i], (__m128d)t[i + 2]);
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

// out[4 k + i] = what word i of block k of a group gives, as T says: a normal (float, f16, bf16, computed in
// float; double) or an integer (int64_t).
template <class T>
INTARSIA_INLINE void store_group(T* out, U32 (&word)[4]) {
  V<float> z[4];
  box_muller<ManyFloats>(word[0], word[1], z[0], z[1]);
  box_muller<ManyFloats>(word[2], word[3], z[2], z[3]);
  transpose_quarters(z);
  for (int i = 0; i < 4; ++i) Memory<float, T>::store(out + i * lanes<float>, z[i]);
}

template <>
INTARSIA_INLINE void store_group<double>(double* out, U32 (&word)[4]) {
  constexpr int64_t L = lanes<double>;
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

template <>
INTARSIA_INLINE void store_group<int64_t>(int64_t* out, U32 (&word)[4]) {
  transpose_quarters(word);
  for (int i = 0; i < 4; ++i) {
    for (int64_t lane = 0; lane < lanes<float>; ++lane) out[i * lanes<float> + lane] = word[i][lane];
  }
}

// out[j] = what place x + j of a row holds, for j < n, with T as above. x is the signed coordinate along the
// last axis; x + n - 1 is one, too.
template <class T>
INTARSIA_INLINE void noise_run(T* out, const NoiseRow& row, int64_t x, int64_t n) {
  const RowStart<uint64_t> start(row.key, row.channel, row.x0, row.x1);
  const int64_t skip = x & 3;
  uint32_t block = static_cast<uint32_t>(x >> 2);
  int64_t done = 0;
  U32 word[4];
  alignas(INTARSIA_VECTOR_BYTES) T group[kGroup];
  if (skip) {
    group_words(start, block, word);
    store_group(group, word);
    done = kGroup - skip < n ? kGroup - skip : n;
    memcpy(out, group + skip, done * sizeof(T));
    block += kGroup / 4;
  }
  // Two at a time: one alone leaves the processor waiting for its chain of products.
  for (; n - done >= 2 * kGroup; done += 2 * kGroup, block += kGroup / 2) {
    U32 next[4];
    group_words(start, block, word);
    group_words(start, block + kGroup / 4, next);
    store_group(out + done, word);
    store_group(out + done + kGroup, next);
  }
  for (; n - done >= kGroup; done += kGroup, block += kGroup / 4) {
    group_words(start, block, word);
    store_group(out + done, word);
  }
  if (done < n) {
    group_words(start, block, word);
    store_group(group, word);
    memcpy(out + done, group, (n - done) * sizeof(T));
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
