// SPDX-License-Identifier: Apache-2.0
// Cut every region out of the canvas, scale it and cast it. A thread moves one run of neighbours on the last
// axis, in a few channels: what it works out about the place serves all of them.
#include <type_traits>

#include "common/formulas.h"
#include "element.cuh"
#include "geometry.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

constexpr int kChannels = 4;

// Enough neighbours to fill a 16-byte word of the narrower type.
template <typename TOut, typename TIn>
constexpr int kRun = 16 / (sizeof(TOut) < sizeof(TIn) ? sizeof(TOut) : sizeof(TIn));

struct ExtractShape {
  int64_t channels;
  int64_t group;   // channels per thread, at most kChannels
  int64_t chunks;  // of `group` channels
  int64_t runs;    // per patch row
  int64_t copies;
  int64_t items;  // batch * regions * chunks * s0 * s1 * runs
};

template <typename TOut, typename TIn>
__global__ void __launch_bounds__(kThreads)
    extract_patches_kernel(TOut* __restrict__ out /* [B,K,R,C,*s] */,
                           const TIn* __restrict__ canvas /* [B,C,*S] */, const PlanView plan,
                           const sum_t<TIn>* __restrict__ scale /* [B] or null */, const ExtractShape shape) {
  constexpr int kLength = kRun<TOut, TIn>;
  const int64_t canvas_volume = plan.canvas[0] * plan.canvas[1] * plan.canvas[2];
  const int64_t patch_volume = plan.patch[0] * plan.patch[1] * plan.patch[2];

  for (int64_t item = first_item(); item < shape.items; item += item_step()) {
    int64_t rest = item;
    int64_t j[kMaxDims];
    j[2] = take(rest, shape.runs) * kLength;
    j[1] = take(rest, plan.patch[1]);
    j[0] = take(rest, plan.patch[0]);
    const int64_t first = take(rest, shape.chunks) * shape.group;
    const int64_t region = take(rest, plan.regions);
    const int64_t batch = rest;

    int64_t x[kMaxDims];
#pragma unroll
    for (int axis = 0; axis < kMaxDims; ++axis) {
      x[axis] = offset_along(plan, region, axis) + j[axis];
      if (x[axis] >= plan.canvas[axis]) x[axis] -= plan.canvas[axis];
    }
    const int64_t left_in_patch = plan.patch[2] - j[2];
    const int width = left_in_patch < kLength ? static_cast<int>(left_in_patch) : kLength;
    const int64_t before_seam = plan.canvas[2] - x[2];
    const int64_t left = shape.channels - first;
    const int group = static_cast<int>(left < shape.group ? left : shape.group);

    const TIn* from = canvas + (batch * shape.channels + first) * canvas_volume +
                      (x[0] * plan.canvas[1] + x[1]) * plan.canvas[2] + x[2];
    const int64_t copy_step = plan.regions * shape.channels * patch_volume;
    TOut* to = out + batch * shape.copies * copy_step + (region * shape.channels + first) * patch_volume +
               (j[0] * plan.patch[1] + j[1]) * plan.patch[2] + j[2];

    TIn value[kChannels][kLength];
    const bool wide = width == kLength && before_seam >= kLength && aligned<TIn, kLength>(from) &&
                      (group == 1 || aligned<TIn, kLength>(from + canvas_volume));
    if (wide) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (c < group) load_words(value[c], from + c * canvas_volume);
      }
    } else {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int i = 0; i < kLength; ++i) {
          const int64_t at = i < before_seam ? i : i - plan.canvas[2];
          if (c < group && i < width) value[c][i] = load_one(from + c * canvas_volume + at);
        }
      }
    }

    const sum_t<TIn> factor = scale == nullptr ? sum_t<TIn>(1) : __ldg(scale + batch);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      if (c >= group) continue;
      TOut result[kLength];
#pragma unroll
      for (int i = 0; i < kLength; ++i) {
        if (i < width) result[i] = FromSum<TOut>::cast(to_sum(value[c][i]) * factor);
      }
      for (int64_t k = 0; k < shape.copies; ++k) {
        store_run(to + k * copy_step + c * patch_volume, result, width);
      }
    }
  }
}

}  // namespace

Status extract_patches(void* out /* [B,K,R,C,*s] */, DType out_dtype, const void* canvas /* [B,C,*S] */,
                       DType in_dtype, int64_t batch, int64_t channels, const PlanView& plan,
                       const void* scale /* [B] or null */, void* stream, int64_t copies) {
  return with_type(out_dtype, [&](auto* out_type) {
    return with_type(in_dtype, [&](auto* in_type) {
      using TOut = std::remove_pointer_t<decltype(out_type)>;
      using TIn = std::remove_pointer_t<decltype(in_type)>;
      constexpr int64_t kLength = kRun<TOut, TIn>;
      ExtractShape shape{};
      shape.channels = channels;
      shape.copies = copies;
      shape.runs = (plan.patch[2] + kLength - 1) / kLength;
      const int64_t rows = batch * plan.regions * plan.patch[0] * plan.patch[1] * shape.runs;
      shape.group = rows * ((channels + kChannels - 1) / kChannels) < kWave ? 1 : kChannels;
      shape.chunks = (channels + shape.group - 1) / shape.group;
      shape.items = rows * shape.chunks;
      return launch(extract_patches_kernel<TOut, TIn>, shape.items, out, stream, static_cast<TOut*>(out),
                    static_cast<const TIn*>(canvas), plan, static_cast<const sum_t<TIn>*>(scale), shape);
    });
  });
}

}  // namespace intarsia::cuda
