// SPDX-License-Identifier: Apache-2.0
// How bindings.cpp, the only source that knows Python, reads tensors: through their Python attributes.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include <string>

#include "tensor_view.h"

namespace intarsia {

namespace py = pybind11;

[[noreturn]] inline void refuse(const char* function, const char* argument, const std::string& requirement,
                                const std::string& got) {
  throw py::value_error(std::string(function) + ": " + argument + " must " + requirement + ", got " + got);
}

inline std::string words(const int64_t* values, int n) {
  std::string text = "(";
  for (int i = 0; i < n; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + (n == 1 ? ",)" : ")");
}

inline std::string words(const TensorView& t) {
  return words(t.shape, t.rank);
}

// Looked up once and kept for the life of the process, as Python keeps its interned strings.
struct Names {
  PyObject *shape, *dtype, *data_ptr, *is_contiguous, *stride, *is_cpu, *is_cuda, *requires_grad, *is_neg;
  PyObject* dtypes[4];
  PyObject *int64, *boolean, *tensor;

  Names() {
    const auto intern = [](const char* name) { return PyUnicode_InternFromString(name); };
    shape = intern("shape"), dtype = intern("dtype"), data_ptr = intern("data_ptr");
    is_contiguous = intern("is_contiguous"), stride = intern("stride"), is_cpu = intern("is_cpu"),
    is_cuda = intern("is_cuda");
    requires_grad = intern("requires_grad"), is_neg = intern("is_neg");
    const py::module_ torch = py::module_::import("torch");
    const char* names[] = {"float16", "bfloat16", "float32", "float64"};
    for (int i = 0; i < 4; ++i) dtypes[i] = py::object(torch.attr(names[i])).release().ptr();
    int64 = py::object(torch.attr("int64")).release().ptr();
    boolean = py::object(torch.attr("bool")).release().ptr();
    tensor = py::object(torch.attr("Tensor")).release().ptr();
  }

  static const Names& get() {
    // Not a static of the function: importing torch may let the GIL go while the static's own lock is held.
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Names> names;
    return names.call_once_and_store_result([] { return Names(); }).get_stored();
  }
};

inline py::object owned(PyObject* object) {
  if (!object) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(object);
}

enum class Device { cpu, cuda };

struct Borrowed : TensorView {
  bool is_int64 = false;
};

struct BorrowedRows : Borrowed {
  int64_t stride[kMaxRank] = {};  // in elements; that of the last axis is 1
};

enum class Layout { dense, any };

inline Borrowed borrow(py::handle tensor, const char* function, const char* argument, Device device,
                       Layout layout = Layout::dense, bool boolean = false) {
  const Names& names = Names::get();
  PyObject* t = tensor.ptr();
  if (!PyObject_HasAttr(t, names.data_ptr)) {
    refuse(function, argument, "be a tensor", py::str(py::type::of(tensor).attr("__name__")));
  }
  const auto truth = [](const py::object& object) { return object.ptr() == Py_True; };
  if (!truth(owned(PyObject_GetAttr(t, device == Device::cpu ? names.is_cpu : names.is_cuda)))) {
    refuse(function, argument, device == Device::cpu ? "be on the CPU" : "be on a CUDA device",
           py::str(tensor.attr("device")));
  }
  if (layout == Layout::dense && !truth(owned(PyObject_CallMethodNoArgs(t, names.is_contiguous)))) {
    refuse(function, argument, "be contiguous", "strides " + std::string(py::str(tensor.attr("stride")())));
  }
  Borrowed view;
  const py::object dtype = owned(PyObject_GetAttr(t, names.dtype));
  int i = 0;
  while (i < 4 && dtype.ptr() != names.dtypes[i]) ++i;
  view.is_int64 = dtype.ptr() == names.int64;
  if (boolean && dtype.ptr() != names.boolean) refuse(function, argument, "be bool", py::str(dtype));
  if (i == 4 && !view.is_int64 && !boolean)
    refuse(function, argument, "be float16, bfloat16, float32 or float64", py::str(dtype));
  view.dtype = static_cast<DType>(i % 4);
  const py::object shape = owned(PyObject_GetAttr(t, names.shape));
  view.rank = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  if (view.rank > kMaxRank) refuse(function, argument, "have at most 7 axes", py::str(shape));
  for (int k = 0; k < view.rank; ++k) view.shape[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), k));
  const py::object data = owned(PyObject_CallMethodNoArgs(t, names.data_ptr));
  view.data = PyLong_AsVoidPtr(data.ptr());
  if (PyErr_Occurred()) throw py::error_already_set();
  return view;
}

// A tensor whose rows, along its last axis, are dense and lie anywhere.
inline BorrowedRows borrow_rows(py::handle tensor, const char* function, const char* argument,
                                Device device) {
  BorrowedRows view{borrow(tensor, function, argument, device, Layout::any), {}};
  const py::object stride = owned(PyObject_CallMethodNoArgs(tensor.ptr(), Names::get().stride));
  for (int k = 0; k < view.rank; ++k) view.stride[k] = PyLong_AsLongLong(PyTuple_GET_ITEM(stride.ptr(), k));
  if (PyErr_Occurred()) throw py::error_already_set();
  if (view.rank == 0 || (view.stride[view.rank - 1] != 1 && view.shape[view.rank - 1] > 1)) {
    refuse(function, argument, "be dense along its last axis", "strides " + std::string(py::str(stride)));
  }
  return view;
}

}  // namespace intarsia
