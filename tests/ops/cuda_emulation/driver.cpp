// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels as a plain library. A plan travels as 64-bit words: ndim, regions, then per axis canvas,
// patch, wrap, cells, edges and axis_cell, then offsets, cell_start and cell_region.
#include "entry.h"
#include "extract_patches.cu"
#include "gaussian_weights.cu"
#include "scatter_average.cu"

namespace {

template <typename T>
const T* pointer(int64_t word) {
  return reinterpret_cast<const T*>(word);
}

intarsia::PlanView unpack(const int64_t* words) {
  intarsia::PlanView plan;
  plan.ndim = static_cast<int>(*words++);
  plan.regions = *words++;
  for (int axis = 0; axis < intarsia::kMaxDims; ++axis) {
    plan.canvas[axis] = *words++;
    plan.patch[axis] = *words++;
    plan.wrap[axis] = *words++ != 0;
    plan.cells[axis] = *words++;
    plan.edges[axis] = pointer<int64_t>(*words++);
    plan.axis_cell[axis] = pointer<int32_t>(*words++);
  }
  plan.offsets = pointer<int64_t>(*words++);
  plan.cell_start = pointer<int64_t>(*words++);
  plan.cell_region = pointer<int32_t>(*words++);
  return plan;
}

intarsia::WeightView weights(const void* const* factors, int dtype, int64_t window_regions,
                             const void* coefficient) {
  intarsia::WeightView weight;
  weight.dtype = static_cast<intarsia::DType>(dtype);
  weight.separable = window_regions == 0;
  for (int axis = 0; axis < intarsia::kMaxDims; ++axis)
    weight.factor[axis] = weight.separable ? factors[axis] : nullptr;
  weight.window = weight.separable ? nullptr : factors[0];
  weight.window_regions = window_regions;
  weight.coefficient = coefficient;
  return weight;
}

}  // namespace

extern "C" {

const char* extract(void* out, int out_dtype, const void* canvas, int in_dtype, int64_t batch,
                    int64_t channels, const int64_t* plan, const void* scale, int64_t copies) {
  return complaint(intarsia::cuda::extract_patches(out, static_cast<intarsia::DType>(out_dtype), canvas,
                                                   static_cast<intarsia::DType>(in_dtype), batch, channels,
                                                   unpack(plan), scale, kStream, copies));
}

const char* scatter(void* out, int out_dtype, const void* patches, int in_dtype, int64_t batch,
                    int64_t channels, const int64_t* plan, const void* const* factors, int weight_dtype,
                    int64_t window_regions, const void* coefficient, int normalize, int64_t terms,
                    const void* const* fused, const double* numbers) {
  intarsia::Fusion fusion;
  fusion.terms = terms, fusion.guidance = fused[0], fusion.x = fused[1], fusion.noise = fused[2];
  fusion.a_each = fused[3], fusion.b_each = fused[4];
  fusion.a = numbers[0], fusion.b = numbers[1], fusion.c = numbers[2];
  return complaint(intarsia::cuda::scatter_average(
      out, static_cast<intarsia::DType>(out_dtype), patches, static_cast<intarsia::DType>(in_dtype), batch,
      channels, unpack(plan), weights(factors, weight_dtype, window_regions, coefficient), normalize != 0,
      kStream, fusion));
}

const char* total(void* out, int out_dtype, const int64_t* plan, const void* const* factors, int weight_dtype,
                  int64_t window_regions, const void* coefficient) {
  return complaint(intarsia::cuda::weight_total(out, static_cast<intarsia::DType>(out_dtype), unpack(plan),
                                                weights(factors, weight_dtype, window_regions, coefficient),
                                                kStream));
}

const char* gaussian(void* out, int out_dtype, int64_t size, double sigma_fraction) {
  return complaint(intarsia::cuda::gaussian_weights(out, static_cast<intarsia::DType>(out_dtype), size,
                                                    sigma_fraction, kStream));
}

}  // extern "C"
