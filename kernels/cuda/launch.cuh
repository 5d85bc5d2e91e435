// SPDX-License-Identifier: Apache-2.0
// The one way a kernel is started: on the caller's stream and the device of its output, along x alone, and
// checked.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "intarsia.h"

namespace intarsia::cuda {

constexpr int kThreads = 128;
constexpr int64_t kMaxBlocks = 2147483647;
// With fewer threads than about one wave of a large GPU, shorter work per thread beats reuse inside it.
constexpr int64_t kWave = int64_t{1} << 17;

// Makes the device that owns `pointer` current for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(const void* pointer) {
    cudaPointerAttributes attributes{};
    error_ = cudaGetDevice(&before_);
    if (error_ == cudaSuccess) error_ = cudaPointerGetAttributes(&attributes, pointer);
    if (error_ != cudaSuccess) return;
    if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged) {
      error_ = cudaErrorInvalidDevicePointer;
    } else if (attributes.device != before_) {
      error_ = cudaSetDevice(attributes.device);
      changed_ = error_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t error() const { return error_; }

 private:
  cudaError_t error_ = cudaSuccess;
  int before_ = 0;
  bool changed_ = false;
};

// One thread per item up to the largest grid; beyond it the kernels stride. No items: no launch.
template <typename... Parameters, typename... Arguments>
Status launch(void (*kernel)(Parameters...), int64_t items, const void* out, void* stream,
              const Arguments&... arguments) {
  if (items <= 0) return Status{};
  const DeviceGuard guard(out);
  cudaError_t error = guard.error();
  if (error == cudaSuccess) {
    const int64_t blocks = (items - 1) / kThreads + 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks));
    config.blockDim = dim3(kThreads);
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
  }
  // The launch's own answer alone: an error that somebody else left behind is not ours to report or clear.
  if (error == cudaSuccess) return Status{};
  cudaGetLastError();  // ours is reported below; left behind, it would be blamed on the next caller
  return Status{Status::launch_failed, 0, cudaGetErrorString(error)};
}

__device__ inline int64_t first_item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline int64_t item_step() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// Kernels whose blocks work together are launched with kThreads items for each block.
__device__ inline int64_t first_group() {
  return static_cast<int64_t>(blockIdx.x);
}

__device__ inline int64_t group_step() {
  return static_cast<int64_t>(gridDim.x);
}

__device__ inline int thread_in_block() {
  return static_cast<int>(threadIdx.x);
}

// Splits the last digit, of base `size`, off `rest`.
__device__ inline int64_t take(int64_t& rest, int64_t size) {
  if (size == 1) return 0;
  if ((static_cast<uint64_t>(rest) | static_cast<uint64_t>(size)) >> 32 == 0) {
    // Several times cheaper, and nearly always enough.
    const uint32_t short_rest = static_cast<uint32_t>(rest), short_size = static_cast<uint32_t>(size);
    const uint32_t short_quotient = short_rest / short_size;
    rest = short_quotient;
    return short_rest - short_quotient * short_size;
  }
  const int64_t quotient = rest / size;
  const int64_t digit = rest - quotient * size;
  rest = quotient;
  return digit;
}

}  // namespace intarsia::cuda
