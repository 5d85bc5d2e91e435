// SPDX-License-Identifier: Apache-2.0
// The sum over a block, in one order.
#pragma once

#include "launch.cuh"

namespace intarsia::cuda {

// Writes the sum of the values of all threads of a block, each of which calls this once per `to`: a tree over
// the threads' numbers, so that every run gives the same bits. A host compiler runs the threads one after the
// other: there the last of them adds, in the order of the tree.
__device__ inline void sum_of_block(double* to, double value) {
#if defined(__CUDA_ARCH__)
  __shared__ double sums[kThreads];
#else
  static double sums[kThreads];
#endif
  const int thread = thread_in_block();
  sums[thread] = value;
#if defined(__CUDA_ARCH__)
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) *to = sums[0];
  __syncthreads();
#else
  if (thread != kThreads - 1) return;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  *to = sums[0];
#endif
}

}  // namespace intarsia::cuda
