// SPDX-License-Identifier: Apache-2.0
// Merge the regions into the canvas. A thread owns one run of neighbours on the last axis of the canvas and
// gathers, in the plan's order, every region that covers it: no atomics, one writer per element, equal bit
// for bit on every run.
#include <type_traits>

#include "common/formulas.h"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

struct MergeShape {
  int64_t channels;
  int64_t chunks;  // of a thread's channels
  int64_t runs;    // per canvas row
  int64_t items;   // batch * chunks * S0 * S1 * runs
};

// Several answers to every region, p = p_K + sum_k g_k (p_k - p_K), read where one is read otherwise.
template <typename A>
struct Guide {
  const A* scale;     // [K - 1, R]; null: one answer
  int64_t terms;      // K
  int64_t term_step;  // elements from one answer to the next
};

template <typename A, typename T, int kLength>
__device__ inline void guide(A (&value)[kLength], const T* last, const Guide<A>& how, int64_t regions,
                             int64_t region, int low, int high, bool wide) {
  for (int64_t k = 0; k < how.terms - 1; ++k) {
    const T* from = last - (how.terms - 1 - k) * how.term_step;
    const A scale = __ldg(how.scale + k * regions + region);
    T answer[kLength], unguided[kLength];
    if (wide) {
      load_words(answer, from);
      load_words(unguided, last);
    } else {
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        if (i < low || i >= high) continue;
        answer[i] = load_one(from + (i - low));
        unguided[i] = load_one(last + (i - low));
      }
    }
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
      if (i >= low && i < high) value[i] += product(scale, to_sum(answer[i]) - to_sum(unguided[i]));
    }
  }
}

// Elements [low, high) of the run that starts at x, which share one covering list. kRegions regions are read
// before the first of them is summed, so that their loads overlap; the sums still run one region after the
// other.
template <bool kFused, typename T, int kLength, int kChannels, int kRegions>
__device__ inline void gather(sum_t<T> (&sum)[kChannels][kLength], sum_t<T> (&total)[kLength],
                              const T* patches, const PlanView& plan, const WeightView& weight,
                              const MergeShape& shape, int64_t batch, int64_t first, int group,
                              const int64_t (&x)[kMaxDims], int low, int high, Covering list,
                              const Guide<sum_t<T>>& how) {
  using A = sum_t<T>;
  const int64_t patch_volume = plan.patch[0] * plan.patch[1] * plan.patch[2];
  const int64_t start[kMaxDims] = {x[0], x[1], x[2] + low};

  for (int64_t k = list.begin; k < list.end; k += kRegions) {
    const int live = list.end - k < kRegions ? static_cast<int>(list.end - k) : kRegions;
    const T* from[kRegions];
    int64_t regions[kRegions];
    WeightRow<A> row[kRegions];
    bool wide = low == 0 && high == kLength;
#pragma unroll
    for (int u = 0; u < kRegions; ++u) {
      if (u >= live) continue;
      const int64_t region = __ldg(plan.cell_region + k + u);
      if (kFused) regions[u] = region;
      int64_t j[kMaxDims];
      locate(j, start, plan, region);
      row[u] = weight_row<A>(weight, plan, region, j);
      from[u] =
          patches +
          ((batch * how.terms + how.terms - 1) * plan.regions + region) * shape.channels * patch_volume +
          first * patch_volume + place(plan, j);
      wide = wide && aligned<A, kLength>(row[u].at) && aligned<T, kLength>(from[u]) &&
             (group == 1 || aligned<T, kLength>(from[u] + patch_volume)) &&
             (!kFused || how.terms == 1 || aligned<T, kLength>(from[u] - how.term_step));
    }

    T value[kRegions][kChannels][kLength];
    if (wide) {
#pragma unroll
      for (int u = 0; u < kRegions; ++u) {
        if (u >= live) continue;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c < group) load_words(value[u][c], from[u] + c * patch_volume);
        }
      }
    } else {
#pragma unroll
      for (int u = 0; u < kRegions; ++u) {
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          if (u >= live || i < low || i >= high) continue;
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            if (c < group) value[u][c][i] = load_one(from[u] + c * patch_volume + (i - low));
          }
        }
      }
    }

#pragma unroll
    for (int u = 0; u < kRegions; ++u) {
      if (u >= live) continue;
      A along[kLength];
      if (wide) {
        load_words(along, row[u].at);
      } else {
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          if (i >= low && i < high) along[i] = __ldg(row[u].at + (i - low));
        }
      }
      if (kFused && how.terms > 1) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c >= group) continue;
          A guided[kLength];
#pragma unroll
          for (int i = 0; i < kLength; ++i) {
            if (i >= low && i < high) guided[i] = to_sum(value[u][c][i]);
          }
          guide(guided, from[u] + c * patch_volume, how, plan.regions, regions[u], low, high, wide);
