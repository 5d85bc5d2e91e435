// SPDX-License-Identifier: Apache-2.0
#include "common/formulas.h"
#include "intarsia.h"

namespace intarsia::cpu {
namespace {

// The right half mirrors the left, so a window equals its own reflection bit for bit.
template <class T>
void fill(T* out, int64_t size, double sigma_fraction) {
  for (int64_t j = 0; j < (size + 1) / 2; ++j) {
    out[j] = out[size - 1 - j] = static_cast<T>(gaussian_weight(j, size, sigma_fraction));
  }
}

}  // namespace

Status gaussian_weights(void* out, DType out_dtype, int64_t size, double sigma_fraction) {
  if (out_dtype == DType::f64) {
    fill(static_cast<double*>(out), size, sigma_fraction);
  } else {
    fill(static_cast<float*>(out), size, sigma_fraction);
  }
  return {};
}

}  // namespace intarsia::cpu
