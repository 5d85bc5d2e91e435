// SPDX-License-Identifier: Apache-2.0
// Host side of a plan: which regions cover which part of the canvas, computed once per geometry.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "intarsia.h"

namespace intarsia {

class Plan {
 public:
  // offsets [R, n]; canvas, patch and wrap have n entries. Throws std::invalid_argument.
  Plan(const int64_t* offsets, int64_t regions, std::vector<int64_t> canvas, std::vector<int64_t> patch,
       std::vector<bool> wrap);

  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const PlanView& regions_only() const { return view_; }
  // With rows and bands, which the CPU kernels walk.
  const PlanView& rows();
  // With the lists of single cells, which the CUDA and Triton kernels look up.
  const PlanView& cells();
  // Elements that no region covers, and the first of them in row-major order (-1 when there is none).
  std::pair<int64_t, int64_t> uncovered();

  std::vector<int64_t> offsets, order;
  std::vector<int64_t> edges[kMaxDims];
  std::vector<int32_t> axis_cell[kMaxDims];
  std::vector<int64_t> cell_start;
  std::vector<int32_t> cell_region;

 private:
  struct Range {
    int64_t first, last;
  };
  // The cells, or with K = S the places, that a region covers along an axis: two ranges when it crosses the
  // seam.
  struct Ranges {
    Range range[2];
    int count;
  };

  int64_t offset(int64_t region, int axis) const {
    const int lead = kMaxDims - view_.ndim;
    return axis < lead ? 0 : offsets[region * view_.ndim + axis - lead];
  }
  Ranges covered_cells(int64_t region, int axis) const;
  void find_order();
  void find_edges();
  void find_rows();
  void find_bands();
  void cover_columns(int64_t row_cell, std::vector<int64_t>& cover) const;
  // Columns of a row cell with one kind of band, and how many regions lie over them on average.
  struct Run {
    int64_t first, last, depth;
    bool single, fused;
  };
  void find_runs(const std::vector<int64_t>& cover, std::vector<Run>& runs) const;
  void count_uncovered(int64_t row_cell, const std::vector<int64_t>& cover);
  void add_bands(int64_t row_cell, const Run& run);
  void add_slabs(int64_t first_cell, int64_t last_cell, const std::vector<int64_t>& depth);
  int64_t list_of(int64_t first_cell, int64_t last_cell);
  void add_band(int64_t list, int64_t x0, int64_t x1, int64_t rows, int64_t x2, int64_t columns,
                int64_t depth, bool single);

