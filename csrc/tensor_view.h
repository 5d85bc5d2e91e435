// SPDX-License-Identifier: Apache-2.0
// A borrowed, dense tensor: what a binding needs to know to hand its memory to a kernel.
#pragma once

#include <cstdint>

#include "intarsia.h"

namespace intarsia {

constexpr int kMaxRank = kMaxDims + 4;  // [B, K, R, C, *s]

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};

  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  // The last `axes` sizes are those of a canvas or patch, which a plan stores right-aligned.
  bool ends_with(const int64_t (&size)[kMaxDims], int axes) const {
    if (rank < axes) return false;
    for (int i = 1; i <= axes; ++i) {
      if (shape[rank - i] != size[kMaxDims - i]) return false;
    }
    return true;
  }
};

}  // namespace intarsia
