// SPDX-License-Identifier: Apache-2.0
// Sums of products whose order no instruction set, thread or address shows in.
#pragma once

#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

// Calls act(k, d) for each vector of doubles in v.
template <class Act>
INTARSIA_INLINE void as_doubles(V<double> v, const Act& act) {
  act(0, v);
}
template <class Act>
INTARSIA_INLINE void as_doubles(V<float> v, const Act& act) {
#if defined(__AVX512F__)
  act(0, (V<double>)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)));
  act(1, (V<double>)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1)));
#elif defined(__AVX2__)
  act(0, (V<double>)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)));
  act(1, (V<double>)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1)));
#else
  for (int64_t k = 0; k < 2; ++k) {
    V<double> d;
    for (int64_t i = 0; i < lanes<double>; ++i) d[i] = v[k * lanes<double> + i];
    act(k, d);
  }
#endif
}

// Sums of products in as many lanes everywhere: element j of a chunk belongs to lane j mod kSumLanes.
constexpr int64_t kSumLanes = 32;

struct Sums {
  static constexpr int64_t kVectors = kSumLanes / lanes<double>;
  V<double> sum[kVectors] = {};

  // The products of vector `slot` out of the kSumLanes elements that are met together.
  template <class A>
  INTARSIA_INLINE void add(int64_t slot, V<A> a, V<A> b) {
    constexpr int64_t n = lanes<A> / lanes<double>;
    V<double> wide[n];
    as_doubles(a, [&](int64_t k, V<double> d) { wide[k] = d; });
    as_doubles(b, [&](int64_t k, V<double> d) { sum[slot * n + k] += wide[k] * d; });
  }

  INTARSIA_INLINE double total() const {
    double lane[kSumLanes];
    memcpy(lane, sum, sizeof lane);
    for (int64_t half = kSumLanes / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) lane[i] += lane[i + half];
    }
    return lane[0];
  }
};

}  // namespace intarsia::cpu::INTARSIA_ISA
