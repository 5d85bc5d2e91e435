// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <new>
#include <vector>

#include "common/leapfrog.h"
#include "cpu/entry.h"
#include "cpu/parallel.h"
#include "cpu/simd.h"

namespace intarsia::cpu::INTARSIA_ISA {
namespace {

constexpr int64_t kPiece = 1 << 16;  // bytes

// One sample of one tensor that is not where it should be.
struct Move {
  char* to;
  const char* from;
  bool negate;
};

template <class A>
void negate(char* to, const char* from, int64_t bytes) {
  A* o = reinterpret_cast<A*>(to);
  const A* p = reinterpret_cast<const A*>(from);
  constexpr A sign = A(1) << (8 * sizeof(A) - 1);
  for (int64_t j = 0; j < bytes / static_cast<int64_t>(sizeof(A)); ++j) o[j] = p[j] ^ sign;
}

void carry_out(const Move& move, int64_t at, int64_t bytes, DType dtype) {
  if (!move.negate) {
    memcpy(move.to + at, move.from + at, bytes);
  } else if (dtype == DType::f64) {
    negate<uint64_t>(move.to + at, move.from + at, bytes);
  } else if (dtype == DType::f32) {
    negate<uint32_t>(move.to + at, move.from + at, bytes);
  } else {
    negate<uint16_t>(move.to + at, move.from + at, bytes);
  }
}

void decide(const SelectView& select, int64_t b) {
  const double p = acceptance(select, b);
  select.probability[b] = p;
  select.accepted[b] = at(select.uniform, b) < p;
}

void copy_energies(const SelectView& select, int64_t b) {
  const PhaseView& kept = select.accepted[b] ? select.proposed : select.current;
  const int64_t width = element_size(select.energy_dtype);
  const auto copy = [b](void* to, const void* from, int64_t size) {
    memmove(static_cast<char*>(to) + b * size, static_cast<const char*>(from) + b * size, size);
  };
  copy(select.out.energy, kept.energy, width);
  copy(select.out.kinetic_energy, kept.kinetic_energy, 8);
}

}  // namespace

Status metropolis_select(const SelectView& select, int threads) {
  const int64_t bytes = select.size * element_size(select.dtype);
  std::vector<Move> moves;
  try {
    moves.reserve(3 * select.batch);
  } catch (const std::bad_alloc&) {
    return {Status::out_of_memory};
  }
  for (int64_t b = 0; b < select.batch; ++b) {
    decide(select, b);
    copy_energies(select, b);
    const PhaseView& kept = select.accepted[b] ? select.proposed : select.current;
    const auto plan = [&](void* to, const void* from, bool negated) {
      if (to && (to != from || negated)) {
        moves.push_back(
            {static_cast<char*>(to) + b * bytes, static_cast<const char*>(from) + b * bytes, negated});
      }
    };
    plan(select.out.position, kept.position, false);
    plan(select.out.momentum, kept.momentum, !select.accepted[b]);
    plan(select.out.gradient, kept.gradient, false);
  }
  const int64_t pieces = (bytes + kPiece - 1) / kPiece, count = static_cast<int64_t>(moves.size());
  share_out(count * pieces, team_size(threads, 2 * count * bytes), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t start = i % pieces * kPiece;
      carry_out(moves[i / pieces], start, std::min(kPiece, bytes - start), select.dtype);
    }
  });
  return {};
}

}  // namespace intarsia::cpu::INTARSIA_ISA
