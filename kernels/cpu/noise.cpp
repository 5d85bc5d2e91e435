// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "cpu/entry.h"
#include "cpu/noise_rows.h"
#include "cpu/parallel.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

// Long rows are cut, so that threads share a single one, too; short ones are taken together.
constexpr int64_t kPiece = 4096;

template <class T>
void fill(T* out, int64_t batch, int64_t channels, const NoiseView& noise, int threads) {
  const int64_t width = noise.size[2], rows = channels * noise.size[0] * noise.size[1];
  if (batch * rows == 0 || width == 0) return;
  const int64_t skip = noise.offset[2] & 3, pieces = (skip + width + kPiece - 1) / kPiece;
  // All pieces but a row's first start where a block does.
  const auto start = [&](int64_t piece) { return std::clamp<int64_t>(piece * kPiece - skip, 0, width); };
  const int64_t bundle = pieces == 1 ? lanes<float> : 1, bundles = (rows + bundle - 1) / bundle;
  const int64_t shares = batch * bundles * pieces;
  share_out(shares, team_size(threads, 4 * batch * rows * width), [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last;) {
      const int64_t sample = at / (bundles * pieces);
      const NoiseRows lines(noise, sample);
      T* to = out + sample * rows * width;
      for (const int64_t end = std::min(last, (sample + 1) * bundles * pieces); at < end; ++at) {
        const int64_t row = at / pieces % bundles * bundle;
        if (pieces == 1) {
          noise_rows(to + row * width, lines, row, std::min(row + bundle, rows));
        } else {
          const int64_t from = start(at % pieces), n = start(at % pieces + 1) - from;
          noise_run(to + row * width + from, lines[row], lines.x + from, n);
        }
      }
    }
  });
}

}  // namespace

Status canvas_noise(void* out, DType out_dtype, int64_t batch, int64_t channels, const NoiseView& noise,
                    int threads) {
  switch (out_dtype) {
    case DType::f16:
      return fill(static_cast<f16*>(out), batch, channels, noise, threads), Status{};
    case DType::bf16:
      return fill(static_cast<bf16*>(out), batch, channels, noise, threads), Status{};
    case DType::f32:
      return fill(static_cast<float*>(out), batch, channels, noise, threads), Status{};
    case DType::f64:
      return fill(static_cast<double*>(out), batch, channels, noise, threads), Status{};
  }
  return {};
}

Status canvas_integers(int64_t* out, int64_t batch, int64_t channels, const NoiseView& noise, int threads) {
  fill(out, batch, channels, noise, threads);
  return {};
}

}  // namespace intarsia::cpu::INTARSIA_ISA
