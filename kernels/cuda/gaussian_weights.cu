// SPDX-License-Identifier: Apache-2.0
// Gaussian window along one axis.
#include "common/formulas.h"
#include "element.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gaussian_weights_kernel(T* out /* [s] */, int64_t size, double sigma_fraction) {
  for (int64_t j = first_item(); j < size; j += item_step()) {
    out[j] = static_cast<T>(gaussian_weight(j, size, sigma_fraction));
  }
}

}  // namespace

Status gaussian_weights(void* out /* [s] */, DType out_dtype, int64_t size, double sigma_fraction,
                        void* stream) {
  if (out_dtype == DType::f64) {
    return launch(gaussian_weights_kernel<double>, size, out, stream, static_cast<double*>(out), size,
                  sigma_fraction);
  }
  return launch(gaussian_weights_kernel<float>, size, out, stream, static_cast<float*>(out), size,
                sigma_fraction);
}

}  // namespace intarsia::cuda
