// SPDX-License-Identifier: Apache-2.0
// Neighbours widened to lanes of float a step at a time, and a walk over them. Half-precision numbers with a
// float's exponent lie two to a word: the even ones are shifted into place, the odd ones masked, and no lane
// has to cross another.
#pragma once

#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

// The even and the odd ones of a run of 2 lanes<float> neighbours.
struct Two {
  V<float> even, odd;
};
INTARSIA_INLINE Two operator+(Two a, Two b) {
  return {a.even + b.even, a.odd + b.odd};
}
INTARSIA_INLINE Two operator*(V<float> a, Two b) {
  return {a * b.even, a * b.odd};
}

template <class A, class T>
struct Step {
  using Values = V<A>;
  static constexpr int64_t size = lanes<A>;
  static INTARSIA_INLINE Values load(const T* p) { return Memory<A, T>::load(p); }
  static INTARSIA_INLINE void store(T* p, Values v, bool streamed) {
    if (streamed) {
      stream<A, T>(p, v);
    } else {
      Memory<A, T>::store(p, v);
    }
  }
};

template <>
struct Step<float, bf16> {
  using Values = Two;
  typedef uint32_t Words __attribute__((vector_size(INTARSIA_VECTOR_BYTES)));
  static constexpr int64_t size = 2 * lanes<float>;
  static INTARSIA_INLINE Values load(const bf16* p) {
    Words words;
    memcpy(&words, p, sizeof words);
    return {bit_cast<V<float>>(words << 16), bit_cast<V<float>>(words & 0xffff0000u)};
  }
  // The rounded number in the upper half of its word, as Narrow<bf16> has it.
  static INTARSIA_INLINE Words rounded(V<float> v) {
    const Words bits = bit_cast<Words>(v);
    return v == v ? bits + 0x7fffu + ((bits >> 16) & 1u) : splat_word(0x7fc00000u);
  }
  static INTARSIA_INLINE Words splat_word(uint32_t x) { return x - Words{}; }
  static INTARSIA_INLINE void store(bf16* p, Values v, bool streamed) {
    const Words words = (rounded(v.even) >> 16) | (rounded(v.odd) & 0xffff0000u);
    if (streamed) {
      stream<float, float>(reinterpret_cast<float*>(p), bit_cast<V<float>>(words));
    } else {
      memcpy(p, &words, sizeof words);
    }
  }
};

// Calls act(load, store) for every step of [0, n): load(p) gives p's next values, store(p, values) takes
// them. The last step works on copies that are filled up with zeros.
template <class A, class T, class Act>
INTARSIA_INLINE void each_step(int64_t n, bool streamed, const Act& act) {
  using S = Step<A, T>;
  int64_t j = 0;
  for (; n - j >= S::size; j += S::size) {
    act([&](const T* p) { return S::load(p + j); },
        [&](T* p, typename S::Values v) { S::store(p + j, v, streamed); });
  }
  if (j == n) return;
  const size_t bytes = static_cast<size_t>(n - j) * sizeof(T);
  alignas(INTARSIA_VECTOR_BYTES) T part[S::size];
  act(
      [&](const T* p) {
        memset(part, 0, sizeof part);
        memcpy(part, p + j, bytes);
        return S::load(part);
      },
      [&](T* p, typename S::Values v) {
        S::store(part, v, false);
        memcpy(p + j, part, bytes);
      });
}

template <class T>
INTARSIA_INLINE bool lined_up(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % INTARSIA_VECTOR_BYTES == 0;
}

}  // namespace intarsia::cpu::INTARSIA_ISA
