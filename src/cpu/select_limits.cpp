// SPDX-License-Identifier: Apache-2.0
// Floors and caps, after the budget: a query under the floor gets its best others, a query over the cap loses its
// worst.
#include <variant>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {

namespace {

// order: the row's others, best first. taken: [N], own included in `selected`.
void limit_row(const std::uint64_t* order, std::int64_t others, std::int64_t least, std::int64_t most,
               std::int64_t selected, std::uint8_t* taken) {
  for (std::int64_t i = 0; i < others && selected < least; ++i) {
    std::uint8_t& one = taken[static_cast<std::uint32_t>(order[i])];
    selected += !one;
    one = 1;
  }
  for (std::int64_t i = others - 1; i >= 0 && selected > most; --i) {
    std::uint8_t& one = taken[static_cast<std::uint32_t>(order[i])];
    selected -= one;
    one = 0;
  }
}

}  // namespace

Limits limits_of(const Policy& policy, std::int64_t blocks) {
  return std::visit(
      [&](const auto& rule) -> Limits {
        if constexpr (requires { rule.min_blocks; }) {
          return {std::min(rule.min_blocks, blocks), std::min(rule.max_blocks.value_or(blocks), blocks)};
        } else {
          return {1, blocks};
        }
      },
      policy);
}

void apply_limits(const SampleGates& sample, Selection& selection, const Runner& runner,
                  PerWorker<TileScratch>& scratch) {
  const Limits limits = limits_of(sample.problem->policy(), sample.blocks);
  runner(sample.problem->heads() * sample.chunks, [&](std::int64_t item, const Runner& worker) {
    const std::int64_t h = item / sample.chunks, chunk = item % sample.chunks;
    const TileScratch& tiles = scratch.of(worker);
    std::vector<std::uint64_t> order;
    std::vector<std::uint8_t> taken(static_cast<std::size_t>(sample.blocks));
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      std::array<std::int64_t, gate_rows> counts{};
      for (std::int64_t c = 0; c < sample.blocks; ++c) {
        for (std::uint64_t word = selection.words_of(sample.b, h, c)[tile]; word != 0; word &= word - 1) {
          ++counts[static_cast<std::size_t>(std::countr_zero(word))];
        }
      }
      bool made = false;  // gates are made only for tiles that need them
      for (std::int64_t row = 0; row < sample.rows_of(tile); ++row) {
        if (counts[row] >= limits.least && counts[row] <= limits.most) continue;
        if (!made) {
          sample.gates(h, tile, 0, sample.strips, tiles.widened.data(), tiles.gates.data());
          made = true;
        }
        order.clear();
        for (std::int64_t c = 0; c < sample.blocks; ++c) {
          taken[c] = selection.words_of(sample.b, h, c)[tile] >> row & 1;
          if (c == sample.own[tile * gate_rows + row]) continue;
          order.push_back(order_entry(tiles.gates[gate_place(row, c)], c));
        }
        std::sort(order.begin(), order.end());
        limit_row(order.data(), static_cast<std::int64_t>(order.size()), limits.least, limits.most, counts[row],
                  taken.data());
        for (std::int64_t c = 0; c < sample.blocks; ++c) {
          std::uint64_t& word = selection.words_of(sample.b, h, c)[tile];
          word = (word & ~(std::uint64_t{1} << row)) | static_cast<std::uint64_t>(taken[c]) << row;
        }
      }
    }
  });
}

}  // namespace vmoba::cpu
