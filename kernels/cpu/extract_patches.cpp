// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cpu/convert_rows.h"
#include "cpu/entry.h"
#include "cpu/parallel.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

// In one dimension, the most rows of a rectangle.
constexpr int64_t kChannelRows = 1024;

template <class In, class Out>
class Extraction {
 public:
  using A = typename Accumulator<In>::type;

  Extraction(Out* out, const In* canvas, int64_t batch, int64_t channels, const PlanView& plan,
             const A* scale, int64_t copies)
      : out_(out), canvas_(canvas), batch_(batch), channels_(channels), plan_(plan), scale_(scale) {
    const int64_t plane_out = plan.patch[0] * plan.patch[1] * plan.patch[2];
    copies_ = {copies, plan.regions * channels * plane_out};
    const int64_t bytes_out = batch * copies * copies_.step * static_cast<int64_t>(sizeof(Out));
    bytes_canvas_ = batch * channels * canvas_plane() * static_cast<int64_t>(sizeof(In));
    bytes_ = bytes_out;
    const bool in_step = copies == 1 || copies_.step * sizeof(Out) % INTARSIA_VECTOR_BYTES == 0;
    streamed_ = in_step && worth_streaming(bytes_out);
    // The rectangle to copy is a channel's patch. In one dimension it has a row per channel; many channels go
    // in groups of like size, each through all regions, so that short rows are cached yet where regions
    // overlap.
    rows_are_channels_ = plan.ndim == 1;
    groups_ = rows_are_channels_ ? (channels + kChannelRows - 1) / kChannelRows : channels;
    rows_ = !rows_are_channels_ ? plan.patch[0] * plan.patch[1]
            : channels > 0      ? (channels + groups_ - 1) / groups_
                                : 0;
    // A canvas beyond the caches is walked channel by channel: neighbouring patches then meet it in the
    // cache.
    channels_outside_ = !rows_are_channels_ && bytes_canvas_ > last_level_cache();
  }

  void run(int threads) const {
    if (bytes_ == 0) return;
    const int64_t planes = batch_ * plan_.regions * groups_;
    share_out(planes * rows_, team_size(threads, bytes_), [this](int64_t first, int64_t last) {
      for (int64_t at = first; at < last;) {
        const int64_t plane = at / rows_, from = at % rows_, to = std::min(rows_, from + last - at);
        copy_plane(plane, from, to);
        at += to - from;
      }
      if (streamed_) stream_fence();
    });
  }

 private:
  int64_t canvas_plane() const { return plan_.canvas[0] * plan_.canvas[1] * plan_.canvas[2]; }

  int64_t offset(int64_t region, int axis) const {
    const int lead = kMaxDims - plan_.ndim;
    return axis < lead ? 0 : plan_.offsets[region * plan_.ndim + axis - lead];
  }

  void copy_plane(int64_t plane, int64_t from, int64_t to) const {
    const int64_t R = plan_.regions, C = channels_;
    const int64_t patch_plane = plan_.patch[0] * plan_.patch[1] * plan_.patch[2];
    if (rows_are_channels_) {
      const int64_t b = plane / (groups_ * R), c = plane / R % groups_ * rows_ + from,
                    r = plan_.order[plane % R];
      const int64_t rows = std::min(to - from, C - c);  // the last group may have fewer
      if (rows <= 0) return;
      copy_columns(out_ + ((b * copies_.count * R + r) * C + c) * patch_plane,
                   canvas_ + (b * C + c) * canvas_plane(), canvas_plane(), rows, r, b);
      return;
    }
    int64_t b, r, c;
    if (channels_outside_) {
      b = plane / (C * R), c = plane / R % C, r = plan_.order[plane % R];
    } else {
      b = plane / (C * R), r = plane / C % R, c = plane % C;
    }
    const int64_t s1 = plan_.patch[1], s2 = plan_.patch[2], S0 = plan_.canvas[0], S1 = plan_.canvas[1];
    Out* dst = out_ + ((b * copies_.count * R + r) * C + c) * patch_plane;
    const In* src = canvas_ + (b * C + c) * canvas_plane();
    while (from < to) {
      const int64_t j0 = from / s1, j1 = from % s1;
      int64_t x0 = offset(r, 0) + j0, x1 = offset(r, 1) + j1;
      x0 -= x0 >= S0 ? S0 : 0;
      x1 -= x1 >= S1 ? S1 : 0;
      // As far as the patch's slice, the share and the seam allow.
      const int64_t rows = std::min({s1 - j1, to - from, S1 - x1});
      copy_columns(dst + from * s2, src + (x0 * S1 + x1) * plan_.canvas[2], plan_.canvas[2], rows, r, b);
      from += rows;
    }
  }

  // src is the first row's start; the rows may cross the seam of the last axis.
  void copy_columns(Out* dst, const In* src, int64_t src_stride, int64_t rows, int64_t r, int64_t b) const {
    const int64_t s2 = plan_.patch[2], x2 = offset(r, 2), left = std::min(s2, plan_.canvas[2] - x2);
    const A* scale = scale_ ? scale_ + b : nullptr;
    convert_rows(dst, s2, src + x2, src_stride, rows, left, scale, streamed_, copies_);
    if (left < s2) convert_rows(dst + left, s2, src, src_stride, rows, s2 - left, scale, streamed_, copies_);
  }

  Out* out_;
  const In* canvas_;
  int64_t batch_, channels_, groups_, rows_, bytes_, bytes_canvas_;
  const PlanView& plan_;
  const A* scale_;
  Copies copies_;
  bool streamed_, rows_are_channels_, channels_outside_;
};

template <class In, class Out>
void extract(void* out, const void* canvas, int64_t batch, int64_t channels, const PlanView& plan,
             const void* scale, int64_t copies, int threads) {
  using A = typename Accumulator<In>::type;
  Extraction<In, Out>(static_cast<Out*>(out), static_cast<const In*>(canvas), batch, channels, plan,
                      static_cast<const A*>(scale), copies)
      .run(threads);
}

using Extract = decltype(&extract<float, float>);
constexpr Extract kExtract[4][4] = {
    {extract<f16, f16>, extract<f16, bf16>, extract<f16, float>, extract<f16, double>},
    {extract<bf16, f16>, extract<bf16, bf16>, extract<bf16, float>, extract<bf16, double>},
    {extract<float, f16>, extract<float, bf16>, extract<float, float>, extract<float, double>},
    {extract<double, f16>, extract<double, bf16>, extract<double, float>, extract<double, double>},
};

}  // namespace

Status extract_patches(void* out, DType out_dtype, const void* canvas, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const void* scale, int threads,
                       int64_t copies) {
  kExtract[static_cast<int>(in_dtype)][static_cast<int>(out_dtype)](out, canvas, batch, channels, plan, scale,
                                                                    copies, threads);
  return {};
}

}  // namespace intarsia::cpu::INTARSIA_ISA
