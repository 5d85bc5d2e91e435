// SPDX-License-Identifier: Apache-2.0
// What every driver of emulated kernels has: the buffers of a call, and what went wrong in it.
#pragma once

#include <cuda_runtime.h>

#include "intarsia.h"

inline void* const kStream = &emulation::buffers;

inline const char* complaint(const intarsia::Status& status) {
  if (status.code != intarsia::Status::ok) return status.detail;
  return emulation::faults == 0 ? nullptr : "a load missed every buffer or its alignment";
}

extern "C" {

void start(const int64_t* begins, const int64_t* sizes, int count, unsigned most_blocks) {
  emulation::buffers.clear();
  for (int i = 0; i < count; ++i) {
    emulation::buffers.emplace_back(static_cast<uintptr_t>(begins[i]),
                                    static_cast<uintptr_t>(begins[i] + sizes[i]));
  }
  emulation::most_blocks = most_blocks;
  emulation::launches = emulation::faults = emulation::device = 0;
  emulation::device_seen = -1;
}
int launches() {
  return emulation::launches;
}
int device_seen() {
  return emulation::device_seen;
}
int device_after() {
  return emulation::device;
}

}  // extern "C"
