// SPDX-License-Identifier: Apache-2.0
// Between two vectors: one pass for their inner products, one for the result.
#include "common/slerp.h"

#include "cpu/pack.h"
#include "cpu/two_passes.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

template <class T>
class Slerp {
 public:
  static constexpr int kMostProducts = num_products(2, false);
  using Shares = Arc;

  Slerp(void* out, const void* x0, const void* x1, int64_t size, double w, const double* ws)
      : out_(static_cast<T*>(out)),
        x0_(static_cast<const T*>(x0)),
        x1_(static_cast<const T*>(x1)),
        size_(size),
        w_(w),
        ws_(ws) {}

  int products() const { return kMostProducts; }
  bool together() const { return false; }

  void gram(int64_t sample, int64_t first, int64_t n, double* sums, bool quick) const {
    const T* ends[] = {x0_, x1_};
    const int64_t at = sample * size_ + first;
    if constexpr (!std::is_same_v<T, double>) {
      if (quick) return quick_gram<T, 2, false>(ends, at, n, sums);
    }
    gram_of<T, 2, false>(ends, at, n, sums);
  }

  template <class Gram>
  bool prepare(int64_t sample, int64_t /*batch*/, const Gram& gram, Shares& arc) const {
    arc = slerp_arc(gram(sample, 0), gram(sample, 1), gram(sample, 2), ws_ ? ws_[sample] : w_);
    return !arc.cancels && comparable(gram(sample, 0), gram(sample, 2), size_);
  }

  void combine(int64_t sample, const Shares& arc, int64_t first, int64_t n, bool streamed) const {
    const int64_t at = sample * size_ + first;
    if (arc.first == 1.0 && arc.second == 0.0) {
      memcpy(out_ + at, x0_ + at, static_cast<size_t>(n) * sizeof(T));
    } else if (arc.first == 0.0 && arc.second == 1.0) {
      memcpy(out_ + at, x1_ + at, static_cast<size_t>(n) * sizeof(T));
    } else if (std::is_same_v<T, double> || arc.cancels) {
      blend<double>(arc, at, n, streamed);
    } else {
      blend<float>(arc, at, n, streamed);
    }
  }

 private:
  template <class A>
  void blend(const Arc& arc, int64_t at, int64_t n, bool streamed) const {
    const V<A> a = splat(static_cast<A>(arc.first)), b = splat(static_cast<A>(arc.second));
    each_step<A, T>(n, streamed && lined_up(out_ + at), [&](const auto& load, const auto& store) {
      store(out_ + at, a * load(x0_ + at) + b * load(x1_ + at));
    });
  }

  T* out_;
  const T *x0_, *x1_;
  int64_t size_;
  double w_;
  const double* ws_;
};

template <class T>
Status slerp_of(void* out, const void* x0, const void* x1, int64_t batch, int64_t size, double w,
                const double* ws, int threads) {
  const int64_t bytes = batch * size * static_cast<int64_t>(sizeof(T));
  return two_passes(Slerp<T>(out, x0, x1, size, w, ws), batch, size, 3 * bytes, bytes, threads);
}

}  // namespace

Status slerp(void* out, const void* x0, const void* x1, DType dtype, int64_t batch, int64_t size, double w,
             const double* ws, int threads) {
  const auto kernel = dtype == DType::f16    ? slerp_of<f16>
                      : dtype == DType::bf16 ? slerp_of<bf16>
                      : dtype == DType::f32  ? slerp_of<float>
                                             : slerp_of<double>;
  return kernel(out, x0, x1, batch, size, w, ws, threads);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
