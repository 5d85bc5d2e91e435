// SPDX-License-Identifier: Apache-2.0
// The CUDA kernel of canvas noise as a plain library.
#include "noise.cu"
#include "entry.h"

extern "C" {

// dtype 4 asks for the integers.
const char* noise(void* out, int out_dtype, int64_t batch, int64_t channels, const uint64_t* seed,
                  unsigned purpose, unsigned step, const int64_t* offset, const int64_t* size) {
  intarsia::NoiseView view;
  view.seed = seed, view.purpose = purpose, view.step = step;
  for (int axis = 0; axis < intarsia::kMaxDims; ++axis)
    view.offset[axis] = offset[axis], view.size[axis] = size[axis];
  if (out_dtype == 4) {
    return complaint(
        intarsia::cuda::canvas_integers(static_cast<int64_t*>(out), batch, channels, view, kStream));
  }
  return complaint(intarsia::cuda::canvas_noise(out, static_cast<intarsia::DType>(out_dtype), batch, channels,
                                                view, kStream));
}

}  // extern "C"
