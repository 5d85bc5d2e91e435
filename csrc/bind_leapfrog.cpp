// SPDX-License-Identifier: Apache-2.0
// The steps of Hamiltonian Monte Carlo.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "bind.h"
#include "states.h"

using namespace intarsia;

namespace {

// What a pass reads and writes, checked against what its parts ask for.
template <Device device>
struct Pass {
  LeapfrogView view;
  std::vector<uint64_t> seeds;

  Pass(bool plain, py::handle position_out, py::handle momentum_out, py::handle refreshed_out,
       py::handle energy_out, py::handle position, py::handle momentum, py::handle gradient, py::handle noise,
       py::handle step_size, py::handle damping, py::handle mass, uint32_t parts, py::handle key) {
    const char* name = "leapfrog";
    enum Slot { kPosition, kMomentum, kOther };
    States<device> states(name, plain);
    const bool renews = parts & (part::refresh | part::langevin);
    const bool kicks = parts & (part::kick | part::half_kick), drifts = parts & part::drift;
    const bool counts = parts & (part::energy_before | part::energy_after);
    view.parts = parts;
    view.momentum = states.read(momentum, "momentum", kMomentum);
    if (drifts) view.position = states.read(position, "position", kPosition);
    if (kicks) view.gradient = states.read(gradient, "gradient", kOther);
    if (renews && key.is_none()) view.noise = states.read(noise, "noise", kOther);
    view.position_out = states.written(position_out, "position_out", kPosition);
    view.momentum_out = states.written(momentum_out, "momentum_out", kMomentum);
    view.refreshed_out = states.written(refreshed_out, "refreshed_out", kMomentum);
    view.dtype = states.dtype(), view.batch = states.batch(), view.size = states.size();
    if (drifts == position_out.is_none() || counts == energy_out.is_none() ||
        (kicks || renews) == momentum_out.is_none() ||
        ((parts & part::refresh) && counts) == refreshed_out.is_none()) {
      refuse(name, "outputs", "be those that the parts make", std::to_string(parts));
    }
    if (counts)
      view.energy_out = static_cast<double*>(states.vector(energy_out, "energy_out", DType::f64, true));
    view.step_size = states.per_sample(step_size, "step_size");
    view.damping = states.per_sample(damping, "damping");
    if (!states.is_number(mass) && states.rank(mass) != 1) {
      const Borrowed t = states.take(mass, "mass");
      if (t.dtype != view.dtype || (t.shape[0] != 1 && t.shape[0] != view.batch) ||
          t.elements() != t.shape[0] * view.size) {
        refuse(name, "mass", "be a number, [B], or [1|B, ...] in the dtype of the states", words(t));
      }
      view.mass_elements = t.data, view.mass_samples = t.shape[0];
    } else {
      view.mass = states.per_sample(mass, "mass");
    }
    if (plain) {
      const bool forward = !(parts & part::langevin) || view.step_size.value >= 0;
      const bool partial = view.damping.value >= 0 && view.damping.value <= 1;
      if (!forward || !partial || !std::isfinite(view.step_size.value) || !std::isfinite(view.mass.value) ||
          !(view.mass.value > 0)) {
        refuse(name, "numbers", "make sense", "others");
      }
    }
    if (renews && !key.is_none()) draw(key.cast<py::tuple>(), states);
    states.check_apart();
  }

