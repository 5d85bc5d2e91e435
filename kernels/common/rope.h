// SPDX-License-Identifier: Apache-2.0
// One pair of channels turned in its plane; A is a number, or a vector of them on the processor.
#pragma once

#include "common/portable.h"

namespace intarsia {

// What one channel of a pair gives the other. Without a turn nothing crosses, not even a NaN or the sign of a
// zero: a token at the origin keeps its bits.
template <class A>
INTARSIA_INLINE A crossing(A product, A sine) {
  return sine == A{} ? A{} : product;
}

// a cos - b sin and b cos + a sin from their four products, each rounded by itself on every backend.
template <class A>
INTARSIA_INLINE A turned_first(A a_cosine, A b_sine, A sine) {
  return a_cosine - crossing(b_sine, sine);
}
template <class A>
INTARSIA_INLINE A turned_second(A b_cosine, A a_sine, A sine) {
  return b_cosine - crossing(-a_sine, sine);
}

}  // namespace intarsia
