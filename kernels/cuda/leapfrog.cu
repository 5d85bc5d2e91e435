// SPDX-License-Identifier: Apache-2.0
// The steps of Hamiltonian Monte Carlo: any parts of them in one launch. A block walks one chunk of a sample,
// and sums its energy there; a second launch adds the chunks.
#include "common/leapfrog.h"

#include <type_traits>

#include "element.cuh"
#include "launch.cuh"
#include "sums.cuh"

namespace intarsia::cuda {
namespace {

constexpr int kRuns = 8;  // per thread and chunk
constexpr int64_t kChunk = 4096;

constexpr uint32_t kRenew = part::refresh | part::langevin;
constexpr uint32_t kKicks = part::kick | part::half_kick;
constexpr uint32_t kEnergies = part::energy_before | part::energy_after;

template <typename T>
constexpr int kLength = static_cast<int>(kChunk / (kRuns * kThreads));

// The first `width` of a run, as sums are held; the rest is 0.
template <typename T>
__device__ inline void load_run(sum_t<T> (&to)[kLength<T>], const void* from, int64_t at, int width) {
  const T* p = static_cast<const T*>(from) + at;
  T raw[kLength<T>];
  if (width == kLength<T> && aligned<T, kLength<T>>(p)) {
    load_words(raw, p);
#pragma unroll
    for (int i = 0; i < kLength<T>; ++i) to[i] = to_sum(raw[i]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLength<T>; ++i) to[i] = i < width ? to_sum(p[i]) : sum_t<T>(0);
}

template <typename T>
__device__ inline void give_run(void* to, int64_t at, const sum_t<T> (&from)[kLength<T>], int width) {
  T raw[kLength<T>];
#pragma unroll
  for (int i = 0; i < kLength<T>; ++i) raw[i] = FromSum<T>::cast(from[i]);
  store_run(static_cast<T*>(to) + at, raw, width);
}

// One run; the energy it adds. Outputs may be the inputs of their names: nothing here is read through __ldg
// after it was written.
template <typename T>
__device__ inline double advance(const LeapfrogView& pass, const Factors<sum_t<T>>& f, int64_t at,
                                 int64_t mass_at, int width) {
  using A = sum_t<T>;
  constexpr int n = kLength<T>;
  A v[n], mass[n], other[n];
  double energy = 0;
  const bool masses = pass.mass_elements != nullptr;
  load_run<T>(v, pass.momentum, at, width);
  if (masses) load_run<T>(mass, pass.mass_elements, mass_at, width);
  const auto count = [&] {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const A q = masses && i < width ? v[i] / mass[i] : v[i];
      energy = energy + times(static_cast<double>(v[i]), static_cast<double>(q));
    }
  };
  if (pass.parts & kRenew) {
    load_run<T>(other, pass.noise, at, width);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const A spread = masses ? times(f.spread, static_cast<A>(sqrt(mass[i]))) : f.spread;
      v[i] = refreshed(v[i], other[i], f.retain, spread);
    }
    if (pass.refreshed_out) give_run<T>(pass.refreshed_out, at, v, width);
  }
  if (pass.parts & part::energy_before) count();
  if (pass.parts & kKicks) {
    load_run<T>(other, pass.gradient, at, width);
#pragma unroll
    for (int i = 0; i < n; ++i) v[i] = kicked(v[i], other[i], f.kick);
  }
  if (pass.parts & part::energy_after) count();
  if (pass.momentum_out) give_run<T>(pass.momentum_out, at, v, width);
  if (pass.parts & part::drift) {
    load_run<T>(other, pass.position, at, width);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      other[i] = masses ? drifted(other[i], v[i], f.drift, mass[i]) : drifted(other[i], v[i], f.drift);
    }
    give_run<T>(pass.position_out, at, other, width);
  }
  return energy;
}

// Items are threads of chunks: a block's threads share theirs.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    leapfrog_kernel(const LeapfrogView pass, double* partial /* [B, chunks] */, int64_t chunks,
                    int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t block = item / kThreads, b = block / chunks;
    const int64_t first = (block - b * chunks) * kChunk + (item - block * kThreads) * kLength<T>;
    const Factors<sum_t<T>> f = factors<sum_t<T>>(pass, b);
    double energy = 0;
    for (int k = 0; k < kRuns; ++k) {
      const int64_t j = first + k * (kThreads * kLength<T>), left = pass.size - j;
      if (left <= 0) break;
      const int width = left < kLength<T> ? static_cast<int>(left) : kLength<T>;
      const int64_t mass_at = pass.mass_samples == 1 ? j : b * pass.size + j;
      energy = energy + advance<T>(pass, f, b * pass.size + j, mass_at, width);
    }
    if (pass.parts & kEnergies) sum_of_block(partial + block, energy);
  }
}

template <typename A>
__global__ void __launch_bounds__(kThreads)
    energy_kernel(const LeapfrogView pass, const double* partial /* [B, chunks] */, int64_t chunks,
                  int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const int64_t b = item / kThreads;
    double sum = 0;
    for (int64_t k = item - b * kThreads; k < chunks; k += kThreads) sum += partial[b * chunks + k];
    sum_of_block(pass.energy_out + b, factors<A>(pass, b).energy * sum);
  }
}

const void* owner(const LeapfrogView& pass) {
  if (pass.momentum_out) return pass.momentum_out;
  return pass.position_out ? pass.position_out : pass.energy_out;
}

template <typename T>
Status walk(const LeapfrogView& pass, double* partial, int64_t chunks, void* stream) {
  const int64_t items = pass.batch * chunks * kThreads;
  return launch(leapfrog_kernel<T>, items, owner(pass), stream, pass, partial, chunks, items);
}

template <typename A>
Status add_up(const LeapfrogView& pass, const double* partial, int64_t chunks, void* stream) {
  const int64_t items = pass.batch * kThreads;
  return launch(energy_kernel<A>, items, owner(pass), stream, pass, partial, chunks, items);
}

}  // namespace

int64_t leapfrog_partials(int64_t size) {
  return (size + kChunk - 1) / kChunk;
}

Status leapfrog(const LeapfrogView& pass, double* partial, void* stream) {
  return with_type(pass.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t chunks = leapfrog_partials(pass.size);
    const Status status = walk<T>(pass, partial, chunks, stream);
    if (status.code != Status::ok || !(pass.parts & kEnergies)) return status;
    return add_up<sum_t<T>>(pass, partial, chunks, stream);
  });
}

}  // namespace intarsia::cuda
