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

// N vectors of row i from column j on: the terms in the plan's order, rounded as add_row rounds them. The row
// to come is `ahead` of the sources.
template <int N, bool fused, class T, class Out, class A>
INTARSIA_INLINE void fuse_vectors(Out* out, const Stack<T, A>& stack, int64_t i, int64_t out_step, int64_t j,
                                  int64_t ahead, bool stream_it) {
  constexpr int64_t L = lanes<A>;
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
        sum[v] += (a * Memory<A, A>::load(w + v * L)) * Memory<A, T>::load(p + v * L);
        prefetch(p + ahead + v * L);
      }
      continue;
    }
    if (src.terms == 2) {
      const V<A> guidance = splat(*src.guidance);
      const T *p = src.p + at, *q = p + src.step;
      for (int v = 0; v < N; ++v) {
        const V<A> last = Memory<A, T>::load(q + v * L);
        const V<A> value = last + guidance * (Memory<A, T>::load(p + v * L) - last);
        sum[v] += (a * Memory<A, A>::load(w + v * L)) * value;
        prefetch(p + ahead + v * L);
        prefetch(q + ahead + v * L);
      }
      continue;
    }
    for (int v = 0; v < N; ++v) {
      sum[v] += (a * Memory<A, A>::load(w + v * L)) * src.load(at + v * L);
    }
  }
  const A* r = stack.reciprocal ? stack.reciprocal + i * stack.reciprocal_step + j : nullptr;
  for (int v = 0; v < N; ++v) {
    V<A> value = r ? sum[v] * Memory<A, A>::load(r + v * L) : sum[v];
    if (fused && stack.update.x) value = stack.update.template apply<Out>(value, i * out_step + j + v * L);
    if (stream_it) {
      stream<A, Out>(out + j + v * L, value);
    } else {
      Memory<A, Out>::store(out + j + v * L, value);
    }
  }
}

template <bool fused, class T, class Out, class A>
void fuse_all_rows(void* out, int64_t out_step, const Stack<T, A>& stack, int64_t rows, int64_t columns,
                   bool streamed) {
  constexpr int64_t L = lanes<A>;
  constexpr uintptr_t line = L * sizeof(Out);
  for (int64_t i = 0; i < rows; ++i) {
    Out* o = static_cast<Out*>(out) + i * out_step;
    const int64_t ahead = i + 1 < rows || stack.goes_on ? stack.src_step : 0;
    int64_t j = static_cast<int64_t>((-reinterpret_cast<uintptr_t>(o)) % line / sizeof(Out));
    if (j > 0) fuse_vectors<1, fused>(o, stack, i, out_step, 0, ahead, false);
    for (; columns - j >= 4 * L; j += 4 * L)
      fuse_vectors<4, fused>(o, stack, i, out_step, j, ahead, streamed);
    for (; columns - j >= L; j += L) fuse_vectors<1, fused>(o, stack, i, out_step, j, ahead, streamed);
    if (j < columns) fuse_vectors<1, fused>(o, stack, i, out_step, columns - L, ahead, false);
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
