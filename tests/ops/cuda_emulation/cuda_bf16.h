// SPDX-License-Identifier: Apache-2.0
// The conversions of cuda_bf16.h, by the shared formulas.
#pragma once

#include "common/convert.h"

using __nv_bfloat16 = intarsia::bf16;

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return {bits};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) {
  return value.bits;
}
inline float __bfloat162float(__nv_bfloat16 value) {
  return intarsia::widen(value);
}
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return intarsia::Narrow<intarsia::bf16>::from(value);
}
