// SPDX-License-Identifier: Apache-2.0
// The sure way to solve a group: a radix walk to the exact gate of the cut, then ties in order (block, token, head).
//
// It assumes nothing about the gates, needs no more than counters, and takes six gate products: totals, three levels of
// the walk (11 + 11 + 10 bits of the order key), ties per block, and the bits. select_bracket.cpp does ordinary groups
// in one or two; this is for the rest.
#include <array>
#include <cmath>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {
namespace {

// Calls visit(h, row, block, gate) for every pair of the group in one tile, own pairs included, in fixed order.
template <class Visit>
void for_pairs(const SampleGates& sample, const Group& group, std::int64_t tile, const TileScratch& scratch,
               const Visit& visit) {
  const std::int64_t first_strip = group.c0 / gate_strip, end_strip = (group.c1 + gate_strip - 1) / gate_strip;
  const std::int64_t rows = sample.rows_of(tile);
  for (std::int64_t h = group.h0; h < group.h1; ++h) {
    sample.gates(h, tile, first_strip, end_strip - first_strip, scratch.widened.data(), scratch.gates.data());
    for (std::int64_t c = group.c0; c < group.c1; ++c) {
      const float* column =
          scratch.gates.data() + (c / gate_strip - first_strip) * gate_rows * gate_strip + c % gate_strip;
      for (std::int64_t row = 0; row < rows; ++row) visit(h, row, c, column[row * gate_strip]);
    }
  }
}

GroupTotals totals_of(const SampleGates& sample, const Group& group, PerWorker<TileScratch>& scratch,
                      const Runner& runner) {
  std::vector<GroupTotals> parts(static_cast<std::size_t>(sample.chunks));
  runner(sample.chunks, [&](std::int64_t chunk, const Runner& worker) {
    GroupTotals& part = parts[chunk];
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      const std::int32_t* own = sample.own + tile * gate_rows;
      for_pairs(sample, group, tile, scratch.of(worker),
                [&](std::int64_t, std::int64_t row, std::int64_t c, float gate) { part.add(gate, own[row] == c); });
    }
  });
  GroupTotals totals;
  for (const GroupTotals& part : parts) totals.add(part);
  return totals;
}

// Where the cut falls: all others with a greater key are taken, and the first `ties` of those with this key.
struct ExactCut {
  std::uint32_t key = 0;
  std::int64_t ties = 0;
};

struct Bin {
  std::int64_t count = 0;
  double weight = 0;
};

ExactCut find_cut(const SampleGates& sample, const Group& group, const Budget& budget, PerWorker<TileScratch>& scratch,
                  const Runner& runner) {
  struct Level {
    int shift, bits;
  };
  constexpr std::array<Level, 3> levels{{{21, 11}, {10, 11}, {0, 10}}};
  std::uint32_t prefix = 0;  // of the key, above the level's bits
  std::int64_t taken = 0;    // others above the bin the cut is in
  double weight = 0;
  std::int64_t last_count = 0;
  double last_weight = 0;
  for (const Level& level : levels) {
    const std::int64_t bins = std::int64_t{1} << level.bits;
    std::vector<Bin> parts(static_cast<std::size_t>(bins * sample.chunks));
    runner(sample.chunks, [&](std::int64_t chunk, const Runner& worker) {
      Bin* part = parts.data() + chunk * bins;
      for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
        const std::int32_t* own = sample.own + tile * gate_rows;
        for_pairs(sample, group, tile, scratch.of(worker),
                  [&](std::int64_t, std::int64_t row, std::int64_t c, float gate) {
                    const std::uint64_t key = order_key(gate);
                    if (own[row] == c || key >> (level.shift + level.bits) != prefix) return;
                    Bin& bin = part[(key >> level.shift) & static_cast<std::uint64_t>(bins - 1)];
                    ++bin.count;
                    bin.weight += budget.weight(gate);
                  });
      }
    });
    for (std::int64_t chunk = 1; chunk < sample.chunks; ++chunk) {
      for (std::int64_t i = 0; i < bins; ++i) {
        parts[i].count += parts[chunk * bins + i].count;
        parts[i].weight += parts[chunk * bins + i].weight;
      }
    }
    std::int64_t bin = bins - 1;
    std::int64_t lowest = 0;
    while (lowest < bins - 1 && parts[lowest].count == 0) ++lowest;
    // The lowest bin that holds anything ends the walk even when rounding leaves the budget just out of reach.
    for (; bin > lowest; --bin) {
      if (parts[bin].count > 0 && budget.reached(taken + parts[bin].count, weight + parts[bin].weight)) break;
      taken += parts[bin].count;
      weight += parts[bin].weight;
    }
    prefix = prefix << level.bits | static_cast<std::uint32_t>(bin);
    last_count = parts[bin].count;
    last_weight = parts[bin].weight;
  }
  // last_count pairs share the key of the cut: the fewest that are enough.
  const double one = last_count > 0 ? last_weight / static_cast<double>(last_count) : 0;
  std::int64_t low = 0, high = last_count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (budget.reached(taken + middle, weight + static_cast<double>(middle) * one)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return {prefix, low};
}

}  // namespace

