// SPDX-License-Identifier: Apache-2.0
// The sum over a block, in one order.
#pragma once

#include "launch.cuh"

namespace intarsia::cuda {

// Writes the sum of the values of all threads of a block, each of which calls this: a tree over the threads'
// numbers, so that every run gives the same bits.
__device__ inline void sum_of_block(double* to, double value) {
  __shared__ double sums[kThreads];
  const int thread = thread_in_block();
  sums[thread] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) *to = sums[0];
  __syncthreads();
}

}  // namespace intarsia::cuda
