// SPDX-License-Identifier: Apache-2.0
// The weights of one call: looked through once, then handed to the pieces of each band.
#pragma once

#include <algorithm>

#include "common/formulas.h"
#include "cpu/accumulate.h"
#include "intarsia.h"

namespace intarsia::cpu::INTARSIA_ISA {

template <class A>
class Weights {
 public:
  Weights(const PlanView& plan, const WeightView& view)
      : plan_(plan), view_(view), coefficient_(static_cast<const A*>(view.coefficient)) {}

  // Finite throughout, and under normalize no negative coefficient. Finds out what the products are bounded
  // by.
  Status check(bool normalize) {
    A low = 1, high = 1;
    if (coefficient_ && plan_.regions > 0) {
      A least = coefficient_[0], most = least;
      for (int64_t r = 0; r < plan_.regions; ++r) {
        const A c = coefficient_[r];
        if (!(c - c == A(0))) return {Status::coefficient_not_finite, r, nullptr};
        if (normalize && c < A(0)) return {Status::coefficient_negative, r, nullptr};
        least = std::min(least, c), most = std::max(most, c);
      }
      low = least, high = most;
    }
    if (!view_.separable) {
      // Under normalize the totals tell.
      const int64_t n = view_.window_regions * plan_.patch[0] * plan_.patch[1] * plan_.patch[2];
      const int64_t bad = normalize ? -1 : first_not_finite(static_cast<const A*>(view_.window), n);
      return bad < 0 ? Status{} : Status{Status::weight_not_finite, bad, nullptr};
    }
    int64_t seen = 0;
    for (int axis = 0; axis < kMaxDims; ++axis) {
      const A* f = static_cast<const A*>(view_.factor[axis]);
      const int64_t n = plan_.patch[axis];
      if (!f || n == 0) continue;
      const int64_t bad = first_not_finite(f, n);
      if (bad >= 0) return {Status::weight_not_finite, seen + bad, nullptr};
      seen += n;
      const auto [least, most] = extremes(f, n);
      low = least > A(0) ? low * least : A(0);
      high *= most;
    }
    positive_ = usable_total(A(1) / low) && usable_total(A(1) / high);
    return {};
  }

  // Every weight, rounded as the kernels round it, is positive and finite.
  bool positive() const { return positive_; }

  void place(Piece<A>& piece, int64_t j0, int64_t j1, int64_t j2) const {
    const A c = coefficient_ ? coefficient_[piece.region] : A(1);
    piece.f1 = &kOne, piece.f1_step = 0, piece.w_step = 0;
    if (view_.separable) {
      const auto factor = [&](int axis) { return static_cast<const A*>(view_.factor[axis]); };
      piece.base = factor(0) ? c * factor(0)[j0] : c;
      if (factor(1)) piece.f1 = factor(1) + j1, piece.f1_step = 1;
      piece.w = factor(2) + j2;
    } else {
      const int64_t region = view_.window_regions == 1 ? 0 : piece.region;
      piece.base = c;
      piece.w = static_cast<const A*>(view_.window) +
                ((region * plan_.patch[0] + j0) * plan_.patch[1] + j1) * plan_.patch[2] + j2;
      piece.w_step = plan_.ndim == 1 ? 0 : plan_.patch[2];
    }
  }

 private:
  static constexpr A kOne = 1;

  static int64_t first_not_finite(const A* p, int64_t n) {
    constexpr int64_t L = lanes<A>;
    V<A> nothing{};  // x - x is zero, or NaN when x is not finite, and NaN stays
    int64_t i = 0;
    for (; n - i >= L; i += L) {
      const V<A> v = Memory<A, A>::load(p + i);
      nothing += v - v;
    }
    bool bad = false;
    for (; i < n; ++i) bad |= !(p[i] - p[i] == A(0));
    for (int64_t k = 0; k < L; ++k) bad |= nothing[k] != A(0);
    for (i = 0; bad && p[i] - p[i] == A(0); ++i) {
    }
    return bad ? i : -1;
  }

  struct Extremes {
    A least, most;
  };
  static Extremes extremes(const A* p, int64_t n) {
    constexpr int64_t L = lanes<A>;
    A least = p[0], most = p[0];
    int64_t i = 0;
    if (n >= L) {
      V<A> lo = Memory<A, A>::load(p), hi = lo;
      for (; n - i >= L; i += L) {
        const V<A> v = Memory<A, A>::load(p + i);
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
      }
      for (int64_t k = 0; k < L; ++k) least = std::min(least, A(lo[k])), most = std::max(most, A(hi[k]));
    }
    for (; i < n; ++i) least = std::min(least, p[i]), most = std::max(most, p[i]);
    return {least, most};
  }

  const PlanView& plan_;
  const WeightView& view_;
  const A* coefficient_;
  bool positive_ = false;
};

}  // namespace intarsia::cpu::INTARSIA_ISA
