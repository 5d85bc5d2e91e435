// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/accumulate.h"
#include "cpu/convert_rows.h"
#include "cpu/entry.h"
#include "cpu/fuse.h"
#include "cpu/parallel.h"
#include "cpu/weights.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

// Regions whose terms meet in registers; under more, a band's sums are kept in memory.
constexpr int64_t kMostFused = 16;
// A piece's elements are asked for while the fourth before it is added: the last cache is that far away.
constexpr int64_t kPiecesAhead = 4;
// A plan's bands hold at most 4096 elements; their rows are padded to a multiple of 16 and 16 more, for whole
// vectors.
constexpr int64_t kBandElements = 4096, kScratch = 2 * kBandElements + 64;

struct Free {
  void operator()(void* p) const { free(p); }
};
template <class X>
using Buffer = std::unique_ptr<X[], Free>;

template <class X>
Buffer<X> allocate(int64_t n) {
  const size_t bytes = (static_cast<size_t>(n) * sizeof(X) + 63) / 64 * 64;
  return Buffer<X>(static_cast<X*>(aligned_alloc(64, bytes)));
}

template <class A>
using Finish = void (*)(void*, int64_t, const A*, int64_t, const A*, int64_t, const Update<A>&, int64_t,
                        int64_t, bool);
template <class A>
constexpr Finish<A> kFinish[4] = {finish_rows<f16, A>, finish_rows<bf16, A>, finish_rows<float, A>,
                                  finish_rows<double, A>};

template <class T>
void convert_to(DType dtype, char* dst, int64_t dst_step, const T* src, int64_t src_step, int64_t rows,
                int64_t n, bool streamed) {
  switch (dtype) {
    case DType::f16:
      return convert_rows(reinterpret_cast<f16*>(dst), dst_step, src, src_step, rows, n, nullptr, streamed);
    case DType::bf16:
      return convert_rows(reinterpret_cast<bf16*>(dst), dst_step, src, src_step, rows, n, nullptr, streamed);
    case DType::f32:
      return convert_rows(reinterpret_cast<float*>(dst), dst_step, src, src_step, rows, n, nullptr, streamed);
    case DType::f64:
      return convert_rows(reinterpret_cast<double*>(dst), dst_step, src, src_step, rows, n, nullptr,
                          streamed);
  }
}

template <class T, class A>
using Fuse = void (*)(void*, int64_t, const Stack<T, A>&, int64_t, int64_t, bool);
template <class T, class A>
constexpr Fuse<T, A> kFuse[4] = {fuse_rows<T, f16, A>, fuse_rows<T, bf16, A>, fuse_rows<T, float, A>,
                                 fuse_rows<T, double, A>};

// The sums of one call; T is the patches' type, or the accumulator's when only the weights are summed.
template <class T>
class Scatter {
 public:
  using A = typename Accumulator<T>::type;

  Scatter(void* out, DType out_dtype, const T* patches, int64_t batch, int64_t channels, const PlanView& plan,
          const Weights<A>& weights, bool normalize, const Fusion& fusion)
      : out_(static_cast<char*>(out)),
        out_dtype_(out_dtype),
        patches_(patches),
        batch_(batch),
        channels_(channels),
        plan_(plan),
        weights_(weights),
        normalize_(normalize),
        fusion_(fusion),
        rows_are_channels_(plan.ndim == 1),
        patch_plane_(plan.patch[0] * plan.patch[1] * plan.patch[2]),
        canvas_plane_(plan.canvas[0] * plan.canvas[1] * plan.canvas[2]) {
    bytes_out_ = batch * channels * canvas_plane_ * element_size(out_dtype);
    bytes_in_ = patches ? batch * fusion.terms * plan.regions * channels * patch_plane_ *
                              static_cast<int64_t>(sizeof(T))
                        : 0;
    streamed_ = worth_streaming(bytes_out_);
    for (int64_t k = 0; k < plan.num_bands; ++k) {
      const int64_t* start = plan.row_start + plan.bands[k].list;
      most_regions_ = std::max(most_regions_, start[1] - start[0]);
    }
  }

  Status run(int threads) {
    const int64_t planes = batch_ * channels_;
    if (planes == 0 || plan_.num_bands == 0) return {};
    const int64_t total = plan_.bands[plan_.num_bands - 1].cost;
    Status found;
    share_out(total, team_size(threads, bytes_in_ + bytes_out_),
              [&](int64_t first, int64_t last) { report(run_share(place(first), place(last)), found); });
    return found;
  }

