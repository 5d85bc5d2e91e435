// SPDX-License-Identifier: Apache-2.0
// The functions between a canvas and its patches.
#include <algorithm>
#include <initializer_list>
#include <string>

#include "plan_handle.h"

using namespace intarsia;

namespace {

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

// Patches [B, R, C, *s], or [B, K, R, C, *s], and the canvas [B, C, *S] they belong to; returns K.
int64_t check_pair(const Borrowed& patches, const Borrowed& canvas, const PlanView& plan,
                   const char* function) {
  const int n = plan.ndim;
  if (canvas.is_int64 || patches.is_int64) refuse(function, "tensors", "be floating point", "int64");
  if (canvas.rank != n + 2 || !canvas.ends_with(plan.canvas, n)) {
    refuse(function, "canvas", "be [B, C, *" + words(plan.canvas + kMaxDims - n, n) + "]", words(canvas));
  }
  const int extra = patches.rank == n + 4 ? 1 : 0;
  if (patches.rank != n + 3 + extra || !patches.ends_with(plan.patch, n) ||
      patches.shape[0] != canvas.shape[0] || patches.shape[1 + extra] != plan.regions ||
      patches.shape[2 + extra] != canvas.shape[1]) {
    refuse(function, "patches", "be [B, R, C, *size] or [B, K, R, C, *size] for a canvas " + words(canvas),
           words(patches));
  }
  return extra ? patches.shape[1] : 1;
}

// `how` is a thread count on the CPU and a stream's address on a CUDA device: the twins differ in nothing
// else.
template <Device device>
void extract_patches(py::handle out, py::handle canvas, const PlanHandle& plan, py::handle scale,
                     int64_t how) {
  const char* name = "extract_patches";
  const Borrowed to = borrow(out, name, "out", device), from = borrow(canvas, name, "canvas", device);
  const PlanView& view = plan.regions();
  const int64_t copies = check_pair(to, from, view, name);
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
                                    view, factors, static_cast<int>(how), copies);
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::extract_patches(to.data, to.dtype, from.data, from.dtype, from.shape[0], from.shape[1],
                                     view, factors, reinterpret_cast<void*>(how), copies);
    }
#endif
  }
  report(status, name, view);
}

// (guidance [K - 1, R], x, noise, a, b, c, a_each [B], b_each [B]): tensors or None, but for the numbers a, b
// and c.
Fusion fusion_of(py::handle given, int64_t terms, const Borrowed& out, DType sums, const PlanView& plan,
                 const char* function, Device device) {
  Fusion fusion;
  fusion.terms = terms;
  if (given.is_none()) {
    if (terms > 1) refuse(function, "guidance", "be given for patches [B, K, R, C, *size]", "None");
    return fusion;
  }
  const py::tuple parts = py::reinterpret_borrow<py::tuple>(given);
  const auto take = [&](int i, const char* argument, DType dtype, std::initializer_list<int64_t> shape) {
    const py::handle tensor = parts[i];
    if (tensor.is_none()) return static_cast<const void*>(nullptr);
    const Borrowed t = borrow(tensor, function, argument, device);
    bool fits = !t.is_int64 && t.dtype == dtype && t.rank == static_cast<int>(shape.size());
    if (fits) fits = std::equal(shape.begin(), shape.end(), t.shape);
    if (!fits) {
      refuse(function, argument, "have the dtype of the sums and shape " + words(shape.begin(), t.rank),
             words(t));
    }
    return static_cast<const void*>(t.data);
  };
  const auto canvas = [&](int i, const char* argument) {
    const py::handle tensor = parts[i];
    if (tensor.is_none()) return static_cast<const void*>(nullptr);
    const Borrowed t = borrow(tensor, function, argument, device);
    if (t.is_int64 || t.dtype != out.dtype || t.rank != out.rank ||
        !std::equal(t.shape, t.shape + t.rank, out.shape)) {
      refuse(function, argument, "be a canvas like out, " + words(out), words(t));
    }
    return static_cast<const void*>(t.data);
  };
  if (terms > 1) {
    if (parts[0].is_none()) refuse(function, "guidance", "be given for patches [B, K, R, C, *size]", "None");
    fusion.guidance = take(0, "guidance", sums, {terms - 1, plan.regions});
  }
  fusion.x = canvas(1, "x"), fusion.noise = canvas(2, "noise");
  fusion.a = parts[3].cast<double>(), fusion.b = parts[4].cast<double>(), fusion.c = parts[5].cast<double>();
  fusion.a_each = take(6, "a", sums, {out.shape[0]}), fusion.b_each = take(7, "b", sums, {out.shape[0]});
  return fusion;
}

template <Device device>
void scatter_average(py::handle out, py::handle patches, const PlanHandle& plan, py::tuple weight,
                     bool normalize, py::handle coefficient, int64_t how, py::handle fusion) {
  const char* name = "scatter_average";
  const Borrowed to = borrow(out, name, "out", device), from = borrow(patches, name, "patches", device);
  const PlanView& view = device == Device::cpu ? plan.rows(name) : plan.cells();
  const int64_t terms = check_pair(from, to, view, name);
  const DType dtype = from.dtype == DType::f64 ? DType::f64 : DType::f32;
  const WeightView weights = weight_view(weight, coefficient, dtype, view, name, device);
  const Fusion fused = fusion_of(fusion, terms, to, dtype, view, name, device);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::scatter_average(to.data, to.dtype, from.data, from.dtype, to.shape[0], to.shape[1], view,
                                    weights, normalize, static_cast<int>(how), fused);
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::scatter_average(to.data, to.dtype, from.data, from.dtype, to.shape[0], to.shape[1], view,
                                     weights, normalize, reinterpret_cast<void*>(how), fused);
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

}  // namespace

template <Device device>
void intarsia::bind_regions(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def("extract_patches", &extract_patches<device>, "out"_a, "canvas"_a, "plan"_a, "scale"_a, py::arg(how),
        "out [B, R, C, *s], or [B, K, R, C, *s] with K copies, = canvas [B, C, *S] under each region, times "
        "scale [B] or None.");
  m.def("scatter_average", &scatter_average<device>, "out"_a, "patches"_a, "plan"_a, "weight"_a,
        "normalize"_a, "coefficient"_a, py::arg(how), "fusion"_a = py::none(),
        "out [B, C, *S] = weighted sum of patches [B, R, C, *s], or of K guided answers [B, K, R, C, *s]; "
        "fusion: None "
        "or (guidance [K - 1, R], x, noise, a, b, c, a_each [B], b_each [B]); weight: (window [R|1, *s],) or "
        "n factors "
        "[s_i], "
        "float32 (float64 if patches are); coefficient [R] of that dtype or None.");
  m.def("weight_total", &weight_total<device>, "out"_a, "plan"_a, "weight"_a, "coefficient"_a, py::arg(how),
        "out [*S] = sum of weights; out, weight and coefficient share one dtype, float32 or float64.");
  m.def("gaussian_weights", &gaussian_weights<device>, "out"_a, "sigma_fraction"_a, py::arg(how),
        "out [s] = a Gaussian at the cell centres of one axis; float32 or float64.");
}

INTARSIA_BIND(bind_regions)
