// SPDX-License-Identifier: Apache-2.0
// Inner products of a few vectors, all in one pass. A product of two numbers of at most 32 bits is exact in
// double precision, so fused and separate sums are equal bit for bit; eight sums per product, whatever the
// width of the machine's vectors, make the order one.
#pragma once

#include "common/slerp.h"
#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

constexpr int64_t kSums = 8;
constexpr int64_t kRounds = kSums / lanes<double>;
// Elements whose inner products are summed on their own: the shares that threads take.
constexpr int64_t kGramChunk = 4096;

// lanes<double> neighbours, widened.
template <class T>
struct Doubles {
  static constexpr int64_t L = lanes<double>;
  static INTARSIA_INLINE V<double> load(const T* p) {
    if constexpr (std::is_same_v<T, double>) {
      return Memory<double, double>::load(p);
    } else {
      typedef float Floats __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));
      Floats v;
      if constexpr (std::is_same_v<T, float>) {
        memcpy(&v, p, sizeof v);
      } else if constexpr (std::is_same_v<T, bf16>) {
        typedef uint16_t Bits __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 4)));
        typedef uint32_t Wide __attribute__((vector_size(INTARSIA_VECTOR_BYTES / 2)));
        Bits bits;
        memcpy(&bits, p, sizeof bits);
        v = bit_cast<Floats>(__builtin_convertvector(bits, Wide) << 16);
      } else {
#if defined(__AVX512F__)
        v = (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__F16C__)
        v = (Floats)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
        for (int64_t i = 0; i < L; ++i) v[i] = widen(p[i]);
#endif
      }
      return __builtin_convertvector(v, V<double>);
    }
  }
};

// sum + a * b for values of T.
template <class T>
INTARSIA_INLINE V<double> add_product(V<double> sum, V<double> a, V<double> b) {
  if constexpr (!std::is_same_v<T, double>) {
#if defined(__AVX512F__)
    return (V<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
#elif defined(__FMA__)
    return (V<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum);
#endif
  }
  return sum + a * b;
}

INTARSIA_INLINE double total(const double (&s)[kSums]) {
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

// Calls act(pointers, j) for every kSums neighbours from element j on, the last of them filled up with zeros.
template <class T, int kVectors, class Act>
INTARSIA_INLINE void each_group(const T* const* vectors, int64_t first, int64_t n, const Act& act) {
  int64_t j = 0;
  for (; n - j >= kSums; j += kSums) act(vectors, first + j);
  if (j == n) return;
  T rest[kVectors][kSums];
  const T* padded[kVectors];
  memset(rest, 0, sizeof rest);
  for (int v = 0; v < kVectors; ++v) {
    memcpy(rest[v], vectors[v] + first + j, static_cast<size_t>(n - j) * sizeof(T));
    padded[v] = rest[v];
  }
  act(padded, int64_t{0});
}

// sums[e] = product e over [first, first + n) of K states and, under kMeans, K means behind them in
// `vectors`.
template <class T, int K, bool kMeans>
void gram_of(const T* const* vectors, int64_t first, int64_t n, double* sums) {
  constexpr int kProducts = num_products(K, kMeans), kVectors = kMeans ? 2 * K : K;
  // Where a round leaves lanes out, its neighbours are still in the first-level cache for the next one.
  constexpr int64_t kReach = kRounds == 1 ? kGramChunk : 512;
  V<double> kept[kRounds][kProducts] = {};
  for (int64_t j = 0; j < n; j += kReach) {
    for (int64_t round = 0; round < kRounds; ++round) {
      V<double> sum[kProducts];
      for (int e = 0; e < kProducts; ++e) sum[e] = kept[round][e];
      each_group<T, kVectors>(vectors, first + j, n - j < kReach ? n - j : kReach,
                              [&](const T* const* at, int64_t i) {
                                V<double> x[kVectors];
#pragma GCC unroll 8
                                for (int v = 0; v < kVectors; ++v)
                                  x[v] = Doubles<T>::load(at[v] + i + round * lanes<double>);
#pragma GCC unroll 4
                                for (int a = 0; a < K; ++a) {
#pragma GCC unroll 4
                                  for (int b = a; b < K; ++b) {
                                    V<double>& s = sum[state_state(K, a, b)];
                                    s = add_product<T>(s, x[a], x[b]);
                                  }
                                  if constexpr (kMeans) {
#pragma GCC unroll 4
                                    for (int b = 0; b < K; ++b) {
                                      V<double>& s = sum[state_mean(K, a, b)];
                                      s = add_product<T>(s, x[a], x[K + b]);
                                    }
                                    V<double>& s = sum[mean_mean(K, a)];
                                    s = add_product<T>(s, x[K + a], x[K + a]);
                                  }
                                }
                              });
      for (int e = 0; e < kProducts; ++e) kept[round][e] = sum[e];
    }
  }
  for (int e = 0; e < kProducts; ++e) {
    double s[kSums];
    for (int64_t round = 0; round < kRounds; ++round)
      memcpy(s + round * lanes<double>, &kept[round][e], sizeof(V<double>));
    sums[e] = total(s);
  }
}

// The same for any number of states, a product at a time over runs that stay in the first-level cache.
template <class T>
void gram_of_many(const T* const* vectors, int count, int64_t first, int64_t n, double* sums) {
  constexpr int64_t kReach = 256;
  const int products = num_products(count, true);
  for (int e = 0; e < products; ++e) sums[e] = 0.0;
  for (int64_t j = 0; j < n; j += kReach) {
    for (int e = 0; e < products; ++e) {
      const Pair pair = pair_of(count, e);
      const T* both[] = {vectors[pair.one], vectors[pair.other]};
      V<double> sum[kRounds] = {};
      each_group<T, 2>(both, first + j, n - j < kReach ? n - j : kReach, [&](const T* const* at, int64_t i) {
        for (int64_t round = 0; round < kRounds; ++round) {
          const int64_t lane = i + round * lanes<double>;
          sum[round] =
              add_product<T>(sum[round], Doubles<T>::load(at[0] + lane), Doubles<T>::load(at[1] + lane));
        }
      });
      double s[kSums];
      memcpy(s, sum, sizeof s);
      sums[e] += total(s);
    }
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
