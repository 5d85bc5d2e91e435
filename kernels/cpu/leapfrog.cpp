// SPDX-License-Identifier: Apache-2.0
#include "common/leapfrog.h"

#include <algorithm>
#include <new>
#include <type_traits>
#include <vector>

#include "cpu/entry.h"
#include "cpu/normal.h"
#include "cpu/parallel.h"
#include "cpu/phase.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

// A chunk is summed by one thread; how a sample is cut into chunks depends on its size alone.
constexpr int64_t kPiece = 4096, kMostChunks = 1024;

constexpr uint32_t kRenew = part::refresh | part::langevin;
constexpr uint32_t kKicks = part::kick | part::half_kick;
constexpr uint32_t kEnergies = part::energy_before | part::energy_after;

// The states of one sample from one element on.
template <class T>
struct Rows {
  const T *position, *momentum, *gradient, *noise, *mass;
  T *position_out, *momentum_out, *refreshed_out;
};

// Which outputs go past the caches.
struct Streams {
  bool position, momentum, refreshed;
  bool any() const { return position || momentum || refreshed; }
};

template <class A, class T>
INTARSIA_INLINE void put(T* to, V<A> v, bool streamed) {
  if (streamed) {
    stream<A, T>(to, v);
  } else {
    Memory<A, T>::store(to, v);
  }
}

// One vector from element j on; n < lanes of it, unless whole. `slot` is its place among those summed
// together.
template <class T, uint32_t parts, bool masses, bool whole, class A>
INTARSIA_INLINE void advance(const Rows<T>& rows, const Factors<A>& f, const Streams& streams, int64_t j,
                             int64_t n, int64_t slot, Sums& sums) {
  const auto take = [&](const T* from) {
    if constexpr (whole) {
      return Memory<A, T>::load(from + j);
    } else {
      return load_first<A, T>(from + j, n);
    }
  };
  const auto give = [&](T* to, V<A> v, [[maybe_unused]] bool streamed) {
    if constexpr (whole) {
      put<A>(to + j, v, streamed);
    } else {
      store_first<A, T>(to + j, v, n);
    }
  };
  // All loads come first: one that follows a store 4 KiB away would wait for it.
  [[maybe_unused]] V<A> mass, noise, gradient, x;
  V<A> v = take(rows.momentum);
  if constexpr (masses) mass = take(rows.mass);
  if constexpr ((parts & kRenew) != 0) noise = take(rows.noise);
  if constexpr ((parts & kKicks) != 0) gradient = take(rows.gradient);
  if constexpr ((parts & part::drift) != 0) x = take(rows.position);
  const auto count = [&] {
    V<A> q = v;
    if constexpr (masses) q = v / mass;
    if constexpr (whole) {
      sums.add<A>(slot, v, q);
    } else {
      sums.add<A>(slot, keep_first<A>(v, n), keep_first<A>(q, n));
    }
  };
  if constexpr ((parts & kRenew) != 0) {
    V<A> spread = splat(f.spread);
    if constexpr (masses) spread *= square_root(mass);
    v = refreshed<V<A>>(v, noise, splat(f.retain), spread);
    if constexpr ((parts & part::energy_before) != 0) give(rows.refreshed_out, v, streams.refreshed);
  }
  if constexpr ((parts & part::energy_before) != 0) count();
  if constexpr ((parts & kKicks) != 0) v = kicked<V<A>>(v, gradient, splat(f.kick));
  if constexpr ((parts & part::energy_after) != 0) count();
  if constexpr ((parts & part::drift) != 0) {
    if constexpr (masses) {
      x = drifted<V<A>>(x, v, splat(f.drift), mass);
    } else {
      x = drifted<V<A>>(x, v, splat(f.drift));
    }
  }
  if constexpr ((parts & (kKicks | kRenew)) != 0) give(rows.momentum_out, v, streams.momentum);
  if constexpr ((parts & part::drift) != 0) give(rows.position_out, x, streams.position);
}

template <class T, uint32_t parts, bool masses, class A>
void advance_piece(const Rows<T>& rows, const Factors<A>& f, const Streams& streams, int64_t n, Sums& sums) {
  constexpr int64_t L = lanes<A>;
  int64_t j = 0;
  for (; n - j >= kSumLanes; j += kSumLanes) {
    for (int64_t k = 0; k < kSumLanes / L; ++k)
      advance<T, parts, masses, true>(rows, f, streams, j + k * L, L, k, sums);
  }
  for (int64_t k = 0; j < n; ++k, j += L) {
    advance<T, parts, masses, false>(rows, f, streams, j, std::min(L, n - j), k, sums);
  }
}

template <class T, uint32_t parts, bool masses>
class Pass {
 public:
  using A = typename Accumulator<T>::type;

  explicit Pass(const LeapfrogView& view) : view_(view) {
    const int64_t pieces = (view.size + kPiece - 1) / kPiece;
    chunk_ = (pieces + kMostChunks - 1) / kMostChunks * kPiece;
    chunks_ = chunk_ > 0 ? (view.size + chunk_ - 1) / chunk_ : 0;
    const int64_t one = view.batch * view.size * static_cast<int64_t>(sizeof(T));
    int64_t read = 0, written = 0;
    for (const void* p : {view.position, view.momentum, view.gradient, view.noise}) read += p ? one : 0;
    for (const void* p : {view.position_out, view.momentum_out, view.refreshed_out}) written += p ? one : 0;
    bytes_ = read + written;
    const bool large = written > last_level_cache();
    // A line that was just read is in the cache already.
    streams_ = {large && fresh(view.position_out), large && fresh(view.momentum_out),
                large && fresh(view.refreshed_out)};
  }

