// SPDX-License-Identifier: Apache-2.0
// Enough of the CUDA runtime to run kernels/cuda with a host compiler, one thread after the other. Every load
// through
// __ldg is held against the registered buffers and its own alignment, which a GPU would only answer with a
// fault.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace emulation {
inline std::vector<std::pair<uintptr_t, uintptr_t>> buffers;
inline unsigned most_blocks = ~0u;
inline int launches = 0;
inline int faults = 0;
inline int device = 0;
inline int device_seen = -1;
}  // namespace emulation

template <typename T>
T __ldg(const T* address) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  bool known = at % sizeof(T) == 0;
  if (known) {
    known = false;
    for (const auto& [begin, end] : emulation::buffers)
      known = known || (at >= begin && at + sizeof(T) <= end);
  }
  if (!known) {
    ++emulation::faults;
    return T{};
  }
  return *address;
}

template <typename T>
T __ldcs(const T* address) {
  return __ldg(address);
}

template <typename T>
void __stwb(T* address, T value) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) ++emulation::faults;
  std::memcpy(static_cast<void*>(address), &value, sizeof(T));
}

inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevicePointer = 17 };
enum cudaMemoryType {
  cudaMemoryTypeUnregistered,
  cudaMemoryTypeHost,
  cudaMemoryTypeDevice,
  cudaMemoryTypeManaged
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidDevicePointer ? "invalid device pointer" : "invalid configuration argument";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulation::device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  emulation::device = device;
  return cudaSuccess;
}
// Registered buffers live on device 1, all else is host memory.
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  *attributes = {cudaMemoryTypeUnregistered, -2};
  for (const auto& [begin, end] : emulation::buffers) {
    if (at >= begin && at < end) *attributes = {cudaMemoryTypeDevice, 1};
  }
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->gridDim.y != 1 || config->gridDim.z != 1 ||
      config->stream == nullptr) {
    return cudaErrorInvalidConfiguration;
  }
  ++emulation::launches;
  emulation::device_seen = emulation::device;
  gridDim = dim3(config->gridDim.x < emulation::most_blocks ? config->gridDim.x : emulation::most_blocks);
  blockDim = config->blockDim;
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(arguments...);
  }
  return cudaSuccess;
}
