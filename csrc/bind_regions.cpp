// SPDX-License-Identifier: Apache-2.0
// Plans, and the functions between a canvas and its patches.
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bind.h"
#include "common/plan.h"

using namespace intarsia;

namespace {

// A plan's list for Python: the buffer protocol over memory that the plan keeps.
struct Array {
  std::shared_ptr<Plan> owner;
  const void* data;
  int64_t size;
  int item;
};

template <class X>
Array array(const std::shared_ptr<Plan>& owner, const std::vector<X>& list) {
  return {owner, list.data(), static_cast<int64_t>(list.size()), static_cast<int>(sizeof(X))};
}

// What a kernel call takes: a plan built here, or the same lists on another device.
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

std::shared_ptr<PlanHandle> build_plan(py::handle offsets, std::vector<int64_t> canvas,
                                       std::vector<int64_t> patch, std::vector<bool> wrap) {
  const Borrowed given = borrow(offsets, "build_plan", "offsets", Device::cpu);
  if (!given.is_int64 || given.rank != 2 || given.shape[1] != static_cast<int64_t>(canvas.size())) {
    refuse("build_plan", "offsets", "be int64 [R, " + std::to_string(canvas.size()) + "]", words(given));
  }
  auto handle = std::make_shared<PlanHandle>();
  handle->plan = std::make_shared<Plan>(static_cast<const int64_t*>(given.data), given.shape[0],
                                        std::move(canvas), std::move(patch), std::move(wrap));
  return handle;
}

// The same plan over copies of its lists on a CUDA device; the handle keeps them alive.
std::shared_ptr<PlanHandle> plan_on_device(const PlanHandle& host, py::object offsets, py::object order,
                                           py::sequence edges, py::sequence axis_cell, py::object cell_start,
                                           py::object cell_region) {
  auto handle = std::make_shared<PlanHandle>();
  handle->plan = host.plan;
  handle->elsewhere = host.cells();
  PlanView& view = handle->elsewhere;
  const auto address = [&](py::object tensor) {
    handle->kept.push_back(tensor);
    return PyLong_AsVoidPtr(tensor.attr("data_ptr")().ptr());
  };
  view.offsets = static_cast<const int64_t*>(address(offsets));
  view.order = static_cast<const int64_t*>(address(order));
  for (int i = 0; i < view.ndim; ++i) {
    const int axis = kMaxDims - view.ndim + i;
    view.edges[axis] = static_cast<const int64_t*>(address(edges[i]));
    view.axis_cell[axis] = static_cast<const int32_t*>(address(axis_cell[i]));
  }
  view.cell_start = static_cast<const int64_t*>(address(cell_start));
  view.cell_region = static_cast<const int32_t*>(address(cell_region));
  view.row_start = nullptr, view.row_region = nullptr, view.bands = nullptr, view.num_bands = 0;
  return handle;
}

WeightView weight_view(py::tuple weight, py::handle coefficient, DType dtype, const PlanView& plan,
                       const char* function, Device device) {
  WeightView view;
  view.dtype = dtype;
  const auto take = [&](py::handle tensor, const char* argument) {
    const Borrowed t = borrow(tensor, function, argument, device);
    if (t.dtype != dtype) {
      refuse(function, argument, dtype == DType::f64 ? "be float64" : "be float32",
             py::str(tensor.attr("dtype")));
    }
    return t;
  };
  const int n = static_cast<int>(weight.size());
  for (int i = 0; i < n; ++i) {
    const Borrowed t = take(weight[i], "weight");
    const int axis = kMaxDims - n + i;
    if (n == 1 && t.rank == plan.ndim + 1 && (t.shape[0] == 1 || t.shape[0] == plan.regions) &&
        t.ends_with(plan.patch, plan.ndim)) {
      view.separable = false, view.window = t.data, view.window_regions = t.shape[0];
    } else if (n == plan.ndim && t.rank == 1 && t.shape[0] == plan.patch[axis]) {
      view.factor[axis] = t.data;
    } else {
      refuse(function, "weight",
             "be one window [R or 1, *size] or one factor [s_i] per axis of the patch " +
                 words(plan.patch + kMaxDims - plan.ndim, plan.ndim),
             words(t));
    }
  }
  if (n == 0) refuse(function, "weight", "hold a window or a factor per axis", "an empty tuple");
  if (!coefficient.is_none()) {
    const Borrowed t = take(coefficient, "coefficient");
    if (t.rank != 1 || t.shape[0] != plan.regions) {
      refuse(function, "coefficient", "be [R] with R = " + std::to_string(plan.regions), words(t));
    }
    view.coefficient = t.data;
  }
  return view;
}

// Patches [B, R, C, *s] and the canvas [B, C, *S] they belong to.
void check_pair(const Borrowed& patches, const Borrowed& canvas, const PlanView& plan, const char* function) {
  const int n = plan.ndim;
  if (canvas.is_int64 || patches.is_int64) refuse(function, "tensors", "be floating point", "int64");
  if (canvas.rank != n + 2 || !canvas.ends_with(plan.canvas, n)) {
    refuse(function, "canvas", "be [B, C, *" + words(plan.canvas + kMaxDims - n, n) + "]", words(canvas));
  }
  if (patches.rank != n + 3 || !patches.ends_with(plan.patch, n) || patches.shape[0] != canvas.shape[0] ||
      patches.shape[1] != plan.regions || patches.shape[2] != canvas.shape[1]) {
    refuse(function, "patches", "be [B, R, C, *size] for a canvas " + words(canvas), words(patches));
  }
}

// `how` is a thread count on the CPU and a stream's address on a CUDA device: the twins differ in nothing
// else.
template <Device device>
void extract_patches(py::handle out, py::handle canvas, const PlanHandle& plan, py::handle scale,
                     int64_t how) {
  const char* name = "extract_patches";
  const Borrowed to = borrow(out, name, "out", device), from = borrow(canvas, name, "canvas", device);
  const PlanView& view = plan.regions();
  check_pair(to, from, view, name);
  const void* factors = nullptr;
  if (!scale.is_none()) {
    const Borrowed t = borrow(scale, name, "scale", device);
    const DType dtype = from.dtype == DType::f64 ? DType::f64 : DType::f32;
    if (t.rank != 1 || t.shape[0] != from.shape[0] || t.dtype != dtype || t.is_int64) {
      refuse(name, "scale", dtype == DType::f64 ? "be float64 [B]" : "be float32 [B]", words(t));
    }
    factors = t.data;
  }
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::extract_patches(to.data, to.dtype, from.data, from.dtype, from.shape[0], from.shape[1],
                                    view, factors, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::extract_patches(to.data, to.dtype, from.data, from.dtype, from.shape[0], from.shape[1],
                                     view, factors, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, name, view);
}

template <Device device>
void scatter_average(py::handle out, py::handle patches, const PlanHandle& plan, py::tuple weight,
                     bool normalize, py::handle coefficient, int64_t how) {
  const char* name = "scatter_average";
  const Borrowed to = borrow(out, name, "out", device), from = borrow(patches, name, "patches", device);
  const PlanView& view = device == Device::cpu ? plan.rows(name) : plan.cells();
  check_pair(from, to, view, name);
  const DType dtype = from.dtype == DType::f64 ? DType::f64 : DType::f32;
  const WeightView weights = weight_view(weight, coefficient, dtype, view, name, device);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::scatter_average(to.data, to.dtype, from.data, from.dtype, to.shape[0], to.shape[1], view,
                                    weights, normalize, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::scatter_average(to.data, to.dtype, from.data, from.dtype, to.shape[0], to.shape[1], view,
                                     weights, normalize, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, name, view);
}

template <Device device>
void weight_total(py::handle out, const PlanHandle& plan, py::tuple weight, py::handle coefficient,
                  int64_t how) {
  const char* name = "weight_total";
  const Borrowed to = borrow(out, name, "out", device);
  const PlanView& view = device == Device::cpu ? plan.rows(name) : plan.cells();
  if (to.is_int64 || to.dtype < DType::f32 || to.rank != view.ndim || !to.ends_with(view.canvas, view.ndim)) {
    refuse(name, "out", "be float32 or float64 " + words(view.canvas + kMaxDims - view.ndim, view.ndim),
           words(to));
  }
  const WeightView weights = weight_view(weight, coefficient, to.dtype, view, name, device);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::weight_total(to.data, to.dtype, view, weights, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::weight_total(to.data, to.dtype, view, weights, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, name, view);
}

template <Device device>
void gaussian_weights(py::handle out, double sigma_fraction, [[maybe_unused]] int64_t how) {
  const char* name = "gaussian_weights";
  const Borrowed to = borrow(out, name, "out", device);
  if (to.is_int64 || to.dtype < DType::f32 || to.rank != 1) {
    refuse(name, "out", "be float32 or float64 [s]", words(to));
  }
  Status status;
  if constexpr (device == Device::cpu)
    status = cpu::gaussian_weights(to.data, to.dtype, to.shape[0], sigma_fraction);
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) {
    status =
        cuda::gaussian_weights(to.data, to.dtype, to.shape[0], sigma_fraction, reinterpret_cast<void*>(how));
  }
#endif
  report(status, name);
}

// One entry per axis of the canvas, without the leading ones a plan adds.
template <class X>
py::tuple per_axis(const std::shared_ptr<Plan>& plan, std::vector<X> (&lists)[kMaxDims]) {
  const int n = plan->regions_only().ndim;
  py::tuple result(n);
  for (int i = 0; i < n; ++i) result[i] = py::cast(array(plan, lists[kMaxDims - n + i]));
  return result;
}

py::object uncovered(const PlanHandle& handle) {
  const auto [count, first] = handle.plan->uncovered();
  const PlanView& view = handle.plan->regions_only();
  py::tuple at(view.ndim);
  int64_t rest = first;
  for (int i = view.ndim - 1; i >= 0; --i) {
    const int64_t size = view.canvas[kMaxDims - view.ndim + i];
    at[i] = count ? rest % size : 0;
    rest /= count ? size : 1;
  }
  return py::make_tuple(count, count ? py::object(at) : py::none());
}

}  // namespace

template <Device device>
void intarsia::bind_regions(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def("extract_patches", &extract_patches<device>, "out"_a, "canvas"_a, "plan"_a, "scale"_a, py::arg(how),
        "out [B, R, C, *s] = canvas [B, C, *S] under each region, times scale [B] or None.");
  m.def("scatter_average", &scatter_average<device>, "out"_a, "patches"_a, "plan"_a, "weight"_a,
        "normalize"_a, "coefficient"_a, py::arg(how),
        "out [B, C, *S] = weighted sum of patches [B, R, C, *s]; weight: (window [R|1, *s],) or n factors "
        "[s_i], "
        "float32 (float64 if patches are); coefficient [R] of that dtype or None.");
  m.def("weight_total", &weight_total<device>, "out"_a, "plan"_a, "weight"_a, "coefficient"_a, py::arg(how),
        "out [*S] = sum of weights; out, weight and coefficient share one dtype, float32 or float64.");
  m.def("gaussian_weights", &gaussian_weights<device>, "out"_a, "sigma_fraction"_a, py::arg(how),
        "out [s] = a Gaussian at the cell centres of one axis; float32 or float64.");
}

INTARSIA_BIND(bind_regions)

void intarsia::bind_plan(py::module_ root, py::module_ on_cpu) {
  using Handle = std::shared_ptr<PlanHandle>;
  py::class_<Array>(root, "Array", py::buffer_protocol())
      .def_buffer([](Array& a) {
        return py::buffer_info(const_cast<void*>(a.data), a.item, a.item == 8 ? "q" : "i", 1, {a.size},
                               {a.item});
      })
      .def("__len__", [](const Array& a) { return a.size; });
  py::class_<PlanHandle, Handle>(root, "PlanHandle",
                                 "Regions on a canvas; lists are buffers for torch.frombuffer.")
      .def_property_readonly("offsets", [](const Handle& h) { return array(h->plan, h->plan->offsets); })
      .def_property_readonly("order", [](const Handle& h) { return array(h->plan, h->plan->order); })
      .def_property_readonly(
          "edges", [](const Handle& h) { return h->plan->rows(), per_axis(h->plan, h->plan->edges); })
      .def_property_readonly(
          "axis_cell",
          [](const Handle& h) { return h->plan->cells(), per_axis(h->plan, h->plan->axis_cell); })
      .def_property_readonly(
          "cell_start", [](const Handle& h) { return h->plan->cells(), array(h->plan, h->plan->cell_start); })
      .def_property_readonly(
          "cell_region",
          [](const Handle& h) { return h->plan->cells(), array(h->plan, h->plan->cell_region); })
      .def_property_readonly(
          "uncovered", [](const Handle& h) { return uncovered(*h); },
          "(number of elements no region covers, index of the first or None)")
      .def(
          "on_device",
          [](const Handle& h, py::object offsets, py::object order, py::sequence edges,
             py::sequence axis_cell, py::object cell_start, py::object cell_region) {
            return plan_on_device(*h, offsets, order, edges, axis_cell, cell_start, cell_region);
          },
          "The same plan over copies of its lists on a CUDA device, which the handle keeps alive.");
  on_cpu.def("build_plan", &build_plan, py::arg("offsets"), py::arg("canvas"), py::arg("patch"),
             py::arg("wrap"),
             "Checks offsets int64 [R, n] and returns a PlanHandle; its lists are computed when first read.");
}
