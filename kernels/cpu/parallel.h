// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "cpu/entry.h"

namespace intarsia::cpu::INTARSIA_ISA {

// Calls act(first, last) with one contiguous share of [0, total) per thread: each thread streams its own
// memory.
template <class Act>
inline void share_out(int64_t total, int team, const Act& act) {
#if defined(_OPENMP)
  if (team > 1) {
#pragma omp parallel num_threads(team)
    {
      const int64_t n = omp_get_num_threads(), t = omp_get_thread_num();
      const int64_t share = total / n, rest = total % n;
      const int64_t first = t * share + (t < rest ? t : rest);
      act(first, first + share + (t < rest ? 1 : 0));
    }
    return;
  }
#endif
  act(0, total);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
