// SPDX-License-Identifier: Apache-2.0
// The steps of Hamiltonian Monte Carlo on one element, or on a vector of them, and the choice that ends it.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/convert.h"
#include "common/portable.h"
#include "intarsia.h"

namespace intarsia {

// A product that is rounded before it is added to anything, on every device.
template <class X>
INTARSIA_INLINE X times(X a, X b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(X) == 4) {
    return __fmul_rn(a, b);
  } else {
    return __dmul_rn(a, b);
  }
#else
  return a * b;
#endif
}

INTARSIA_INLINE double at(const void* values, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f16:
      return widen(static_cast<const f16*>(values)[i]);
    case DType::bf16:
      return widen(static_cast<const bf16*>(values)[i]);
    case DType::f32:
      return static_cast<const float*>(values)[i];
    default:
      return static_cast<const double*>(values)[i];
  }
}

INTARSIA_INLINE double at(const PerSample& numbers, int64_t b) {
  return numbers.values ? at(numbers.values, numbers.dtype, b) : numbers.value;
}

// What multiplies what in one sample.
template <class A>
struct Factors {
  A retain, spread;  // v <- retain v + spread [sqrt(M)] noise
  A kick;            // v <- v + kick gradient
  A drift;           // x <- x + drift v [/ M]
  double energy;     // E = energy sum v^2 [/ M]
};

// Where the mass has elements, [M] is left to them; a mass per sample is folded in.
template <class A>
INTARSIA_INLINE Factors<A> factors(const LeapfrogView& pass, int64_t b) {
  const A step = static_cast<A>(at(pass.step_size, b));
  const A mass = pass.mass_elements ? A(1) : static_cast<A>(at(pass.mass, b));
  Factors<A> f{};
  if (pass.parts & part::langevin) {
    f.retain = A(1), f.spread = sqrt(A(2) * step);
  } else if (pass.parts & part::refresh) {
    const A damping = static_cast<A>(at(pass.damping, b));
    // 1 - damping^2 without the cancellation.
    f.retain = damping, f.spread = sqrt((A(1) - damping) * (A(1) + damping)) * sqrt(mass);
  }
  f.kick = pass.parts & part::half_kick ? A(0.5) * step : step;
  f.drift = step / mass;
  f.energy = 0.5 / static_cast<double>(mass);
  return f;
}

template <class X>
INTARSIA_INLINE X refreshed(X v, X noise, X retain, X spread) {
  return times(retain, v) + times(spread, noise);
}

template <class X>
INTARSIA_INLINE X kicked(X v, X gradient, X kick) {
  return v + times(kick, gradient);
}

template <class X>
INTARSIA_INLINE X drifted(X x, X v, X drift) {
  return x + times(drift, v);
}
template <class X>
INTARSIA_INLINE X drifted(X x, X v, X drift, X mass) {
  return x + times(drift, v) / mass;
}

// min(1, exp(difference of total energies)); a difference that is not finite never accepts.
INTARSIA_INLINE double acceptance(double current, double proposed) {
  const double difference = current - proposed;
  if (!(difference - difference == 0.0)) return 0.0;
  return difference >= 0.0 ? 1.0 : exp(difference);
}

// What one sample of `select` comes to.
INTARSIA_INLINE double acceptance(const SelectView& select, int64_t b) {
  const auto total = [&](const PhaseView& state) {
    return at(state.energy, select.energy_dtype, b) + at(state.kinetic_energy, DType::f64, b);
  };
  return acceptance(total(select.current), total(select.proposed));
}

}  // namespace intarsia
