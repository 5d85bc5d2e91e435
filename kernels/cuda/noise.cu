// SPDX-License-Identifier: Apache-2.0
// Canvas noise: a thread makes the four places that one Philox counter serves.
#include <algorithm>
#include <type_traits>

#include "common/normal.h"
#include "element.cuh"
#include "launch.cuh"

namespace intarsia::cuda {
namespace {

// Keys travel with the launch, so that nothing is copied to the device first.
constexpr int64_t kMostSamples = 256;
struct NoiseKeys {
  NoiseKey of[kMostSamples];
};

struct NoiseShape {
  int64_t channels, size0, size1, width;
  int64_t offset0, offset1;
  int32_t first;  // block along the last axis
  int32_t skip;   // places of the first block that lie before the canvas
  int64_t runs;   // blocks per row
  int64_t items;  // batch * channels * size0 * size1 * runs
};

template <typename Index>
__device__ inline Index split(Index& rest, int64_t size) {
  const Index base = static_cast<Index>(size), quotient = rest / base, digit = rest - quotient * base;
  rest = quotient;
  return digit;
}

template <typename T>
__device__ inline void block_values(const NoiseRow& row, int32_t block, T (&value)[4]) {
  if constexpr (std::is_same_v<T, int64_t>) {
    const Words words = noise_words(row, block);
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = words.w[i];
  } else {
    sum_t<T> normal[4];
    noise_normals(row, block, normal);
#pragma unroll
    for (int i = 0; i < 4; ++i) value[i] = FromSum<T>::cast(normal[i]);
  }
}

// Index is 32 bits wide where the items fit: the divisions cost as much as the noise.
template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    canvas_noise_kernel(T* __restrict__ out /* [B,C,*S] */, const NoiseKeys keys, const NoiseShape shape) {
  for (int64_t item = first_item(); item < shape.items; item += item_step()) {
    Index rest = static_cast<Index>(item);
    const Index block = split(rest, shape.runs);
    const int64_t start = 4 * static_cast<int64_t>(block) - shape.skip;
    T* to = out + static_cast<int64_t>(rest) * shape.width + start;

    NoiseRow row;
    row.x1 = static_cast<uint32_t>(shape.offset1 + split(rest, shape.size1));
    row.x0 = static_cast<uint32_t>(shape.offset0 + split(rest, shape.size0));
    row.channel = static_cast<uint32_t>(split(rest, shape.channels));
    row.key = keys.of[rest];
    T value[4];
    block_values(row, shape.first + static_cast<int32_t>(block), value);
    if (start >= 0 && start + 4 <= shape.width && aligned<T, 4>(to)) {
      store_words(to, value);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (start + i >= 0 && start + i < shape.width) to[i] = value[i];
    }
  }
}

template <typename T>
Status fill(T* out, int64_t batch, int64_t channels, const NoiseView& noise, void* stream) {
  if (batch > kMostSamples) {
    const int64_t sample = channels * noise.size[0] * noise.size[1] * noise.size[2];
    const Status status = fill(out, kMostSamples, channels, noise, stream);
    if (status.code != Status::ok) return status;
    NoiseView rest = noise;
    rest.seed += kMostSamples;
    return fill(out + kMostSamples * sample, batch - kMostSamples, channels, rest, stream);
  }
  NoiseKeys keys{};
  for (int64_t b = 0; b < batch; ++b) keys.of[b] = noise_key(noise.seed[b], noise.purpose, noise.step);
  NoiseShape shape{};
  shape.channels = channels;
  shape.size0 = noise.size[0], shape.size1 = noise.size[1], shape.width = noise.size[2];
  shape.offset0 = noise.offset[0], shape.offset1 = noise.offset[1];
  shape.first = static_cast<int32_t>(noise.offset[2] >> 2);
  shape.skip = static_cast<int32_t>(noise.offset[2] & 3);
  shape.runs = shape.width > 0 ? (shape.skip + shape.width + 3) / 4 : 0;
  shape.items = batch * channels * shape.size0 * shape.size1 * shape.runs;
  if (shape.items <= int64_t{0xffffffff}) {
    return launch(canvas_noise_kernel<T, uint32_t>, shape.items, out, stream, out, keys, shape);
  }
  return launch(canvas_noise_kernel<T, int64_t>, shape.items, out, stream, out, keys, shape);
}

}  // namespace

Status canvas_noise(void* out /* [B,C,*S] */, DType out_dtype, int64_t batch, int64_t channels,
                    const NoiseView& noise, void* stream) {
  return with_type(out_dtype, [&](auto* type) {
    return fill(static_cast<decltype(type)>(out), batch, channels, noise, stream);
  });
}

Status canvas_integers(int64_t* out /* [B,C,*S] */, int64_t batch, int64_t channels, const NoiseView& noise,
                       void* stream) {
  return fill(out, batch, channels, noise, stream);
}

}  // namespace intarsia::cuda