  Status run(int threads) {
    if (view_.batch == 0) return {};
    std::vector<double> partial;
    if (parts & kEnergies) {
      try {
        partial.resize(view_.batch * chunks_);
      } catch (const std::bad_alloc&) {
        return {Status::out_of_memory};
      }
    }
    share_out(view_.batch * chunks_, team_size(threads, bytes_), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const double sum = run_chunk(i / chunks_, i % chunks_ * chunk_);
        if (parts & kEnergies) partial[i] = sum;
      }
      if (streams_.any()) stream_fence();
    });
    if (parts & kEnergies) {
      for (int64_t b = 0; b < view_.batch; ++b) {
        double sum = 0;
        for (int64_t k = 0; k < chunks_; ++k) sum += partial[b * chunks_ + k];
        view_.energy_out[b] = factors<A>(view_, b).energy * sum;
      }
    }
    return {};
  }

 private:
  bool fresh(const void* out) const {
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0 && view_.size * sizeof(T) % 64 == 0;
    return out && aligned && out != view_.position && out != view_.momentum && out != view_.gradient &&
           out != view_.noise;
  }

  static const T* shifted(const void* p, int64_t by) { return p ? static_cast<const T*>(p) + by : nullptr; }
  static T* shifted(void* p, int64_t by) { return p ? static_cast<T*>(p) + by : nullptr; }

  // The noise of elements [from, from + n) of a sample, as canvas_noise stores it.
  void draw(T* out, NoiseKey key, int64_t from, int64_t n) const {
    const NoiseView& noise = view_.drawn;
    const int64_t columns = noise.size[2], rows = noise.size[1], planes = noise.size[0];
    alignas(INTARSIA_VECTOR_BYTES) A wide[std::is_same_v<A, T> ? 1 : kPiece];
    for (int64_t done = 0; done < n;) {
      const int64_t row = (from + done) / columns, column = (from + done) % columns;
      const int64_t run = std::min(columns - column, n - done);
      const NoiseRow there{key, static_cast<uint32_t>(row / (rows * planes)),
                           static_cast<uint32_t>(noise.offset[0] + row / rows % planes),
                           static_cast<uint32_t>(noise.offset[1] + row % rows)};
      if constexpr (std::is_same_v<A, T>) {
        noise_run(out + done, there, noise.offset[2] + column, run);
      } else {
        noise_run(wide, there, noise.offset[2] + column, run);
        for (int64_t i = 0; i < run; ++i) out[done + i] = Narrow<T>::from(wide[i]);
      }
      done += run;
    }
  }

  double run_chunk(int64_t b, int64_t from) const {
    const Factors<A> f = factors<A>(view_, b);
    const int64_t to = std::min(from + chunk_, view_.size);
    [[maybe_unused]] alignas(INTARSIA_VECTOR_BYTES) T noise[(parts & kRenew) != 0 ? kPiece : 1];
    NoiseKey key{};
    const bool drawing = (parts & kRenew) && !view_.noise;
    if (drawing) key = noise_key(view_.drawn.seed[b], view_.drawn.purpose, view_.drawn.step);
    Sums sums;
    for (int64_t j = from; j < to; j += kPiece) {
      const int64_t k = b * view_.size + j, n = std::min(kPiece, to - j);
      if (drawing) draw(noise, key, j, n);
      const Rows<T> rows{shifted(view_.position, k),
                         shifted(view_.momentum, k),
                         shifted(view_.gradient, k),
                         drawing ? noise : shifted(view_.noise, k),
                         shifted(view_.mass_elements, view_.mass_samples == 1 ? j : k),
                         shifted(view_.position_out, k),
                         shifted(view_.momentum_out, k),
                         shifted(view_.refreshed_out, k)};
      advance_piece<T, parts, masses>(rows, f, streams_, n, sums);
    }
    return sums.total();
  }

  const LeapfrogView& view_;
  int64_t chunk_, chunks_, bytes_;
  Streams streams_;
};

template <class T, uint32_t parts>
Status run_parts(const LeapfrogView& view, int threads) {
  if (view.mass_elements) return Pass<T, parts, true>(view).run(threads);
  return Pass<T, parts, false>(view).run(threads);
}

// Every combination that an operator asks for; others do not exist.
template <class T>
Status run(const LeapfrogView& view, int threads) {
  using namespace part;
  switch (view.parts) {
    case kick:
    case half_kick:
      return run_parts<T, kick>(view, threads);
    case drift:
      return run_parts<T, drift>(view, threads);
    case kick | drift:
    case half_kick | drift:
      return run_parts<T, kick | drift>(view, threads);
    case refresh:
      return run_parts<T, refresh>(view, threads);
    case langevin | kick:
      return run_parts<T, langevin | kick>(view, threads);
    case energy_before:
    case energy_after:
      return run_parts<T, energy_before>(view, threads);
    case refresh | energy_before | half_kick | drift:
      return run_parts<T, refresh | energy_before | kick | drift>(view, threads);
    case energy_before | half_kick | drift:
      return run_parts<T, energy_before | kick | drift>(view, threads);
    case half_kick | energy_after:
      return run_parts<T, kick | energy_after>(view, threads);
    default:
      return {Status::unsupported};
  }
}

}  // namespace

Status leapfrog(const LeapfrogView& pass, int threads) {
  switch (pass.dtype) {
    case DType::f16:
      return run<f16>(pass, threads);
    case DType::bf16:
      return run<bf16>(pass, threads);
    case DType::f32:
      return run<float>(pass, threads);
    default:
      return run<double>(pass, threads);
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
