// SPDX-License-Identifier: Apache-2.0
// Canvas noise.
#include <pybind11/stl.h>

#include <vector>

#include "bind.h"

using namespace intarsia;

namespace {

// A seed is 64 bits; a negative one stands for them in two's complement.
NoiseView noise_view(const Borrowed& to, const std::vector<int64_t>& seed, uint32_t purpose, uint32_t step,
                     const std::vector<int64_t>& offset, const char* function) {
  const int n = static_cast<int>(offset.size());
  if (n < 1 || n > kMaxDims || to.rank != n + 2 || to.shape[0] != static_cast<int64_t>(seed.size())) {
    refuse(function, "out",
           "be [B, C, *S] with B = " + std::to_string(seed.size()) + " and " + std::to_string(n) +
               " canvas axes",
           words(to));
  }
  NoiseView noise;
  noise.seed = reinterpret_cast<const uint64_t*>(seed.data());
  noise.purpose = purpose, noise.step = step;
  for (int i = 0; i < n; ++i) {
    noise.offset[kMaxDims - n + i] = offset[i];
    noise.size[kMaxDims - n + i] = to.shape[2 + i];
  }
  return noise;
}

template <Device device>
void canvas_noise(py::handle out, const std::vector<int64_t>& seed, uint32_t purpose, uint32_t step,
                  const std::vector<int64_t>& offset, int64_t how) {
  const char* name = "canvas_noise";
  const Borrowed to = borrow(out, name, "out", device);
  if (to.is_int64) refuse(name, "out", "be floating point", "int64");
  const NoiseView noise = noise_view(to, seed, purpose, step, offset, name);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::canvas_noise(to.data, to.dtype, to.shape[0], to.shape[1], noise, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::canvas_noise(to.data, to.dtype, to.shape[0], to.shape[1], noise,
                                  reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, name);
}

template <Device device>
void canvas_integers(py::handle out, const std::vector<int64_t>& seed, uint32_t purpose, uint32_t step,
                     const std::vector<int64_t>& offset, int64_t how) {
  const char* name = "canvas_integers";
  const Borrowed to = borrow(out, name, "out", device);
  if (!to.is_int64) refuse(name, "out", "be int64", py::str(out.attr("dtype")));
  const NoiseView noise = noise_view(to, seed, purpose, step, offset, name);
  int64_t* data = static_cast<int64_t*>(to.data);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::canvas_integers(data, to.shape[0], to.shape[1], noise, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::canvas_integers(data, to.shape[0], to.shape[1], noise, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, name);
}

}  // namespace

template <Device device>
void intarsia::bind_noise(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def("canvas_noise", &canvas_noise<device>, "out"_a, "seed"_a, "purpose"_a, "step"_a, "offset"_a,
        py::arg(how), "out [B, C, *S] = standard normals of the places from offset on, one seed per sample.");
  m.def("canvas_integers", &canvas_integers<device>, "out"_a, "seed"_a, "purpose"_a, "step"_a, "offset"_a,
        py::arg(how), "out int64 [B, C, *S] = the 32-bit integers that canvas_noise is made of.");
}

INTARSIA_BIND(bind_noise)
