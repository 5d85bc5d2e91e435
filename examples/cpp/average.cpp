// SPDX-License-Identifier: Apache-2.0
// Cuts a canvas into overlapping patches and averages them back, without Python. What a network would do to
// each patch is left out, so the canvas must come back: the program says how far off it is.
#include <intarsia.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <vector>

using intarsia::DType;

namespace {

constexpr int64_t kBatch = 1, kChannels = 3, kHeight = 96, kWidth = 256, kPatch = 64, kStride = 32;
constexpr int kThreads = 2;

// A grid that wraps along the width, as a panorama does: [R, 2] offsets.
std::vector<int64_t> grid() {
  std::vector<int64_t> offsets;
  for (int64_t y = 0; y + kPatch <= kHeight; y += kStride) {
    for (int64_t x = 0; x < kWidth; x += kStride) offsets.insert(offsets.end(), {y, x});
  }
  return offsets;
}

bool failed(const char* what, const intarsia::Status& status) {
  if (status.code == intarsia::Status::ok) return false;
  std::fprintf(stderr, "%s: status %d at %lld\n", what, status.code, static_cast<long long>(status.where));
  return true;
}

int run() {
  const std::vector<int64_t> offsets = grid();
  const int64_t regions = static_cast<int64_t>(offsets.size()) / 2;
  const int64_t canvas_size[] = {kHeight, kWidth}, patch_size[] = {kPatch, kPatch};
  const bool wrap[] = {false, true};
  const auto plan = intarsia::make_plan(offsets.data(), regions, 2, canvas_size, patch_size, wrap);

  std::vector<float> canvas(kBatch * kChannels * kHeight * kWidth), merged(canvas.size());
  std::vector<float> patches(kBatch * regions * kChannels * kPatch * kPatch), window(kPatch);
  for (size_t i = 0; i < canvas.size(); ++i) canvas[i] = std::sin(0.01f * static_cast<float>(i));

  namespace cpu = intarsia::cpu;
  if (failed("extract_patches", cpu::extract_patches(patches.data(), DType::f32, canvas.data(), DType::f32,
                                                     kBatch, kChannels, *plan, nullptr, kThreads)) ||
      failed("gaussian_weights", cpu::gaussian_weights(window.data(), DType::f32, kPatch, 0.2))) {
    return 1;
  }
  intarsia::WeightView weight;  // the outer product of one factor per axis; the unused first axis has none
  weight.factor[1] = weight.factor[2] = window.data();
  if (failed("scatter_average", cpu::scatter_average(merged.data(), DType::f32, patches.data(), DType::f32,
                                                     kBatch, kChannels, *plan, weight, true, kThreads))) {
    return 1;
  }

  float worst = 0;
  for (size_t i = 0; i < canvas.size(); ++i) worst = std::max(worst, std::abs(merged[i] - canvas[i]));
  std::printf("averaged %lld patches of %lld x %lld on %lld x %lld with %s kernels: off by at most %.1e\n",
              static_cast<long long>(regions), static_cast<long long>(kPatch), static_cast<long long>(kPatch),
              static_cast<long long>(kHeight), static_cast<long long>(kWidth), cpu::simd(), worst);
  return worst < 1e-6f ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "average: %s\n", error.what());
    return 1;
  }
}
