// SPDX-License-Identifier: Apache-2.0
// Scope query: every query row is a group of its own, so a tile of rows is solved where its gates are made.
//
// The tier's kernels bracket the cuts of 64 rows side by side; the few gates inside a row's bracket are ordered here,
// with the exact sums above it. A row whose gates are not finite, or whose bracket missed its cut, is sorted whole.
#include <array>

#include "cpu/select_sample.hpp"

namespace vmoba::cpu {
namespace {

struct Candidate {
  float gate;
  std::uint32_t block;
};

struct QueryScratch {
  TileScratch tile;
  Buffer<float> turned, values;
  Buffer<std::uint32_t> places;
  Buffer<std::uint64_t> words;
  std::vector<Candidate> candidates;
  std::vector<std::uint64_t> order;
  explicit QueryScratch(const SampleGates& sample)
      : tile(sample),
        turned(sample.columns() * gate_rows),
        values(sample.columns() * gate_rows + gate_strip),
        places(sample.columns() * gate_rows + gate_strip),
        words(sample.columns()) {}
};

// Sorts the others of one row and takes from the top; replaces the row's bits.
void solve_row(const SampleGates& sample, std::int64_t row, std::int64_t own, QueryScratch& scratch) {
  const float* gates = scratch.tile.gates.data();
  GroupTotals totals;
  std::vector<std::uint64_t>& order = scratch.order;
  order.clear();
  for (std::int64_t c = 0; c < sample.blocks; ++c) {
    const float gate = gates[gate_place(row, c)];
    totals.add(gate, c == own);
    if (c != own) order.push_back(order_entry(gate, c));
  }
  const Budget budget = budget_of(sample.problem->policy(), 1, sample.blocks, totals);
  std::sort(order.begin(), order.end());
  const std::uint64_t bit = std::uint64_t{1} << row;
  for (std::int64_t c = 0; c < sample.blocks; ++c) scratch.words[c] &= ~bit;
  scratch.words[own] |= bit;
  double weight = 0;
  for (std::int64_t taken = 0; taken < static_cast<std::int64_t>(order.size()); ++taken) {
    if (!budget.all && budget.reached(taken, weight)) break;
    const auto block = static_cast<std::uint32_t>(order[taken]);
    weight += budget.weight(gates[gate_place(row, block)]);
    scratch.words[block] |= bit;
  }
}

// Takes the row's candidates, best first, until the budget is met. False when the bracket missed the cut.
bool take_candidates(const Budget& budget, Candidate* first, Candidate* last, bool everything, std::int64_t taken,
                     double sum, std::int64_t row, std::uint64_t* words) {
  if (budget.reached(taken, budget.weight(taken, sum))) return false;
  std::sort(first, last, [](const Candidate& a, const Candidate& b) {
    return a.gate != b.gate ? a.gate > b.gate : a.block < b.block;
  });
  for (; first != last; ++first) {
    ++taken;
    sum += first->gate;
    words[first->block] |= std::uint64_t{1} << row;
    if (budget.reached(taken, budget.weight(taken, sum))) return true;
  }
  return everything;
}

void solve_tile(const SampleGates& sample, std::int64_t h, std::int64_t tile, QueryScratch& scratch) {
  const std::int64_t rows = sample.rows_of(tile), columns = sample.columns(), lanes = sample.kernels->lanes;
  const std::int32_t* own = sample.own + tile * gate_rows;
  const float* gates = scratch.tile.gates.data();
  sample.gates(h, tile, 0, sample.strips, scratch.tile.widened.data(), scratch.tile.gates.data());

  for (std::int64_t strip = 0; strip < sample.strips && rows < gate_rows; ++strip) {  // rows that do not exist
    float* const from = scratch.tile.gates.data() + (strip * gate_rows + rows) * gate_strip;
    std::fill_n(from, (gate_rows - rows) * gate_strip, 0.0f);
  }

  std::array<float, gate_rows> least, greatest, needed, lo, hi, above;
  std::array<double, gate_rows> sums, above_sums;
  std::array<Budget, gate_rows> budgets;
  std::array<bool, gate_rows> sound;
  GateQueries queries{.gates = gates,
                      .strips = sample.strips,
                      .blocks = sample.blocks,
                      .turned = scratch.turned.data(),
                      .least = least.data(),
                      .greatest = greatest.data(),
                      .sums = sums.data(),
                      .by_count = std::holds_alternative<TopK>(sample.problem->policy()),
                      .needed = needed.data(),
                      .lo = lo.data(),
                      .hi = hi.data(),
                      .words = scratch.words.data(),
                      .above = above.data(),
                      .above_sums = above_sums.data(),
                      .values = scratch.values.data(),
                      .places = scratch.places.data()};
  sample.kernels->turn(queries);
  for (std::int64_t row = 0; row < gate_rows; ++row) {
    needed[row] = 0;
    sound[row] = row < rows && std::isfinite(sums[row]) && std::isfinite(least[row]) && std::isfinite(greatest[row]);
    if (!sound[row]) continue;
    GroupTotals totals;
    totals.least = least[row];
    totals.greatest = greatest[row];
    totals.sum = sums[row];
    totals.own_sum = gates[gate_place(row, own[row])];
    totals.finite = sample.blocks;
    totals.own_finite = 1;
    budgets[row] = budget_of(sample.problem->policy(), 1, sample.blocks, totals);
    needed[row] = queries.by_count ? static_cast<float>(budgets[row].count)
                                   : static_cast<float>(budgets[row].target * budgets[row].range);
    scratch.turned[(row / lanes * columns + own[row]) * lanes + row % lanes] = -std::numeric_limits<float>::infinity();
  }
  const std::int64_t found = sample.kernels->bracket(queries);

  // Lists per row, blocks ascending within each.
  std::array<std::int64_t, gate_rows + 1> ends{};
  for (std::int64_t i = 0; i < found; ++i) ++ends[scratch.places[i] % gate_rows + 1];
  for (std::int64_t row = 0; row < gate_rows; ++row) ends[row + 1] += ends[row];
  scratch.candidates.resize(static_cast<std::size_t>(found));
  std::array<std::int64_t, gate_rows> next;
  std::copy(ends.begin(), ends.end() - 1, next.begin());
  for (std::int64_t i = 0; i < found; ++i) {
    const std::uint32_t place = scratch.places[i];
    scratch.candidates[next[place % gate_rows]++] = {scratch.values[i], static_cast<std::uint32_t>(place / gate_rows)};
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    Candidate* const list = scratch.candidates.data();
    if (!sound[row] ||
        !take_candidates(budgets[row], list + ends[row], list + ends[row + 1], lo[row] <= least[row],
                         static_cast<std::int64_t>(above[row]), above_sums[row], row, scratch.words.data())) {
      solve_row(sample, row, own[row], scratch);
    }
    scratch.words[own[row]] |= std::uint64_t{1} << row;
  }
  const std::uint64_t used = ~std::uint64_t{0} >> (gate_rows - rows);
  for (std::int64_t c = 0; c < sample.blocks; ++c) scratch.words[c] &= used;
}

}  // namespace

void select_queries(const SampleGates& sample, Selection& selection, const Runner& runner) {
  PerWorker<QueryScratch> scratch(sample, runner);
  runner(sample.problem->heads() * sample.chunks, [&](std::int64_t item, const Runner& worker) {
    const std::int64_t h = item / sample.chunks, chunk = item % sample.chunks;
    QueryScratch& mine = scratch.of(worker);
    for (std::int64_t tile = sample.first_tile(chunk); tile < sample.end_tile(chunk); ++tile) {
      solve_tile(sample, h, tile, mine);
      for (std::int64_t c = 0; c < sample.blocks; ++c) {
        selection.words_of(sample.b, h, c)[tile] = mine.words[c];
      }
    }
  });
}

std::int64_t select_queries_bytes(const SampleGates& sample, std::int64_t workers) {
  const std::int64_t columns = sample.columns();
  return workers * (TileScratch::bytes(sample.strips, sample.problem->dim()) +
                    columns * (gate_rows * (4 + 8 + 8) + 8 + 16) + 2 * gate_strip * 8);
}

}  // namespace vmoba::cpu
