// SPDX-License-Identifier: Apache-2.0
// Queries and keys turned by the angles of their tokens, in one pass. What bounds it is memory, so the table
// is read from the caches and once for several heads, and rows to come are asked for early.
#include "common/rope.h"

#include <algorithm>

#include "cpu/entry.h"
#include "cpu/pairs.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"
#include "intarsia.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

// Heads that share a look at the table, where heads lie apart: each is a stream of its own in memory.
constexpr int64_t kGroup = 2;
// The part of the table that stays in the second-level cache.
constexpr int64_t kTableBytes = 256 << 10;
// How far ahead to fetch. The hardware's prefetchers stop at every page, of which each stream fills one after
// the other; together this must stay within the first-level cache.
constexpr int64_t kBytesAhead = 8 << 10;
constexpr int64_t kLine = 64;

// The turn of `lanes` pairs; the sign of the sine makes it a turn forth or back.
template <class A>
struct Turn {
  V<A> cosine, sine;

  INTARSIA_INLINE void operator()(V<A>& a, V<A>& b) const {
    const V<A> first = turned_first<V<A>>(a * cosine, b * sine, sine);
    b = turned_second<V<A>>(b * cosine, a * sine, sine);
    a = first;
  }
};

// One token of several heads, so that its angles are read once: pairs j of each, turned by cosine[j] and
// sine[j].
template <class T, bool interleaved, bool streamed>
struct Token {
  using A = typename Accumulator<T>::type;
  static constexpr int64_t L = lanes<A>;

  T* out;
  const T* in;
  int64_t out_step, in_step, heads;
  const A* cosine;
  const A* sine;
  int64_t pairs;
  V<A> sign;

  INTARSIA_INLINE void run() const {
    int64_t j = 0;
    if constexpr (std::is_same_v<T, bf16>) {
      if constexpr (interleaved) {
        for (; j + L <= pairs; j += L) neighbours(j);
      } else {
        for (; j + 2 * L <= pairs; j += 2 * L) halves(j);
      }
    }
    for (; j + L <= pairs; j += L) {
      const Turn<A> turn{Memory<A, A>::load(cosine + j), sign * Memory<A, A>::load(sine + j)};
      each([&](T* to, const T* from) {
        if constexpr (interleaved) {
          const V<A> x = Memory<A, T>::load(from + 2 * j), y = Memory<A, T>::load(from + 2 * j + L);
          V<A> a = evens<A>(x, y), b = odds<A>(x, y);
          turn(a, b);
          put<T, A, streamed>(to + 2 * j, zip_low<A>(a, b));
          put<T, A, streamed>(to + 2 * j + L, zip_high<A>(a, b));
        } else {
          V<A> a = Memory<A, T>::load(from + j), b = Memory<A, T>::load(from + pairs + j);
          turn(a, b);
          put<T, A, streamed>(to + j, a);
          put<T, A, streamed>(to + pairs + j, b);
        }
      });
    }
    if (j < pairs) rest(j, pairs - j);
  }

 private:
  template <class Act>
  INTARSIA_INLINE void each(const Act& act) const {
    for (int64_t h = 0; h < heads; ++h) act(out + h * out_step, in + h * in_step);
  }

  INTARSIA_INLINE void neighbours(int64_t j) const {
    const Turn<A> turn{Memory<A, A>::load(cosine + j), sign * Memory<A, A>::load(sine + j)};
    each([&](T* to, const T* from) {
      const auto words = TwoBf16::load(from + 2 * j);
      V<A> a = TwoBf16::low(words), b = TwoBf16::high(words);
      turn(a, b);
      TwoBf16::store<streamed>(to + 2 * j, TwoBf16::packed(a, b));
    });
  }

  INTARSIA_INLINE void halves(int64_t j) const {
    const V<A> c0 = Memory<A, A>::load(cosine + j), c1 = Memory<A, A>::load(cosine + j + L);
    const V<A> s0 = sign * Memory<A, A>::load(sine + j), s1 = sign * Memory<A, A>::load(sine + j + L);
    const Turn<A> even{evens<A>(c0, c1), evens<A>(s0, s1)}, odd{odds<A>(c0, c1), odds<A>(s0, s1)};
    each([&](T* to, const T* from) {
      const auto a = TwoBf16::load(from + j), b = TwoBf16::load(from + pairs + j);
      V<A> a0 = TwoBf16::low(a), a1 = TwoBf16::high(a), b0 = TwoBf16::low(b), b1 = TwoBf16::high(b);
      even(a0, b0);
      odd(a1, b1);
      TwoBf16::store<streamed>(to + j, TwoBf16::packed(a0, a1));
      TwoBf16::store<streamed>(to + pairs + j, TwoBf16::packed(b0, b1));
    });
  }

  // The last n < L pairs.
  void rest(int64_t j, int64_t n) const {
    const Turn<A> turn{load_first<A, A>(cosine + j, n), sign * load_first<A, A>(sine + j, n)};
    each([&](T* to, const T* from) {
      if constexpr (interleaved) {
        const int64_t low = std::min(2 * n, L), high = 2 * n - low;
        const V<A> x = load_first<A, T>(from + 2 * j, low), y = load_first<A, T>(from + 2 * j + low, high);
        V<A> a = evens<A>(x, y), b = odds<A>(x, y);
        turn(a, b);
        store_first<A, T>(to + 2 * j, zip_low<A>(a, b), low);
        store_first<A, T>(to + 2 * j + low, zip_high<A>(a, b), high);
      } else {
        V<A> a = load_first<A, T>(from + j, n), b = load_first<A, T>(from + pairs + j, n);
        turn(a, b);
        store_first<A, T>(to + j, a, n);
        store_first<A, T>(to + pairs + j, b, n);
      }
    });
  }
};

