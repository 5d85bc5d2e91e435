// SPDX-License-Identifier: Apache-2.0
#pragma once

// Every function of kernels/common is inlined where it is used. That is also what keeps the instruction sets
// apart: an out-of-line copy compiled for AVX-512 could be the one the linker keeps for everybody.
#if defined(__CUDACC__)
#define INTARSIA_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define INTARSIA_INLINE inline __attribute__((always_inline))
#else
#define INTARSIA_INLINE inline
#endif