#pragma unroll
          for (int i = 0; i < kLength; ++i) {
            if (i < low || i >= high) continue;
            const A share = product(row[u].head, along[i]);
            if (c == 0) total[i] += share;
            sum[c][i] += product(share, guided[i]);
          }
        }
        continue;
      }
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        if (i < low || i >= high) continue;
        const A share = product(row[u].head, along[i]);
        total[i] += share;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          if (c < group) sum[c][i] += product(share, to_sum(value[u][c][i]));
        }
      }
    }
  }
}

// a x + b D + c noise.
template <typename A>
struct Step {
  const void* x;      // [B,C,*S] in out's type; null: D alone
  const void* noise;  // or null
  A a, b, c;
  const A* a_each;  // [B] or null
  const A* b_each;
};

template <typename TOut, typename A, int kLength>
__device__ inline void load_run(A (&to)[kLength], const void* canvas, int64_t at, int width) {
  const TOut* from = static_cast<const TOut*>(canvas) + at;
  TOut run[kLength];
  const bool whole = width == kLength && aligned<TOut, kLength>(from);
  if (whole) load_words(run, from);
#pragma unroll
  for (int i = 0; i < kLength; ++i) {
    if (i >= width) continue;
    if (!whole) run[i] = load_one(from + i);
    to[i] = static_cast<A>(to_sum(run[i]));
  }
}

template <bool kFused, typename TOut, typename A, int kLength>
__device__ inline void store_sums(void* out, int64_t at, A (&sum)[kLength], int width, const Step<A>& step,
                                  int64_t batch) {
  if (kFused && step.x != nullptr) {
    const A a = step.a_each == nullptr ? step.a : product(step.a, __ldg(step.a_each + batch));
    const A b = step.b_each == nullptr ? step.b : product(step.b, __ldg(step.b_each + batch));
    A before[kLength];
    load_run<TOut>(before, step.x, at, width);
#pragma unroll
    for (int i = 0; i < kLength; ++i) {
      if (i < width) sum[i] = product(b, sum[i]) + product(a, before[i]);
    }
    if (step.noise != nullptr) {
      load_run<TOut>(before, step.noise, at, width);
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        if (i < width) sum[i] += product(step.c, before[i]);
      }
    }
  }
  TOut result[kLength];
#pragma unroll
  for (int i = 0; i < kLength; ++i) result[i] = FromSum<TOut>::cast(sum[i]);
  store_run(static_cast<TOut*>(out) + at, result, width);
}

template <bool kFused, typename T, int kChannels, int kRegions>
__global__ void __launch_bounds__(kThreads, kFused ? 3 : 4)
    scatter_average_kernel(void* __restrict__ out /* [B,C,*S] */, DType out_dtype,
                           const T* __restrict__ patches /* [B,K,R,C,*s] */, const PlanView plan,
                           const WeightView weight, bool normalize, const MergeShape shape,
                           const Guide<sum_t<T>> how, const Step<sum_t<T>> step) {
  using A = sum_t<T>;
  constexpr int kLength = 16 / sizeof(T);

  for (int64_t item = first_item(); item < shape.items; item += item_step()) {
    int64_t rest = item;
    int64_t x[kMaxDims];
    x[2] = take(rest, shape.runs) * kLength;
    x[1] = take(rest, plan.canvas[1]);
    x[0] = take(rest, plan.canvas[0]);
    const int64_t first = take(rest, shape.chunks) * kChannels;
    const int64_t batch = rest;
    const int group =
        static_cast<int>(shape.channels - first < kChannels ? shape.channels - first : kChannels);
    const int width = static_cast<int>(plan.canvas[2] - x[2] < kLength ? plan.canvas[2] - x[2] : kLength);
    const int64_t cell0 = cell_along(plan, 0, x[0]);
    const int64_t cell1 = cell_along(plan, 1, x[1]);

    A sum[kChannels][kLength] = {};
    A total[kLength] = {};
    for (int low = 0; low < width;) {
      const int64_t cell2 = cell_along(plan, 2, x[2] + low);
      const int64_t edge = __ldg(plan.edges[2] + cell2 + 1) - x[2];
      const int high = edge < width ? static_cast<int>(edge) : width;
      gather<kFused, T, kLength, kChannels, kRegions>(sum, total, patches, plan, weight, shape, batch, first,
                                                      group, x, low, high,
                                                      covering(plan, cell0, cell1, cell2), how);
      low = high;
    }

    if (normalize) {
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        const A reciprocal = usable_total(total[i]) ? A(1) / total[i] : static_cast<A>(NAN);
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sum[c][i] = normalised(sum[c][i], reciprocal);
      }
    }
    const int64_t row = ((batch * shape.channels + first) * plan.canvas[0] + x[0]) * plan.canvas[1] + x[1];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group) continue;
      const int64_t at = (row + c * plan.canvas[0] * plan.canvas[1]) * plan.canvas[2] + x[2];
      switch (out_dtype) {
        case DType::f16:
          store_sums<kFused, f16>(out, at, sum[c], width, step, batch);
          break;
        case DType::bf16:
          store_sums<kFused, bf16>(out, at, sum[c], width, step, batch);
          break;
        case DType::f32:
          store_sums<kFused, float>(out, at, sum[c], width, step, batch);
          break;
        case DType::f64:
          store_sums<kFused, double>(out, at, sum[c], width, step, batch);
          break;
      }
    }
  }
}

