// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of interpolation on the sphere as a plain library.
#include "entry.h"
#include "slerp.cu"
#include "spherical_aggregate.cu"

extern "C" {

int64_t gram_parts(int64_t size) {
  return intarsia::cuda::gram_parts(size);
}

const char* slerp(void* out, const void* x0, const void* x1, int dtype, int64_t batch, int64_t size, double w,
                  const double* ws, double* sums) {
  return complaint(intarsia::cuda::slerp(out, x0, x1, static_cast<intarsia::DType>(dtype), batch, size, w, ws,
                                         sums, kStream));
}

const char* aggregate(void* const* out, const void* const* states, const void* const* means, int dtype,
                      int count, int64_t batch, int64_t size, const double* weights, double eta,
                      const double* etas, int fold, int over_batch, double* sums) {
  intarsia::AggregateView view;
  view.count = count, view.fold = static_cast<intarsia::Fold>(fold), view.over_batch = over_batch != 0;
  view.eta = eta, view.etas = etas;
  for (int k = 0; k < count; ++k) {
    view.out[k] = out[k], view.state[k] = states[k], view.mean[k] = means[k];
    if (k + (view.fold != intarsia::Fold::mean) < count) view.weight[k] = weights[k];
  }
  return complaint(intarsia::cuda::spherical_aggregate(view, static_cast<intarsia::DType>(dtype), batch, size,
                                                       sums, kStream));
}

}  // extern "C"
