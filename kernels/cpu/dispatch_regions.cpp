// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(extract_patches,
                  (void* out, DType out_dtype, const void* canvas, DType in_dtype, int64_t batch,
                   int64_t channels, const PlanView& plan, const void* scale, int64_t copies, int threads),
                  (out, out_dtype, canvas, in_dtype, batch, channels, plan, scale, copies, threads))

INTARSIA_DISPATCH(scatter_average,
                  (void* out, DType out_dtype, const void* patches, DType in_dtype, int64_t batch,
                   int64_t channels, const PlanView& plan, const WeightView& weight, bool normalize,
                   const Fusion& fusion, int threads),
                  (out, out_dtype, patches, in_dtype, batch, channels, plan, weight, normalize, fusion,
                   threads))

INTARSIA_DISPATCH(weight_total,
                  (void* out, DType out_dtype, const PlanView& plan, const WeightView& weight, int threads),
                  (out, out_dtype, plan, weight, threads))

}  // namespace intarsia::cpu
