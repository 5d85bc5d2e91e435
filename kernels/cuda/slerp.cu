// SPDX-License-Identifier: Apache-2.0
// Between two vectors: inner products first, then each block finds the coefficients of its sample.
#include <type_traits>

#include "gram.cuh"

namespace intarsia::cuda {
namespace {

template <typename A, typename T, int kRun>
__device__ inline void blend(T (&to)[kRun], const T (&x0)[kRun], const T (&x1)[kRun], const Arc& arc) {
  const A a = static_cast<A>(arc.first), b = static_cast<A>(arc.second);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    to[i] = FromSum<T>::cast(a * static_cast<A>(to_sum(x0[i])) + b * static_cast<A>(to_sum(x1[i])));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    slerp_kernel(T* __restrict__ out /* [B,n] */, const T* __restrict__ x0 /* [B,n] */,
                 const T* __restrict__ x1 /* [B,n] */, const double* __restrict__ sums /* [B,parts,3] */,
                 double w, const double* __restrict__ ws /* [B] or null */, int64_t batch, int64_t size,
                 int64_t parts, int64_t per_sample) {
  constexpr int kRun = kRunLength<T>;
  __shared__ double gram[3];
  __shared__ Arc found;
  for (int64_t group = first_group(); group < batch * per_sample; group += group_step()) {
    const int64_t sample = group / per_sample, share = group - sample * per_sample;
    if (thread_in_block() < 3) gram[thread_in_block()] = add_parts(sums, sample, parts, 3, thread_in_block());
    __syncthreads();
    if (thread_in_block() == 0) {
      found = slerp_arc(gram[0], gram[1], gram[2], ws == nullptr ? w : __ldg(ws + sample));
    }
    __syncthreads();
    const Arc arc = found;
    const T *from0 = x0 + sample * size, *from1 = x1 + sample * size;
    T* to = out + sample * size;
    const bool wide = aligned<T, kRun>(from0) && aligned<T, kRun>(from1);
    for (int64_t at = (share * kThreads + thread_in_block()) * kRun; at < size;
         at += per_sample * kThreads * kRun) {
      const int width = size - at < kRun ? static_cast<int>(size - at) : kRun;
      T a[kRun], b[kRun], result[kRun];
      if (wide && width == kRun) {
        load_words(a, from0 + at);
        load_words(b, from1 + at);
      } else {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          a[i] = i < width ? load_one(from0 + at + i) : T{};
          b[i] = i < width ? load_one(from1 + at + i) : T{};
        }
      }
      if (arc.first == 1.0 && arc.second == 0.0) {
        store_run(to + at, a, width);
      } else if (arc.first == 0.0 && arc.second == 1.0) {
        store_run(to + at, b, width);
      } else {
        if (std::is_same<T, double>::value || arc.cancels) {
          blend<double>(result, a, b, arc);
        } else {
          blend<float>(result, a, b, arc);
        }
        store_run(to + at, result, width);
      }
    }
    __syncthreads();
  }
}

template <typename T>
Status combine(T* out, const T* x0, const T* x1, int64_t batch, int64_t size, double w, const double* ws,
               const double* sums, void* stream) {
  const int64_t per_sample = groups_per_sample<T>(batch, size);
  return launch(slerp_kernel<T>, batch * per_sample * kThreads, out, stream, out, x0, x1, sums, w, ws, batch,
                size, gram_parts(size), per_sample);
}

}  // namespace

int64_t gram_parts(int64_t size) {
  return size < 1 ? 0 : (size - 1) / part_length(size) + 1;
}

Status slerp(void* out /* [B,n] */, const void* x0 /* [B,n] */, const void* x1 /* [B,n] */, DType dtype,
             int64_t batch, int64_t size, double w, const double* ws /* [B] or null */,
             double* sums /* [B,parts,3] */, void* stream) {
  if (batch < 1 || size < 1) return Status{};
  return with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Status summed = gram<T, 2, false>(sums, Vectors{{x0, x1}}, batch, size, stream);
    if (summed.code != Status::ok) return summed;
    return combine(static_cast<T*>(out), static_cast<const T*>(x0), static_cast<const T*>(x1), batch, size, w,
                   ws, sums, stream);
  });
}

}  // namespace intarsia::cuda
