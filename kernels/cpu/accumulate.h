// SPDX-License-Identifier: Apache-2.0
// The inner loops of the scatter: rows of sums in the first-level cache, met by rows of patches.
#pragma once

#include "common/formulas.h"
#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

// One region's part of a band. Its weight at (row, column) is (base * f1[row * f1_step]) * w[row * w_step +
// column].
template <class A>
struct Piece {
  const A* w;
  const A* f1;
  A base;
  int64_t f1_step, w_step;
  int64_t patch;  // element of the patch plane under the piece's first element
  int64_t region;
  int64_t row, rows, at, columns;  // where the piece lies in the band
};

// What the regions say: a patch's elements, or several answers to each of them, guided.
template <class T, class A>
struct Answers {
  const T* p;           // of the first answer
  int64_t terms, step;  // answers, and elements from one to the next
  const A* guidance;    // of the first answer
  int64_t guidance_step;

  Answers at(int64_t j) const { return {p + j, terms, step, guidance, guidance_step}; }

  template <class Load>
  INTARSIA_INLINE V<A> combine(const Load& load) const {
    if (terms == 1) return load(p);
    const V<A> last = load(p + (terms - 1) * step);
    if (terms == 2) return last + splat(*guidance) * (load(p) - last);
    V<A> v = last;
    for (int64_t k = 0; k < terms - 1; ++k) {
      v += splat(guidance[k * guidance_step]) * (load(p + k * step) - last);
    }
    return v;
  }
  INTARSIA_INLINE V<A> load(int64_t j) const {
    return combine([j](const T* answer) { return Memory<A, T>::load(answer + j); });
  }
  INTARSIA_INLINE V<A> load_first(int64_t n) const {
    return combine([n](const T* answer) { return cpu::INTARSIA_ISA::load_first<A, T>(answer, n); });
  }
};

// A solver's update a x + b D + c noise of the elements that a row of results is for.
template <class A>
struct Update {
  const void *x = nullptr, *noise = nullptr;  // in the result's type; no x: the bare D
  A a = 0, b = 1, c = 0;

  template <class Out>
  INTARSIA_INLINE V<A> apply(V<A> merged, int64_t j) const {
    return combine(merged,
                   [j](const void* of) { return Memory<A, Out>::load(static_cast<const Out*>(of) + j); });
  }
  template <class Out>
  INTARSIA_INLINE V<A> apply_first(V<A> merged, int64_t j, int64_t n) const {
    return combine(merged,
                   [j, n](const void* of) { return load_first<A, Out>(static_cast<const Out*>(of) + j, n); });
  }

 private:
  template <class Load>
  INTARSIA_INLINE V<A> combine(V<A> merged, const Load& load) const {
    V<A> v = splat(b) * merged + splat(a) * load(x);
    return noise ? v + splat(c) * load(noise) : v;
  }
};

// sums[j] += weight * p[j] for the first n < lanes elements; sums may be read and rewritten a vector beyond,
// unchanged there even under a weight that overflows.
template <class T, class A>
INTARSIA_INLINE void add_first(A* sums, const Answers<T, A>& p, const A* w, V<A> a, int64_t n) {
  const V<A> term = (a * load_first<A, A>(w, n)) * p.load_first(n);
  Memory<A, A>::store(sums, Memory<A, A>::load(sums) + keep_first<A>(term, n));
}

// sums[j] += weight * p[j], one rounding after each product and one after the sum.
template <class T, class A>
INTARSIA_INLINE void add_row(A* sums, const Answers<T, A>& p, const A* w, A row, int64_t n, const T* next) {
  constexpr int64_t L = lanes<A>;
  const V<A> a = splat(row);
  int64_t j = 0;
  if (n >= 4 * L) {
    // The sums are stored and soon loaded again: aligned, a load finds the very store that made it.
    j = static_cast<int64_t>((-reinterpret_cast<uintptr_t>(sums)) % INTARSIA_VECTOR_BYTES / sizeof(A));
    if (j > 0) add_first(sums, p, w, a, j);
  }
  if (p.terms == 1) {
    for (; n - j >= L; j += L) {
      prefetch(next + j);
      const V<A> term = (a * Memory<A, A>::load(w + j)) * Memory<A, T>::load(p.p + j);
      Memory<A, A>::store(sums + j, Memory<A, A>::load(sums + j) + term);
    }
  }
  for (; n - j >= L; j += L) {
    prefetch(next + j);
    if (p.terms == 2) prefetch(next + p.step + j);
    const V<A> term = (a * Memory<A, A>::load(w + j)) * p.load(j);
    Memory<A, A>::store(sums + j, Memory<A, A>::load(sums + j) + term);
  }
  if (j < n) add_first(sums + j, p.at(j), w + j, a, n - j);
}

// The same over all rows for K full vectors, whose weights stay in registers.
template <int K, bool guided, class T, class A>
INTARSIA_INLINE void add_narrow(A* sums, int64_t sums_step, const Answers<T, A>& src, int64_t p_step,
                                const Piece<A>& piece, int64_t rows, const T* next) {
  constexpr int64_t L = lanes<A>;
  const T *p = src.p, *q = p + src.step;  // guided: of the last answer
  const V<A> guidance = splat(guided ? *src.guidance : A(0));
  V<A> w[K];
  for (int k = 0; k < K; ++k) w[k] = Memory<A, A>::load(piece.w + k * L);
  for (int64_t i = 0; i < rows; ++i) {
    const V<A> a = splat(piece.base * piece.f1[i * piece.f1_step]);
    for (int k = 0; k < K; ++k) {
      V<A> value = Memory<A, T>::load(p + k * L);
      if constexpr (guided) {
        const V<A> last = Memory<A, T>::load(q + k * L);
        value = last + guidance * (value - last);
        prefetch(next + src.step + k * L);
      }
      const V<A> term = (a * w[k]) * value;
      Memory<A, A>::store(sums + k * L, Memory<A, A>::load(sums + k * L) + term);
      prefetch(next + k * L);
    }
    sums += sums_step, p += p_step, q += p_step, next += p_step;
  }
}

