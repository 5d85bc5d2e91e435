// SPDX-License-Identifier: Apache-2.0
// The choice that ends a trajectory. One launch decides, one moves what is not where it should be; the host
// learns nothing and waits for nothing.
#include "common/leapfrog.h"

#include <type_traits>

#include "element.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

template <typename E>
__global__ void __launch_bounds__(kThreads) decide_kernel(const SelectView select) {
  for (int64_t b = first_item(); b < select.batch; b += item_step()) {
    const double p = acceptance(select, b);
    const bool keep = at(select.uniform, b) < p;
    const PhaseView& kept = keep ? select.proposed : select.current;
    const E energy = static_cast<const E*>(kept.energy)[b];
    const double kinetic = static_cast<const double*>(kept.kinetic_energy)[b];
    select.probability[b] = p;
    select.accepted[b] = keep;
    static_cast<E*>(select.out.energy)[b] = energy;
    static_cast<double*>(select.out.kinetic_energy)[b] = kinetic;
  }
}

// U is an unsigned integer as wide as an element: bits are moved, or the sign alone is turned.
template <typename U>
__device__ inline void move(void* to, const void* from, int64_t i, bool negate) {
  if (!to || (to == from && !negate)) return;
  const U sign = static_cast<U>(negate ? U(1) << (8 * sizeof(U) - 1) : 0);
  static_cast<U*>(to)[i] = static_cast<U>(static_cast<const U*>(from)[i] ^ sign);
}

template <typename U>
__global__ void __launch_bounds__(kThreads) select_kernel(const SelectView select, int64_t items) {
  for (int64_t item = first_item(); item < items; item += item_step()) {
    const bool keep = select.accepted[item / select.size];
    const PhaseView& kept = keep ? select.proposed : select.current;
    move<U>(select.out.position, kept.position, item, false);
    move<U>(select.out.momentum, kept.momentum, item, !keep);
    move<U>(select.out.gradient, kept.gradient, item, false);
  }
}

template <typename T>
Status carry_out(const SelectView& select, void* stream) {
  using U =
      std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;
  const int64_t items = select.batch * select.size;
  return launch(select_kernel<U>, items, select.probability, stream, select, items);
}

Status decide(const SelectView& select, void* stream) {
  if (select.energy_dtype == DType::f64) {
    return launch(decide_kernel<double>, select.batch, select.probability, stream, select);
  }
  return launch(decide_kernel<float>, select.batch, select.probability, stream, select);
}

}  // namespace

Status metropolis_select(const SelectView& select, void* stream) {
  const Status status = decide(select, stream);
  if (status.code != Status::ok) return status;
  return with_type(select.dtype, [&](auto* type) {
    return carry_out<std::remove_pointer_t<decltype(type)>>(select, stream);
  });
}

}  // namespace intarsia::cuda
