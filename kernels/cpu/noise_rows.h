// SPDX-License-Identifier: Apache-2.0
// Canvas noise of neighbouring rows of one sample.
#pragma once

#include <algorithm>

#include "cpu/normal.h"

namespace intarsia::cpu::INTARSIA_ISA {

// The rows [C, S0, S1] of one sample, each `width` places from coordinate x on.
struct NoiseRows {
  NoiseKey key;
  int64_t offset0, offset1, size0, size1;
  int64_t x, width;

  NoiseRows(const NoiseView& noise, int64_t sample)
      : key(noise_key(noise.seed[sample], noise.purpose, noise.step)),
        offset0(noise.offset[0]),
        offset1(noise.offset[1]),
        size0(noise.size[0]),
        size1(noise.size[1]),
        x(noise.offset[2]),
        width(noise.size[2]) {}

  INTARSIA_INLINE NoiseRow operator[](int64_t row) const {
    const auto word = [](int64_t coordinate) { return static_cast<uint32_t>(coordinate); };
    return {key, word(row / size1 / size0), word(offset0 + row / size1 % size0), word(offset1 + row % size1)};
  }

  INTARSIA_INLINE void advance(NoiseRow& row) const {
    const auto past = [](uint32_t& coordinate, int64_t offset, int64_t size) {
      if (++coordinate != static_cast<uint32_t>(offset + size)) return false;
      coordinate = static_cast<uint32_t>(offset);
      return true;
    };
    if (past(row.x1, offset1, size1) && past(row.x0, offset0, size0)) ++row.channel;
  }

  // Short rows leave most of a group's lanes without work; a bundle of rows, one to a lane, fills them.
  bool narrow() const {
    const int64_t groups = (blocks() + lanes<float> - 1) / lanes<float>;
    return 8 * blocks() < 7 * groups * lanes<float>;
  }
  int64_t blocks() const { return ((x & 3) + width + 3) / 4; }
};

// out[i * width + j] = place j of row first + i, i < count <= lanes<float>.
template <class T>
void noise_bundle(T* out, const NoiseRows& rows, int64_t first, int64_t count) {
  LaneNumbers channel{}, x0{}, x1{};
  NoiseRow row = rows[first];
  for (int64_t i = 0; i < count; ++i, rows.advance(row)) {
    channel.block(i) = row.channel, x0.block(i) = row.x0, x1.block(i) = row.x1;
  }
  const RowStart<U64> starts[2] = {{rows.key, channel.half(0), x0.half(0), x1.half(0)},
                                   {rows.key, channel.half(1), x0.half(1), x1.half(1)}};
  const int64_t skip = rows.x & 3, blocks = rows.blocks(), width = rows.width;
  uint32_t block = static_cast<uint32_t>(rows.x >> 2);
  alignas(INTARSIA_VECTOR_BYTES) T group[2][kGroup];
  const auto place = [&](const T* from, int64_t at) {
    if (at >= 0 && at + 4 <= width) {
      for (int64_t i = 0; i < count; ++i) memcpy(out + i * width + at, from + 4 * i, 4 * sizeof(T));
      return;
    }
    const int64_t begin = std::max<int64_t>(at, 0), end = std::min(at + 4, width);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = begin; j < end; ++j) out[i * width + j] = from[4 * i + j - at];
    }
  };
  for (int64_t k = 0, at = -skip; k < blocks; k += 2, block += 2, at += 8) {
    U32 word[2][4];
    group_words(starts, block, word[0]);
    group_words(starts, block + 1, word[1]);
    store_group(group[0], word[0]);
    if (k + 1 < blocks) store_group(group[1], word[1]);
    place(group[0], at);
    if (k + 1 < blocks) place(group[1], at + 4);
  }
}

// Rows first to last of a sample, one after the other from `out` on.
template <class T>
INTARSIA_INLINE void noise_rows(T* out, const NoiseRows& rows, int64_t first, int64_t last) {
  constexpr int64_t L = lanes<float>;
  // A bundle costs a group for every block, however few its rows are.
  const int64_t groups = (rows.blocks() + L - 1) / L;
  const bool narrow = rows.narrow();
  for (int64_t row = first; row < last;) {
    const int64_t count = std::min(last - row, L);
    if (narrow && rows.blocks() < count * groups) {
      noise_bundle(out, rows, row, count);
      out += count * rows.width, row += count;
    } else {
      noise_run(out, rows[row], rows.x, rows.width);
      out += rows.width, ++row;
    }
  }
}

}  // namespace intarsia::cpu::INTARSIA_ISA