  // key: (seeds [B], purpose, step, offset along the axes behind the channels).
  void draw(const py::tuple& key, const States<device>& states) {
    for (const py::handle seed : key[0]) {
      seeds.push_back(PyLong_AsUnsignedLongLongMask(seed.ptr()));
    }
    const py::sequence offset = key[3];
    const int axes = static_cast<int>(py::len(offset)), rank = states.like().rank;
    if (PyErr_Occurred()) throw py::error_already_set();
    if (static_cast<int64_t>(seeds.size()) != view.batch || axes < 1 || axes > kMaxDims ||
        axes != (rank == 2 ? 1 : rank - 2)) {
      refuse("leapfrog", "key", "have a seed per sample and an offset per axis", words(states.like()));
    }
    NoiseView& drawn = view.drawn;
    drawn.seed = seeds.data();
    drawn.purpose = key[1].cast<uint32_t>(), drawn.step = key[2].cast<uint32_t>();
    for (int i = 0; i < axes; ++i) {
      const int axis = kMaxDims - axes + i;
      drawn.offset[axis] = offset[i].template cast<int64_t>();
      drawn.size[axis] = states.like().shape[rank - axes + i];
    }
  }
};

template <Device device>
void leapfrog(py::handle position_out, py::handle momentum_out, py::handle refreshed_out,
              py::handle energy_out, py::handle position, py::handle momentum, py::handle gradient,
              py::handle noise, py::handle step_size, py::handle damping, py::handle mass, uint32_t parts,
              py::handle key, [[maybe_unused]] py::handle partial, int64_t how) {
  const Pass<device> pass(false, position_out, momentum_out, refreshed_out, energy_out, position, momentum,
                          gradient, noise, step_size, damping, mass, parts, key);
  Status status;
  if constexpr (device == Device::cpu) {
    const py::gil_scoped_release unlocked;
    status = cpu::leapfrog(pass.view, static_cast<int>(how));
  }
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) {
    double* sums = nullptr;
    if (pass.view.energy_out) {
      const Borrowed t = borrow(partial, "leapfrog", "partial", device);
      if (t.dtype != DType::f64 || t.elements() < pass.view.batch * cuda::leapfrog_partials(pass.view.size)) {
        refuse("leapfrog", "partial", "be float64 [B, leapfrog_partials(size)]", words(t));
      }
      sums = static_cast<double*>(t.data);
    }
    const py::gil_scoped_release unlocked;
    status = cuda::leapfrog(pass.view, sums, reinterpret_cast<void*>(how));
  }
#endif
  report(status, "leapfrog");
}

// Each state is (position, momentum or None, energy, kinetic_energy, gradient or None).
template <Device device>
struct Selection {
  SelectView view;

  Selection(bool plain, const py::tuple& out, py::handle accepted, py::handle probability,
            const py::tuple& current, const py::tuple& proposed, py::handle uniform) {
    const char* name = "metropolis_select";
    enum Slot { kPosition, kMomentum, kGradient, kEnergy, kKinetic, kOther };
    States<device> states(name, plain);
    for (const py::tuple* state : {&out, &current, &proposed}) {
      if (state->size() != 5) refuse(name, "state", "have 5 members", std::to_string(state->size()));
    }
    const auto read = [&](PhaseView& to, const py::tuple& from) {
      to.position = states.read(from[0], "position", kPosition);
      to.momentum = states.read(from[1], "momentum", kMomentum);
      to.gradient = states.read(from[4], "gradient", kGradient);
      to.energy = states.vector(from[2], "energy", view.energy_dtype, false, kEnergy);
      to.kinetic_energy = states.vector(from[3], "kinetic_energy", DType::f64, false, kKinetic);
    };
    view.energy_dtype = states.take(proposed[2], "energy").dtype;
    if (view.energy_dtype < DType::f32) refuse(name, "energy", "be float32 or float64", "a half type");
    read(view.proposed, proposed), read(view.current, current);
    view.out.position = states.written(out[0], "position", kPosition);
    view.out.momentum = states.written(out[1], "momentum", kMomentum);
    view.out.gradient = states.written(out[4], "gradient", kGradient);
    view.out.energy = states.vector(out[2], "energy", view.energy_dtype, true, kEnergy);
    view.out.kinetic_energy = states.vector(out[3], "kinetic_energy", DType::f64, true, kKinetic);
    view.dtype = states.dtype(), view.batch = states.batch(), view.size = states.size();
    for (const py::tuple* state : {&current, &proposed}) {
      for (int k = 0; k < 5; ++k) {
        const bool optional = k == 1 || k == 4, given = !(*state)[k].is_none();
        if (given == out[k].is_none() || !(given || optional)) {
          refuse(name, "states", "have the same members", "others");
        }
      }
    }
    view.uniform = states.per_sample(uniform, "uniform");
    view.probability =
        static_cast<double*>(states.vector(probability, "probability", DType::f64, true, kOther));
    view.accepted = states.flags(accepted, "accepted");
    states.check_apart();
  }
};

