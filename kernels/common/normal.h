// SPDX-License-Identifier: Apache-2.0
// Standard normals from integers by Box and Muller's transform, in operations that IEEE 754 rounds one way
// alone (no fused multiply-add, no library function): the same bits in every instruction set and backend.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/convert.h"
#include "common/philox.h"
#include "common/portable.h"

namespace intarsia {

template <class A>
struct Coefficients;

// -2 log(1 + t) + 2 t = t^2 (q0 + q1 t + ...) on [-1/3, 1/3], within 9e-8.
// sin(pi/4 y) = y (s0 + s1 y^2 + ...) and cos(pi/4 y) on [-1, 1], within 4e-8.
template <>
struct Coefficients<float> {
  float logarithm[7] = {0x1.ffff90p-1f, -0x1.5561aep-1f, 0x1.002598p-1f, -0x1.952ef4p-2f,
                        0x1.4dfa00p-2f, -0x1.6023acp-2f, 0x1.460370p-2f};
  float sine[4] = {0x1.921fb4p-1f, -0x1.4abba8p-4f, 0x1.465a3ep-9f, -0x1.2cf5d4p-15f};
  float cosine[4] = {1.0f, -0x1.3bd3a2p-2f, 0x1.03b162p-6f, -0x1.4ea9e6p-12f};
};

// In double precision by their series, log((1 + s) / (1 - s)) = 2 s (1 + s^2 / 3 + ...).
template <>
struct Coefficients<double> {
  static constexpr int kTerms = 13;
  double logarithm[kTerms] = {}, sine[kTerms] = {}, cosine[kTerms] = {};
  constexpr Coefficients() {
    const double quarter = 0.7853981633974483;
    logarithm[0] = 1, sine[0] = quarter, cosine[0] = 1;
    for (int k = 1; k < kTerms; ++k) {
      logarithm[k] = 1.0 / (2 * k + 1);
      sine[k] = -sine[k - 1] * (quarter * quarter) / (2 * k * (2 * k + 1));
      cosine[k] = -cosine[k - 1] * (quarter * quarter) / ((2 * k - 1) * 2 * k);
    }
  }
};

// The arithmetic of one number; kernels/cpu/normal.h has that of vectors.
template <class Real>
struct OneLane {
  using A = Real;  // an element
  using F = Real;  // what normals are computed in
  using I = int32_t;
  using U = uint32_t;
  using F32 = float;

  static INTARSIA_INLINE float from_integer(I i) { return static_cast<float>(i); }
  static INTARSIA_INLINE F widen(F32 x) { return static_cast<F>(x); }
#if defined(__CUDA_ARCH__)
  // Never fused into a sum.
  static INTARSIA_INLINE float mul(float a, float b) { return __fmul_rn(a, b); }
  static INTARSIA_INLINE double mul(double a, double b) { return __dmul_rn(a, b); }
  static INTARSIA_INLINE float root(float x) { return __fsqrt_rn(x); }
  static INTARSIA_INLINE double root(double x) { return __dsqrt_rn(x); }
#else
  static INTARSIA_INLINE F mul(F a, F b) { return a * b; }
  static INTARSIA_INLINE F root(F x) { return std::sqrt(x); }
#endif
  static INTARSIA_INLINE F negate_if_bit_31(U word, F x) { return word >> 31 ? -x : x; }
  static INTARSIA_INLINE F choose_if_bit_30(U word, F then, F otherwise) {
    return word & 0x40000000u ? then : otherwise;
  }
};

template <class M, class A, int n>
INTARSIA_INLINE typename M::F polynomial(typename M::F x, const A (&coefficient)[n]) {
  typename M::F sum = M::mul(x, typename M::F{} + coefficient[n - 1]) + coefficient[n - 2];
  for (int k = n - 3; k >= 0; --k) sum = M::mul(sum, x) + coefficient[k];
  return sum;
}

// Two independent standard normals from two uniform words.
//
// a: u = ((a >> 1) + 1/2) / 2^31, in float32 also where normals are float64, so that they differ by rounding
// alone: 2^-32 <= u <= 1, |z| <= 6.67. b: its top bits choose one of four quarter circles and the others the
// angle within.
template <class M>
INTARSIA_INLINE void box_muller(typename M::U a, typename M::U b, typename M::F& z0, typename M::F& z1) {
  using I = typename M::I;
  using F = typename M::F;
  using F32 = typename M::F32;
  constexpr double kTwoLog2 = 1.3862943611198906;

  // 2^31 u = m 2^n with 2/3 <= m < 4/3, and -2 log u = (31 - n) 2 log 2 - 2 log m.
  const F32 x = M::from_integer((I)(a >> 1)) + 0.5f;
  const I bits = bit_cast<I>(x), exponent = (bits - 0x3f2aaaab) & ~0x7fffff;
  const F halvings = M::widen(M::from_integer(31 - (exponent >> 23)));
  const F t = M::widen(bit_cast<F32>(bits - exponent) - 1.0f);
  const F y = M::widen(M::from_integer((I)(b << 2)) * 0x1p-31f), y2 = M::mul(y, y);

  constexpr Coefficients<typename M::A> of{};
  const F sine = M::mul(y, polynomial<M>(y2, of.sine)), cosine = polynomial<M>(y2, of.cosine);
  F squared;
  if constexpr (std::is_same_v<typename M::A, float>) {
    const F curve = M::mul(M::mul(t, t), polynomial<M>(t, of.logarithm));
    squared = M::mul(halvings, F{} + static_cast<float>(kTwoLog2)) + (curve - (t + t));
  } else {
    const F s = t / (t + 2.0), log = M::mul(s + s, polynomial<M>(M::mul(s, s), of.logarithm));
    squared = M::mul(halvings, F{} + kTwoLog2) - (log + log);
  }
  const F radius = M::negate_if_bit_31(b, M::root(squared));
  z0 = M::mul(radius, M::choose_if_bit_30(b, sine, cosine));
  z1 = M::mul(radius, M::choose_if_bit_30(b, cosine, sine));
}

// The four normals of a block of places.
template <class Real>
INTARSIA_INLINE void noise_normals(const NoiseRow& row, int32_t block, Real (&z)[4]) {
  const Words words = noise_words(row, block);
  box_muller<OneLane<Real>>(words.w[0], words.w[1], z[0], z[1]);
  box_muller<OneLane<Real>>(words.w[2], words.w[3], z[2], z[3]);
}

}  // namespace intarsia
