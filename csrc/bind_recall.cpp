// SPDX-License-Identifier: Apache-2.0
// The operators' last calls on the CPU, remembered. A call on the same offsets and shapes again needs none of
// the checks that it passed, and on a small canvas those, spread over a Python program that the caches have
// forgotten, cost as much as the kernel. Whatever is not recognised goes the long way, which remembers it.
#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "plan_handle.h"

using namespace intarsia;

namespace {

constexpr size_t kMostCalls = 32;

bool truth(const py::object& object) {
  const int answer = PyObject_IsTrue(object.ptr());
  if (answer < 0) throw py::error_already_set();
  return answer != 0;
}

// Interned names and functions of torch that a call asks.
struct Asked {
  PyObject *requires_grad, *numel, *raw_repr, *current_level;
  py::object tensor, empty, threads, forward_ad, dispatch_keys, unusual;
  std::vector<py::object> quiet;  // all of them answer None, 0 or False on an ordinary call

  Asked(py::dict given) {
    const auto intern = [](const char* name) { return PyUnicode_InternFromString(name); };
    requires_grad = intern("requires_grad"), numel = intern("numel"), raw_repr = intern("raw_repr");
    current_level = intern("_current_level");
    tensor = given["tensor"], empty = given["empty"], threads = given["threads"];
    forward_ad = given["forward_ad"], dispatch_keys = given["dispatch_keys"], unusual = given["unusual"];
    for (py::handle one : given["quiet"]) quiet.push_back(py::reinterpret_borrow<py::object>(one));
  }

  // Nobody traces, transforms or watches, and no backend is asked for.
  bool ordinary(py::handle forced) const {
    PyObject* backend = nullptr;
    if (PyContextVar_Get(forced.ptr(), nullptr, &backend) < 0) throw py::error_already_set();
    const py::object held = py::reinterpret_steal<py::object>(backend);
    if (!held || !held.is_none()) return false;
    for (const py::object& one : quiet) {
      if (truth(owned(PyObject_CallNoArgs(one.ptr())))) return false;
    }
    return PyLong_AsLong(owned(PyObject_GetAttr(forward_ad.ptr(), current_level)).ptr()) < 0;
  }

  bool plain(py::handle t) const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(t.ptr())) != tensor.ptr()) return false;
    if (truth(owned(PyObject_GetAttr(t.ptr(), requires_grad)))) return false;
    const py::object keys = owned(PyObject_CallOneArg(dispatch_keys.ptr(), t.ptr()));
    const py::object raw = owned(PyObject_CallMethodNoArgs(keys.ptr(), raw_repr));
    return !truth(owned(PyNumber_And(raw.ptr(), unusual.ptr())));
  }
};

bool same(py::handle given, const py::object& kept) {
  if (given.ptr() == kept.ptr()) return true;
  if (!PyTuple_CheckExact(given.ptr()) || !PyTuple_CheckExact(kept.ptr())) return false;
  const int answer = PyObject_RichCompareBool(given.ptr(), kept.ptr(), Py_EQ);
  if (answer < 0) throw py::error_already_set();
  return answer != 0;
}

// A dense tensor on the CPU, or nothing: what a remembered call reads without a complaint.
bool take(py::handle tensor, Borrowed& view) {
  const Names& names = Names::get();
  PyObject* t = tensor.ptr();
  if (!truth(owned(PyObject_GetAttr(t, names.is_cpu)))) return false;
  if (!truth(owned(PyObject_CallMethodNoArgs(t, names.is_contiguous)))) return false;
  const py::object dtype = owned(PyObject_GetAttr(t, names.dtype));
  if (std::none_of(names.dtypes, names.dtypes + 4, [&](PyObject* one) { return one == dtype.ptr(); }))
    return false;
  const py::object shape = owned(PyObject_GetAttr(t, names.shape));
  if (PyTuple_GET_SIZE(shape.ptr()) > kMaxRank) return false;
  view = borrow(tensor, "recall", "tensor", Device::cpu);
  return true;
}

struct Shape {
  DType dtype = DType::f32;
  int rank = 0;
  std::array<int64_t, kMaxRank> sizes{};

  Shape() = default;
  explicit Shape(const Borrowed& t) : dtype(t.dtype), rank(t.rank) {
    std::copy(t.shape, t.shape + t.rank, sizes.begin());
  }
  bool is(const Borrowed& t) const {
    return t.dtype == dtype && t.rank == rank && std::equal(t.shape, t.shape + rank, sizes.begin());
  }
};

int64_t bytes(const Borrowed& t) {
  return t.elements() * (t.dtype == DType::f64 ? 8 : t.dtype == DType::f32 ? 4 : 2);
}

