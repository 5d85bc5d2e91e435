// SPDX-License-Identifier: Apache-2.0
// Results that need sums over their whole sample first. Sums are made per chunk and added in order, so how
// the chunks are shared out never shows.
#pragma once

#include <algorithm>
#include <memory>
#include <new>

#include "cpu/parallel.h"
#include "cpu/quick_gram.h"

namespace intarsia::cpu::INTARSIA_ISA {

// Shorter vectors are summed in double precision throughout: it costs nothing there.
constexpr int64_t kWorthHaste = 4096;

// Op: products(); gram(sample, first, n, sums, quick); prepare(sample, batch, gram(sample, product),
// Shares&), false where quick products will not do; combine(sample, Shares, first, n, streamed); together(),
// whether prepare asks for other samples' products.
template <class Op>
Status two_passes(const Op& op, int64_t batch, int64_t size, int64_t bytes, int64_t bytes_out, int threads) {
  if (batch == 0 || size == 0) return {};
  const int products = op.products();
  const int64_t parts = (size + kGramChunk - 1) / kGramChunk;
  const bool streamed = worth_streaming(bytes_out);
  const int team = team_size(threads, bytes);
  const bool haste = size >= kWorthHaste && !op.together();
  const auto chunk = [&](int64_t sample, int64_t part, double* sums, bool quick) {
    op.gram(sample, part * kGramChunk, std::min(kGramChunk, size - part * kGramChunk), sums, quick);
  };
  // What one thread finds out about a sample on its own.
  const auto prepare_alone = [&](int64_t sample, typename Op::Shares& shares, bool quick) {
    double sums[Op::kMostProducts], more[Op::kMostProducts];
    for (int e = 0; e < products; ++e) sums[e] = 0.0;
    for (int64_t part = 0; part < parts; ++part) {
      chunk(sample, part, more, quick);
      for (int e = 0; e < products; ++e) sums[e] += more[e];
    }
    return op.prepare(sample, batch, [&](int64_t, int e) { return sums[e]; }, shares);
  };

  if (!op.together() && (team == 1 || batch % team == 0 || batch >= 8 * team)) {
    // A sample's second pass finds it in the cache.
    share_out(batch, team, [&](int64_t sample, int64_t end) {
      typename Op::Shares shares;
      for (; sample < end; ++sample) {
        if (!prepare_alone(sample, shares, haste) && haste) prepare_alone(sample, shares, false);
        op.combine(sample, shares, 0, size, streamed);
      }
      if (streamed) stream_fence();
    });
    return {};
  }

  const std::unique_ptr<double[]> sums(new (std::nothrow) double[batch * parts * products]);
  if (!sums) return {Status::out_of_memory, 0, nullptr};
  const auto gram = [&](int64_t sample, int e) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) sum += sums[(sample * parts + part) * products + e];
    return sum;
  };
  share_out_twice(
      batch * parts,
      [&](int64_t item, int64_t end) {
        for (; item < end; ++item) {
          chunk(item / parts, item % parts, &sums[item * products], haste);
        }
      },
      batch * parts,
      [&](int64_t item, int64_t end) {
        typename Op::Shares shares;
        while (item < end) {
          const int64_t sample = item / parts, last = std::min(end, (sample + 1) * parts);
          const int64_t first = (item - sample * parts) * kGramChunk;
          if (!op.prepare(sample, batch, gram, shares) && haste) prepare_alone(sample, shares, false);
          op.combine(sample, shares, first, std::min((last - sample * parts) * kGramChunk, size) - first,
                     streamed);
          item = last;
        }
        if (streamed) stream_fence();
      },
      team);
  return {};
}

}  // namespace intarsia::cpu::INTARSIA_ISA
