// SPDX-License-Identifier: Apache-2.0
// Several tensors of one kind, read, written or both: what they must share, and what they must not.
#pragma once

#include <algorithm>
#include <string>

#include "borrow.h"

namespace intarsia {

// States [B, ...]: the first one taken settles dtype and shape. Outputs may be the input of their own slot,
// element for element, and share no memory with anything else.
template <Device device>
class States {
 public:
  // plain: refuse also what the caller has to look at: subclasses, gradients, lazy negation.
  States(const char* function, bool plain) : function_(function), plain_(plain) {}

  void* read(py::handle tensor, const char* argument, int slot) {
    return state(tensor, argument, slot, false);
  }
  void* written(py::handle tensor, const char* argument, int slot) {
    return state(tensor, argument, slot, true);
  }

  Borrowed take(py::handle tensor, const char* argument) {
    // In place, a tensor comes twice.
    for (int i = 0; i < count_; ++i) {
      if (spans_[i].tensor == tensor.ptr()) return spans_[i].view;
    }
    if (plain_) require_plain(tensor, argument);
    const Borrowed t = borrow(tensor, function_, argument, device);
    if (t.is_int64) refuse(function_, argument, "be floating point", "int64");
    return t;
  }

  // [B]
  void* vector(py::handle tensor, const char* argument, DType dtype, bool writes, int slot = -1) {
    const Borrowed t = take(tensor, argument);
    if (t.dtype != dtype || t.rank != 1 || t.shape[0] != batch()) {
      const std::string wanted = "have the right dtype and shape [" + std::to_string(batch()) + "]";
      refuse(function_, argument, wanted, words(t));
    }
    remember(tensor, t, slot, writes);
    return t.data;
  }

  // [B] bool, written.
  bool* flags(py::handle tensor, const char* argument) {
    if (plain_) require_plain(tensor, argument);
    const Borrowed t = borrow(tensor, function_, argument, device, Layout::dense, true);
    if (t.rank != 1 || t.shape[0] != batch()) refuse(function_, argument, "be [B]", words(t));
    const uintptr_t first = reinterpret_cast<uintptr_t>(t.data);
    span({tensor.ptr(), t, first, first + t.shape[0] * sizeof(bool), -1, true});
    return static_cast<bool*>(t.data);
  }

  static bool is_number(py::handle given) { return PyFloat_Check(given.ptr()) || PyLong_Check(given.ptr()); }

  int rank(py::handle tensor) { return take(tensor, "tensor").rank; }

  // A number, or [B].
  PerSample per_sample(py::handle given, const char* argument) {
    PerSample result;
    if (is_number(given)) {
      result.value = given.cast<double>();
      return result;
    }
    const Borrowed t = take(given, argument);
    if (t.rank != 1 || t.shape[0] != batch()) {
      refuse(function_, argument, "be a number or [" + std::to_string(batch()) + "]", words(t));
    }
    remember(given, t, -1, false);
    result.values = t.data, result.dtype = t.dtype;
    return result;
  }

  void check_apart() const {
    for (int i = 0; i < count_; ++i) {
      if (!spans_[i].written) continue;
      for (int k = 0; k < count_; ++k) {
        const Span &out = spans_[i], &other = spans_[k];
        if (k == i || out.last <= other.first || other.last <= out.first) continue;
        const bool same = out.first == other.first && out.last == other.last;
        if (other.written || !same || out.slot != other.slot || out.slot < 0) {
          refuse(function_, "out", "be the input of the same name or apart from every other tensor",
                 "memory shared with another");
        }
      }
    }
  }

  const Borrowed& like() const { return like_; }
  DType dtype() const { return like_.dtype; }
  int64_t batch() const { return like_.shape[0]; }
  int64_t size() const { return batch() ? like_.elements() / batch() : 0; }

 private:
  struct Span {
    PyObject* tensor;
    Borrowed view;
    uintptr_t first, last;
    int slot;
    bool written;
  };

  void* state(py::handle tensor, const char* argument, int slot, bool writes) {
    if (tensor.is_none()) return nullptr;
    const Borrowed t = take(tensor, argument);
    if (first_) {
      if (t.rank < 1) refuse(function_, argument, "be [B, ...]", words(t));
      like_ = t, first_ = false;
    } else if (t.dtype != like_.dtype || t.rank != like_.rank ||
               !std::equal(t.shape, t.shape + t.rank, like_.shape)) {
      refuse(function_, argument, "have the dtype of the others and shape " + words(like_), words(t));
    }
    remember(tensor, t, slot, writes);
    return t.data;
  }

  void remember(py::handle tensor, const Borrowed& t, int slot, bool writes) {
    const uintptr_t first = reinterpret_cast<uintptr_t>(t.data);
    const int64_t width = t.dtype == DType::f64 ? 8 : t.dtype == DType::f32 ? 4 : 2;
    span({tensor.ptr(), t, first, first + t.elements() * width, slot, writes});
  }

  void span(const Span& one) {
    if (count_ == kMost) refuse(function_, "arguments", "be fewer", "too many");
    spans_[count_++] = one;
  }

  void require_plain(py::handle tensor, const char* argument) const {
    const Names& names = Names::get();
    PyObject* t = tensor.ptr();
    const bool ours = reinterpret_cast<PyObject*>(Py_TYPE(t)) == names.tensor;
    if (!ours || owned(PyObject_GetAttr(t, names.requires_grad)).ptr() != Py_False ||
        owned(PyObject_CallMethodNoArgs(t, names.is_neg)).ptr() != Py_False) {
      refuse(function_, argument, "be a plain tensor", "another");
    }
  }

  const char* function_;
  const bool plain_;
  Borrowed like_;
  bool first_ = true;
  static constexpr int kMost = 24;
  Span spans_[kMost];
  int count_ = 0;
};

}  // namespace intarsia
