// SPDX-License-Identifier: Apache-2.0
// Chooses among the instruction sets, and answers for the process: caches, forks.
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

#include "cpu/entry.h"

namespace intarsia::cpu {
namespace {

struct Kernels {
  const char* name;
  decltype(&baseline::extract_patches) extract_patches;
  decltype(&baseline::scatter_average) scatter_average;
  decltype(&baseline::weight_total) weight_total;
};

constexpr Kernels kBaseline = {"baseline", baseline::extract_patches, baseline::scatter_average,
                               baseline::weight_total};
#if defined(INTARSIA_X86_KERNELS)
constexpr Kernels kAvx2 = {"avx2", avx2::extract_patches, avx2::scatter_average, avx2::weight_total};
constexpr Kernels kAvx512 = {"avx512", avx512::extract_patches, avx512::scatter_average,
                             avx512::weight_total};
#endif

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

const Kernels* find(const char* name) {
  if (!runs_here(name)) return nullptr;
#if defined(INTARSIA_X86_KERNELS)
  if (!strcmp(name, "avx512")) return &kAvx512;
  if (!strcmp(name, "avx2")) return &kAvx2;
#endif
  return &kBaseline;
}

const Kernels* best() {
  for (const char* name : {"avx512", "avx2"}) {
    if (const Kernels* found = find(name)) return found;
  }
  return &kBaseline;
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() {
  const Kernels* current = chosen.load(std::memory_order_acquire);
  if (!current) {
    current = best();
    chosen.store(current, std::memory_order_release);
  }
  return *current;
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

const char* simd() {
  return kernels().name;
}

bool use_simd(const char* name) {
  const Kernels* found = find(name);
  if (found) chosen.store(found, std::memory_order_release);
  return found != nullptr;
}

Status extract_patches(void* out, DType out_dtype, const void* canvas, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const void* scale, int threads) {
  return kernels().extract_patches(out, out_dtype, canvas, in_dtype, batch, channels, plan, scale, threads);
}

Status scatter_average(void* out, DType out_dtype, const void* patches, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const WeightView& weight, bool normalize,
                       int threads) {
  return kernels().scatter_average(out, out_dtype, patches, in_dtype, batch, channels, plan, weight,
                                   normalize, threads);
}

Status weight_total(void* out, DType out_dtype, const PlanView& plan, const WeightView& weight, int threads) {
  return kernels().weight_total(out, out_dtype, plan, weight, threads);
}

}  // namespace intarsia::cpu
