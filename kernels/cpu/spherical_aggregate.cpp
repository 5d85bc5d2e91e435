// SPDX-License-Identifier: Apache-2.0
// N states become one and each result moves toward its mean: all in terms of one Gram matrix.
#include "common/slerp.h"
#include "cpu/combine.h"
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

  void gram(int64_t sample, int64_t first, int64_t n, double* sums) const {
    const int64_t at = sample * size_ + first;
    if (view_.count == 1) return gram_of<T, 1, true>(vectors_, at, n, sums);
    if (view_.count == 2) return gram_of<T, 2, true>(vectors_, at, n, sums);
    if (view_.count == 3) return gram_of<T, 3, true>(vectors_, at, n, sums);
    gram_of_many<T>(vectors_, view_.count, at, n, sums);
  }

  template <class Gram>
  void prepare(int64_t sample, int64_t batch, const Gram& gram, Shares& shares) const {
    const auto of = [&](int64_t s, double* squares) {
      return fold([&](int e) { return gram(s, e); }, view_, shares.state, squares);
    };
    double squares[kMaxStates] = {};
    if (view_.over_batch) {
      for (int64_t s = 0; s < batch; ++s) {
        double more[kMaxStates];
        of(s, more);
        for (int i = 0; i < view_.count; ++i) squares[i] += more[i];
      }
      double own[kMaxStates];
      shares.cancels = of(sample, own);
    } else {
      shares.cancels = of(sample, squares);
    }
    const double eta = view_.etas ? view_.etas[sample] : view_.eta;
    for (int i = 0; i < view_.count; ++i) shares.mean[i] = toward_mean(eta, squares[i]);
  }

  void combine(int64_t sample, const Shares& shares, int64_t first, int64_t n, bool streamed) const {
    const int64_t at = sample * size_ + first;
    for (int k = 0; k < view_.count; ++k) streamed = streamed && lined_up(static_cast<T*>(view_.out[k]) + at);
    if (std::is_same_v<T, double> || shares.cancels) return deviate<double>(shares, at, n, streamed);
    deviate<float>(shares, at, n, streamed);
  }

 private:
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
    using R = Run<A, T>;
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
    R::each(n, [&](int64_t j, auto left) {
      V<A> merged = share[0] * R::load(x[0] + j, left);
      for (int k = 1; k < count; ++k) merged += share[k] * R::load(x[k] + j, left);
      for (int k = 0; k < count; ++k) {
        const V<A> v = deviated(merged, R::load(mean[k] + j, left), stay[k], go[k]);
        R::store(out[k] + j, v, left, streamed);
      }
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
