// SPDX-License-Identifier: Apache-2.0
// From an entry point to its kernel for the instruction set in use.
#pragma once

#include "cpu/entry.h"

namespace intarsia::cpu {

enum class Isa { baseline, avx2, avx512 };

INTARSIA_HIDDEN Isa isa();

}  // namespace intarsia::cpu

// Declares cpu::<isa>::name, which a source compiled once per instruction set defines, and defines cpu::name
// as the one to use. `parameters` and `arguments` are in parentheses; to be used in namespace intarsia::cpu.
#if defined(INTARSIA_X86_KERNELS)
#define INTARSIA_DISPATCH(name, parameters, arguments)       \
  namespace baseline {                                       \
  INTARSIA_HIDDEN Status name parameters;                    \
  }                                                          \
  namespace avx2 {                                           \
  INTARSIA_HIDDEN Status name parameters;                    \
  }                                                          \
  namespace avx512 {                                         \
  INTARSIA_HIDDEN Status name parameters;                    \
  }                                                          \
  Status name parameters {                                   \
    const Isa found = isa();                                 \
    if (found == Isa::avx512) return avx512::name arguments; \
    if (found == Isa::avx2) return avx2::name arguments;     \
    return baseline::name arguments;                         \
  }
#else
#define INTARSIA_DISPATCH(name, parameters, arguments) \
  namespace baseline {                                 \
  INTARSIA_HIDDEN Status name parameters;              \
  }                                                    \
  Status name parameters {                             \
    return baseline::name arguments;                   \
  }
#endif