template <typename A>
__global__ void __launch_bounds__(kThreads)
    weight_total_kernel(A* __restrict__ out /* [*S] */, const PlanView plan, const WeightView weight,
                        int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    int64_t rest = item;
    int64_t x[kMaxDims];
    x[2] = take(rest, plan.canvas[2]);
    x[1] = take(rest, plan.canvas[1]);
    x[0] = rest;
    const Covering list =
        covering(plan, cell_along(plan, 0, x[0]), cell_along(plan, 1, x[1]), cell_along(plan, 2, x[2]));
    A total = 0;
    for (int64_t k = list.begin; k < list.end; ++k) {
      const int64_t region = __ldg(plan.cell_region + k);
      int64_t j[kMaxDims];
      locate(j, x, plan, region);
      const WeightRow<A> row = weight_row<A>(weight, plan, region, j);
      total += product(row.head, __ldg(row.at));
    }
    out[item] = total;
  }
}

template <bool kFused, typename T, int kChannels, int kRegions>
Status merge(void* out, DType out_dtype, const void* patches, int64_t batch, int64_t channels,
             const PlanView& plan, const WeightView& weight, bool normalize, const Fusion& fusion,
             void* stream) {
  using A = sum_t<T>;
  constexpr int64_t kLength = 16 / sizeof(T);
  MergeShape shape{};
  shape.channels = channels;
  shape.chunks = (channels + kChannels - 1) / kChannels;
  shape.runs = (plan.canvas[2] + kLength - 1) / kLength;
  shape.items = batch * shape.chunks * plan.canvas[0] * plan.canvas[1] * shape.runs;
  const Guide<A> how{static_cast<const A*>(fusion.guidance), fusion.terms,
                     plan.regions * channels * plan.patch[0] * plan.patch[1] * plan.patch[2]};
  const Step<A> step{fusion.x,
                     fusion.noise,
                     static_cast<A>(fusion.a),
                     static_cast<A>(fusion.b),
                     static_cast<A>(fusion.c),
                     static_cast<const A*>(fusion.a_each),
                     static_cast<const A*>(fusion.b_each)};
  return launch(scatter_average_kernel<kFused, T, kChannels, kRegions>, shape.items, out, stream, out,
                out_dtype, static_cast<const T*>(patches), plan, weight, normalize, shape, how, step);
}

}  // namespace

Status scatter_average(void* out /* [B,C,*S] */, DType out_dtype, const void* patches /* [B,R,C,*s] */,
                       DType in_dtype, int64_t batch, int64_t channels, const PlanView& plan,
                       const WeightView& weight, bool normalize, void* stream, const Fusion& fusion) {
  return with_type(in_dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t elements = batch * channels * plan.canvas[0] * plan.canvas[1] * plan.canvas[2];
    const bool large = channels > 1 && elements >= kWave * 4 * static_cast<int64_t>(16 / sizeof(T));
    const auto run = [&](auto kernel) {
      return kernel(out, out_dtype, patches, batch, channels, plan, weight, normalize, fusion, stream);
    };
    // Four loads of 16 bytes in flight per thread, either way; under guidance each is one of each answer.
    if (fusion.terms > 1 || fusion.x != nullptr) {
      constexpr int kMany = sizeof(T) == 2 ? 1 : 2;
      return large ? run(merge<true, T, kMany, 1>) : run(merge<true, T, 1, 2>);
    }
    return large ? run(merge<false, T, 4, 1>) : run(merge<false, T, 1, 4>);
  });
}

Status weight_total(void* out /* [*S] */, DType out_dtype, const PlanView& plan, const WeightView& weight,
                    void* stream) {
  const int64_t items = plan.canvas[0] * plan.canvas[1] * plan.canvas[2];
  if (out_dtype == DType::f64) {
    return launch(weight_total_kernel<double>, items, out, stream, static_cast<double*>(out), plan, weight,
                  items);
  }
  return launch(weight_total_kernel<float>, items, out, stream, static_cast<float*>(out), plan, weight,
                items);
}

}  // namespace intarsia::cuda
