// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and how
// canvas noise names its numbers: by a seed, a stream and a place, never by an index into memory.
#pragma once

#include <cstdint>

#include "common/portable.h"

namespace intarsia {

constexpr uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct NoiseKey {
  uint32_t k0, k1;
};

struct Words {
  uint32_t w[4];
};

INTARSIA_INLINE uint32_t product_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

INTARSIA_INLINE Words philox(Words counter, NoiseKey key) {
  uint32_t c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint32_t high0 = product_high(kPhiloxM0, c0), low0 = kPhiloxM0 * c0;
    const uint32_t high1 = product_high(kPhiloxM1, c2), low1 = kPhiloxM1 * c2;
    c0 = high1 ^ c1 ^ key.k0, c1 = low1;
    c2 = high0 ^ c3 ^ key.k1, c3 = low0;
    key.k0 += kPhiloxW0, key.k1 += kPhiloxW1;
  }
  return Words{{c0, c1, c2, c3}};
}

// 128 bits (seed, purpose, step) to a key of 64: the first half of the Philox block with counter
// (purpose, step, 0, 0) under the seed. For one seed the whole block is a permutation of the streams, so two
// of them share a key with a chance of 2^-64.
INTARSIA_INLINE NoiseKey noise_key(uint64_t seed, uint32_t purpose, uint32_t step) {
  const NoiseKey under{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const Words block = philox(Words{{purpose, step, 0, 0}}, under);
  return NoiseKey{block.w[0], block.w[1]};
}

// One row of a canvas: all but the last of its coordinates, as the bits of signed 32-bit numbers. An axis
// that is not there has coordinate 0.
struct NoiseRow {
  NoiseKey key;
  uint32_t channel, x0, x1;
};

// The four words of the places 4 * block .. 4 * block + 3 along the last axis. The block is floor(x / 4), an
// arithmetic shift of the signed coordinate, and x mod 4 the word.
INTARSIA_INLINE Words noise_words(const NoiseRow& row, int32_t block) {
  return philox(Words{{row.channel, static_cast<uint32_t>(block), row.x1, row.x0}}, row.key);
}

}  // namespace intarsia
