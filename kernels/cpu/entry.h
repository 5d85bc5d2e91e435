// SPDX-License-Identifier: Apache-2.0
// What the kernels ask of the process they run in.
#pragma once

#include "intarsia.h"

#if defined(__GNUC__)
#define INTARSIA_HIDDEN __attribute__((visibility("hidden")))
#else
#define INTARSIA_HIDDEN
#endif

namespace intarsia::cpu {

// Threads for work that moves this many bytes: one when it is small, and in a forked child, where the
// parent's OpenMP threads no longer exist and waiting for them would hang.
INTARSIA_HIDDEN int team_size(int threads, int64_t bytes);

// Whether to store a result past the caches: from half the last one on, it would push out what is read for
// it.
INTARSIA_HIDDEN bool worth_streaming(int64_t bytes_out);

INTARSIA_HIDDEN int64_t last_level_cache();

inline int64_t element_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

}  // namespace intarsia::cpu
