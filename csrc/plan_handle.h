// SPDX-License-Identifier: Apache-2.0
// What a kernel call of Python's takes for a plan.
#pragma once

#include <memory>
#include <vector>

#include "bind.h"
#include "common/plan.h"

namespace intarsia {

// A plan built here, or the same lists on another device.
struct PlanHandle {
  std::shared_ptr<Plan> plan;
  PlanView elsewhere;
  std::vector<py::object> kept;

  const PlanView& regions() const { return kept.empty() ? plan->regions_only() : elsewhere; }
  const PlanView& rows(const char* function) const {
    if (!kept.empty()) refuse(function, "plan", "be on the CPU", "one of another device");
    return plan->rows();
  }
  const PlanView& cells() const { return kept.empty() ? plan->cells() : elsewhere; }
};

}  // namespace intarsia
