// SPDX-License-Identifier: Apache-2.0
// What the parts of select share: the gates of one sample, tile by tile, and who runs the items of a step.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "cpu/crew.hpp"
#include "cpu/gate_item.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::cpu {

// Uninitialised memory of 64-byte alignment.
template <class Element>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t size)
      : data_(static_cast<Element*>(
            ::operator new[](sizeof(Element) * static_cast<std::size_t>(size), std::align_val_t{64}))) {}
  Element* data() const { return data_.get(); }
  Element& operator[](std::int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(Element* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<Element, Free> data_;
};

// Order of gates as integers: greater key, better gate. NaN counts as -inf, and both zeros are the same.
inline std::uint32_t order_key(float gate) {
  const auto bits = std::bit_cast<std::uint32_t>(gate + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x007fffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
inline float from_order_key(std::uint32_t key) {
  return std::bit_cast<float>(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Sorting these ascending puts the pairs of one row in order: greater gate, then lower block (the low 32 bits).
inline std::uint64_t order_entry(float gate, std::int64_t block) {
  return static_cast<std::uint64_t>(~order_key(gate)) << 32 | static_cast<std::uint64_t>(block);
}
// Where (row, block column) of a tile is.
inline std::int64_t gate_place(std::int64_t row, std::int64_t c) {
  return (c / gate_strip * gate_rows + row) * gate_strip + c % gate_strip;
}

// One sample during a select. Rows here are video tokens.
struct SampleGates {
  const Problem* problem;
  const GateKernels* kernels;
  ConstView q, k;  // resolved
  std::int64_t b;
  std::int64_t tokens, blocks;  // S, N
  std::int64_t strips;          // ceil(N / 16)
  std::int64_t tiles;           // ceil(S / 64)
  std::int64_t chunk_tiles;     // tiles of a chunk: the unit of work and of fixed-order sums
  std::int64_t chunks;
  const std::int32_t* own;  // [S]
  float* panels;            // [G][strips][D][16]

  SampleGates(const Problem& problem, const GateKernels& kernels, const ConstView& q, const ConstView& k,
              std::int64_t b);
  std::int64_t panels_size() const { return problem->kv_heads() * strips * problem->dim() * gate_strip; }
  std::int64_t columns() const { return strips * gate_strip; }
  std::int64_t rows_of(std::int64_t tile) const { return std::min(gate_rows, tokens - tile * gate_rows); }
  std::int64_t first_tile(std::int64_t chunk) const { return chunk * chunk_tiles; }
  std::int64_t end_tile(std::int64_t chunk) const { return std::min(tiles, (chunk + 1) * chunk_tiles); }

  // Fills the column of a block in panels[g0, g0 + mean_heads), whose heads are read together where they lie side by
  // side: fewer jumps from row to row, and longer reads. sums and mean: [mean_heads][D] scratch.
  static constexpr std::int64_t mean_heads = 4;
  void means(std::int64_t block, std::int64_t g0, double* sums, float* mean) const;
  // Gates of 1..64 rows of head h against strips [strip, strip + count).
  struct Rows {
    std::int64_t first, step, count;
    bool widened = false;  // they lie in `widened` already, from the call before
  };
  void gates(std::int64_t h, const Rows& rows, std::int64_t strip, std::int64_t count, float* widened,
             float* out) const;
  void gates(std::int64_t h, std::int64_t tile, std::int64_t strip, std::int64_t count, float* widened,
             float* out) const {
    gates(h, Rows{tile * gate_rows, 1, rows_of(tile)}, strip, count, widened, out);
  }
};

// Scratch of one worker.
struct TileScratch {
  Buffer<float> widened;  // [64][D]
  Buffer<float> gates;    // [strips][64][16]
  explicit TileScratch(const SampleGates& sample)
      : widened(gate_rows * sample.problem->dim()), gates(sample.columns() * gate_rows) {}
  static std::int64_t bytes(std::int64_t strips, std::int64_t dim) {
    return gate_rows * 4 * (dim + strips * gate_strip);
  }
};

// A Scratch for every worker that asks for one, made then.
template <class Scratch>
class PerWorker {
 public:
  PerWorker(const SampleGates& sample, const Runner& runner)
      : sample_(sample), all_(static_cast<std::size_t>(runner.workers())) {}
  Scratch& of(const Runner& runner) {
    std::unique_ptr<Scratch>& mine = all_[static_cast<std::size_t>(runner.worker())];
    if (!mine) mine = std::make_unique<Scratch>(sample_);
    return *mine;
  }

 private:
  const SampleGates& sample_;
  std::vector<std::unique_ptr<Scratch>> all_;
};

// The pairs that share one budget: heads [h0, h1) by blocks [c0, c1) of one sample. Scope head: one head, all blocks;
// scope block: all heads, one block; scope all: everything.
struct Group {
  std::int64_t h0, h1, c0, c1;
};

// Totals of a group, from which its budget follows. Sums and extremes are over finite gates.
struct GroupTotals {
  float least = std::numeric_limits<float>::infinity(), greatest = -std::numeric_limits<float>::infinity();
  double sum = 0, own_sum = 0;                  // of finite gates; own: of own pairs only
  std::int64_t finite = 0, own_finite = 0;      // their numbers
  std::int64_t infinite = 0, own_infinite = 0;  // gates of +inf, which weigh 1
  void add(const GroupTotals& other);
  void add(float gate, bool own);
};

// What a group takes beyond its own pairs, in numbers.
struct Budget {
  bool all = false;       // every other pair
  bool by_count = false;  // TopK: exactly `count` others
  std::int64_t count = 0;
  double target = 0;  // Threshold: others until their weights first sum to it, at least one
  double least = 0, range = 1;
  // Weight of `n` finite gates summing to `sum`.
  double weight(std::int64_t n, double sum) const { return (sum - static_cast<double>(n) * least) / range; }
  // Weight of one gate: infinite ones weigh 1 and 0, NaN 0.
  double weight(float gate) const {
    return std::isfinite(gate) ? (static_cast<double>(gate) - least) / range : gate > 0 ? 1 : 0;
  }
  // Whether the best n others, of this weight, are enough.
  bool reached(std::int64_t n, double weight) const { return by_count ? n >= count : n >= 1 && weight >= target; }
};
// queries: query rows of the group, times its heads.
Budget budget_of(const Policy& policy, std::int64_t queries, std::int64_t blocks, const GroupTotals& totals);

// Solves one group whatever its gates are (ties without end, infinities, NaN): a radix walk to the exact gate of the
// cut, then ties in order. About six gate products; writes every word of the group. select_exact.cpp
void select_exact(const SampleGates& sample, const Group& group, Selection& selection, const Runner& runner,
                  PerWorker<TileScratch>& scratch);
std::int64_t select_exact_bytes(const SampleGates& sample, std::int64_t width);  // beside the scratch

// Scope query: every row is a group. select_query.cpp
void select_queries(const SampleGates& sample, Selection& selection, const Runner& runner);
std::int64_t select_queries_bytes(const SampleGates& sample, std::int64_t workers);

// Floors and caps, after the budget. select_limits.cpp
struct Limits {
  std::int64_t least, most;  // blocks a query, own counted
};
Limits limits_of(const Policy& policy, std::int64_t blocks);
void apply_limits(const SampleGates& sample, Selection& selection, const Runner& runner,
                  PerWorker<TileScratch>& scratch);

}  // namespace vmoba::cpu
