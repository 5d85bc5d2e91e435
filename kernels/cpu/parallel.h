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

// The same twice in one team: no act of the second list starts before all of the first are done.
template <class First, class Second>
inline void share_out_twice(int64_t first_total, const First& first, int64_t second_total,
                            const Second& second, int team) {
  if (team == 1) {
    first(int64_t{0}, first_total);
    second(int64_t{0}, second_total);
    return;
  }
  share_out(team, team, [&](int64_t t, int64_t end) {
    first(first_total * t / team, first_total * end / team);
#if defined(_OPENMP)
#pragma omp barrier
#endif
    second(second_total * t / team, second_total * end / team);
  });
}

}  // namespace intarsia::cpu::INTARSIA_ISA
