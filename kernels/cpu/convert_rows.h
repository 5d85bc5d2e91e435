// SPDX-License-Identifier: Apache-2.0
// A rectangle copied, scaled and cast in one pass.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {

// Short rows a stride apart are more than the hardware's prefetchers follow; long ones are better left to
// them.
constexpr int64_t kRowsAhead = 4, kShortRow = 4096;

// Where every result goes: `count` times, `step` elements apart.
struct Copies {
  int64_t count = 1, step = 0;
};

template <class A, bool many, bool streamed, class Out>
INTARSIA_INLINE void put(Out* dst, V<A> v, const Copies& copies) {
  for (int64_t k = 0; k < (many ? copies.count : 1); ++k) {
    if constexpr (streamed) {
      stream<A, Out>(dst + k * copies.step, v);
    } else {
      Memory<A, Out>::store(dst + k * copies.step, v);
    }
  }
}

// `next` is the start of a row to come, fetched on the way.
template <class In, class Out, bool scaled, bool streamed, bool fetched, bool many>
INTARSIA_INLINE void convert_row(Out* dst, const In* src, [[maybe_unused]] const In* next, int64_t n,
                                 typename Accumulator<In>::type scale, const Copies& copies) {
  using A = typename Accumulator<In>::type;
  constexpr int64_t L = lanes<A>;
  const auto take = [&](V<A> v) { return scaled ? v * splat(scale) : v; };
  if (n < L) {
    if (n <= 0) return;
    const V<A> v = take(load_first<A, In>(src, n));
    for (int64_t k = 0; k < (many ? copies.count : 1); ++k) store_first<A, Out>(dst + k * copies.step, v, n);
    return;
  }
  cover<L>(dst, n, [&](int64_t j, auto aligned) {
    if constexpr (fetched) prefetch(next + j);
    put<A, many, streamed && aligned>(dst + j, take(Memory<A, In>::load(src + j)), copies);
  });
}

template <class In, class Out, bool scaled, bool streamed, bool many>
void convert_rows_as(Out* dst, int64_t dst_stride, const In* src, int64_t src_stride, int64_t rows, int64_t n,
                     typename Accumulator<In>::type scale, const Copies& copies) {
  using A = typename Accumulator<In>::type;
  constexpr int64_t L = lanes<A>;
  constexpr uintptr_t line = L * sizeof(Out);
  const auto next = [&](int64_t i) { return src + std::min(i + kRowsAhead, rows - 1) * src_stride; };
  if (n == 4 * L && dst_stride % L == 0 && reinterpret_cast<uintptr_t>(dst) % line == 0) {
    // The commonest patch: a row is four whole lines.
    for (int64_t i = 0; i < rows; ++i, dst += dst_stride) {
      const In *row = src + i * src_stride, *to_come = next(i);
      for (int64_t k = 0; k < 4; ++k) {
        prefetch(to_come + k * L);
        V<A> v = Memory<A, In>::load(row + k * L);
        if constexpr (scaled) v *= splat(scale);
        put<A, many, streamed>(dst + k * L, v, copies);
      }
    }
    return;
  }
  if (n * static_cast<int64_t>(sizeof(In)) <= kShortRow) {
    for (int64_t i = 0; i < rows; ++i) {
      convert_row<In, Out, scaled, streamed, true, many>(dst + i * dst_stride, src + i * src_stride, next(i),
                                                         n, scale, copies);
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    convert_row<In, Out, scaled, streamed, false, many>(dst + i * dst_stride, src + i * src_stride, nullptr,
                                                        n, scale, copies);
  }
}

// dst[i, j] = cast(src[i, j] * scale), [rows, n] with the given strides between rows.
template <class In, class Out>
INTARSIA_INLINE void convert_rows(Out* dst, int64_t dst_stride, const In* src, int64_t src_stride,
                                  int64_t rows, int64_t n, const typename Accumulator<In>::type* scale,
                                  bool streamed, const Copies& copies = {}) {
  // Halves of one kind travel as bits, two to a float.
  if constexpr (std::is_same_v<In, Out> && sizeof(In) == 2) {
    if (!scale && n % 2 == 0 && dst_stride % 2 == 0 && src_stride % 2 == 0 && copies.step % 2 == 0 &&
        (reinterpret_cast<uintptr_t>(dst) | reinterpret_cast<uintptr_t>(src)) % 4 == 0) {
      return convert_rows<float, float>(reinterpret_cast<float*>(dst), dst_stride / 2,
                                        reinterpret_cast<const float*>(src), src_stride / 2, rows, n / 2,
                                        nullptr, streamed, {copies.count, copies.step / 2});
    }
  }
  const auto choose = [&](auto scaled, auto many) {
    return streamed ? convert_rows_as<In, Out, scaled, true, many>
                    : convert_rows_as<In, Out, scaled, false, many>;
  };
  using Yes = std::true_type;
  using No = std::false_type;
  const auto run = copies.count > 1 ? (scale ? choose(Yes{}, Yes{}) : choose(No{}, Yes{}))
                                    : (scale ? choose(Yes{}, No{}) : choose(No{}, No{}));
  run(dst, dst_stride, src, src_stride, rows, n, scale ? *scale : 1, copies);
}

}  // namespace intarsia::cpu::INTARSIA_ISA