bool apart(const Borrowed& a, const Borrowed& b) {
  const char *p = static_cast<const char*>(a.data), *q = static_cast<const char*>(b.data);
  return p + bytes(a) <= q || q + bytes(b) <= p;
}

struct Call {
  py::object offsets;  // the tensor itself, so that nothing else comes to have its address
  std::vector<int64_t> places;
  py::object size, wrap, dtype;
  std::shared_ptr<PlanHandle> plan;
  Shape input;
  py::tuple shape;  // of the result
  py::dict how;     // its dtype and device, for torch.empty
  Shape output;
  std::vector<Shape> weight;
  bool normalize = true;
};

using Kept = std::shared_ptr<const Call>;

class Recall {
 public:
  Recall(py::dict asked, py::object forced, std::string function)
      : asked_(std::move(asked)), forced_(std::move(forced)), function_(std::move(function)) {}

  // Remembers a call that went well, with its result.
  void remember(py::handle input, py::object offsets, py::object size, py::object wrap, py::object dtype,
                py::object result, std::shared_ptr<PlanHandle> plan, py::object weight, bool normalize) {
    Borrowed in, out;
    const Borrowed places = borrow(offsets, function_.c_str(), "offsets", Device::cpu);
    if (!take(input, in) || !take(result, out)) return;
    Call call;
    const int64_t* first = static_cast<const int64_t*>(places.data);
    call.places.assign(first, first + places.elements());
    call.offsets = std::move(offsets), call.size = std::move(size), call.wrap = std::move(wrap);
    call.plan = std::move(plan), call.input = Shape(in), call.output = Shape(out);
    call.shape = py::tuple(result.attr("shape"));
    call.how["dtype"] = result.attr("dtype");
    call.how["device"] = result.attr("device");
    call.dtype = std::move(dtype), call.normalize = normalize;
    for (py::handle window : py::iter(weight)) {
      Borrowed view;
      if (!take(window, view)) return;
      call.weight.emplace_back(view);
    }
    if (calls_.size() >= kMostCalls) calls_.pop_back();
    calls_.insert(calls_.begin(), std::make_shared<const Call>(std::move(call)));
  }

  // The call that these arguments repeat, first in the list from then on, or null. Torch may let another
  // thread in at any question, so nothing of the list is held across one.
  Kept find(py::handle input, py::handle offsets, py::handle size, py::handle wrap, py::handle dtype,
            py::handle out, const py::object& weight, bool normalize, Borrowed& in) {
    if (calls_.empty() || !asked_.plain(input) || !take(input, in)) return nullptr;
    if (!out.is_none() && !dtype.is_none()) return nullptr;
    for (size_t i = 0; i < calls_.size(); ++i) {
      const Kept call = calls_[i];
      if (call->offsets.ptr() != offsets.ptr() || !call->input.is(in) || call->normalize != normalize ||
          !same(size, call->size) || !same(wrap, call->wrap) ||
          (out.is_none() && call->dtype.ptr() != dtype.ptr()) || !unchanged(*call) || !fits(*call, weight))
        continue;
      if (!asked_.ordinary(forced_)) return nullptr;
      const auto at = std::find(calls_.begin(), calls_.end(), call);
      if (at != calls_.end()) std::rotate(calls_.begin(), at, at + 1);
      return call;
    }
    return nullptr;
  }

  // Where the call writes: a fresh tensor, or `out` where it can be written without a complaint.
  py::object target(const Call& call, py::handle out, std::initializer_list<const Borrowed*> inputs,
                    Borrowed& to) {
    if (out.is_none()) {
      const py::object args = py::make_tuple(call.shape);
      const py::object fresh = owned(PyObject_Call(asked_.empty.ptr(), args.ptr(), call.how.ptr()));
      to = borrow(fresh, function_.c_str(), "out", Device::cpu);
      return fresh;
    }
    if (!asked_.plain(out) || !take(out, to)) return py::none();
    if (to.rank != call.output.rank || !std::equal(to.shape, to.shape + to.rank, call.output.sizes.begin()))
      return py::none();
    for (const Borrowed* input : inputs) {
      if (!apart(to, *input)) return py::none();
    }
    return py::reinterpret_borrow<py::object>(out);
  }

  int threads() const {
    return static_cast<int>(PyLong_AsLong(owned(PyObject_CallNoArgs(asked_.threads.ptr())).ptr()));
  }
  const char* function() const { return function_.c_str(); }
  void forget() { calls_.clear(); }
  size_t size() const { return calls_.size(); }

