// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <stdexcept>
#include <vector>

#include "common/plan.h"
#include "intarsia.h"

namespace intarsia {

std::shared_ptr<const PlanView> make_plan(const int64_t* offsets, int64_t regions, int ndim,
                                          const int64_t* canvas, const int64_t* patch, const bool* wrap,
                                          bool cells) {
  if (ndim < 1 || ndim > kMaxDims) {
    throw std::invalid_argument("ndim must be 1 to 3, got " + std::to_string(ndim));
  }
  if (regions < 0) throw std::invalid_argument("regions must not be negative");
  std::vector<bool> cyclic(ndim, false);
  if (wrap) cyclic.assign(wrap, wrap + ndim);
  const auto plan = std::make_shared<Plan>(offsets, regions, std::vector<int64_t>(canvas, canvas + ndim),
                                           std::vector<int64_t>(patch, patch + ndim), std::move(cyclic));
  return {plan, cells ? &plan->cells() : &plan->rows()};
}

}  // namespace intarsia
