// SPDX-License-Identifier: Apache-2.0
// The quick way to solve the groups of a head, or of all heads that share budgets.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {

// A solver and its memory, for one head after another (heads = 1) or for all heads of a sample at once. by_column:
// every block is a group of its own (scope block); else all pairs of the heads are one group.
class BracketSolver {
 public:
  BracketSolver(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t workers);
  ~BracketSolver();
  // Selects for heads [h0, h0 + heads). False: these groups need select_exact, which writes every word anew.
  bool solve(std::int64_t h0, Selection& selection, const Runner& runner);

  static constexpr std::int64_t plane_limit = std::int64_t{1} << 24;  // bytes of gates kept: 33K tokens by 128 blocks
  // Pairs that the list of `rows` query rows may hold; by it a value that many pairs share is told from rounding.
  static std::int64_t list_limit(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t rows);
  // The most that a solver holds, and that a call of solve allocates beside it.
  struct Bytes {
    std::int64_t kept, call;
  };
  static Bytes bytes(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t workers);

 private:
  struct Group;
  struct Inside;
  struct Worker;
  template <class Own>
  float* make_tile(std::int64_t h, std::int64_t tile, Worker& worker, const Own& own) const;
  bool measure(std::int64_t h0, std::vector<Group>& groups, const Runner& runner);
  void draw(std::int64_t head, std::int64_t tile, const float* gates);
  void bracket(Group& group, const float* drawn, std::int64_t size) const;
  bool emit(std::int64_t h0, std::vector<Group>& groups, std::vector<Inside>& inside, Selection& selection,
            const Runner& runner);
  bool resolve(std::int64_t h0, std::vector<Group>& groups, const std::vector<Inside>& inside, Selection& selection,
               const Runner& runner);
  template <class Visit>
  void for_inside(const Inside& list, std::int64_t chunk, std::int64_t h0, const Visit& visit) const;

  const SampleGates& sample_;
  std::int64_t heads_;
  bool by_column_;
  std::int64_t drawn_per_column_;
  Buffer<float> drawn_;    // [columns][heads][tiles][2]
  Buffer<float> lo_, hi_;  // [columns]
  Buffer<float> plane_;    // [tiles][strips][64][16], or none
  std::vector<Worker> workers_;
};

}  // namespace vmoba::cpu