// `next` is where the following piece starts: the hardware's prefetchers stop at a page, and a piece is often
// one.
template <class T, class A>
INTARSIA_INLINE void add_piece(A* sums, int64_t sums_step, const Answers<T, A>& p, int64_t p_step,
                               const Piece<A>& piece, int64_t rows, const T* next) {
  constexpr int64_t L = lanes<A>;
  sums += piece.at;
  const bool narrow = piece.w_step == 0 && p.terms <= 2;
  if (narrow && piece.columns == 4 * L) {
    const auto add = p.terms == 1 ? add_narrow<4, false, T, A> : add_narrow<4, true, T, A>;
    return add(sums, sums_step, p, p_step, piece, rows, next);
  }
  if (narrow && piece.columns == 8 * L) {
    const auto add = p.terms == 1 ? add_narrow<8, false, T, A> : add_narrow<8, true, T, A>;
    return add(sums, sums_step, p, p_step, piece, rows, next);
  }
  for (int64_t i = 0; i < rows; ++i) {
    add_row(sums + i * sums_step, p.at(i * p_step), piece.w + i * piece.w_step,
            piece.base * piece.f1[i * piece.f1_step], piece.columns, next + i * p_step);
  }
}

// The same for weights alone.
template <int K, class A>
INTARSIA_INLINE void add_narrow_weights(A* totals, int64_t totals_step, const Piece<A>& piece) {
  constexpr int64_t L = lanes<A>;
  V<A> w[K];
  for (int k = 0; k < K; ++k) w[k] = Memory<A, A>::load(piece.w + k * L);
  for (int64_t i = 0; i < piece.rows; ++i, totals += totals_step) {
    const V<A> a = splat(piece.base * piece.f1[i * piece.f1_step]);
    for (int k = 0; k < K; ++k) {
      Memory<A, A>::store(totals + k * L, Memory<A, A>::load(totals + k * L) + a * w[k]);
    }
  }
}

// totals[row, at + j] += weight.
template <class A>
INTARSIA_INLINE void add_weights(A* totals, int64_t totals_step, const Piece<A>& piece) {
  constexpr int64_t L = lanes<A>;
  if (piece.w_step == 0 && piece.columns == 4 * L) {
    return add_narrow_weights<4>(totals + piece.at, totals_step, piece);
  }
  for (int64_t i = 0; i < piece.rows; ++i) {
    A* t = totals + i * totals_step + piece.at;
    const A* w = piece.w + i * piece.w_step;
    const V<A> a = splat(piece.base * piece.f1[i * piece.f1_step]);
    int64_t j = 0;
    for (; piece.columns - j >= L; j += L) {
      Memory<A, A>::store(t + j, Memory<A, A>::load(t + j) + a * Memory<A, A>::load(w + j));
    }
    if (j < piece.columns) {
      const int64_t n = piece.columns - j;
      Memory<A, A>::store(t + j,
                          Memory<A, A>::load(t + j) + keep_first<A>(a * load_first<A, A>(w + j, n), n));
    }
  }
}

// totals -> 1 / totals; the first column whose reciprocal is of no use, or -1. (It is positive and finite
// exactly when the total is, but for totals so small that their reciprocal overflows.)
template <class A>
INTARSIA_INLINE int64_t invert(A* totals, int64_t n) {
  constexpr int64_t L = lanes<A>;
  const V<A> one = splat(A(1));
  auto bad = one != one;
  int64_t j = 0;
  for (; n - j >= L; j += L) {
    const V<A> r = one / Memory<A, A>::load(totals + j);
    bad |= ~((r > V<A>{}) & (r - r == V<A>{}));
    Memory<A, A>::store(totals + j, r);
  }
  bool any = false;
  for (; j < n; ++j) {
    totals[j] = A(1) / totals[j];
    any |= !usable_total(totals[j]);
  }
  for (int64_t k = 0; k < L; ++k) any |= bad[k] != 0;
  if (!any) return -1;
  for (j = 0; usable_total(totals[j]); ++j) {
  }
  return j;
}

// out[row, j] = cast(sums[row, j] * reciprocal[row, j]); without reciprocals the bare sums. The update's rows
// lie as those of out do.
template <class Out, class A>
void finish_rows(void* out, int64_t out_step, const A* sums, int64_t sums_step, const A* reciprocal,
                 int64_t reciprocal_step, const Update<A>& update, int64_t rows, int64_t n, bool streamed) {
  constexpr int64_t L = lanes<A>;
  for (int64_t i = 0; i < rows; ++i) {
    Out* o = static_cast<Out*>(out) + i * out_step;
    const A* s = sums + i * sums_step;
    const A* r = reciprocal ? reciprocal + i * reciprocal_step : nullptr;
    const auto merged = [&](int64_t j) {
      const V<A> v = Memory<A, A>::load(s + j);
      return r ? v * Memory<A, A>::load(r + j) : v;
    };
    if (n < L) {
      if (n <= 0) continue;
      const V<A> v = merged(0);
      store_first<A, Out>(o, update.x ? update.template apply_first<Out>(v, i * out_step, n) : v, n);
      continue;
    }
    cover<L>(o, n, [&](int64_t j, auto aligned) {
      const V<A> bare = merged(j), v = update.x ? update.template apply<Out>(bare, i * out_step + j) : bare;
      if (aligned && streamed) {
        stream<A, Out>(o + j, v);
      } else {
        Memory<A, Out>::store(o + j, v);
      }
    });
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
