// SPDX-License-Identifier: Apache-2.0
// Vectors of the width this file is compiled for. Each lane is computed as a scalar would be, so the width
// never shows in a result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#include "common/convert.h"
#include "common/portable.h"

#if defined(__AVX512F__)
#define INTARSIA_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define INTARSIA_VECTOR_BYTES 32
#else
#define INTARSIA_VECTOR_BYTES 16
#endif

namespace intarsia::cpu::INTARSIA_ISA {

// The type sums are formed in.
template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

template <class A>
struct Vector {
  typedef A type __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
};
template <class A>
using V = typename Vector<A>::type;
template <class A>
constexpr int64_t lanes = INTARSIA_VECTOR_BYTES / static_cast<int64_t>(sizeof(A));

template <class A>
INTARSIA_INLINE V<A> splat(A x) {
  return x - V<A>{};
}

// Full vectors.

template <class A, class T>
struct Memory {
  static INTARSIA_INLINE V<A> load(const T* p) {
    V<A> v;
    for (int64_t i = 0; i < lanes<A>; ++i) v[i] = static_cast<A>(widen(p[i]));
    return v;
  }
  static INTARSIA_INLINE void store(T* p, V<A> v) {
    for (int64_t i = 0; i < lanes<A>; ++i) p[i] = Narrow<T>::from(v[i]);
  }
};

template <class A>
struct Memory<A, A> {
  static INTARSIA_INLINE V<A> load(const A* p) {
    V<A> v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  static INTARSIA_INLINE void store(A* p, V<A> v) { memcpy(p, &v, sizeof v); }
};

template <>
struct Memory<float, bf16> {
  typedef uint16_t Bits __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));
  typedef uint32_t Wide __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
  static INTARSIA_INLINE V<float> load(const bf16* p) {
    Bits bits;
    memcpy(&bits, p, sizeof bits);
    return bit_cast<V<float>>(__builtin_convertvector(bits, Wide) << 16);
  }
  static INTARSIA_INLINE void store(bf16* p, V<float> v) {
    const Wide bits = bit_cast<Wide>(v);
    const Wide rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Wide nan = (Wide)((bits & 0x7fffffffu) > 0x7f800000u);
    const Bits out = __builtin_convertvector((nan & 0x7fc0u) | (~nan & rounded), Bits);
    memcpy(p, &out, sizeof out);
  }
};

#if defined(__AVX512F__)
template <>
struct Memory<float, f16> {
  static INTARSIA_INLINE V<float> load(const f16* p) {
    return (V<float>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static INTARSIA_INLINE void store(f16* p, V<float> v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
};
#elif defined(__F16C__)
template <>
struct Memory<float, f16> {
  static INTARSIA_INLINE V<float> load(const f16* p) {
    return (V<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static INTARSIA_INLINE void store(f16* p, V<float> v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
};
#endif

// The first n < lanes elements; the other lanes are zero and are not touched in memory.

#if defined(__AVX512BW__)
INTARSIA_INLINE __mmask32 first(int64_t n) {
  return static_cast<__mmask32>((uint64_t{1} << n) - 1);
}
#endif

template <class A, class T>
INTARSIA_INLINE V<A> load_first(const T* p, int64_t n) {
  alignas(INTARSIA_VECTOR_BYTES) T part[lanes<A>];
  memset(part, 0, sizeof part);
  for (int64_t i = 0; i < n; ++i) part[i] = p[i];
  return Memory<A, T>::load(part);
}

template <class A, class T>
INTARSIA_INLINE void store_first(T* p, V<A> v, int64_t n) {
  alignas(INTARSIA_VECTOR_BYTES) T part[lanes<A>];
  Memory<A, T>::store(part, v);
  for (int64_t i = 0; i < n; ++i) p[i] = part[i];
}

#if defined(__AVX512BW__) && defined(__AVX512VL__)
template <>
INTARSIA_INLINE V<float> load_first<float, float>(const float* p, int64_t n) {
  return (V<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(first(n)), p);
}
template <>
INTARSIA_INLINE V<double> load_first<double, double>(const double* p, int64_t n) {
  return (V<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(first(n)), p);
}
template <>
INTARSIA_INLINE V<float> load_first<float, bf16>(const bf16* p, int64_t n) {
  const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(first(n)), p);
  return (V<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
template <>
INTARSIA_INLINE V<float> load_first<float, f16>(const f16* p, int64_t n) {
  return (V<float>)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first(n)), p));
}
template <>
INTARSIA_INLINE void store_first<float, float>(float* p, V<float> v, int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(first(n)), (__m512)v);
}
#endif

// v in the first n lanes, zero in the others.
template <class A>
INTARSIA_INLINE V<A> keep_first(V<A> v, int64_t n) {
  V<A> lane;
  for (int64_t i = 0; i < lanes<A>; ++i) lane[i] = static_cast<A>(i);
  return lane < splat(static_cast<A>(n)) ? v : V<A>{};
}

// Past the caches, for results that would fill them. p is aligned to its size.
template <class A, class T>
INTARSIA_INLINE void stream(T* p, V<A> v) {
#if defined(__SSE2__)
  alignas(INTARSIA_VECTOR_BYTES) T part[lanes<A>];
  Memory<A, T>::store(part, v);
  if constexpr (sizeof part == 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), *reinterpret_cast<const __m128i*>(part));
    return;
  }
#if defined(__AVX2__)
  if constexpr (sizeof part == 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), *reinterpret_cast<const __m256i*>(part));
    return;
  }
#endif
#if defined(__AVX512F__)
  if constexpr (sizeof part == 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), *reinterpret_cast<const __m512i*>(part));
    return;
  }
#endif
#endif
  Memory<A, T>::store(p, v);
}

// Streamed lines are written whole before another thread may read them.
INTARSIA_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Calls act(j, whole) over [0, n): one vector at 0, then aligned ones (whole = std::true_type: p + j is
// aligned), then one that ends at n. Neighbours overlap at both ends, so act must be a pure function of j.
// Needs n >= L.
template <int64_t L, class T, class Act>
INTARSIA_INLINE void cover(const T* p, int64_t n, const Act& act) {
  constexpr uintptr_t line = L * sizeof(T);
  const int64_t head = static_cast<int64_t>((-reinterpret_cast<uintptr_t>(p)) % line / sizeof(T));
  if (head > 0) act(0, std::false_type{});
  int64_t j = head;
  for (; n - j >= L; j += L) act(j, std::true_type{});
  if (j < n) act(n - L, std::false_type{});
}

INTARSIA_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p, 0, 3);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
