// SPDX-License-Identifier: Apache-2.0
// The rotation's CUDA kernel as a plain library. Each tensor travels as nine 64-bit words: out, in, heads,
// then three strides of each.
#include "rope.cu"

extern "C" const char* rope(const int64_t* words, int count, int dtype, const int64_t* sizes,
                            const void* table, int per_sample, int interleaved, int inverse) {
  intarsia::HeadsView tensors[2];
  for (int i = 0; i < count; ++i, words += 9) {
    tensors[i].out = reinterpret_cast<void*>(words[0]);
    tensors[i].in = reinterpret_cast<const void*>(words[1]);
    tensors[i].heads = words[2];
    for (int axis = 0; axis < 3; ++axis) {
      tensors[i].out_stride[axis] = words[3 + axis], tensors[i].in_stride[axis] = words[6 + axis];
    }
  }
  intarsia::RotationView rotation;
  rotation.batch = sizes[0], rotation.tokens = sizes[1], rotation.pairs = sizes[2];
  rotation.table = table, rotation.table_per_sample = per_sample != 0;
  rotation.interleaved = interleaved != 0, rotation.inverse = inverse != 0;
  const intarsia::Status status = intarsia::cuda::rope(tensors, count, static_cast<intarsia::DType>(dtype),
                                                       rotation, &emulation::buffers);
  if (status.code != intarsia::Status::ok) return status.detail;
  return emulation::faults == 0 ? nullptr : "a load missed every buffer or its alignment";
}

extern "C" void start(const int64_t* begins, const int64_t* sizes, int count, unsigned most_blocks) {
  emulation::buffers.clear();
  for (int i = 0; i < count; ++i) {
    emulation::buffers.emplace_back(static_cast<uintptr_t>(begins[i]),
                                    static_cast<uintptr_t>(begins[i] + sizes[i]));
  }
  emulation::most_blocks = most_blocks;
  emulation::launches = emulation::faults = 0;
}

extern "C" int launches() {
  return emulation::launches;
}
