// SPDX-License-Identifier: Apache-2.0
// The module; each family of functions is bound in a source of its own.
#include "bind.h"

using namespace intarsia;

// What a kernel found, in the words of the user's function.
void intarsia::report(const Status& status, const char* function, const PlanView& plan) {
  const std::string name(function), where = std::to_string(status.where);
  switch (status.code) {
    case Status::ok:
      return;
    case Status::weight_not_finite:
      throw py::value_error(name + ": weight must be finite, got NaN or infinity at element " + where +
                            ". Look at how the window was made.");
    case Status::coefficient_not_finite:
      throw py::value_error(name + ": coefficient must be finite, got NaN or infinity for region " + where +
                            ". Look at how the coefficients were made.");
    case Status::coefficient_negative:
      throw py::value_error(
          name + ": coefficient must not be negative when normalize=True, got a negative one for " +
          "region " + where + ". Pass normalize=False for a signed sum.");
    case Status::total_not_positive: {
      int64_t at[kMaxDims], rest = status.where;
      for (int axis = kMaxDims - 1; axis >= 0; --axis)
        at[axis] = rest % plan.canvas[axis], rest /= plan.canvas[axis];
      throw py::value_error(
          name + ": weight must have a positive, finite total at every canvas element, got none at " +
          words(at + kMaxDims - plan.ndim, plan.ndim) +
          ". Use a window that is positive throughout, or a smaller stride.");
    }
    case Status::out_of_memory:
      throw std::bad_alloc();
    case Status::unsupported:
      throw std::invalid_argument(name + ": no kernel was made for these parts");
    case Status::launch_failed:
      throw std::runtime_error(name +
                               ": the CUDA launch failed: " + (status.detail ? status.detail : "unknown"));
  }
}

namespace {

py::dict build_info() {
  py::dict info;
  info["compiler"] = INTARSIA_COMPILER;
  info["simd"] = cpu::simd();
#if defined(INTARSIA_WITH_CUDA)
  info["cuda"] = INTARSIA_CUDA_VERSION;
  info["archs"] = INTARSIA_CUDA_ARCHS;
#else
  info["cuda"] = py::none();
  info["archs"] = "";
#endif
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  return info;
}

template <Device device>
void bind_all(py::module_ m, const char* how) {
  bind_regions<device>(m, how);
  bind_rope<device>(m, how);
  bind_noise<device>(m, how);
  bind_slerp<device>(m, how);
  bind_leapfrog<device>(m, how);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of intarsia. Use them through intarsia.ops.";
  m.def("build_info", &build_info, "What this module was built with and which instruction set it runs.");
  py::module_ on_cpu = m.def_submodule("cpu");
  bind_plan(m, on_cpu);
  bind_recall(on_cpu);
  on_cpu.def("use_simd", &cpu::use_simd, py::arg("name"),
             "Run the kernels of 'avx512', 'avx2' or 'baseline'; False where that is not possible.");
  bind_all<Device::cpu>(on_cpu, "threads");
#if defined(INTARSIA_WITH_CUDA)
  bind_all<Device::cuda>(m.def_submodule("cuda"), "stream");
#endif
}
