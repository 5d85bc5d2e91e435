// SPDX-License-Identifier: Apache-2.0
// Bands that every one of their regions fills: sums in registers, each element of the canvas written once.
#pragma once

#include "cpu/accumulate.h"

namespace intarsia::cpu::INTARSIA_ISA {

// One band under n pieces, all of its width. src[k] are the answers of piece k; their rows are src_step
// apart.
template <class T, class A>
struct Stack {
  const Piece<A>* pieces;
  const Answers<T, A>* src;
  int64_t n, src_step;
  const A* reciprocal;  // null: bare sums
  int64_t reciprocal_step;
  bool goes_on;  // the sources' rows beyond the last are those of the band below
  Update<A> update;
};

// N vectors of row i from column j on, the last of them `last_at` behind j: the terms in the plan's order,
// rounded as add_row rounds them. The row to come is `ahead` of the sources.
template <int N, bool fused, class T, class Out, class A>
INTARSIA_INLINE void fuse_vectors(Out* out, const Stack<T, A>& stack, int64_t i, int64_t out_step, int64_t j,
                                  int64_t last_at, int64_t ahead, bool stream_it) {
  constexpr int64_t L = lanes<A>;
  const auto place = [last_at](int v) { return v == N - 1 ? last_at : v * L; };
  V<A> sum[N] = {};
  for (int64_t k = 0; k < stack.n; ++k) {
    const Piece<A>& piece = stack.pieces[k];
    const V<A> a = splat(piece.base * piece.f1[i * piece.f1_step]);
    const A* w = piece.w + i * piece.w_step + j;
    const Answers<T, A>& src = stack.src[k];
    const int64_t at = i * stack.src_step + j;
    if (!fused || src.terms == 1) {
      const T* p = src.p + at;
      for (int v = 0; v < N; ++v) {
        sum[v] += (a * Memory<A, A>::load(w + place(v))) * Memory<A, T>::load(p + place(v));
        prefetch(p + ahead + place(v));
      }
      continue;
    }
    if (src.terms == 2) {
      const V<A> guidance = splat(*src.guidance);
      const T *p = src.p + at, *q = p + src.step;
      for (int v = 0; v < N; ++v) {
        const V<A> last = Memory<A, T>::load(q + place(v));
        const V<A> value = last + guidance * (Memory<A, T>::load(p + place(v)) - last);
        sum[v] += (a * Memory<A, A>::load(w + place(v))) * value;
        prefetch(p + ahead + place(v));
        prefetch(q + ahead + place(v));
      }
      continue;
    }
    for (int v = 0; v < N; ++v) {
      sum[v] += (a * Memory<A, A>::load(w + place(v))) * src.load(at + place(v));
    }
  }
  const A* r = stack.reciprocal ? stack.reciprocal + i * stack.reciprocal_step + j : nullptr;
  for (int v = 0; v < N; ++v) {
    V<A> value = r ? sum[v] * Memory<A, A>::load(r + place(v)) : sum[v];
    if (fused && stack.update.x) value = stack.update.template apply<Out>(value, i * out_step + j + place(v));
    if (stream_it) {
      stream<A, Out>(out + j + place(v), value);
    } else {
      Memory<A, Out>::store(out + j + place(v), value);
    }
  }
}

// All of a row at a time; its last two vectors overlap.
template <int N, bool fused, class T, class Out, class A>
void fuse_short_rows(Out* out, int64_t out_step, const Stack<T, A>& stack, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t ahead = i + 1 < rows || stack.goes_on ? stack.src_step : 0;
    fuse_vectors<N, fused>(out + i * out_step, stack, i, out_step, 0, columns - lanes<A>, ahead, false);
  }
}

template <bool fused, class T, class Out, class A>
void fuse_all_rows(void* out, int64_t out_step, const Stack<T, A>& stack, int64_t rows, int64_t columns,
                   bool streamed) {
  constexpr int64_t L = lanes<A>;
  constexpr uintptr_t line = L * sizeof(Out);
  Out* const first = static_cast<Out*>(out);
  if (!streamed && columns > 4 * L && columns <= 8 * L) {
    if (columns <= 5 * L) return fuse_short_rows<5, fused>(first, out_step, stack, rows, columns);
    if (columns <= 6 * L) return fuse_short_rows<6, fused>(first, out_step, stack, rows, columns);
    if (columns <= 7 * L) return fuse_short_rows<7, fused>(first, out_step, stack, rows, columns);
    return fuse_short_rows<8, fused>(first, out_step, stack, rows, columns);
  }
  for (int64_t i = 0; i < rows; ++i) {
    Out* o = first + i * out_step;
    const int64_t ahead = i + 1 < rows || stack.goes_on ? stack.src_step : 0;
    int64_t j = static_cast<int64_t>((-reinterpret_cast<uintptr_t>(o)) % line / sizeof(Out));
    const auto one = [&](int64_t at, bool stream_it) {
      fuse_vectors<1, fused>(o, stack, i, out_step, at, 0, ahead, stream_it);
    };
    if (j > 0) one(0, false);
    for (; columns - j >= 4 * L; j += 4 * L)
      fuse_vectors<4, fused>(o, stack, i, out_step, j, 3 * L, ahead, streamed);
    for (; columns - j >= L; j += L) one(j, streamed);
    if (j < columns) one(columns - L, false);
  }
}

// out[row, j] = cast(sum_k weight_k[row, j] * src_k[row, j] * reciprocal[row, j]); columns >= lanes<A>.
template <class T, class Out, class A>
void fuse_rows(void* out, int64_t out_step, const Stack<T, A>& stack, int64_t rows, int64_t columns,
               bool streamed) {
  const bool fused = stack.update.x || (stack.n > 0 && stack.src[0].terms > 1);
  const auto run = fused ? fuse_all_rows<true, T, Out, A> : fuse_all_rows<false, T, Out, A>;
  run(out, out_step, stack, rows, columns, streamed);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
