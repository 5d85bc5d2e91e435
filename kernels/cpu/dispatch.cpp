// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set, and answers for the process: caches, forks.
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(INTARSIA_X86_KERNELS)
#include <cpuid.h>
#endif

#include "cpu/dispatch.h"

namespace intarsia::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

#if defined(INTARSIA_X86_KERNELS)
// __builtin_cpu_supports has no name for it in some compilers.
bool converts_halves() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

bool runs_here(const char* name) {
#if defined(INTARSIA_X86_KERNELS)
  __builtin_cpu_init();
  if (!strcmp(name, "avx512")) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && runs_here("avx2");
  }
  if (!strcmp(name, "avx2")) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves();
  }
#endif
  return !strcmp(name, "baseline");
}

constexpr int kNotYet = -1;
std::atomic<int> chosen{kNotYet};

Isa best() {
  for (const Isa found : {Isa::avx512, Isa::avx2}) {
    if (runs_here(kNames[static_cast<int>(found)])) return found;
  }
  return Isa::baseline;
}

std::atomic<bool> forked{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int watching_forks =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif

// What one core can use. The kernel knows; sysconf may name the sum over all parts of a socket.
int64_t query_last_level_cache() {
  int64_t size = 0;
  char unit = 'K';
  if (FILE* file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    if (fscanf(file, "%" SCNd64 "%c", &size, &unit) < 1) size = 0;
    fclose(file);
  }
  if (size > 0) return size << (unit == 'M' ? 20 : 10);
  return int64_t{32} << 20;
}

}  // namespace

int team_size(int threads, int64_t bytes) {
  constexpr int64_t kWorthATeam = 64 << 10;
  return threads <= 1 || bytes < kWorthATeam || forked.load(std::memory_order_relaxed) ? 1 : threads;
}

int64_t last_level_cache() {
  static const int64_t size = query_last_level_cache();
  return size;
}

bool worth_streaming(int64_t bytes_out) {
  return 2 * bytes_out >= last_level_cache();
}

Isa isa() {
  int current = chosen.load(std::memory_order_acquire);
  if (current == kNotYet) {
    current = static_cast<int>(best());
    chosen.store(current, std::memory_order_release);
  }
  return static_cast<Isa>(current);
}

const char* simd() {
  return kNames[static_cast<int>(isa())];
}

bool use_simd(const char* name) {
  if (!runs_here(name)) return false;
  for (int found = 0; found < 3; ++found) {
    if (!strcmp(name, kNames[found])) chosen.store(found, std::memory_order_release);
  }
  return true;
}

}  // namespace intarsia::cpu
