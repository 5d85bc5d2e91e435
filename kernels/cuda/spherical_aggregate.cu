// SPDX-License-Identifier: Apache-2.0
// N states become one and each result moves toward its mean: inner products first, then each block finds the
// coefficients of its sample.
#include <type_traits>

#include "gram.cuh"

namespace intarsia::cuda {
namespace {

struct Shares {
  double state[kMaxStates], mean[kMaxStates];
  bool cancels;
};

// What one block works out for its sample, in shared memory.
template <int K>
__device__ inline void find_shares(Shares& shares, const AggregateView& view, const double* sums,
                                   int64_t sample, int64_t batch, int64_t parts) {
  // Where products are few, several threads add up the parts of each.
  constexpr int kSlices = K > 0 ? 8 : 1, kMost = num_products(K > 0 ? K : kMaxStates, true);
  __shared__ double slice[kMost * kSlices];
  __shared__ double squares[kThreads];
  __shared__ double total[kMaxStates];
  const int count = K > 0 ? K : view.count, products = num_products(count, true);
  const double* from = sums + sample * parts * products;
  for (int item = thread_in_block(); item < products * kSlices; item += kThreads) {
    double sum = 0.0;
#pragma unroll 8
    for (int64_t part = item % kSlices; part < parts; part += kSlices) {
      sum += __ldg(from + part * products + item / kSlices);
    }
    slice[item] = sum;
  }
  __syncthreads();
  for (int e = thread_in_block(); e < products && kSlices > 1; e += kThreads) {
    double sum = slice[e * kSlices];
    for (int s = 1; s < kSlices; ++s) sum += slice[e * kSlices + s];
    slice[e * kSlices] = sum;
  }
  __syncthreads();
  if (thread_in_block() == 0) {
    const auto gram = [&](int e) { return slice[e * kSlices]; };
    shares.cancels = fold(gram, view, shares.state, total);
  }
  if (view.over_batch) {
    double own[kMaxStates] = {}, c[kMaxStates], more[kMaxStates];
    for (int64_t s = thread_in_block(); s < batch; s += kThreads) {
      fold([&](int e) { return add_parts(sums, s, parts, products, e); }, view, c, more);
      for (int i = 0; i < count; ++i) own[i] += more[i];
    }
    for (int i = 0; i < count; ++i) {
      squares[thread_in_block()] = own[i];
      __syncthreads();
      if (thread_in_block() == 0) {
        total[i] = 0.0;
        for (int t = 0; t < kThreads; ++t) total[i] += squares[t];
      }
      __syncthreads();
    }
  }
  if (thread_in_block() == 0) {
    const double eta = view.etas == nullptr ? view.eta : __ldg(view.etas + sample);
    for (int i = 0; i < count; ++i) shares.mean[i] = toward_mean(eta, total[i]);
  }
  __syncthreads();
}

template <typename T, int kRun>
__device__ inline void load_run(T (&to)[kRun], const T* from, int width, bool wide) {
  if (wide && width == kRun) {
    load_words(to, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) to[i] = i < width ? load_one(from + i) : T{};
}

// One run of neighbours of all results, in arithmetic of A. K states, or with K = 0 as many as there are.
template <typename A, typename T, int K>
__device__ inline void deviate(const AggregateView& view, const Shares& shares, int64_t at, int width,
                               bool wide) {
  constexpr int kRun = kRunLength<T>;
  const int count = K > 0 ? K : view.count;
  A merged[kRun] = {};
#pragma unroll
  for (int k = 0; k < count; ++k) {
    T x[kRun];
    load_run(x, static_cast<const T*>(view.state[k]) + at, width, wide);
    const A share = static_cast<A>(shares.state[k]);
#pragma unroll
    for (int i = 0; i < kRun; ++i) merged[i] += share * static_cast<A>(to_sum(x[i]));
  }
#pragma unroll
  for (int k = 0; k < count; ++k) {
    T mean[kRun], result[kRun];
    load_run(mean, static_cast<const T*>(view.mean[k]) + at, width, wide);
    const A stay = static_cast<A>(1.0 - shares.mean[k]), go = static_cast<A>(shares.mean[k]);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      result[i] = FromSum<T>::cast(deviated(merged[i], static_cast<A>(to_sum(mean[i])), stay, go));
    }
    store_run(static_cast<T*>(view.out[k]) + at, result, width);
  }
}

template <typename T, int K>
__global__ void __launch_bounds__(kThreads)
    spherical_aggregate_kernel(const AggregateView view,
                               const double* __restrict__ sums /* [B,parts,products] */, int64_t batch,
                               int64_t size, int64_t parts, int64_t per_sample) {
  constexpr int kRun = kRunLength<T>;
  __shared__ Shares shares;
  const int count = K > 0 ? K : view.count;
  for (int64_t group = first_group(); group < batch * per_sample; group += group_step()) {
    const int64_t sample = group / per_sample, share = group - sample * per_sample;
    find_shares<K>(shares, view, sums, sample, batch, parts);
    bool wide = true;
    for (int k = 0; k < count; ++k) {
      wide = wide && aligned<T, kRun>(static_cast<const T*>(view.state[k]) + sample * size) &&
             aligned<T, kRun>(static_cast<const T*>(view.mean[k]) + sample * size);
    }
    for (int64_t at = (share * kThreads + thread_in_block()) * kRun; at < size;
         at += per_sample * kThreads * kRun) {
      const int width = size - at < kRun ? static_cast<int>(size - at) : kRun;
      if (std::is_same<T, double>::value || shares.cancels) {
        deviate<double, T, K>(view, shares, sample * size + at, width, wide);
      } else {
        deviate<float, T, K>(view, shares, sample * size + at, width, wide);
      }
    }
    __syncthreads();
  }
}

template <typename T, int K>
Status combine(const AggregateView& view, int64_t batch, int64_t size, const double* sums, void* stream) {
  const int64_t per_sample = groups_per_sample<T>(batch, size);
  return launch(spherical_aggregate_kernel<T, K>, batch * per_sample * kThreads, view.out[0], stream, view,
                sums, batch, size, gram_parts(size), per_sample);
}

template <typename T, int K>
Status aggregate(const AggregateView& view, const Vectors& vectors, int64_t batch, int64_t size, double* sums,
                 void* stream) {
  Status status;
  if constexpr (K > 0) {
    status = gram<T, K, true>(sums, vectors, batch, size, stream);
  } else {
    status = gram_of_many<T>(sums, vectors, view.count, batch, size, stream);
  }
  return status.code != Status::ok ? status : combine<T, K>(view, batch, size, sums, stream);
}

}  // namespace

Status spherical_aggregate(const AggregateView& view, DType dtype, int64_t batch, int64_t size,
                           double* sums /* [B,parts,products] */, void* stream) {
  if (batch < 1 || size < 1) return Status{};
  Vectors vectors{};
  for (int k = 0; k < view.count; ++k) {
    vectors.at[k] = view.state[k], vectors.at[view.count + k] = view.mean[k];
  }
  return with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (view.count == 1) return aggregate<T, 1>(view, vectors, batch, size, sums, stream);
    if (view.count == 2) return aggregate<T, 2>(view, vectors, batch, size, sums, stream);
    if (view.count == 3) return aggregate<T, 3>(view, vectors, batch, size, sums, stream);
    return aggregate<T, 0>(view, vectors, batch, size, sums, stream);
  });
}

}  // namespace intarsia::cuda
