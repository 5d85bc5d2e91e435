// SPDX-License-Identifier: Apache-2.0
// Spherical interpolation in the plane of inner products: how much of each vector is in a result, found from
// the Gram matrix alone, in double precision.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/portable.h"
#include "intarsia.h"

namespace intarsia {

// Below this sine two directions count as one, or as opposite.
constexpr double kFlatSine = 1e-4;
constexpr double kNearPi = 3.1414;
// Terms this many times longer than their sum lose digits that single precision has none of to spare.
constexpr double kCancelling = 8.0;

struct Arc {
  double first, second;  // the result is first * x0 + second * x1
  double norm;
  bool cancels;  // the sum is much shorter than its terms, or hangs on the last digits of the angle
};

INTARSIA_INLINE double cosine(double dot, double norms) {
  const double c = dot / norms;
  return c > 1.0 ? 1.0 : c < -1.0 ? -1.0 : c;
}

// From x0.x0, x0.x1, x1.x1 and the share w of x1. Norms meet geometrically.
INTARSIA_INLINE Arc slerp_arc(double g00, double g01, double g11, double w) {
  const double n0 = sqrt(g00), n1 = sqrt(g11);
  if (w == 0.0) return {1.0, 0.0, n0, false};
  if (w == 1.0) return {0.0, 1.0, n1, false};
  if (n0 == 0.0 || n1 == 0.0) return {0.0, 0.0, 0.0, false};
  const double norm = pow(n0, 1.0 - w) * pow(n1, w);
  const double c = cosine(g01, n0 * n1), s = sqrt((1.0 - c) * (1.0 + c));
  double first, second;
  if (!(s < kFlatSine)) {
    const double angle = atan2(s, c);
    first = sin((1.0 - w) * angle) / s, second = sin(w * angle) / s;
  } else if (c > 0.0) {
    const double length = sqrt((1.0 - w) * (1.0 - w) + w * w + 2.0 * w * (1.0 - w) * c);
    first = (1.0 - w) / length, second = w / length;
  } else {
    first = w <= 0.5 ? 1.0 : 0.0, second = 1.0 - first;
  }
  const bool cancels = fabs(first) + fabs(second) > kCancelling || (s < kFlatSine && c < 0.0);
  return {norm * first / n0, norm * second / n1, norm, cancels};
}

// The inner products that are needed of N states x and means mu, in this order: x_i.x_j for i <= j, row by
// row; x_i.mu_j, row by row; mu_j.mu_j.
INTARSIA_INLINE constexpr int num_products(int count, bool means) {
  return count * (count + 1) / 2 + (means ? count * count + count : 0);
}
INTARSIA_INLINE constexpr int state_state(int count, int i, int j) {
  return i <= j ? i * count - i * (i - 1) / 2 + j - i : j * count - j * (j - 1) / 2 + i - j;
}
INTARSIA_INLINE constexpr int state_mean(int count, int i, int j) {
  return count * (count + 1) / 2 + i * count + j;
}
INTARSIA_INLINE constexpr int mean_mean(int count, int j) {
  return count * (count + 1) / 2 + count * count + j;
}

// The two vectors of product e, states being 0 to N - 1 and means N to 2N - 1.
struct Pair {
  int one, other;
};
INTARSIA_INLINE Pair pair_of(int count, int e) {
  if (e >= mean_mean(count, 0)) {
    const int j = e - mean_mean(count, 0);
    return {count + j, count + j};
  }
  if (e >= state_mean(count, 0, 0)) {
    const int k = e - state_mean(count, 0, 0);
    return {k / count, count + k % count};
  }
  int i = 0;
  while (e >= state_state(count, i, i) + count - i) ++i;
  return {i, i + e - state_state(count, i, i)};
}

// sum_j c_j x_j.x_k over the first `known` states.
template <class Gram>
INTARSIA_INLINE double along(const Gram& gram, int count, const double* c, int known, int k) {
  double sum = 0.0;
  for (int j = 0; j < known; ++j) sum += c[j] * gram(state_state(count, j, k));
  return sum;
}

// Whether two squared lengths of n elements are of one order, and far from where single precision ends.
INTARSIA_INLINE bool comparable(double one, double other, int64_t n) {
  constexpr double kRatio = 64.0, kLeast = 1e-28, kMost = 1e36;
  return one >= kLeast * static_cast<double>(n) && one <= kMost && other >= one / kRatio &&
         other <= one * kRatio;
}

// Whether products of differences in single precision tell all distances that matter: from x' to a mean
// against those from the first state to that mean and to the other states.
template <class Gram>
INTARSIA_INLINE bool told_apart(const Gram& gram, int count, const double* squares, int64_t n) {
  constexpr double kShare = 1e-4, kAlike = 1e-12;
  const double first = gram(0);
  double apart = 0.0;
  for (int k = 1; k < count; ++k) {
    const double square = gram(state_state(count, k, k));
    if (!comparable(first, square, n)) return false;
    apart += (first - gram(k)) + (square - gram(k));
  }
  for (int i = 0; i < count; ++i) {
    const double mean = gram(mean_mean(count, i)), dot = gram(state_mean(count, 0, i));
    const double terms = apart + ((first - dot) + (mean - dot));
    if (!(terms < 1e36) || (squares[i] < kShare * terms && terms > kAlike * first)) return false;
  }
  return comparable(first, first, n);
}

// One state after the other: w = 1 keeps what was folded so far, w = 0 takes the new state.
template <class Gram>
INTARSIA_INLINE bool fold_in_sequence(const Gram& gram, const AggregateView& view, double* c) {
  const int count = view.count;
  bool cancels = false;
  c[0] = 1.0;
  double square = gram(state_state(count, 0, 0));
  for (int k = 1; k < count; ++k) {
    const double w = view.weight[k - 1];
    double old = w, fresh = sqrt(fmax(0.0, 1.0 - w * w));
    if (view.fold != Fold::right_angle) {
      const double dot = along(gram, count, c, k, k);
      const Arc arc = slerp_arc(gram(state_state(count, k, k)), dot, square, w);
      old = arc.second, fresh = arc.first, square = arc.norm * arc.norm;
      cancels = cancels || arc.cancels;
    }
    for (int j = 0; j < k; ++j) c[j] *= old;
    c[k] = fresh;
  }
  return cancels;
}

// The point of the sphere whose logarithms of all directions average to zero, by fixed-point steps.
template <class Gram>
INTARSIA_INLINE void fold_to_mean(const Gram& gram, const AggregateView& view, double* c) {
  constexpr int kSteps = 64;
  constexpr double kStill = 1e-28;
  const int count = view.count;
  double norm[kMaxStates], shift[kMaxStates], length = 1.0;
  int heaviest = 0;
  for (int k = 0; k < count; ++k) {
    norm[k] = sqrt(gram(state_state(count, k, k)));
    length *= norm[k] == 0.0 ? 0.0 : pow(norm[k], view.weight[k]);
    if (view.weight[k] > view.weight[heaviest]) heaviest = k;
  }
  for (int k = 0; k < count; ++k) c[k] = 0.0;
  if (length == 0.0) return;
  const auto toward = [&](const double* a, int k) {
    double sum = 0.0;
    for (int j = 0; j < count; ++j) sum += a[j] * gram(state_state(count, j, k)) / (norm[j] * norm[k]);
    return sum;
  };
  const auto square = [&](const double* a) {
    double sum = 0.0;
    for (int k = 0; k < count; ++k) sum += a[k] * toward(a, k);
    return sum;
  };
  for (int k = 0; k < count; ++k) c[k] = view.weight[k];
  double size = square(c);
  if (size < kFlatSine * kFlatSine) {
    for (int k = 0; k < count; ++k) c[k] = k == heaviest ? 1.0 : 0.0;
    size = 1.0;
  }
  for (int k = 0; k < count; ++k) c[k] /= sqrt(size);
  for (int step = 0; step < kSteps; ++step) {
    double inward = 0.0;
    for (int k = 0; k < count; ++k) {
      const double near = cosine(toward(c, k), 1.0), sine = sqrt((1.0 - near) * (1.0 + near));
      const double angle = atan2(sine, near);
      // Opposite to the point itself no direction leads there.
      shift[k] = view.weight[k] * (sine > kFlatSine ? angle / sine : angle < kNearPi ? 1.0 : 0.0);
      inward += shift[k] * near;
    }
    for (int k = 0; k < count; ++k) shift[k] -= inward * c[k];
    const double far = fmax(square(shift), 0.0);
    if (!(far > kStill)) break;
    const double stay = cos(sqrt(far)), go = sin(sqrt(far)) / sqrt(far);
    for (int k = 0; k < count; ++k) c[k] = stay * c[k] + go * shift[k];
    size = sqrt(square(c));
    for (int k = 0; k < count; ++k) c[k] /= size;
  }
  for (int k = 0; k < count; ++k) c[k] *= length / norm[k];
}

// x' = sum_k c_k x_k and the squares r_i^2 of its distances to the means; true where forming x' cancels.
template <class Gram>
INTARSIA_INLINE bool fold(const Gram& gram, const AggregateView& view, double* c, double* squares) {
  const int count = view.count;
  bool cancels = false;
  if (view.fold == Fold::mean) {
    fold_to_mean(gram, view, c);
  } else {
    cancels = fold_in_sequence(gram, view, c);
  }
  double square = 0.0, terms = 0.0;
  for (int k = 0; k < count; ++k) {
    square += c[k] * along(gram, count, c, count, k);
    terms += fabs(c[k]) * sqrt(gram(state_state(count, k, k)));
  }
  for (int i = 0; i < count; ++i) {
    double dot = 0.0;
    for (int k = 0; k < count; ++k) dot += c[k] * gram(state_mean(count, k, i));
    const double r2 = (square - dot) + (gram(mean_mean(count, i)) - dot);
    squares[i] = r2 < 0.0 ? 0.0 : r2;
  }
  return cancels || terms * terms > kCancelling * kCancelling * square;
}

// How far output i goes from x' to its mean: out = (1 - t) x' + t mu, t = min(eta, r) / r.
INTARSIA_INLINE double toward_mean(double eta, double square) {
  const double r = sqrt(square);
  return r <= eta ? 1.0 : eta / r;
}

template <class A>
INTARSIA_INLINE A deviated(A merged, A mean, A stay, A go) {
  return stay * merged + go * mean;
}

}  // namespace intarsia
