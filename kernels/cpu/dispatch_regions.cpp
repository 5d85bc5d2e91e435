// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(extract_patches,
                  (void* out, DType out_dtype, const void* canvas, DType in_dtype, int64_t batch,
                   int64_t channels, const PlanView& plan, const void* scale, int threads, int64_t copies),
                  (out, out_dtype, canvas, in_dtype, batch, channels, plan, scale, threads, copies))

INTARSIA_DISPATCH(scatter_average,
                  (void* out, DType out_dtype, const void* patches, DType in_dtype, int64_t batch,
                   int64_t channels, const PlanView& plan, const WeightView& weight, bool normalize,
                   int threads, const Fusion& fusion),
                  (out, out_dtype, patches, in_dtype, batch, channels, plan, weight, normalize, threads,
                   fusion))

INTARSIA_DISPATCH(weight_total,
                  (void* out, DType out_dtype, const PlanView& plan, const WeightView& weight, int threads),
                  (out, out_dtype, plan, weight, threads))

}  // namespace intarsia::cpu