void select_exact(const SampleGates& sample, const Group& group, Selection& selection, const Runner& runner,
                  PerWorker<TileScratch>& scratch) {
  const std::int64_t queries = sample.tokens * (group.h1 - group.h0);
  const Budget budget =
      budget_of(sample.problem->policy(), queries, sample.blocks, totals_of(sample, group, scratch, runner));
  ExactCut cut;  // key 0 is below every gate: all
  if (!budget.all)
    cut = budget.by_count && budget.count == 0 ? ExactCut{~0u, 0} : find_cut(sample, group, budget, scratch, runner);

  // Ties are shared out by block, then by chunk; the one chunk of the one block where they run out is gone through by
  // hand.
  const std::int64_t width = group.c1 - group.c0;
  std::vector<std::int64_t> ties(static_cast<std::size_t>(sample.chunks * width));  // [chunks][width], then quotas
  runner(sample.chunks, [&](std::int64_t chunk, const Runner& worker) {
    std::int64_t* mine = ties.data() + chunk * width;
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      const std::int32_t* own = sample.own + tile * gate_rows;
      for_pairs(sample, group, tile, scratch.of(worker),
                [&](std::int64_t, std::int64_t row, std::int64_t c, float gate) {
                  mine[c - group.c0] += own[row] != c && order_key(gate) == cut.key;
                });
    }
  });
  std::int64_t split_chunk = -1, split_block = -1, split_ties = 0;
  for (std::int64_t c = 0, left = cut.ties; c < width; ++c) {
    for (std::int64_t chunk = 0; chunk < sample.chunks; ++chunk) {
      std::int64_t& here = ties[chunk * width + c];
      if (here > left && left > 0) {
        split_chunk = chunk;
        split_block = group.c0 + c;
        split_ties = left;
      }
      const std::int64_t all = here <= left ? here : 0;
      left -= std::min(here, left);
      here = all;  // 0: none of them (or some, if this is the split)
    }
  }

  runner(sample.chunks, [&](std::int64_t chunk, const Runner& worker) {
    const std::int64_t* whole = ties.data() + chunk * width;
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      const std::int32_t* own = sample.own + tile * gate_rows;
      for (std::int64_t h = group.h0; h < group.h1; ++h) {
        for (std::int64_t c = group.c0; c < group.c1; ++c) selection.words_of(sample.b, h, c)[tile] = 0;
      }
      for_pairs(sample, group, tile, scratch.of(worker),
                [&](std::int64_t h, std::int64_t row, std::int64_t c, float gate) {
                  const std::uint32_t key = order_key(gate);
                  const bool taken = own[row] == c || key > cut.key || (key == cut.key && whole[c - group.c0] > 0);
                  selection.words_of(sample.b, h, c)[tile] |= static_cast<std::uint64_t>(taken) << row;
                });
    }
  });

  if (split_chunk < 0) return;
  // Tokens ascending, heads within a token. A pass finds the tied heads of a tile, 64 rows a word.
  const Group column{group.h0, group.h1, split_block, split_block + 1};
  std::vector<std::uint64_t> tied(static_cast<std::size_t>(group.h1 - group.h0));
  for (std::int64_t tile = sample.first_tile(split_chunk); tile < sample.end_tile(split_chunk) && split_ties > 0;
       ++tile) {
    const std::int32_t* own = sample.own + tile * gate_rows;
    std::fill(tied.begin(), tied.end(), 0);
    for_pairs(sample, column, tile, scratch.of(runner),
              [&](std::int64_t h, std::int64_t row, std::int64_t c, float gate) {
                tied[h - group.h0] |= static_cast<std::uint64_t>(own[row] != c && order_key(gate) == cut.key) << row;
              });
    for (std::int64_t row = 0; row < sample.rows_of(tile) && split_ties > 0; ++row) {
      for (std::int64_t h = group.h0; h < group.h1 && split_ties > 0; ++h) {
        if (!(tied[h - group.h0] >> row & 1)) continue;
        selection.words_of(sample.b, h, split_block)[tile] |= std::uint64_t{1} << row;
        --split_ties;
      }
    }
  }
}

std::int64_t select_exact_bytes(const SampleGates& sample, std::int64_t width) {
  const std::int64_t bins = 2048 * static_cast<std::int64_t>(sizeof(Bin));
  const std::int64_t per_chunk = std::max(bins, width * 8) + static_cast<std::int64_t>(sizeof(GroupTotals));
  return sample.chunks * per_chunk + sample.problem->heads() * 8;
}

}  // namespace vmoba::cpu
