// SPDX-License-Identifier: Apache-2.0
// Element types on the device, and runs of neighbours moved in the widest words that fit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "common/convert.h"
#include "intarsia.h"

namespace intarsia::cuda {

// What sums are held in.
template <typename T>
struct Sum {
  using type = float;
};
template <>
struct Sum<double> {
  using type = double;
};
template <typename T>
using sum_t = typename Sum<T>::type;

// The conversions of common/convert.h by the hardware: equal but for the payload of a NaN.
__device__ inline float to_sum(f16 value) {
  return __half2float(__ushort_as_half(value.bits));
}
__device__ inline float to_sum(bf16 value) {
  return __bfloat162float(__ushort_as_bfloat16(value.bits));
}
__device__ inline float to_sum(float value) {
  return value;
}
__device__ inline double to_sum(double value) {
  return value;
}

template <typename T>
struct FromSum {
  template <typename A>
  static __device__ inline T cast(A value) {
    return static_cast<T>(value);
  }
};
template <>
struct FromSum<f16> {
  template <typename A>
  static __device__ inline f16 cast(A value) {
    return f16{__half_as_ushort(__float2half_rn(static_cast<float>(value)))};
  }
};
template <>
struct FromSum<bf16> {
  template <typename A>
  static __device__ inline bf16 cast(A value) {
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(value)))};
  }
};

// Products that the compiler may not fuse into a sum: the CPU kernels round twice, and so do these.
__device__ inline float product(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ inline double product(double a, double b) {
  return __dmul_rn(a, b);
}

template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned;
};

// A run of kLength neighbours travels in words of this many bytes when its address is a multiple of it.
template <typename T, int kLength>
constexpr int kWordBytes = kLength * sizeof(T) < 16 ? kLength * static_cast<int>(sizeof(T)) : 16;

template <typename T, int kLength>
__device__ inline bool aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % kWordBytes<T, kLength> == 0;
}

template <typename T>
__device__ inline T load_one(const T* from) {
  return __ldg(from);
}
template <>
__device__ inline f16 load_one(const f16* from) {
  return f16{__ldg(&from->bits)};
}
template <>
__device__ inline bf16 load_one(const bf16* from) {
  return bf16{__ldg(&from->bits)};
}

template <typename T, int kLength>
__device__ inline void load_words(T (&to)[kLength], const T* from) {
  using W = typename Word<kWordBytes<T, kLength>>::type;
  W words[kLength * sizeof(T) / sizeof(W)];
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(words) / sizeof(W)); ++i) {
    words[i] = __ldg(reinterpret_cast<const W*>(from) + i);
  }
  memcpy(to, words, sizeof(words));
}

template <typename T, int kLength>
__device__ inline void store_words(T* to, const T (&from)[kLength]) {
  using W = typename Word<kWordBytes<T, kLength>>::type;
  W words[kLength * sizeof(T) / sizeof(W)];
  memcpy(words, from, sizeof(words));
  // A plain assignment is taken apart into 4-byte stores.
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(words) / sizeof(W)); ++i) {
    __stwb(reinterpret_cast<W*>(to) + i, words[i]);
  }
}

// Stores the first `width` of a run.
template <typename T, int kLength>
__device__ inline void store_run(T* to, const T (&from)[kLength], int width) {
  if (width == kLength && aligned<T, kLength>(to)) {
    store_words(to, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLength; ++i) {
    if (i < width) to[i] = from[i];
  }
}

// Calls `body` with a null pointer of the element type that `dtype` names.
template <typename Body>
auto with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f16:
      return body(static_cast<f16*>(nullptr));
    case DType::bf16:
      return body(static_cast<bf16*>(nullptr));
    case DType::f32:
      return body(static_cast<float*>(nullptr));
    default:
      return body(static_cast<double*>(nullptr));
  }
}

}  // namespace intarsia::cuda