 private:
  // The first fault in the canvas, whichever thread meets it.
  static void keep_first(const Status& status, Status& found) {
    if (status.code != Status::ok && (found.code == Status::ok || status.where < found.where)) found = status;
  }
  static void report(const Status& status, Status& found) {
    if (status.code == Status::ok) return;
#pragma omp critical(intarsia_status)
    keep_first(status, found);
  }

  // A cut of the work: bands before `band`, and of this band the planes before `plane`.
  struct Place {
    int64_t band, plane;
  };

  Place place(int64_t cost) const {
    const Band* end = plan_.bands + plan_.num_bands;
    const Band* band = std::upper_bound(plan_.bands, end, cost,
                                        [](int64_t c, const Band& candidate) { return c < candidate.cost; });
    if (band == end) return {plan_.num_bands, 0};
    const int64_t before = band == plan_.bands ? 0 : band[-1].cost;
    const double part = static_cast<double>(cost - before) / static_cast<double>(band->cost - before);
    return {band - plan_.bands, static_cast<int64_t>(part * static_cast<double>(batch_ * channels_))};
  }

  Status run_share(Place first, Place last) const {
    const Buffer<A> sums = allocate<A>(kScratch), totals = allocate<A>(kScratch);
    const Buffer<Piece<A>> pieces = allocate<Piece<A>>(4 * most_regions_ + 1);
    if (!sums || !totals || !pieces) return {Status::out_of_memory, 0, nullptr};
    Status found;
    for (int64_t i = first.band; i <= last.band && i < plan_.num_bands; ++i) {
      const int64_t from = i == first.band ? first.plane : 0;
      const int64_t to = i == last.band ? last.plane : batch_ * channels_;
      if (from >= to) continue;
      keep_first(run_band(plan_.bands[i], from, to, sums.get(), totals.get(), pieces.get()), found);
    }
    if (streamed_) stream_fence();
    return found;
  }

