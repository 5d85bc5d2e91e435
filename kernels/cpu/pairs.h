// SPDX-License-Identifier: Apache-2.0
// Channels between memory, where the two of a pair are neighbours or half a row apart, and a vector of first
// and a vector of second ones.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

template <class Int, int64_t n, class Lane>
INTARSIA_INLINE auto lane_numbers(const Lane& lane) {
  typedef Int Mask __attribute__((vector_size(n * sizeof(Int))));
  Mask mask;
  for (int64_t i = 0; i < n; ++i) mask[i] = static_cast<Int>(lane(i));
  return mask;
}

// Lane i of the result is lane number(i) of x followed by y.
template <class A, class Number>
INTARSIA_INLINE V<A> pick(V<A> x, V<A> y, const Number& number) {
#if defined(__clang__)
  V<A> result;
  for (int64_t i = 0; i < lanes<A>; ++i) {
    const int64_t from = number(i);
    result[i] = from < lanes<A> ? x[from] : y[from - lanes<A>];
  }
  return result;
#else
  using Int = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  return __builtin_shuffle(x, y, lane_numbers<Int, lanes<A>>(number));
#endif
}

template <class A>
INTARSIA_INLINE V<A> evens(V<A> x, V<A> y) {
  return pick<A>(x, y, [](int64_t i) { return 2 * i; });
}
template <class A>
INTARSIA_INLINE V<A> odds(V<A> x, V<A> y) {
  return pick<A>(x, y, [](int64_t i) { return 2 * i + 1; });
}
template <class A>
INTARSIA_INLINE V<A> zip_low(V<A> x, V<A> y) {
  return pick<A>(x, y, [](int64_t i) { return i / 2 + i % 2 * lanes<A>; });
}
template <class A>
INTARSIA_INLINE V<A> zip_high(V<A> x, V<A> y) {
  return pick<A>(x, y, [](int64_t i) { return (lanes<A> + i) / 2 + i % 2 * lanes<A>; });
}

template <class T, class A, bool streamed>
INTARSIA_INLINE void put(T* p, V<A> v) {
  if constexpr (streamed) {
    stream<A, T>(p, v);
  } else {
    Memory<A, T>::store(p, v);
  }
}

// Two neighbouring bf16 in one word: the first is its low half. Widening is a shift or a mask, and rounding
// needs no packing, so this is several times cheaper than converting each number by itself.
struct TwoBf16 {
  typedef uint32_t Words __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));

  static INTARSIA_INLINE Words load(const bf16* p) {
    Words words;
    memcpy(&words, p, sizeof words);
    return words;
  }
  static INTARSIA_INLINE V<float> low(Words words) { return bit_cast<V<float>>(words << 16); }
  static INTARSIA_INLINE V<float> high(Words words) { return bit_cast<V<float>>(words & 0xffff0000u); }

  // Rounded to nearest even in the upper half; what is left below is not cleared.
  static INTARSIA_INLINE Words rounded(V<float> v) {
    const Words bits = bit_cast<Words>(v);
    const Words near = bits + 0x7fffu + ((bits >> 16) & 1u);
    return v == v ? near : Words{} + 0x7fc00000u;
  }
  static INTARSIA_INLINE Words packed(V<float> low, V<float> high) {
    return (rounded(low) >> 16) | (rounded(high) & 0xffff0000u);
  }
  template <bool streamed>
  static INTARSIA_INLINE void store(bf16* p, Words words) {
    put<float, float, streamed>(reinterpret_cast<float*>(p), bit_cast<V<float>>(words));
  }
};

}  // namespace intarsia::cpu::INTARSIA_ISA
