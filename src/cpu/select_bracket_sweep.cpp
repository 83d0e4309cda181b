// SPDX-License-Identifier: Apache-2.0
// The pass over all gates: bits of what lies above the brackets, lists of what lies inside.
#include <atomic>

#include "cpu/select_bracket_parts.hpp"

namespace vmoba::cpu {

// Bits of one tile's columns from `strip` on, against the brackets; those within go to the list.
void BracketSolver::emit(const float* gates, std::int64_t strip, std::int64_t rows, Sums& sums, Inside& list,
                         BracketScratch& worker) const {
  const std::int64_t first = strip * gate_strip;
  const std::int64_t found = sample_.kernels->emit({.gates = gates,
                                                    .strips = std::min(sweep_strips, sample_.strips - strip),
                                                    .rows = rows,
                                                    .column = first,
                                                    .lo = lo_.data() + first,
                                                    .hi = hi_.data() + first,
                                                    .words = worker.words.data(),
                                                    .sums = sums.above_sums.data() + first,
                                                    .counts = sums.above_counts.data() + first,
                                                    .values = worker.values.data(),
                                                    .places = worker.places.data()});
  list.values.insert(list.values.end(), worker.values.data(), worker.values.data() + found);
  list.places.insert(list.places.end(), worker.places.data(), worker.places.data() + found);
}

// The pass over all gates. False when the lists grow too long. With `counted`, pairs inside the bracket go to its bins
// and no list is made.
bool BracketSolver::sweep(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner,
                          Histogram* counted) {
  const std::int64_t columns = sample_.columns(), limit = list_limit(sample_, heads_, by_column_);
  std::vector<Histogram> counts(counted ? static_cast<std::size_t>(sample_.chunks) : 0,
                                counted ? *counted : Histogram{});
  set_bounds(groups);
  std::atomic<std::int64_t> listed{0};
  runner(sample_.chunks, [&](std::int64_t chunk, const Runner& inside) {
    BracketScratch& worker = scratch_.of(inside);
    Sums& sums = sums_[chunk];
    Inside& list = inside_[chunk];
    sums.clear(columns);
    list.clear();
    for (std::int64_t h = h0; h < h0 + heads_; ++h) {
      std::uint64_t* const words = selection.words_of(sample_.b, h, 0);
      const std::int64_t words_a_block = selection.shape(sample_.b).words();
      for (std::int64_t tile = sample_.first_tile(chunk); tile < sample_.end_tile(chunk); ++tile) {
        const std::int64_t rows = sample_.rows_of(tile);
        const std::int32_t* const own = sample_.own + tile * gate_rows;
        const std::size_t before = list.values.size();
        for (std::int64_t strip = 0; strip < sample_.strips; strip += sweep_strips) {
          const std::int64_t count = std::min(sweep_strips, sample_.strips - strip), c0 = strip * gate_strip;
          float* const gates = worker.gates.data();
          sample_.gates(h, {tile * gate_rows, 1, rows, strip > 0}, strip, count, worker.widened.data(), gates);
          sample_.kernels->stats(gates, count, rows, sums.least.data() + c0, sums.greatest.data() + c0,
                                 sums.sums.data() + c0);
          const std::int64_t end = std::min(c0 + count * gate_strip, sample_.blocks);
          for (std::int64_t row = 0; row < rows; ++row) {
            if (own[row] < c0 || own[row] >= end) continue;
            float& gate = gates[gate_place(row, own[row] - c0)];
            sums.own_sums[own[row]] += gate;
            ++sums.own_counts[own[row]];
            gate = -infinity;
          }
          emit(gates, strip, rows, sums, list, worker);
          for (std::int64_t c = c0; c < end; ++c) {
            words[c * words_a_block + tile] = worker.words[c - c0];
            sums.counts[c] += rows;
          }
        }
        for (std::int64_t row = 0; row < rows; ++row) {
          words[own[row] * words_a_block + tile] |= std::uint64_t{1} << row;
        }
        if (counted) {
          for (const float gate : list.values) counts[chunk].add(gate);
          list.clear();
          continue;
        }
        list.ends.push_back(static_cast<std::int64_t>(list.values.size()));
        if ((listed += static_cast<std::int64_t>(list.values.size() - before)) > limit) return;
      }
    }
  });
  if (listed > limit) return false;
  total(groups, sample_.chunks, &Group::totals);
  for (const Histogram& part : counts) counted->add(part);
  return true;
}

// Counts what lies inside the bracket of the one group, bin by bin: two passes over all gates, where the list of one
// would be too long, are a fraction of what select_exact takes.
void BracketSolver::count(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner) {
  Group& group = groups[0];
  Histogram bins;
  const GroupTotals& known = group.totals.finite > 0 ? group.totals : group.drawn;
  // Gates beyond these ends fall into the first and last bin.
  bins.start(std::max(group.lo, known.least), std::min(group.hi, known.greatest), list_bins(false));
  sweep(h0, groups, selection, runner, &bins);
  tally(groups, sample_.chunks);
  group.list = std::move(bins);
}

}  // namespace vmoba::cpu