 private:
  // The offsets still hold what they held. They are written through NumPy, too, so no version tells.
  bool unchanged(const Call& call) const {
    const Names& names = Names::get();
    PyObject* t = call.offsets.ptr();
    const int64_t count = PyLong_AsLongLong(owned(PyObject_CallMethodNoArgs(t, asked_.numel)).ptr());
    if (count != static_cast<int64_t>(call.places.size())) return false;
    if (!truth(owned(PyObject_CallMethodNoArgs(t, names.is_contiguous)))) return false;
    const void* data = PyLong_AsVoidPtr(owned(PyObject_CallMethodNoArgs(t, names.data_ptr)).ptr());
    return count == 0 || !memcmp(data, call.places.data(), call.places.size() * sizeof(int64_t));
  }

  bool fits(const Call& call, const py::object& weight) const {
    if (call.weight.empty() && weight.is_none()) return true;
    if (!PyTuple_CheckExact(weight.ptr()) ||
        PyTuple_GET_SIZE(weight.ptr()) != static_cast<Py_ssize_t>(call.weight.size()))
      return false;
    for (size_t i = 0; i < call.weight.size(); ++i) {
      const py::handle window = PyTuple_GET_ITEM(weight.ptr(), static_cast<Py_ssize_t>(i));
      Borrowed view;
      if (!asked_.plain(window) || !take(window, view) || !call.weight[i].is(view)) return false;
    }
    return true;
  }

  Asked asked_;
  py::object forced_;
  std::string function_;
  std::vector<Kept> calls_;
};

// None where the arguments repeat no call that is remembered.
py::object recall_extract(Recall& recall, py::handle canvas, py::handle offsets, py::handle size,
                          py::handle wrap, py::handle dtype, py::handle out) {
  Borrowed from, to;
  const Kept call = recall.find(canvas, offsets, size, wrap, dtype, out, py::none(), true, from);
  if (!call) return py::none();
  const py::object result = recall.target(*call, out, {&from}, to);
  if (result.is_none()) return result;
  const int threads = recall.threads();
  Status status;
  {
    const py::gil_scoped_release unlocked;
    status = cpu::extract_patches(to.data, to.dtype, from.data, from.dtype, from.shape[0], from.shape[1],
                                  call->plan->regions(), nullptr, threads);
  }
  report(status, recall.function(), call->plan->regions());
  return result;
}

py::object recall_scatter(Recall& recall, py::handle patches, py::handle offsets, py::object weight,
                          py::handle size, py::handle wrap, bool normalize, py::handle dtype,
                          py::handle out) {
  Borrowed from, to;
  const Kept call = recall.find(patches, offsets, size, wrap, dtype, out, weight, normalize, from);
  if (!call) return py::none();
  const PlanView& view = call->plan->rows(recall.function());
  WeightView weights;
  weights.dtype = from.dtype == DType::f64 ? DType::f64 : DType::f32;
  const py::tuple windows = py::reinterpret_borrow<py::tuple>(weight);
  const int n = static_cast<int>(windows.size());
  std::vector<Borrowed> held(n);
  for (int i = 0; i < n; ++i) {
    held[i] = borrow(windows[i], recall.function(), "weight", Device::cpu);
    if (held[i].rank == 1 && n == view.ndim) {
      weights.factor[kMaxDims - n + i] = held[i].data;
    } else {
      weights.separable = false, weights.window = held[i].data, weights.window_regions = held[i].shape[0];
    }
  }
  const py::object result = recall.target(*call, out, {&from, &held[0], &held[n - 1], &held[n / 2]}, to);
  if (result.is_none()) return result;
  const int threads = recall.threads();
  Status status;
  {
    const py::gil_scoped_release unlocked;
    status = cpu::scatter_average(to.data, to.dtype, from.data, from.dtype, to.shape[0], to.shape[1], view,
                                  weights, normalize, threads);
  }
  report(status, recall.function(), view);
  return result;
}

}  // namespace

void intarsia::bind_recall(py::module_ on_cpu) {
  using namespace py::literals;
  py::class_<Recall>(on_cpu, "Recall", "The last calls of one operator; see csrc/bind_recall.cpp.")
      .def(py::init<py::dict, py::object, std::string>(), "asked"_a, "forced"_a, "function"_a)
      .def("remember", &Recall::remember, "input"_a, "offsets"_a, "size"_a, "wrap"_a, "dtype"_a, "result"_a,
           "plan"_a, "weight"_a = py::tuple(), "normalize"_a = true)
      .def("extract", &recall_extract, "canvas"_a, "offsets"_a, "size"_a, "wrap"_a, "dtype"_a, "out"_a)
      .def("scatter", &recall_scatter, "patches"_a, "offsets"_a, "weight"_a, "size"_a, "wrap"_a,
           "normalize"_a, "dtype"_a, "out"_a)
      .def("forget", &Recall::forget)
      .def("__len__", &Recall::size);
}