template <Device device>
void metropolis_select(const py::tuple& out, py::handle accepted, py::handle probability,
                       const py::tuple& current, const py::tuple& proposed, py::handle uniform, int64_t how) {
  const Selection<device> selection(false, out, accepted, probability, current, proposed, uniform);
  Status status;
  {
    const py::gil_scoped_release unlocked;
    if constexpr (device == Device::cpu) {
      status = cpu::metropolis_select(selection.view, static_cast<int>(how));
    }
#if defined(INTARSIA_WITH_CUDA)
    if constexpr (device == Device::cuda) {
      status = cuda::metropolis_select(selection.view, reinterpret_cast<void*>(how));
    }
#endif
  }
  report(status, "metropolis_select");
}

// Does it, or returns false and does nothing where an argument is anything but plain, dense and right: the
// caller then takes the long way, which converts it or says what is wrong.
template <class Prepare, class Run>
bool if_plain(const char* name, const Prepare& prepare, const Run& run) {
  Status status;
  try {
    const auto prepared = prepare();
    const py::gil_scoped_release unlocked;
    status = run(prepared.view);
  } catch (const py::builtin_exception&) {
    return false;
  } catch (const py::error_already_set&) {
    return false;
  }
  report(status, name);
  return true;
}

bool leapfrog_if_plain(py::handle position_out, py::handle momentum_out, py::handle refreshed_out,
                       py::handle energy_out, py::handle position, py::handle momentum, py::handle gradient,
                       py::handle noise, py::handle step_size, py::handle damping, py::handle mass,
                       uint32_t parts, py::handle key, int64_t threads) {
  const auto prepare = [&] {
    return Pass<Device::cpu>(true, position_out, momentum_out, refreshed_out, energy_out, position, momentum,
                             gradient, noise, step_size, damping, mass, parts, key);
  };
  return if_plain("leapfrog", prepare,
                  [&](const LeapfrogView& view) { return cpu::leapfrog(view, static_cast<int>(threads)); });
}

bool metropolis_select_if_plain(const py::tuple& out, py::handle accepted, py::handle probability,
                                const py::tuple& current, const py::tuple& proposed, py::handle uniform,
                                int64_t threads) {
  const auto prepare = [&] {
    return Selection<Device::cpu>(true, out, accepted, probability, current, proposed, uniform);
  };
  return if_plain("metropolis_select", prepare, [&](const SelectView& view) {
    return cpu::metropolis_select(view, static_cast<int>(threads));
  });
}

}  // namespace

template <Device device>
void intarsia::bind_leapfrog(py::module_ m, const char* how) {
  using namespace py::literals;
  m.def(
      "leapfrog", &leapfrog<device>, "position_out"_a, "momentum_out"_a, "refreshed_out"_a, "energy_out"_a,
      "position"_a, "momentum"_a, "gradient"_a, "noise"_a, "step_size"_a, "damping"_a, "mass"_a, "parts"_a,
      "key"_a, "partial"_a, py::arg(how),
      "One pass over states [B, ...] of the parts that intarsia.h names; None where a part needs no tensor.");
  m.def("metropolis_select", &metropolis_select<device>, "out"_a, "accepted"_a, "probability"_a, "current"_a,
        "proposed"_a, "uniform"_a, py::arg(how),
        "out = proposed where accepted, else current with its momentum negated; states are (position, "
        "momentum, energy [B], kinetic_energy [B], gradient).");
  if constexpr (device == Device::cpu) {
    m.def("leapfrog_if_plain", &leapfrog_if_plain, "As leapfrog; false where it would have to look twice.");
    m.def("metropolis_select_if_plain", &metropolis_select_if_plain,
          "As metropolis_select; false where it would have to look twice.");
  }
#if defined(INTARSIA_WITH_CUDA)
  if constexpr (device == Device::cuda) m.def("leapfrog_partials", &cuda::leapfrog_partials, "size"_a);
#endif
}

INTARSIA_BIND(bind_leapfrog)
