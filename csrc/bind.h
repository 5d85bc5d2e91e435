// SPDX-License-Identifier: Apache-2.0
// What the binding sources share. Tensors are read through their Python attributes, so the module links no
// torch and serves every version of it. Callers keep the tensors alive until a function returns.
#pragma once

#include <pybind11/pybind11.h>

#include "borrow.h"
#include "intarsia.h"

namespace intarsia {

// Throws what a kernel found, in the words of the user's function; `plan` gives canvas elements their place.
void report(const Status& status, const char* function, const PlanView& plan = {});

// Each family's functions for one device. `how` names their last argument, a thread count on the CPU and a
// stream's address on a CUDA device: the twins differ in nothing else.
template <Device device>
void bind_regions(py::module_ m, const char* how);
template <Device device>
void bind_rope(py::module_ m, const char* how);

template <Device device>
void bind_noise(py::module_ m, const char* how);

template <Device device>
void bind_slerp(py::module_ m, const char* how);

template <Device device>
void bind_leapfrog(py::module_ m, const char* how);

// The plan, which knows no device.
void bind_plan(py::module_ root, py::module_ on_cpu);

// Calls on the CPU that repeat an earlier one.
void bind_recall(py::module_ on_cpu);

}  // namespace intarsia

// At the end of a family's source.
#if defined(INTARSIA_WITH_CUDA)
#define INTARSIA_BIND(family)                                                      \
  template void intarsia::family<intarsia::Device::cpu>(py::module_, const char*); \
  template void intarsia::family<intarsia::Device::cuda>(py::module_, const char*);
#else
#define INTARSIA_BIND(family) template void intarsia::family<intarsia::Device::cpu>(py::module_, const char*);
#endif
