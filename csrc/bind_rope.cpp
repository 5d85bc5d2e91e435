// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding of queries and keys.
#include <string>

#include "bind.h"

using namespace intarsia;

namespace {

constexpr const char* kName = "rope";

// One tensor and its destination as the kernels take them; `shared` is given by the first.
HeadsView heads_view(py::handle out, py::handle x, Device device, RotationView& shared, DType& dtype,
                     bool first) {
  const BorrowedRows to = borrow_rows(out, kName, "out", device), from = borrow_rows(x, kName, "x", device);
  if (from.is_int64 || from.rank != 4 || from.shape[3] % 2) {
    refuse(kName, "x", "be floating point [B, H, T, D] with an even D", words(from));
  }
  if (first) {
    shared.batch = from.shape[0], shared.tokens = from.shape[2], shared.pairs = from.shape[3] / 2;
    dtype = from.dtype;
  }
  if (from.dtype != dtype || from.shape[0] != shared.batch || from.shape[2] != shared.tokens ||
      from.shape[3] != 2 * shared.pairs) {
    refuse(kName, "tensors", "share their dtype, B, T and D", words(from));
  }
  bool same = to.rank == 4 && to.dtype == dtype && !to.is_int64;
  for (int axis = 0; same && axis < 4; ++axis) same = to.shape[axis] == from.shape[axis];
  if (!same) refuse(kName, "out", "have the shape and dtype of its tensor", words(to));
  HeadsView view;
  view.out = to.data, view.in = from.data, view.heads = from.shape[1];
  for (int axis = 0; axis < 3; ++axis) {
    view.out_stride[axis] = to.stride[axis], view.in_stride[axis] = from.stride[axis];
  }
  return view;
}

// `how` is a thread count on the CPU and a stream's address on a CUDA device.
template <Device device>
void rope(py::sequence out, py::sequence x, py::handle table, bool interleaved, bool inverse, int64_t how) {
  const int count = static_cast<int>(x.size());
  if (count < 1 || count > 2 || out.size() != x.size()) {
    refuse(kName, "x", "hold one or two tensors, each with its destination", std::to_string(x.size()));
  }
  HeadsView tensors[2];
  RotationView rotation;
  DType dtype = DType::f32;
  for (int i = 0; i < count; ++i) {
    tensors[i] = heads_view(py::object(out[i]), py::object(x[i]), device, rotation, dtype, i == 0);
  }
  const Borrowed angles = borrow(table, kName, "table", device);
  const int64_t* shape = angles.shape + (angles.rank == 4);
  if (angles.is_int64 || angles.dtype != (dtype == DType::f64 ? DType::f64 : DType::f32) || angles.rank < 3 ||
      angles.rank > 4 || shape[0] != rotation.tokens || shape[1] != 2 || shape[2] != rotation.pairs ||
      (angles.rank == 4 && angles.shape[0] != rotation.batch)) {
    refuse(kName, "table", "be float32 (float64 for float64 tensors) [T, 2, D/2] or [B, T, 2, D/2]",
           words(angles));
  }
  rotation.table = angles.data, rotation.table_per_sample = angles.rank == 4;
  rotation.interleaved = interleaved, rotation.inverse = inverse;
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::rope(tensors, count, dtype, rotation, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::rope(tensors, count, dtype, rotation, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, kName);
}

}  // namespace

template <Device device>
void intarsia::bind_rope(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def("rope", &rope<device>, "out"_a, "x"_a, "table"_a, "interleaved"_a, "inverse"_a, py::arg(how),
        "Turn the pairs of one or two tensors [B, H, T, D], rows dense, by table [T, 2, D/2] or "
        "[B, T, 2, D/2] into out, which may be x itself.");
}

INTARSIA_BIND(bind_rope)
