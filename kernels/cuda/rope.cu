// SPDX-License-Identifier: Apache-2.0
// Queries and keys turned by the angles of their tokens, in one launch. A thread turns 16 bytes of a row (two
// times 16 where pairs lie half a row apart), in a few heads: its angles serve all of them.
#include "common/rope.h"

#include <type_traits>

#include "element.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

constexpr int kHeads = 4;

template <typename T>
constexpr int kRun = 16 / static_cast<int>(sizeof(T));

struct RopeShape {
  HeadsView tensor[2];
  int64_t group;       // heads per thread, at most kHeads
  int64_t first;       // groups of the first tensor
  int64_t groups;      // of both tensors
  int64_t chunks;      // of a row
  int64_t items;       // batch * groups * tokens * chunks
  bool heads_closest;  // whether heads lie closer together than tokens
};

// Not __ldg: in place, these are the addresses that are written.
template <typename T, int kLength>
__device__ inline void load_run(T (&to)[kLength], const T* from, int width) {
  if (width == kLength && aligned<T, kLength>(from)) {
    const uint4 word = __ldcs(reinterpret_cast<const uint4*>(from));
    static_assert(sizeof(to) == sizeof(word), "a run is one word");
    memcpy(to, &word, sizeof(word));
    return;
  }
#pragma unroll
  for (int i = 0; i < kLength; ++i) {
    if (i < width) to[i] = from[i];
  }
}

template <typename A, int kPairs>
__device__ inline void load_angles(A (&to)[kPairs], const A* from, int width) {
  if (width == kPairs && aligned<A, kPairs>(from)) {
    load_words(to, from);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) to[i] = i < width ? load_one(from + i) : A(0);
}

template <typename T>
__device__ inline void turn(T& a, T& b, sum_t<T> cosine, sum_t<T> sine) {
  const sum_t<T> x = to_sum(a), y = to_sum(b);
  a = FromSum<T>::cast(turned_first(product(x, cosine), product(y, sine), sine));
  b = FromSum<T>::cast(turned_second(product(y, cosine), product(x, sine), sine));
}

template <typename T, bool kInterleaved>
__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeShape shape, const RotationView given) {
  constexpr int kLength = kRun<T>, kPairs = kInterleaved ? kLength / 2 : kLength;
  constexpr int kParts = kInterleaved ? 1 : 2;
  using A = sum_t<T>;

  for (int64_t item = first_item(); item < shape.items; item += item_step()) {
    int64_t rest = item, group, token;
    const int64_t pair = take(rest, shape.chunks) * kPairs;
    if (shape.heads_closest) {
      group = take(rest, shape.groups);
      token = take(rest, given.tokens);
    } else {
      token = take(rest, given.tokens);
      group = take(rest, shape.groups);
    }
    const int64_t batch = rest;
    const bool second = group >= shape.first;
    const HeadsView& x = shape.tensor[second ? 1 : 0];
    const int64_t head = (second ? group - shape.first : group) * shape.group;
    const int64_t left = x.heads - head;
    const int heads = static_cast<int>(left < shape.group ? left : shape.group);
    const int64_t left_in_row = given.pairs - pair;
    const int pairs = left_in_row < kPairs ? static_cast<int>(left_in_row) : kPairs;
    const int width = kInterleaved ? 2 * pairs : pairs;
    const int64_t column = kInterleaved ? 2 * pair : pair;

    const T* from = static_cast<const T*>(x.in) + batch * x.in_stride[0] + head * x.in_stride[1] +
                    token * x.in_stride[2] + column;
    T* to = static_cast<T*>(x.out) + batch * x.out_stride[0] + head * x.out_stride[1] +
            token * x.out_stride[2] + column;
    T value[kHeads][kParts][kLength];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        if (h < heads) load_run(value[h][part], from + h * x.in_stride[1] + part * given.pairs, width);
      }
    }

    const A* table = static_cast<const A*>(given.table) +
                     ((given.table_per_sample ? batch * given.tokens : 0) + token) * 2 * given.pairs + pair;
    A cosine[kPairs], sine[kPairs];
    load_angles(cosine, table, pairs);
    load_angles(sine, table + given.pairs, pairs);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sine[j] = given.inverse ? -sine[j] : sine[j];

#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) continue;
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
        if (j >= pairs) continue;
        if constexpr (kInterleaved) {
          turn(value[h][0][2 * j], value[h][0][2 * j + 1], cosine[j], sine[j]);
        } else {
          turn(value[h][0][j], value[h][1][j], cosine[j], sine[j]);
        }
      }
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        store_run(to + h * x.out_stride[1] + part * given.pairs, value[h][part], width);
      }
    }
  }
}

int64_t share(int64_t whole, int64_t part) {
  return (whole + part - 1) / part;
}

}  // namespace

Status rope(const HeadsView* tensors /* [count] */, int count, DType dtype, const RotationView& rotation,
            void* stream) {
  return with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    RopeShape shape{};
    int64_t heads = 0;
    for (int i = 0; i < count; ++i) shape.tensor[i] = tensors[i], heads += tensors[i].heads;
    shape.chunks = share(rotation.pairs, rotation.interleaved ? kRun<T> / 2 : kRun<T>);
    const int64_t rows = rotation.batch * rotation.tokens * shape.chunks;
    shape.group = rows * share(heads, kHeads) < kWave ? 1 : kHeads;
    shape.first = share(shape.tensor[0].heads, shape.group);
    shape.groups = shape.first + share(shape.tensor[1].heads, shape.group);
    shape.items = rows * shape.groups;
    shape.heads_closest = tensors[0].in_stride[1] < tensors[0].in_stride[2];
    const void* out = shape.tensor[0].heads > 0 ? shape.tensor[0].out : shape.tensor[1].out;
    if (rotation.interleaved) return launch(rope_kernel<T, true>, shape.items, out, stream, shape, rotation);
    return launch(rope_kernel<T, false>, shape.items, out, stream, shape, rotation);
  });
}

}  // namespace intarsia::cuda
