// SPDX-License-Identifier: Apache-2.0
// Plans: built from offsets, read by Python, copied to other devices.
#include <pybind11/stl.h>

#include <string>

#include "plan_handle.h"

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
