// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels of Hamiltonian Monte Carlo as a plain library.
#include "leapfrog.cu"
#include "entry.h"
#include "metropolis_select.cu"

namespace {

intarsia::PerSample number(double value, const void* values, int dtype) {
  return {value, values, static_cast<intarsia::DType>(dtype)};
}

intarsia::PhaseView state(void* const* members) {
  return {members[0], members[1], members[4], members[2], members[3]};
}

}  // namespace

extern "C" {

int64_t partials(int64_t size) {
  return intarsia::cuda::leapfrog_partials(size);
}

// states: position, momentum, gradient, noise, mass elements; out: position, momentum, refreshed.
const char* leapfrog(void* const* out, double* energy, double* partial, const void* const* states,
                     int64_t mass_samples, int dtype, int64_t batch, int64_t size, int parts,
                     const double* numbers, const void* const* vectors, int vector_dtype) {
  intarsia::LeapfrogView view;
  view.parts = static_cast<uint32_t>(parts), view.dtype = static_cast<intarsia::DType>(dtype);
  view.batch = batch, view.size = size;
  view.position = states[0], view.momentum = states[1], view.gradient = states[2], view.noise = states[3];
  view.mass_elements = states[4], view.mass_samples = mass_samples;
  view.position_out = out[0], view.momentum_out = out[1], view.refreshed_out = out[2];
  view.energy_out = energy;
  view.step_size = number(numbers[0], vectors[0], vector_dtype);
  view.damping = number(numbers[1], vectors[1], vector_dtype);
  view.mass = number(numbers[2], vectors[2], vector_dtype);
  return complaint(intarsia::cuda::leapfrog(view, partial, kStream));
}

// Each state: position, momentum, energy, kinetic energy, gradient.
const char* metropolis_select(void* const* out, bool* accepted, double* probability, void* const* current,
                              void* const* proposed, const void* uniform, int dtype, int energy_dtype,
                              int64_t batch, int64_t size) {
  intarsia::SelectView view;
  view.dtype = static_cast<intarsia::DType>(dtype);
  view.energy_dtype = static_cast<intarsia::DType>(energy_dtype);
  view.batch = batch, view.size = size;
  view.out = state(out), view.current = state(current), view.proposed = state(proposed);
  view.uniform = number(0, uniform, 2);
  view.accepted = accepted, view.probability = probability;
  return complaint(intarsia::cuda::metropolis_select(view, kStream));
}

}  // extern "C"
