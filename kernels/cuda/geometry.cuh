// SPDX-License-Identifier: Apache-2.0
// Look-ups in a plan and in weights that live on the device: which regions cover a place, where in a region
// it lies.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/formulas.h"
#include "intarsia.h"

namespace intarsia::cuda {

// Entries of plan.cell_region.
struct Covering {
  int64_t begin, end;
};

__device__ inline int64_t cell_along(const PlanView& plan, int axis, int64_t x) {
  return plan.axis_cell[axis] == nullptr ? 0 : __ldg(plan.axis_cell[axis] + x);
}

__device__ inline Covering covering(const PlanView& plan, int64_t cell0, int64_t cell1, int64_t cell2) {
  const int64_t cell = (cell0 * plan.cells[1] + cell1) * plan.cells[2] + cell2;
  return Covering{__ldg(plan.cell_start + cell), __ldg(plan.cell_start + cell + 1)};
}

__device__ inline int64_t offset_along(const PlanView& plan, int64_t region, int axis) {
  const int missing = kMaxDims - plan.ndim;
  return axis < missing ? 0 : __ldg(plan.offsets + region * plan.ndim + (axis - missing));
}

// Where canvas element x lies in a region that covers it.
__device__ inline void locate(int64_t (&j)[kMaxDims], const int64_t (&x)[kMaxDims], const PlanView& plan,
                              int64_t region) {
#pragma unroll
  for (int axis = 0; axis < kMaxDims; ++axis) {
    j[axis] = local_coordinate(x[axis], offset_along(plan, region, axis), plan.canvas[axis], plan.wrap[axis]);
  }
}

__device__ inline int64_t place(const PlanView& plan, const int64_t (&j)[kMaxDims]) {
  return (j[0] * plan.patch[1] + j[1]) * plan.patch[2] + j[2];
}

// The weights along the last axis from one element on: element i has weight head * at[i].
template <typename A>
struct WeightRow {
  A head;
  const A* at;
};

template <typename A>
__device__ inline A factor_along(const WeightView& weight, int axis, int64_t j) {
  return weight.factor[axis] == nullptr ? A(1) : __ldg(static_cast<const A*>(weight.factor[axis]) + j);
}

template <typename A>
__device__ inline WeightRow<A> weight_row(const WeightView& weight, const PlanView& plan, int64_t region,
                                          const int64_t (&j)[kMaxDims]) {
  const A coefficient =
      weight.coefficient == nullptr ? A(1) : __ldg(static_cast<const A*>(weight.coefficient) + region);
  if (weight.separable) {
    return WeightRow<A>{
        row_weight(coefficient, factor_along<A>(weight, 0, j[0]), factor_along<A>(weight, 1, j[1])),
        static_cast<const A*>(weight.factor[2]) + j[2]};
  }
  const int64_t row = weight.window_regions == 1 ? 0 : region * plan.patch[0];
  return WeightRow<A>{coefficient, static_cast<const A*>(weight.window) +
                                       (row * plan.patch[1]) * plan.patch[2] + place(plan, j)};
}

}  // namespace intarsia::cuda
