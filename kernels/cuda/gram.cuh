// SPDX-License-Identifier: Apache-2.0
// Inner products of a few vectors: a block sums its part of a sample, whoever needs them adds the parts.
// Every order is fixed by the size alone.
#pragma once

#include "common/slerp.h"
#include "element.cuh"
#include "launch.cuh"

namespace intarsia::cuda {

// Neighbours that one thread moves at a time.
template <typename T>
constexpr int kRunLength = 16 / static_cast<int>(sizeof(T));
constexpr int64_t kPartLength = kThreads * 8;
constexpr int64_t kMostParts = 256;
// Sums that pass through shared memory at a time, and threads that add up each.
constexpr int kShelves = 16, kHelpers = kThreads / kShelves;

struct Vectors {
  const void* at[2 * kMaxStates];  // [B, n] each
};

inline int64_t part_length(int64_t size) {
  const int64_t parts = size < kPartLength * kMostParts ? (size - 1) / kPartLength + 1 : kMostParts;
  return ((size - 1) / parts / kPartLength + 1) * kPartLength;
}

// Adds up each thread's `sums` over the block, the results in the first `count` places of `to`.
template <int kCount>
__device__ inline void add_up(const double (&sums)[kCount], int count, double* to) {
  __shared__ double shelf[kShelves][kThreads];
  __shared__ double half[kShelves][kHelpers];
  const int lane = thread_in_block(), row = lane / kHelpers, helper = lane % kHelpers;
#pragma unroll
  for (int first = 0; first < kCount; first += kShelves) {
#pragma unroll
    for (int e = 0; e < kShelves; ++e) {
      if (first + e < kCount) shelf[e][lane] = sums[first + e];
    }
    __syncthreads();
    if (first + row < kCount) {
      double sum = 0.0;
#pragma unroll
      for (int i = 0; i < kShelves; ++i) sum += shelf[row][i * kHelpers + helper];
      half[row][helper] = sum;
    }
    __syncthreads();
    if (lane < kShelves && first + lane < count) {
      double sum = 0.0;
#pragma unroll
      for (int i = 0; i < kHelpers; ++i) sum += half[lane][i];
      to[first + lane] = sum;
    }
    __syncthreads();
  }
}

// K states, with kMeans as many means behind them.
template <typename T, int K, bool kMeans>
__global__ void __launch_bounds__(kThreads)
    gram_kernel(double* __restrict__ sums /* [B,parts,products] */, const Vectors vectors, int64_t batch,
                int64_t size, int64_t parts, int64_t length) {
  constexpr int kProducts = num_products(K, kMeans), kVectors = kMeans ? 2 * K : K, kRun = kRunLength<T>;
  for (int64_t group = first_group(); group < batch * parts; group += group_step()) {
    const int64_t sample = group / parts, begin = (group - sample * parts) * length;
    const int64_t end = begin + length < size ? begin + length : size;
    const T* from[kVectors];
    bool wide = true;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      from[v] = static_cast<const T*>(vectors.at[v]) + sample * size;
      wide = wide && aligned<T, kRun>(from[v]);
    }
    double sum[kProducts];
#pragma unroll
    for (int e = 0; e < kProducts; ++e) sum[e] = 0.0;
    for (int64_t at = begin + thread_in_block() * kRun; at < end; at += kThreads * kRun) {
      T value[kVectors][kRun];
      const bool whole = end - at >= kRun;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (whole && wide) {
          load_words(value[v], from[v] + at);
        } else {
#pragma unroll
          for (int i = 0; i < kRun; ++i) value[v][i] = at + i < end ? load_one(from[v] + at + i) : T{};
        }
      }
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        double x[kVectors];
#pragma unroll
        for (int v = 0; v < kVectors; ++v) x[v] = static_cast<double>(to_sum(value[v][i]));
#pragma unroll
        for (int a = 0; a < K; ++a) {
#pragma unroll
          for (int b = a; b < K; ++b) sum[state_state(K, a, b)] += x[a] * x[b];
          if constexpr (kMeans) {
#pragma unroll
            for (int b = 0; b < K; ++b) sum[state_mean(K, a, b)] += x[a] * x[K + b];
            sum[mean_mean(K, a)] += x[K + a] * x[K + a];
          }
        }
      }
    }
    add_up(sum, kProducts, sums + group * kProducts);
  }
}

// Any number of states with their means, a few products at a time.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    gram_of_many_kernel(double* __restrict__ sums /* [B,parts,products] */, const Vectors vectors, int count,
                        int64_t batch, int64_t size, int64_t parts, int64_t length) {
  const int products = num_products(count, true);
  for (int64_t group = first_group(); group < batch * parts; group += group_step()) {
    const int64_t sample = group / parts, begin = (group - sample * parts) * length;
    const int64_t end = begin + length < size ? begin + length : size;
    for (int first = 0; first < products; first += kShelves) {
      double sum[kShelves];
#pragma unroll
      for (int e = 0; e < kShelves; ++e) {
        sum[e] = 0.0;
        if (first + e >= products) continue;
        const Pair pair = pair_of(count, first + e);
        const T* one = static_cast<const T*>(vectors.at[pair.one]) + sample * size;
        const T* other = static_cast<const T*>(vectors.at[pair.other]) + sample * size;
        for (int64_t at = begin + thread_in_block(); at < end; at += kThreads) {
          sum[e] += static_cast<double>(to_sum(load_one(one + at))) *
                    static_cast<double>(to_sum(load_one(other + at)));
        }
      }
      add_up(sum, products - first, sums + group * products + first);
    }
  }
}

template <typename T, int K, bool kMeans>
Status gram(double* sums, const Vectors& vectors, int64_t batch, int64_t size, void* stream) {
  const int64_t parts = gram_parts(size), length = part_length(size);
  return launch(gram_kernel<T, K, kMeans>, batch * parts * kThreads, sums, stream, sums, vectors, batch, size,
                parts, length);
}

template <typename T>
Status gram_of_many(double* sums, const Vectors& vectors, int count, int64_t batch, int64_t size,
                    void* stream) {
  const int64_t parts = gram_parts(size), length = part_length(size);
  return launch(gram_of_many_kernel<T>, batch * parts * kThreads, sums, stream, sums, vectors, count, batch,
                size, parts, length);
}

// Product e of a sample from its parts.
__device__ inline double add_parts(const double* sums, int64_t sample, int64_t parts, int products, int e) {
  const double* from = sums + sample * parts * products + e;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t part = 0; part < parts; ++part) sum += __ldg(from + part * products);
  return sum;
}

// Groups of threads per sample for a second pass over `size` elements: enough to fill a large GPU, few enough
// that what each works out first does not weigh.
template <typename T>
int64_t groups_per_sample(int64_t batch, int64_t size) {
  constexpr int64_t kManyGroups = 1024;
  const int64_t most = (size - 1) / (kThreads * kRunLength<T>)+1, fair = kManyGroups / batch + 1;
  return most < fair ? most : fair;
}

}  // namespace intarsia::cuda
