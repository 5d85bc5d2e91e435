// SPDX-License-Identifier: Apache-2.0
// The arithmetic of one element, shared by the CPU and CUDA kernels, so that CPU tests exercise what the GPU
// runs.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/portable.h"

namespace intarsia {

// Place x seen from a region at `offset` on an axis of `size` places; offsets of wrapped axes lie in [0,
// size). The region covers x when 0 <= result < patch: without wrap a place before the region gives a result
// >= size or < 0.
INTARSIA_INLINE int64_t local_coordinate(int64_t x, int64_t offset, int64_t size, bool wrap) {
  const int64_t d = x - offset;
  return wrap && d < 0 ? d + size : d;
}

INTARSIA_INLINE bool inside(int64_t local, int64_t patch) {
  return static_cast<uint64_t>(local) < static_cast<uint64_t>(patch);
}

// The weight of one element, in one order of multiplication everywhere: ((coefficient * f0) * f1) * f2.
template <class A>
INTARSIA_INLINE A row_weight(A coefficient, A factor0, A factor1) {
  return (coefficient * factor0) * factor1;
}

// A total that may be divided by: positive and finite (NaN fails both).
template <class A>
INTARSIA_INLINE bool usable_total(A total) {
  return total > A(0) && total - total == A(0);
}

// One reciprocal serves all channels and samples of an element.
template <class A>
INTARSIA_INLINE A normalised(A sum, A reciprocal) {
  return sum * reciprocal;
}

// exp(-((j - m) / n)^2 / (2 f^2)) / sqrt(2 pi f^2), m = (n - 1) / 2.
INTARSIA_INLINE double gaussian_weight(int64_t j, int64_t n, double sigma_fraction) {
  const double u = (static_cast<double>(j) - 0.5 * static_cast<double>(n - 1)) / static_cast<double>(n);
  const double variance = sigma_fraction * sigma_fraction;
  return exp(-(u * u) / (2.0 * variance)) / sqrt(6.283185307179586 * variance);
}

}  // namespace intarsia
