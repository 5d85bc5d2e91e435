// SPDX-License-Identifier: Apache-2.0
// A walk over neighbours in whole vectors, then over what is left.
#pragma once

#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

template <class A, class T>
struct Run {
  static constexpr int64_t L = lanes<A>;
  using Whole = std::integral_constant<int64_t, L>;

  // Calls act(j, how many of the elements from j on), the latter a constant for whole vectors.
  template <class Act>
  static INTARSIA_INLINE void each(int64_t n, const Act& act) {
    int64_t j = 0;
    for (; n - j >= L; j += L) act(j, Whole{});
    if (j < n) act(j, n - j);
  }
  static INTARSIA_INLINE V<A> load(const T* p, Whole) { return Memory<A, T>::load(p); }
  static INTARSIA_INLINE V<A> load(const T* p, int64_t n) { return load_first<A, T>(p, n); }
  static INTARSIA_INLINE void store(T* p, V<A> v, Whole, bool streamed) {
    if (streamed) {
      stream<A, T>(p, v);
    } else {
      Memory<A, T>::store(p, v);
    }
  }
  static INTARSIA_INLINE void store(T* p, V<A> v, int64_t n, bool) { store_first<A, T>(p, v, n); }
};

template <class T>
INTARSIA_INLINE bool lined_up(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % INTARSIA_VECTOR_BYTES == 0;
}

}  // namespace intarsia::cpu::INTARSIA_ISA
