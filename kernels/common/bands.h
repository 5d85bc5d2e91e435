// SPDX-License-Identifier: Apache-2.0
// How a plan cuts the canvas into the bands that the CPU kernels walk.
#pragma once

#include "common/plan.h"

namespace intarsia {

// cover[k] = number of regions over cell k of axis 2 in this row cell.
inline void Plan::cover_columns(int64_t row_cell, std::vector<int64_t>& cover) const {
  cover.assign(view_.cells[2] + 1, 0);
  for (int64_t i = row_start_[row_cell]; i < row_start_[row_cell + 1]; ++i) {
    const Ranges& ranges = range2_[row_region_[i]];
    for (int j = 0; j < ranges.count; ++j) {
      ++cover[ranges.range[j].first];
      --cover[ranges.range[j].last];
    }
  }
  std::partial_sum(cover.begin(), cover.end(), cover.begin());
}

inline void Plan::add_band(int64_t list, int64_t x0, int64_t x1, int64_t rows, int64_t x2, int64_t columns,
                           int64_t depth, bool single) {
  const int64_t before = bands_.empty() ? 0 : bands_.back().cost;
  bands_.push_back({list, x0, x1, rows, x2, columns, before + rows * columns * (depth + 2), single});
}

// The size of the bands that a run of columns is cut into.
struct BandSize {
  int64_t width, height;
  BandSize(int64_t columns, int64_t most) {
    const int64_t pieces = (columns + most - 1) / most;
    width = ((columns + pieces - 1) / pieces + 15) / 16 * 16;
    height = std::max<int64_t>(1, plan_limits::band_elements / width);
  }
};

// Cuts a run of a row cell into bands.
inline void Plan::add_bands(int64_t row_cell, const Run& run) {
  const int64_t k0 = row_cell / view_.cells[1], k1 = row_cell % view_.cells[1];
  const BandSize size(run.last - run.first,
                      run.single || view_.ndim == 1 ? plan_limits::band_elements : plan_limits::band_width);
  for (int64_t x0 = edges[0][k0]; x0 < edges[0][k0 + 1]; ++x0) {
    for (int64_t x1 = edges[1][k1]; x1 < edges[1][k1 + 1]; x1 += size.height) {
      const int64_t rows = std::min(size.height, edges[1][k1 + 1] - x1);
      for (int64_t x2 = run.first; x2 < run.last; x2 += size.width) {
        add_band(row_cell, x0, x1, rows, x2, std::min(size.width, run.last - x2), run.depth, run.single);
      }
    }
  }
}

// The regions that cross any of these row cells, in order, as a list of its own where they are several.
inline int64_t Plan::list_of(int64_t first_cell, int64_t last_cell) {
  if (last_cell == first_cell + 1) return first_cell;
  const int64_t begin = static_cast<int64_t>(row_region_.size());
  for (int64_t i = row_start_[first_cell]; i < row_start_[last_cell]; ++i) {
    row_region_.push_back(row_region_[i]);
  }
  const auto added = row_region_.begin() + begin;
  std::sort(added, row_region_.end(), [&](int32_t a, int32_t b) { return rank_[a] < rank_[b]; });
  row_region_.erase(std::unique(added, row_region_.end()), row_region_.end());
  row_start_.push_back(static_cast<int64_t>(row_region_.size()));
  return static_cast<int64_t>(row_start_.size()) - 2;
}

// Cuts row cells, neighbours along axis 1 that are summed over all their columns, into bands as tall as if
// they were one: short row cells, as scattered regions make, would each cost a band of its own.
inline void Plan::add_slabs(int64_t first_cell, int64_t last_cell, const std::vector<int64_t>& depth) {
  const std::vector<int64_t>& e = edges[1];
  const int64_t k0 = first_cell / view_.cells[1], before = k0 * view_.cells[1];
  const int64_t from = e[first_cell - before], to = e[last_cell - before];
  const BandSize size(view_.canvas[2], plan_limits::band_width);
  struct Slab {
    int64_t x1, rows, list, depth;
  };
  std::vector<Slab> slabs;
  for (int64_t x1 = from, cell = first_cell; x1 < to; x1 += size.height) {
    const int64_t rows = std::min(size.height, to - x1);
    int64_t end = cell, work = 0;
    for (; end < last_cell && e[end - before] < x1 + rows; ++end) {
      const int64_t low = std::max(x1, e[end - before]), high = std::min(x1 + rows, e[end - before + 1]);
      work += depth[end - first_cell] * (high - low);
    }
    slabs.push_back({x1, rows, list_of(cell, end), (work + rows - 1) / rows});
    cell = e[end - before] > x1 + rows ? end - 1 : end;
  }
  for (int64_t x0 = edges[0][k0]; x0 < edges[0][k0 + 1]; ++x0) {
    for (const Slab& slab : slabs) {
      for (int64_t x2 = 0; x2 < view_.canvas[2]; x2 += size.width) {
        add_band(slab.list, x0, slab.x1, slab.rows, x2, std::min(size.width, view_.canvas[2] - x2),
                 slab.depth, false);
      }
    }
  }
}

inline void Plan::count_uncovered(int64_t row_cell, const std::vector<int64_t>& cover) {
  const int64_t k0 = row_cell / view_.cells[1], k1 = row_cell % view_.cells[1];
  const int64_t area = (edges[0][k0 + 1] - edges[0][k0]) * (edges[1][k1 + 1] - edges[1][k1]);
  for (int64_t k = 0; k < view_.cells[2]; ++k) {
    if (cover[k] > 0) continue;
    if (uncovered_ == 0) {
      first_uncovered_ = (edges[0][k0] * view_.canvas[1] + edges[1][k1]) * view_.canvas[2] + edges[2][k];
    }
    uncovered_ += area * (edges[2][k + 1] - edges[2][k]);
  }
}

inline void Plan::find_runs(const std::vector<int64_t>& cover, std::vector<Run>& runs) const {
  const std::vector<int64_t>& e = edges[2];
  runs.clear();
  int64_t first = 0, work = 0;
  const auto cut = [&](int64_t until) {
    const int64_t columns = until - first;
    if (columns > 0) runs.push_back({first, until, (work + columns - 1) / columns, false, false});
    first = until, work = 0;
  };
  for (int64_t k = 0; k < view_.cells[2];) {
    int64_t end = k + 1;
    while (end < view_.cells[2] && cover[end] == cover[k]) ++end;
    if (cover[k] == 1 && e[end] - e[k] >= plan_limits::copied_run) {
      cut(e[k]);
      runs.push_back({e[k], e[end], 1, true, false});
      first = e[end];
    } else {
      for (int64_t j = k; j < end; ++j) {
        const int64_t own = e[j + 1] - e[j];
        if (own >= plan_limits::fused_run) {
          cut(e[j]);
          runs.push_back({e[j], e[j + 1], cover[j], false, true});
          first = e[j + 1];
        } else {
          work += cover[j] * own;
        }
      }
    }
    k = end;
  }
  cut(view_.canvas[2]);
}

inline void Plan::find_bands() {
  std::vector<int64_t> cover, depth;  // depth: of the row cells that wait to be cut into slabs
  std::vector<Run> runs;
  rank_.resize(view_.regions);
  for (int64_t i = 0; i < view_.regions; ++i) rank_[order[i]] = static_cast<int32_t>(i);
  const int64_t row_cells = view_.cells[0] * view_.cells[1];
  const auto cut_slabs = [&](int64_t until) {
    if (!depth.empty()) add_slabs(until - static_cast<int64_t>(depth.size()), until, depth);
    depth.clear();
  };
  for (int64_t row = 0; row < row_cells; ++row) {
    cover_columns(row, cover);
    count_uncovered(row, cover);
    find_runs(cover, runs);
    if (row % view_.cells[1] == 0) cut_slabs(row);
    if (runs.size() == 1 && !runs[0].single && !runs[0].fused) {
      depth.push_back(runs[0].depth);
      continue;
    }
    cut_slabs(row);
    for (const Run& run : runs) add_bands(row, run);
  }
  cut_slabs(row_cells);
  rank_ = {};
}

}  // namespace intarsia
