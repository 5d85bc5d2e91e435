// SPDX-License-Identifier: Apache-2.0
// Inner products of a few vectors in single precision, which is twice the lanes: short sums, folded into
// double ones, of the first vector and of the others' differences from it. Where the vectors are alike, as
// states of one trajectory are, nothing cancels; whoever uses the products finds out where it does.
#pragma once

#include "cpu/gram.h"
#include "cpu/pack.h"

namespace intarsia::cpu::INTARSIA_ISA {

constexpr int64_t kShortSums = 16;
constexpr int64_t kFoldEvery = 512;

INTARSIA_INLINE V<float> minus(V<float> a, V<float> b) {
  return a - b;
}
INTARSIA_INLINE Two minus(Two a, Two b) {
  return {a.even - b.even, a.odd - b.odd};
}
INTARSIA_INLINE void add_product(V<float>& sum, V<float> a, V<float> b) {
  sum += a * b;
}
INTARSIA_INLINE void add_product(V<float>& sum, Two a, Two b) {
  sum += a.even * b.even;
  sum += a.odd * b.odd;
}

// From products of x_0 and differences d = x_k - x_0, e = mu_j - x_0 to those of x and mu.
template <int K, bool kMeans>
INTARSIA_INLINE void undo_differences(const double* s, double* sums) {
  const double p = s[0];
  const auto with = [&](int e, bool there) { return there ? s[e] : 0.0; };
  for (int a = 0; a < K; ++a) {
    const double pa = with(state_state(K, 0, a), a > 0);
    for (int b = a; b < K; ++b) {
      const double pb = with(state_state(K, 0, b), b > 0), ab = with(state_state(K, a, b), a > 0);
      sums[state_state(K, a, b)] = p + (pa + pb + ab);
    }
    if constexpr (kMeans) {
      for (int b = 0; b < K; ++b) {
        const double pb = s[state_mean(K, 0, b)], ab = with(state_mean(K, a, b), a > 0);
        sums[state_mean(K, a, b)] = p + (pa + pb + ab);
      }
      sums[mean_mean(K, a)] = p + (2.0 * s[state_mean(K, 0, a)] + s[mean_mean(K, a)]);
    }
  }
}

template <class T, int K, bool kMeans>
void quick_gram(const T* const* vectors, int64_t first, int64_t n, double* sums) {
  using S = Step<float, T>;
  constexpr int kProducts = num_products(K, kMeans), kVectors = kMeans ? 2 * K : K;
  constexpr int64_t kRounds = kShortSums / lanes<float>, kStride = kRounds * S::size;
  double kept[kProducts][kShortSums] = {};
  T rest[kVectors][kStride];
  for (int64_t j = 0; j < n; j += kFoldEvery) {
    const int64_t until = n - j < kFoldEvery ? n - j : kFoldEvery;
    float folded[kProducts][kShortSums];
    for (int64_t round = 0; round < kRounds; ++round) {
      V<float> sum[kProducts] = {};
      const auto add = [&](const T* const* at, int64_t i) {
        typename S::Values x[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) x[v] = S::load(at[v] + i);
#pragma GCC unroll 8
        for (int v = 1; v < kVectors; ++v) x[v] = minus(x[v], x[0]);
#pragma GCC unroll 4
        for (int a = 0; a < K; ++a) {
#pragma GCC unroll 4
          for (int b = a; b < K; ++b) add_product(sum[state_state(K, a, b)], x[a], x[b]);
          if constexpr (kMeans) {
#pragma GCC unroll 4
            for (int b = 0; b < K; ++b) add_product(sum[state_mean(K, a, b)], x[a], x[K + b]);
            add_product(sum[mean_mean(K, a)], x[K + a], x[K + a]);
          }
        }
      };
      int64_t i = 0;
      for (; until - i >= kStride; i += kStride) add(vectors, first + j + i + round * S::size);
      if (i < until) {
        const T* padded[kVectors];
        memset(rest, 0, sizeof rest);
        for (int v = 0; v < kVectors; ++v) {
          memcpy(rest[v], vectors[v] + first + j + i, static_cast<size_t>(until - i) * sizeof(T));
          padded[v] = rest[v];
        }
        add(padded, round * S::size);
      }
      for (int e = 0; e < kProducts; ++e) memcpy(folded[e] + round * lanes<float>, &sum[e], sizeof sum[e]);
    }
    for (int e = 0; e < kProducts; ++e) {
      for (int64_t i = 0; i < kShortSums; ++i) kept[e][i] += static_cast<double>(folded[e][i]);
    }
  }
  double differences[kProducts];
  for (int e = 0; e < kProducts; ++e) {
    double half[kSums];
    for (int64_t i = 0; i < kSums; ++i) half[i] = kept[e][i] + kept[e][i + kSums];
    differences[e] = total(half);
  }
  undo_differences<K, kMeans>(differences, sums);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
