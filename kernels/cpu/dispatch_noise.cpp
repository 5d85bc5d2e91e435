// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(canvas_noise,
                  (void* out, DType out_dtype, int64_t batch, int64_t channels, const NoiseView& noise,
                   int threads),
                  (out, out_dtype, batch, channels, noise, threads))

INTARSIA_DISPATCH(canvas_integers,
                  (int64_t* out, int64_t batch, int64_t channels, const NoiseView& noise, int threads),
                  (out, batch, channels, noise, threads))

}  // namespace intarsia::cpu