template <class T>
class Rotation {
  using A = typename Accumulator<T>::type;

 public:
  Rotation(const HeadsView* tensors, int count, const RotationView& given)
      : tensors_(tensors), count_(count), given_(given), sign_(splat(given.inverse ? A(-1) : A(1))) {
    const int64_t row = 2 * given.pairs * static_cast<int64_t>(sizeof(A));
    block_ = std::max<int64_t>(1, kTableBytes / std::max<int64_t>(row, 1));
    for (int i = 0; i < count; ++i) {
      bytes_ += given.batch * tensors[i].heads * given.tokens * 2 * given.pairs * sizeof(T);
    }
  }

  void run(int threads) {
    if (bytes_ == 0) return;
    const int team = team_size(threads, 2 * bytes_);
    // Enough blocks for every thread, however few tokens there are.
    const int64_t shares = (4 * team + given_.batch - 1) / given_.batch;
    block_ = std::min(block_, (given_.tokens + shares - 1) / shares);
    const int64_t blocks = (given_.tokens + block_ - 1) / block_;
    const bool past_caches = worth_streaming(bytes_);
    share_out(blocks * given_.batch, team, [&](int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at) {
        const int64_t b = at % given_.batch, t = at / given_.batch * block_;
        for (int i = 0; i < count_; ++i) tensor(tensors_[i], b, t, past_caches);
      }
      if (past_caches) stream_fence();
    });
  }

 private:
  // Lines are written past the caches only where they are whole and have not just been read.
  static bool streams(const HeadsView& x, int64_t pairs, bool interleaved) {
    constexpr int64_t line = INTARSIA_VECTOR_BYTES;
    const int64_t part = (interleaved ? 2 * pairs : pairs) * static_cast<int64_t>(sizeof(T));
    int64_t all = reinterpret_cast<int64_t>(x.out) | part;
    for (const int64_t stride : x.out_stride) all |= stride * static_cast<int64_t>(sizeof(T));
    return x.out != x.in && all % line == 0;
  }

  void tensor(const HeadsView& x, int64_t b, int64_t first, bool past_caches) const {
    const bool streamed = past_caches && streams(x, given_.pairs, given_.interleaved);
    const auto go = given_.interleaved
                        ? (streamed ? &Rotation::rows<true, true> : &Rotation::rows<true, false>)
                        : (streamed ? &Rotation::rows<false, true> : &Rotation::rows<false, false>);
    (this->*go)(x, b, first);
  }

  template <bool interleaved, bool streamed>
  void rows(const HeadsView& x, int64_t b, int64_t first) const {
    const int64_t last = std::min(first + block_, given_.tokens), dim = 2 * given_.pairs;
    const A* table =
        static_cast<const A*>(given_.table) + (given_.table_per_sample ? b * given_.tokens : 0) * dim;
    T* out = static_cast<T*>(x.out) + b * x.out_stride[0];
    const T* in = static_cast<const T*>(x.in) + b * x.in_stride[0];
    const int64_t together = x.in_stride[1] < x.in_stride[2] ? x.heads : kGroup;
    const V<A> sign = sign_;
    for (int64_t h = 0; h < x.heads; h += together) {
      const int64_t heads = std::min(together, x.heads - h);
      const int64_t ahead = kBytesAhead / (heads * dim * static_cast<int64_t>(sizeof(T)));
      for (int64_t t = first; t < last; ++t) {
        if (ahead > 0 && t + ahead < given_.tokens) {
          fetch(in + h * x.in_stride[1] + (t + ahead) * x.in_stride[2], heads, x.in_stride[1]);
        }
        const A* angles = table + t * dim;
        Token<T, interleaved, streamed>{out + h * x.out_stride[1] + t * x.out_stride[2],
                                        in + h * x.in_stride[1] + t * x.in_stride[2],
                                        x.out_stride[1],
                                        x.in_stride[1],
                                        heads,
                                        angles,
                                        angles + given_.pairs,
                                        given_.pairs,
                                        sign}
            .run();
      }
    }
  }

  void fetch(const T* in, int64_t heads, int64_t step) const {
    const int64_t bytes = 2 * given_.pairs * static_cast<int64_t>(sizeof(T));
    for (int64_t h = 0; h < heads; ++h, in += step) {
      for (int64_t at = 0; at < bytes; at += kLine) prefetch(reinterpret_cast<const char*>(in) + at);
    }
  }

  const HeadsView* tensors_;
  int count_;
  const RotationView& given_;
  V<A> sign_;
  int64_t block_, bytes_ = 0;
};

template <class T>
void rotate(const HeadsView* tensors, int count, const RotationView& given, int threads) {
  Rotation<T>(tensors, count, given).run(threads);
}

}  // namespace

Status rope(const HeadsView* tensors, int count, DType dtype, const RotationView& rotation, int threads) {
  constexpr decltype(&rotate<float>) kRotate[] = {rotate<f16>, rotate<bf16>, rotate<float>, rotate<double>};
  kRotate[static_cast<int>(dtype)](tensors, count, rotation, threads);
  return {};
}

}  // namespace intarsia::cpu::INTARSIA_ISA
