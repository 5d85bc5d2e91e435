// SPDX-License-Identifier: Apache-2.0
// N states become one and each result moves toward its mean: all in terms of one Gram matrix.
#include "common/slerp.h"
#include "cpu/pack.h"
#include "cpu/two_passes.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

template <class T>
class Aggregate {
 public:
  static constexpr int kMostProducts = num_products(kMaxStates, true);
  struct Shares {
    double state[kMaxStates], mean[kMaxStates];
    bool cancels;
  };

  Aggregate(const AggregateView& view, int64_t size) : view_(view), size_(size) {
    for (int k = 0; k < view.count; ++k) {
      vectors_[k] = static_cast<const T*>(view.state[k]);
      vectors_[view.count + k] = static_cast<const T*>(view.mean[k]);
    }
  }

  int products() const { return num_products(view_.count, true); }
  bool together() const { return view_.over_batch; }

  void gram(int64_t sample, int64_t first, int64_t n, double* sums, bool quick) const {
    const int64_t at = sample * size_ + first;
    if (view_.count == 1) return gram_some<1>(at, n, sums, quick);
    if (view_.count == 2) return gram_some<2>(at, n, sums, quick);
    if (view_.count == 3) return gram_some<3>(at, n, sums, quick);
    gram_of_many<T>(vectors_, view_.count, at, n, sums);
  }

  template <class Gram>
  bool prepare(int64_t sample, int64_t batch, const Gram& gram, Shares& shares) const {
    double squares[kMaxStates] = {};
    const auto own = [&](int e) { return gram(sample, e); };
    shares.cancels = fold(own, view_, shares.state, squares);
    const bool fine = !shares.cancels && told_apart(own, view_.count, squares, size_);
    if (view_.over_batch) {
      double c[kMaxStates], more[kMaxStates];
      for (int i = 0; i < view_.count; ++i) squares[i] = 0.0;
      for (int64_t s = 0; s < batch; ++s) {
        fold([&](int e) { return gram(s, e); }, view_, c, more);
        for (int i = 0; i < view_.count; ++i) squares[i] += more[i];
      }
    }
    const double eta = view_.etas ? view_.etas[sample] : view_.eta;
    for (int i = 0; i < view_.count; ++i) shares.mean[i] = toward_mean(eta, squares[i]);
    return fine;
  }

  void combine(int64_t sample, const Shares& shares, int64_t first, int64_t n, bool streamed) const {
    const int64_t at = sample * size_ + first;
    for (int k = 0; k < view_.count; ++k) streamed = streamed && lined_up(static_cast<T*>(view_.out[k]) + at);
    if (std::is_same_v<T, double> || shares.cancels) return deviate<double>(shares, at, n, streamed);
    deviate<float>(shares, at, n, streamed);
  }

 private:
  template <int K>
  void gram_some(int64_t at, int64_t n, double* sums, bool quick) const {
    if constexpr (!std::is_same_v<T, double>) {
      if (quick) return quick_gram<T, K, true>(vectors_, at, n, sums);
    }
    gram_of<T, K, true>(vectors_, at, n, sums);
  }

  template <class A>
  void deviate(const Shares& shares, int64_t at, int64_t n, bool streamed) const {
    if (view_.count == 1) return deviate_some<A, 1>(shares, at, n, streamed);
    if (view_.count == 2) return deviate_some<A, 2>(shares, at, n, streamed);
    if (view_.count == 3) return deviate_some<A, 3>(shares, at, n, streamed);
    deviate_some<A, 0>(shares, at, n, streamed);
  }

  // K states, or as many as there are.
  template <class A, int K>
  void deviate_some(const Shares& shares, int64_t at, int64_t n, bool streamed) const {
    constexpr int kMost = K ? K : kMaxStates;
    const int count = K ? K : view_.count;
    const T *x[kMost], *mean[kMost];
    T* out[kMost];
    V<A> share[kMost], stay[kMost], go[kMost];
    for (int k = 0; k < count; ++k) {
      x[k] = vectors_[k] + at, mean[k] = vectors_[count + k] + at,
      out[k] = static_cast<T*>(view_.out[k]) + at;
      share[k] = splat(static_cast<A>(shares.state[k]));
      stay[k] = splat(static_cast<A>(1.0 - shares.mean[k]));
      go[k] = splat(static_cast<A>(shares.mean[k]));
    }
    each_step<A, T>(n, streamed, [&](const auto& load, const auto& store) {
      auto merged = share[0] * load(x[0]);
      for (int k = 1; k < count; ++k) merged = merged + share[k] * load(x[k]);
      for (int k = 0; k < count; ++k) store(out[k], stay[k] * merged + go[k] * load(mean[k]));
    });
  }

  const AggregateView& view_;
  const T* vectors_[2 * kMaxStates];
  int64_t size_;
};

template <class T>
Status aggregate(const AggregateView& view, int64_t batch, int64_t size, int threads) {
  const int64_t bytes = view.count * batch * size * static_cast<int64_t>(sizeof(T));
  return two_passes(Aggregate<T>(view, size), batch, size, 3 * bytes, bytes, threads);
}

}  // namespace

Status spherical_aggregate(const AggregateView& view, DType dtype, int64_t batch, int64_t size, int threads) {
  const auto kernel = dtype == DType::f16    ? aggregate<f16>
                      : dtype == DType::bf16 ? aggregate<bf16>
                      : dtype == DType::f32  ? aggregate<float>
                                             : aggregate<double>;
  return kernel(view, batch, size, threads);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
