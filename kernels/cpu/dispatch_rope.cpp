// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(rope,
                  (const HeadsView* tensors, int count, DType dtype, const RotationView& rotation,
                   int threads),
                  (tensors, count, dtype, rotation, threads))

}  // namespace intarsia::cpu
