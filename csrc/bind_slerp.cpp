// SPDX-License-Identifier: Apache-2.0
// Interpolation on the sphere, between two vectors and of several.
#include "bind.h"

using namespace intarsia;

namespace {

// [B] doubles, or none where one number serves all samples.
const double* per_sample(py::handle values, int64_t batch, const char* function, const char* argument,
                         Device device) {
  if (values.is_none()) return nullptr;
  const Borrowed t = borrow(values, function, argument, device);
  if (t.is_int64 || t.dtype != DType::f64 || t.rank != 1 || t.shape[0] != batch) {
    refuse(function, argument, "be float64 [B] with B = " + std::to_string(batch), words(t));
  }
  return static_cast<const double*>(t.data);
}

// Memory for partial sums, which only a GPU needs.
[[maybe_unused]] double* scratch(py::handle sums, int64_t wanted, const char* function, Device device) {
  const Borrowed t = borrow(sums, function, "sums", device);
  if (t.is_int64 || t.dtype != DType::f64 || t.elements() < wanted) {
    refuse(function, "sums", "be float64 with " + std::to_string(wanted) + " elements", words(t));
  }
  return static_cast<double*>(t.data);
}

int64_t elements_each(const Borrowed& t, int64_t samples) {
  return samples ? t.elements() / samples : 0;
}

void same(const Borrowed& t, const Borrowed& like, const char* function, const char* argument) {
  if (t.is_int64 || t.dtype != like.dtype || t.elements() != like.elements()) {
    refuse(function, argument, "have the dtype and size of the others", words(t));
  }
}

// `sums` is None on the CPU, whose kernels sum on their own.
template <Device device>
void slerp(py::handle out, py::handle x0, py::handle x1, double w, py::handle ws,
           [[maybe_unused]] py::handle sums, int64_t how) {
  const char* name = "slerp";
  const Borrowed to = borrow(out, name, "out", device), a = borrow(x0, name, "x0", device),
                 b = borrow(x1, name, "x1", device);
  same(a, to, name, "x0"), same(b, to, name, "x1");
  if (to.is_int64 || to.rank < 1) refuse(name, "out", "be floating point [B, ...]", words(to));
  const int64_t batch = to.shape[0], size = elements_each(to, batch);
  const double* each = per_sample(ws, batch, name, "w", device);
  Status status;
  if constexpr (device == Device::cpu) {
    const py::gil_scoped_release unlocked;
    status = cpu::slerp(to.data, a.data, b.data, to.dtype, batch, size, w, each, static_cast<int>(how));
  }
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) {
    double* room = scratch(sums, batch * cuda::gram_parts(size) * 3, name, device);
    const py::gil_scoped_release unlocked;
    status = cuda::slerp(to.data, a.data, b.data, to.dtype, batch, size, w, each, room,
                         reinterpret_cast<void*>(how));
  }
#endif
  report(status, name);
}

int64_t bytes(const Borrowed& t) {
  return t.elements() * (t.dtype == DType::f64 ? 8 : t.dtype == DType::f32 ? 4 : 2);
}

// The addresses of N tensors [B, ...], or of the parts of one [N, B, ...], sized like `out`.
template <Device device>
void addresses(const void* (&into)[kMaxStates], py::sequence tensors, int count, const Borrowed& out,
               const char* function, const char* argument) {
  const int given = static_cast<int>(tensors.size());
  if (given != 1 && given != count) {
    refuse(function, argument, "hold one tensor or " + std::to_string(count), std::to_string(given));
  }
  for (int k = 0; k < given; ++k) {
    const Borrowed t = borrow(tensors[k], function, argument, device);
    if (t.is_int64 || t.dtype != out.dtype || t.elements() * given != out.elements()) {
      refuse(function, argument, "have the dtype and size of out", words(t));
    }
    into[k] = t.data;
  }
  for (int k = given; k < count; ++k) into[k] = static_cast<const char*>(into[0]) + bytes(out) / count * k;
}

template <Device device>
void spherical_aggregate(py::handle out, py::sequence states, py::sequence means, py::sequence weight,
                         double eta, py::handle etas, int fold, bool over_batch,
                         [[maybe_unused]] py::handle sums, int64_t how) {
  const char* name = "spherical_aggregate";
  const Borrowed to = borrow(out, name, "out", device);
  const int count = to.rank >= 2 && to.shape[0] <= kMaxStates ? static_cast<int>(to.shape[0]) : 0;
  if (to.is_int64 || count < 1) {
    refuse(name, "out", "be floating point [N, B, ...] with 1 to 32 states", words(to));
  }
  AggregateView view;
  view.count = count, view.fold = static_cast<Fold>(fold), view.over_batch = over_batch, view.eta = eta;
  const int64_t batch = to.shape[1], size = elements_each(to, count * batch);
  addresses<device>(view.state, states, count, to, name, "states");
  addresses<device>(view.mean, means, count, to, name, "means");
  for (int k = 0; k < count; ++k) view.out[k] = static_cast<char*>(to.data) + bytes(to) / count * k;
  const int weights = count - (view.fold == Fold::mean ? 0 : 1);
  if (static_cast<int>(weight.size()) != weights) {
    refuse(name, "weights", "hold " + std::to_string(weights), std::to_string(weight.size()));
  }
  for (int k = 0; k < weights; ++k) view.weight[k] = py::cast<double>(weight[k]);
  view.etas = per_sample(etas, batch, name, "eta", device);
  Status status;
  if constexpr (device == Device::cpu) {
    const py::gil_scoped_release unlocked;
    status = cpu::spherical_aggregate(view, to.dtype, batch, size, static_cast<int>(how));
  }
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) {
    const int products = count * (count + 1) / 2 + count * count + count;
    double* room = scratch(sums, batch * cuda::gram_parts(size) * products, name, device);
    const py::gil_scoped_release unlocked;
    status = cuda::spherical_aggregate(view, to.dtype, batch, size, room, reinterpret_cast<void*>(how));
  }
#endif
  report(status, name);
}

}  // namespace

template <Device device>
void intarsia::bind_slerp(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def(
      "slerp", &slerp<device>, "out"_a, "x0"_a, "x1"_a, "w"_a, "ws"_a, "sums"_a, py::arg(how),
      "out [B, ...] between x0 and x1 at w, or at ws [B] float64; sums: float64 memory on a GPU, else None.");
  m.def("spherical_aggregate", &spherical_aggregate<device>, "out"_a, "states"_a, "means"_a, "weights"_a,
        "eta"_a, "etas"_a, "fold"_a, "over_batch"_a, "sums"_a, py::arg(how),
        "out [N, B, ...] from states and means, each N tensors [B, ...] or one [N, B, ...]; fold: 0 great "
        "circle, 1 right angle, 2 mean.");
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) {
    m.def("gram_parts", &cuda::gram_parts, "size"_a, "Partial sums per sample and product for n elements.");
  }
#endif
}

INTARSIA_BIND(bind_slerp)
