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

#include <ucontext.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static
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

// Threads of a block that wait for each other: each runs on a stack of its own until it gets to the next
// wait.
namespace emulation {
constexpr size_t kStack = 64 << 10;
struct Fiber {
  ucontext_t here;
  std::vector<char> stack = std::vector<char>(kStack);
  bool done = false;
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline Fiber* running = nullptr;
inline bool waited = false;

inline void enter() {
  body();
  running->done = true;
}
inline void resume(unsigned thread) {
  threadIdx.x = thread;
  running = &fibers[thread];
  swapcontext(&scheduler, &running->here);
  running = nullptr;
}
inline void begin(unsigned thread) {
  Fiber& fiber = fibers[thread];
  fiber.done = false;
  getcontext(&fiber.here);
  fiber.here.uc_stack.ss_sp = fiber.stack.data();
  fiber.here.uc_stack.ss_size = fiber.stack.size();
  fiber.here.uc_link = &scheduler;
  makecontext(&fiber.here, enter, 0);
  resume(thread);
}
// The threads after the first are only begun as fibers if that one waited.
inline void run_block() {
  fibers.resize(blockDim.x);
  waited = false;
  begin(0);
  const bool together = waited;
  for (unsigned thread = 1; thread < blockDim.x; ++thread) {
    threadIdx.x = thread;
    together ? begin(thread) : body();
  }
  while (together && !fibers[0].done) {
    for (unsigned thread = 0; thread < blockDim.x; ++thread) resume(thread);
  }
  for (unsigned thread = 1; together && thread < blockDim.x; ++thread) faults += !fibers[thread].done;
}
}  // namespace emulation

inline void __syncthreads() {
  emulation::waited = true;
  swapcontext(&emulation::running->here, &emulation::scheduler);
}

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
  emulation::body = [&] { kernel(arguments...); };
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) emulation::run_block();
  return cudaSuccess;
}
