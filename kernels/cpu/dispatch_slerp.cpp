// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(slerp,
                  (void* out, const void* x0, const void* x1, DType dtype, int64_t batch, int64_t size,
                   double w, const double* ws, int threads),
                  (out, x0, x1, dtype, batch, size, w, ws, threads))

INTARSIA_DISPATCH(spherical_aggregate,
                  (const AggregateView& view, DType dtype, int64_t batch, int64_t size, int threads),
                  (view, dtype, batch, size, threads))

}  // namespace intarsia::cpu
