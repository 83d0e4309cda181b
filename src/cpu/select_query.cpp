// SPDX-License-Identifier: Apache-2.0
// Scope query: every query row is a group of its own, so a row is solved where its gates are made.
#include <cmath>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {

void select_queries(const SampleGates& sample, std::int64_t h, Selection& selection, const Runner& runner) {
  std::vector<TileScratch> scratch;
  for (std::int64_t worker = 0; worker < runner.workers(); ++worker) scratch.emplace_back(sample);
  runner(sample.chunks, [&](std::int64_t chunk, std::int64_t worker) {
    std::vector<std::uint64_t> order;
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      const float* gates = scratch[worker].gates.data();
      sample.gates(h, tile, 0, sample.strips, scratch[worker].widened.data(), scratch[worker].gates.data());
      for (std::int64_t c = 0; c < sample.blocks; ++c) selection.words_of(sample.b, h, c)[tile] = 0;
      for (std::int64_t row = 0; row < sample.rows_of(tile); ++row) {
        const std::int64_t own = sample.own[tile * gate_rows + row];
        GroupTotals totals;
        order.clear();
        for (std::int64_t c = 0; c < sample.blocks; ++c) {
          const float gate = gates[gate_place(row, c)];
          totals.add(gate, c == own);
          if (c != own) order.push_back(order_entry(gate, c));
        }
        const Budget budget = budget_of(sample.problem->policy(), 1, sample.blocks, totals);
        std::sort(order.begin(), order.end());
        std::int64_t taken = 0;
        if (budget.all) taken = static_cast<std::int64_t>(order.size());
        double weight = 0;
        while (taken < static_cast<std::int64_t>(order.size()) && !budget.reached(taken, weight)) {
          weight += budget.weight(gates[gate_place(row, static_cast<std::uint32_t>(order[taken]))]);
          ++taken;
        }
        const std::uint64_t bit = std::uint64_t{1} << row;
        selection.words_of(sample.b, h, own)[tile] |= bit;
        for (std::int64_t i = 0; i < taken; ++i) {
          selection.words_of(sample.b, h, static_cast<std::uint32_t>(order[i]))[tile] |= bit;
        }
      }
    }
  });
}

}  // namespace vmoba::cpu
