// SPDX-License-Identifier: Apache-2.0
// The quick way to solve the groups of a head, or of all heads that share budgets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {

struct Histogram;

// What a worker needs for the gates of a few strips, whoever's solver it works for.
struct BracketScratch {
  Buffer<float> widened, gates, values;
  Buffer<std::uint64_t> words;
  Buffer<std::uint32_t> places;
  explicit BracketScratch(const SampleGates& sample);
  static std::int64_t bytes(std::int64_t dim);
};

// A solver and its memory, for one head after another (heads = 1) or for all heads of a sample at once. by_column:
// every block is a group of its own (scope block); else all pairs of the heads are one group.
class BracketSolver {
 public:
  BracketSolver(const SampleGates& sample, std::int64_t heads, bool by_column, PerWorker<BracketScratch>& scratch);
  ~BracketSolver();
  // Selects for heads [h0, h0 + heads). Returns the groups (blocks if by_column, else 0) that need select_exact, which
  // writes their words anew.
  std::vector<std::int64_t> solve(std::int64_t h0, Selection& selection, const Runner& runner);

  // Rows of a head from one drawn row to the next, and pairs that the lists may hold together.
  static std::int64_t draw_step(const SampleGates& sample, std::int64_t heads, bool by_column);
  static std::int64_t list_limit(const SampleGates& sample, std::int64_t heads, bool by_column);
  // The most that a solver holds, and that a call of solve by so many workers allocates beside it and their scratch.
  struct Bytes {
    std::int64_t kept, call;
  };
  static Bytes bytes(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t workers);

 private:
  struct Group;
  struct Inside;
  struct Sums;
  struct Wanted;
  std::int64_t group_of(std::int64_t c) const { return by_column_ ? c : 0; }
  std::int64_t first_column(std::int64_t group) const { return by_column_ ? group : 0; }
  std::int64_t end_column(std::int64_t group) const { return by_column_ ? group + 1 : sample_.blocks; }
  void draw(std::int64_t h0, const Runner& runner);
  void total(std::vector<Group>& groups, std::int64_t parts, GroupTotals Group::*which) const;
  void tally(std::vector<Group>& groups, std::int64_t parts) const;
  void set_bounds(const std::vector<Group>& groups);
  void look(std::vector<Group>& groups, const Runner& runner);
  Wanted wanted(const GroupTotals& drawn, double least) const;
  std::vector<float> some_drawn(const Group& group) const;
  void guess(Group& group, std::span<const float> values) const;
  double spread(const Group& group, std::span<const float> column, float cut) const;
  bool bracket(Group& group, std::span<const float> column, double errors) const;
  void bracket_columns(std::vector<Group>& groups, std::int64_t strip, double errors, float* columns) const;
  void bracket_all(std::vector<Group>& groups, double errors, const Runner& runner);
  void find_brackets(std::vector<Group>& groups, double errors, const Runner& runner);
  void emit(const float* gates, std::int64_t strip, std::int64_t rows, Sums& sums, Inside& list,
            BracketScratch& worker) const;
  bool sweep(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner,
             Histogram* counted = nullptr);
  void count(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner);
  bool narrow(Group& group) const;
  bool locate(Group& group) const;
  void resolve(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner);
  static bool is_small(const SampleGates& sample, std::int64_t heads, bool by_column);

  const SampleGates& sample_;
  const std::int64_t heads_;
  const bool by_column_, small_;           // small: every pair of a group is on the list
  const std::int64_t step_, drawn_tiles_;  // every step-th row is drawn, in drawn_tiles tiles of 64 a head
  Buffer<float> drawn_;                    // [heads][drawn_tiles][strips][64][16]
  Buffer<float> lo_, hi_;                  // [columns]
  std::vector<Sums> sums_;                 // of a chunk, or of a drawn tile
  std::vector<Inside> inside_;             // the same
  PerWorker<BracketScratch>& scratch_;
};

}  // namespace vmoba::cpu
