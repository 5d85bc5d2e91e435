// SPDX-License-Identifier: Apache-2.0
#include "cpu/dispatch.h"

namespace intarsia::cpu {

INTARSIA_DISPATCH(leapfrog, (const LeapfrogView& pass, int threads), (pass, threads))

INTARSIA_DISPATCH(metropolis_select, (const SelectView& select, int threads), (select, threads))

}  // namespace intarsia::cpu