  Status run_band(const Band& band, int64_t from, int64_t to, A* sums, A* totals, Piece<A>* pieces) const {
    const int64_t n = find_pieces(band, pieces);
    const int64_t rows = rows_are_channels_ ? 1 : band.rows;
    const int64_t step = (band.width + 15) / 16 * 16 + 16;
    const bool copied = band.single && normalize_ && fusion_.terms == 1 && !fusion_.x;
    if (!patches_ || (normalize_ && !(copied && weights_.positive()))) {
      std::fill_n(totals, rows * step, A(0));
      for (int64_t k = 0; k < n; ++k) add_weights(totals + pieces[k].row * step, step, pieces[k]);
    }
    if (!patches_) {
      write(band, 0, rows, totals, step, nullptr, 0, {});
      return {};
    }
    if (normalize_ && !(copied && weights_.positive())) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t bad = invert(totals + i * step, band.width);
        if (bad >= 0)
          return {Status::total_not_positive, canvas_element(band) + i * plan_.canvas[2] + bad, nullptr};
      }
    }
    const bool filled = !copied && n <= kMostFused && band.width >= lanes<A> &&
                        std::all_of(pieces, pieces + n, [&](const auto& p) {
                          return p.columns == band.width && p.rows == band.rows;
                        });
    Answers<T, A> sources[kMostFused];
    const int64_t most = rows_are_channels_ ? std::max<int64_t>(1, 3 * kBandElements / 2 / step) : 1;
    for (int64_t plane = from; plane < to;) {
      // Channels of one sample lie together in a patch, as its rows do.
      const int64_t c = plane % channels_;
      const int64_t taken =
          rows_are_channels_ ? std::min({copied || filled ? to : most, to - plane, channels_ - c}) : 1;
      const int64_t height = rows_are_channels_ ? taken : rows;
      const Update<A> update = update_at(band, plane);
      if (copied) {
        for (int64_t k = 0; k < n; ++k) copy(band, plane, pieces[k], answers(pieces[k], plane).p, height);
      } else if (filled) {
        for (int64_t k = 0; k < n; ++k) sources[k] = answers(pieces[k], plane);
        const Stack<T, A> stack{pieces,
                                sources,
                                n,
                                plan_.patch[2],
                                normalize_ ? totals : nullptr,
                                rows_are_channels_ ? 0 : step,
                                !rows_are_channels_,
                                update};
        kFuse<T, A>[static_cast<int>(out_dtype_)](out_at(band, plane), out_step(), stack, height, band.width,
                                                  streamed_);
      } else {
        std::fill_n(sums, height * step, A(0));
        for (int64_t k = 0; k < n; ++k) {
          const int64_t later = k + kPiecesAhead;
          const T* next =
              later < n ? answers(pieces[later], plane).p
                        : answers(pieces[later - n < n ? later - n : 0], std::min(plane + taken, to - 1)).p;
          add_piece(sums + pieces[k].row * step, step, answers(pieces[k], plane), plan_.patch[2], pieces[k],
                    rows_are_channels_ ? height : pieces[k].rows, next);
        }
        write(band, plane, height, sums, step, normalize_ ? totals : nullptr, rows_are_channels_ ? 0 : step,
              update);
      }
      plane += taken;
    }
    return {};
  }

  int64_t canvas_element(const Band& band) const {
    return (band.x0 * plan_.canvas[1] + band.x1) * plan_.canvas[2] + band.x2;
  }
  int64_t out_step() const { return rows_are_channels_ ? canvas_plane_ : plan_.canvas[2]; }

  Answers<T, A> answers(const Piece<A>& piece, int64_t plane) const {
    const int64_t b = plane / channels_, c = plane % channels_, R = plan_.regions;
    return {patches_ + ((b * fusion_.terms * R + piece.region) * channels_ + c) * patch_plane_ + piece.patch,
            fusion_.terms, R * channels_ * patch_plane_,
            static_cast<const A*>(fusion_.guidance) + piece.region, R};
  }

  Update<A> update_at(const Band& band, int64_t plane) const {
    Update<A> update;
    if (!fusion_.x) return update;
    const int64_t at = (plane * canvas_plane_ + canvas_element(band)) * element_size(out_dtype_);
    const auto each = [&](const void* of) {
      return of ? static_cast<const A*>(of)[plane / channels_] : A(1);
    };
    update.x = static_cast<const char*>(fusion_.x) + at;
    update.noise = fusion_.noise ? static_cast<const char*>(fusion_.noise) + at : nullptr;
    update.a = static_cast<A>(fusion_.a) * each(fusion_.a_each);
    update.b = static_cast<A>(fusion_.b) * each(fusion_.b_each);
    update.c = static_cast<A>(fusion_.c);
    return update;
  }

  char* out_at(const Band& band, int64_t plane) const {
    return out_ + (plane * canvas_plane_ + canvas_element(band)) * element_size(out_dtype_);
  }

  void write(const Band& band, int64_t plane, int64_t height, const A* values, int64_t step,
             const A* reciprocal, int64_t reciprocal_step, const Update<A>& update) const {
    kFinish<A>[static_cast<int>(out_dtype_)](out_at(band, plane), out_step(), values, step, reciprocal,
                                             reciprocal_step, update, height, band.width, streamed_);
  }

  void copy(const Band& band, int64_t plane, const Piece<A>& piece, const T* src, int64_t height) const {
    convert_to(out_dtype_, out_at(band, plane) + piece.at * element_size(out_dtype_), out_step(), src,
               plan_.patch[2], height, piece.columns, streamed_);
  }

  // The parts of regions that lie in a band, in the plan's order; several for a region whose seams cross it.
  int64_t find_pieces(const Band& band, Piece<A>* pieces) const {
    const int32_t* region = plan_.row_region + plan_.row_start[band.list];
    const int32_t* const end = plan_.row_region + plan_.row_start[band.list + 1];
    const int64_t right = band.x2 + band.width, left = band.x2 - plan_.patch[2];
    int64_t n = 0;
    while (region < end) {
      // Regions that differ along the last axis alone are sorted along it: those over the band are a run of
      // the list, and those whose image across the seam is over it are the list's tail.
      const int32_t* const last = end_of_line(region, end);
      const auto first_from = [&](int64_t x) {
        return std::partition_point(region, last, [&](int32_t r) { return offset(r)[2] < x; });
      };
      const int32_t* const stop = first_from(right);
      n = add_pieces(band, first_from(left + 1), stop, pieces, n);
      if (plan_.wrap[2]) {
        n = add_pieces(band, std::max(stop, first_from(plan_.canvas[2] + left + 1)), last, pieces, n);
      }
      region = last;
    }
    return n;
  }

  // A region's offset, right-aligned: entries before the canvas's first axis are not there.
  const int64_t* offset(int64_t region) const {
    return plan_.offsets + region * plan_.ndim - (kMaxDims - plan_.ndim);
  }

  // The end of the regions that share the offset of the first along every axis but the last.
  const int32_t* end_of_line(const int32_t* first, const int32_t* end) const {
    if (plan_.ndim == 1) return end;
    const int64_t* at = offset(*first);
    const auto same = [&](int32_t r) {
      return offset(r)[1] == at[1] && (plan_.ndim == 2 || offset(r)[0] == at[0]);
    };
    int64_t step = 1;  // doubled first: a line may be a single region of a long list
    while (step < end - first && same(first[step])) step *= 2;
    return std::partition_point(first + step / 2, std::min(first + step, end), same);
  }

  // Where a region starting at `start` lies in a band along one axis, and then its image one canvas before.
  template <class Act>
  static void each_overlap(int64_t start, int64_t patch, int64_t canvas, bool wrap, int64_t first,
                           int64_t length, const Act& act) {
    for (; start + patch > first; start -= canvas) {
      const int64_t low = std::max(start, first), high = std::min(start + patch, first + length);
      if (low < high) act(low - first, high - low, low - start);
      if (!wrap) break;
    }
  }

  int64_t add_pieces(const Band& band, const int32_t* region, const int32_t* end, Piece<A>* pieces,
                     int64_t n) const {
    const int lead = kMaxDims - plan_.ndim;
    for (; region < end; ++region) {
      const int64_t r = *region;
      const int64_t* at = offset(r);
      const int64_t j0 = lead > 0 ? 0 : local_coordinate(band.x0, at[0], plan_.canvas[0], plan_.wrap[0]);
      const auto add_rows = [&](int64_t row, int64_t rows, int64_t j1) {
        const auto add = [&](int64_t column, int64_t columns, int64_t j2) {
          Piece<A>& piece = pieces[n++];
          piece.region = r;
          piece.row = row, piece.rows = rows;
          piece.at = column, piece.columns = columns;
          piece.patch = (j0 * plan_.patch[1] + j1) * plan_.patch[2] + j2;
          weights_.place(piece, j0, j1, j2);
        };
        each_overlap(at[2], plan_.patch[2], plan_.canvas[2], plan_.wrap[2], band.x2, band.width, add);
      };
      if (lead > 1) {
        add_rows(0, 1, 0);
      } else {
        each_overlap(at[1], plan_.patch[1], plan_.canvas[1], plan_.wrap[1], band.x1, band.rows, add_rows);
      }
    }
    return n;
  }

  char* out_;
  DType out_dtype_;
  const T* patches_;
  int64_t batch_, channels_;
  const PlanView& plan_;
  const Weights<A>& weights_;
  bool normalize_;
  const Fusion& fusion_;
  bool rows_are_channels_, streamed_ = false;
  int64_t patch_plane_, canvas_plane_, bytes_out_ = 0, bytes_in_ = 0, most_regions_ = 0;
};