  PlanView view_;
  std::vector<int64_t> row_start_;
  std::vector<int32_t> row_region_, rank_;
  std::vector<Ranges> range2_;
  std::vector<Band> bands_;
  int64_t uncovered_ = 0, first_uncovered_ = -1;
  bool has_rows_ = false, has_cells_ = false;
};

namespace plan_limits {
constexpr int64_t cells = int64_t{1} << 26;
constexpr int64_t entries = int64_t{1} << 27;
// A band of sums and a band of totals sit in the first-level cache together. On one axis a band is one long
// row.
constexpr int64_t band_width = 1024, band_elements = 4096;
// Runs covered once are copied; shorter ones are cheaper summed with their neighbours.
constexpr int64_t copied_run = 256;
// Runs with one set of regions make bands of their own from here on: all of their sums then stay in
// registers.
constexpr int64_t fused_run = 64;
}  // namespace plan_limits

inline Plan::Plan(const int64_t* given, int64_t regions, std::vector<int64_t> canvas,
                  std::vector<int64_t> patch, std::vector<bool> wrap) {
  const int n = static_cast<int>(canvas.size());
  if (n < 1 || n > kMaxDims || patch.size() != canvas.size() || wrap.size() != canvas.size()) {
    throw std::invalid_argument("canvas, patch and wrap must have the same 1 to 3 axes");
  }
  if (regions < 0 || regions > INT32_MAX) {
    throw std::invalid_argument("offsets must hold at most 2147483647 regions, got " +
                                std::to_string(regions));
  }
  view_.ndim = n;
  view_.regions = regions;
  for (int i = 0; i < n; ++i) {
    const int axis = kMaxDims - n + i;
    if (canvas[i] < 0 || patch[i] < 0 || patch[i] > canvas[i]) {
      throw std::invalid_argument("patch must fit the canvas on axis " + std::to_string(i) + ", got " +
                                  std::to_string(patch[i]) + " on " + std::to_string(canvas[i]));
    }
    view_.canvas[axis] = canvas[i];
    view_.patch[axis] = patch[i];
    view_.wrap[axis] = wrap[i];
  }
  offsets.assign(given, given + regions * n);
  for (int64_t r = 0; r < regions; ++r) {
    for (int i = 0; i < n; ++i) {
      int64_t& at = offsets[r * n + i];
      if (wrap[i] && canvas[i] > 0) {
        at %= canvas[i];
        at += at < 0 ? canvas[i] : 0;
      } else if (at < 0 || at > canvas[i] - patch[i]) {
        throw std::invalid_argument("offsets must keep every region inside the canvas, region " +
                                    std::to_string(r) + " spans " + std::to_string(at) + " to " +
                                    std::to_string(at + patch[i]) + " on axis " + std::to_string(i) + " of " +
                                    std::to_string(canvas[i]));
      }
    }
  }
  find_order();
  view_.offsets = offsets.data();
  view_.order = order.data();
}

inline void Plan::find_order() {
  const int n = view_.ndim;
  order.resize(view_.regions);
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto before = [&](int64_t a, int64_t b) {
    const int64_t *pa = &offsets[a * n], *pb = &offsets[b * n];
    for (int i = 0; i < n; ++i) {
      if (pa[i] != pb[i]) return pa[i] < pb[i];
    }
    return a < b;
  };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
}

inline void Plan::find_edges() {
  int64_t product = 1;
  for (int axis = 0; axis < kMaxDims; ++axis) {
    const int64_t size = view_.canvas[axis], patch = view_.patch[axis];
    std::vector<int64_t>& e = edges[axis];
    e = {0, size};
    int64_t last = -1;
    for (int64_t r = 0; r < view_.regions; ++r) {
      const int64_t from = offset(r, axis), to = from + patch;
      if (from == last) continue;  // neighbours in the list often share an offset
      last = from;
      e.push_back(from);
      e.push_back(to > size ? to - size : to);
    }
    std::sort(e.begin(), e.end());
    e.erase(std::unique(e.begin(), e.end()), e.end());
    if (e.size() == 1) e.push_back(size);
    view_.cells[axis] = size == 0 ? 0 : static_cast<int64_t>(e.size()) - 1;
    product *= view_.cells[axis];
    if (product > plan_limits::cells) {
      throw std::invalid_argument(
          "offsets must cut the canvas into at most 67108864 cells, got more. "
          "Put the regions on a regular grid or split the canvas.");
    }
  }
}

inline Plan::Ranges Plan::covered_cells(int64_t region, int axis) const {
  const std::vector<int64_t>& e = edges[axis];
  const auto cell = [&](int64_t edge) { return std::lower_bound(e.begin(), e.end(), edge) - e.begin(); };
  const int64_t from = offset(region, axis), to = from + view_.patch[axis], size = view_.canvas[axis];
  if (to <= size) return {{{cell(from), cell(to)}, {0, 0}}, 1};
  return {{{0, cell(to - size)}, {cell(from), view_.cells[axis]}}, 2};
}

inline void Plan::find_rows() {
  const int64_t row_cells = view_.cells[0] * view_.cells[1];
  std::vector<Ranges> range0(view_.regions), range1(view_.regions);
  range2_.resize(view_.regions);
  row_start_.assign(row_cells + 1, 0);
  const auto each_row_cell = [&](int64_t r, auto&& act) {
    for (int i = 0; i < range0[r].count; ++i) {
      for (int64_t k0 = range0[r].range[i].first; k0 < range0[r].range[i].last; ++k0) {
        for (int j = 0; j < range1[r].count; ++j) {
          for (int64_t k1 = range1[r].range[j].first; k1 < range1[r].range[j].last; ++k1) {
            act(k0 * view_.cells[1] + k1);
          }
        }
      }
    }
  };
  int64_t entries = 0;
  for (int64_t r = 0; r < view_.regions; ++r) {
    range0[r] = covered_cells(r, 0);
    range1[r] = covered_cells(r, 1);
    range2_[r] = covered_cells(r, 2);
    each_row_cell(r, [&](int64_t row) { ++row_start_[row + 1], ++entries; });
    if (entries > plan_limits::entries) {
      throw std::invalid_argument(
          "offsets must make at most 134217728 pairs of a cell and a region, got more. "
          "Use fewer regions, a larger stride or a smaller canvas.");
    }
  }
  std::partial_sum(row_start_.begin(), row_start_.end(), row_start_.begin());
  row_region_.resize(entries);
  std::vector<int64_t> next(row_start_.begin(), row_start_.end() - 1);
  for (const int64_t r : order) {
    each_row_cell(r, [&](int64_t row) { row_region_[next[row]++] = static_cast<int32_t>(r); });
  }
}

inline const PlanView& Plan::rows() {
  if (has_rows_) return view_;
  find_edges();
  find_rows();
  bands_.clear();
  uncovered_ = 0;
  find_bands();
  view_.row_start = row_start_.data();
  view_.row_region = row_region_.data();
  view_.bands = bands_.data();
  view_.num_bands = static_cast<int64_t>(bands_.size());
  has_rows_ = true;
  return view_;
}

inline std::pair<int64_t, int64_t> Plan::uncovered() {
  rows();
  return {uncovered_, first_uncovered_};
}

inline const PlanView& Plan::cells() {
  rows();
  if (has_cells_) return view_;
  const int64_t columns = view_.cells[2], row_cells = view_.cells[0] * view_.cells[1];
  const auto each_cell = [&](int64_t row, auto&& act) {
    for (int64_t i = row_start_[row]; i < row_start_[row + 1]; ++i) {
      const Ranges& ranges = range2_[row_region_[i]];
      for (int j = 0; j < ranges.count; ++j) {
        for (int64_t k = ranges.range[j].first; k < ranges.range[j].last; ++k)
          act(row * columns + k, row_region_[i]);
      }
    }
  };
  cell_start.assign(row_cells * columns + 1, 0);
  int64_t entries = 0;
  for (int64_t row = 0; row < row_cells; ++row) {
    each_cell(row, [&](int64_t cell, int32_t) { ++cell_start[cell + 1], ++entries; });
    if (entries > plan_limits::entries) {
      throw std::invalid_argument(
          "offsets must make at most 134217728 pairs of a cell and a region, got more. "
          "Use fewer regions, a larger stride or a smaller canvas.");
    }
  }
  std::partial_sum(cell_start.begin(), cell_start.end(), cell_start.begin());
  cell_region.resize(entries);
  std::vector<int64_t> next(cell_start.begin(), cell_start.end() - 1);
  for (int64_t row = 0; row < row_cells; ++row) {
    each_cell(row, [&](int64_t cell, int32_t region) { cell_region[next[cell]++] = region; });
  }
  for (int axis = kMaxDims - view_.ndim; axis < kMaxDims; ++axis) {
    axis_cell[axis].resize(view_.canvas[axis]);
    for (int64_t k = 0; k < view_.cells[axis]; ++k) {
      std::fill(axis_cell[axis].begin() + edges[axis][k], axis_cell[axis].begin() + edges[axis][k + 1],
                static_cast<int32_t>(k));
    }
    view_.edges[axis] = edges[axis].data();
    view_.axis_cell[axis] = axis_cell[axis].data();
  }
  view_.cell_start = cell_start.data();
  view_.cell_region = cell_region.data();
  has_cells_ = true;
  return view_;
}

}  // namespace intarsia

#include "common/bands.h"
