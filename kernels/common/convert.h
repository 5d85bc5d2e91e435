// SPDX-License-Identifier: Apache-2.0
// Half-precision numbers as bits, rounded to nearest, ties to even, as every backend does.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/portable.h"

namespace intarsia {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class To, class From>
INTARSIA_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

INTARSIA_INLINE float widen(float x) {
  return x;
}
INTARSIA_INLINE double widen(double x) {
  return x;
}
INTARSIA_INLINE float widen(bf16 x) {
  return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

INTARSIA_INLINE float widen(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // Scaling by 2^112 moves the exponent's bias and is exact for subnormal numbers, too.
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
}

template <class To>
struct Narrow;

template <>
struct Narrow<float> {
  template <class From>
  static INTARSIA_INLINE float from(From x) {
    return static_cast<float>(x);
  }
};

template <>
struct Narrow<double> {
  template <class From>
  static INTARSIA_INLINE double from(From x) {
    return static_cast<double>(x);
  }
};

template <>
struct Narrow<bf16> {
  template <class From>
  static INTARSIA_INLINE bf16 from(From x) {
    const uint32_t bits = bit_cast<uint32_t>(static_cast<float>(x));
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return bf16{static_cast<uint16_t>(nan ? 0x7fc0u : rounded)};
  }
};

template <>
struct Narrow<f16> {
  template <class From>
  static INTARSIA_INLINE f16 from(From x) {
    const uint32_t bits = bit_cast<uint32_t>(static_cast<float>(x));
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) {
      half = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) {
      half = 0x7c00u;
    } else if (magnitude < 0x38800000u) {
      // Below 2^-14: adding 0.5 leaves the rounded subnormal number in the low bits.
      half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    } else {
      half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    }
    return f16{static_cast<uint16_t>(half | sign)};
  }
};

}  // namespace intarsia