template <class T>
Status scatter(void* out, DType out_dtype, const void* patches, int64_t batch, int64_t channels,
               const PlanView& plan, const WeightView& view, bool normalize, const Fusion& fusion,
               int threads) {
  Weights<typename Accumulator<T>::type> weights(plan, view);
  const Status status = weights.check(normalize);
  if (status.code != Status::ok) return status;
  return Scatter<T>(out, out_dtype, static_cast<const T*>(patches), batch, channels, plan, weights, normalize,
                    fusion)
      .run(threads);
}

}  // namespace

Status scatter_average(void* out, DType out_dtype, const void* patches, DType in_dtype, int64_t batch,
                       int64_t channels, const PlanView& plan, const WeightView& weight, bool normalize,
                       int threads, const Fusion& fusion) {
  const auto kernel = in_dtype == DType::f16    ? scatter<f16>
                      : in_dtype == DType::bf16 ? scatter<bf16>
                      : in_dtype == DType::f32  ? scatter<float>
                                                : scatter<double>;
  // Patches without elements may have no address, which in Scatter stands for a sum of the weights alone.
  static constexpr double kNone = 0;
  if (!patches) patches = &kNone;
  return kernel(out, out_dtype, patches, batch, channels, plan, weight, normalize, fusion, threads);
}

Status weight_total(void* out, DType out_dtype, const PlanView& plan, const WeightView& weight, int threads) {
  const auto kernel = weight.dtype == DType::f64 ? scatter<double> : scatter<float>;
  return kernel(out, out_dtype, nullptr, 1, 1, plan, weight, false, {}, threads);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
