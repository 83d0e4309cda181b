// SPDX-License-Identifier: Apache-2.0
// The quick way to solve groups of finite gates: bracket the cut from a few rows, then make bits in one pass.
//
//   draw     gates of one row in 8 to 64, other rows for every 64 blocks
//   bracket  where the budget meets the drawn pairs, several standard errors wide: some 3 % of the pairs lie inside
//   sweep    gates of every tile, read while they are in cache: least, greatest and sums per group, bits of gates
//            above the bracket, their exact number and sum, and a list of the pairs inside
//   resolve  a histogram of the list finds the bin of the cut, a sort of that bin the cut itself
//
// What the rows drawn say is only trusted to save work. The budget comes from the sums of the sweep, and whether the
// cut lies in the bracket is checked with exact numbers; if not, a wider bracket is swept once more, of the side where
// the cut must be. Rows that vary together make wide brackets: where the list of one would be too long, a sweep counts
// its pairs bin by bin first, and the bin of the cut is the bracket of the next. What then is left (a value that very
// many pairs share, gates that are not finite) goes to select_exact.
#include <numeric>

#include "cpu/select_bracket_parts.hpp"

namespace vmoba::cpu {
namespace {

constexpr std::int64_t small_group = 16384;  // pairs; up to it every one is on the list and nothing is drawn

}  // namespace

BracketScratch::BracketScratch(const SampleGates& sample)
    : widened(gate_rows * sample.problem->dim()),
      gates(sweep_pairs),
      values(sweep_pairs + gate_strip),
      words(sweep_strips * gate_strip),
      places(sweep_pairs + gate_strip) {}

std::int64_t BracketScratch::bytes(std::int64_t dim) {
  return gate_rows * dim * 4 + (3 * sweep_pairs + 2 * gate_strip) * 4 + sweep_strips * gate_strip * 8 +
         static_cast<std::int64_t>(sizeof(BracketScratch));
}

BracketSolver::BracketSolver(const SampleGates& sample, std::int64_t heads, bool by_column,
                             PerWorker<BracketScratch>& scratch)
    : sample_(sample),
      heads_(heads),
      by_column_(by_column),
      small_(is_small(sample, heads, by_column)),
      step_(draw_step(sample, heads, by_column)),
      drawn_tiles_((sample.tokens + gate_rows * step_ - 1) / (gate_rows * step_)),
      drawn_(small_ ? 0 : heads * drawn_tiles_ * gate_rows * sample.columns()),
      lo_(sample.columns()),
      hi_(sample.columns()),
      scratch_(scratch) {
  const std::int64_t parts = std::max(sample.chunks, std::min(most_parts, heads * drawn_tiles_));
  for (std::int64_t i = 0; i < parts; ++i) sums_.emplace_back(sample.columns());
  inside_.resize(static_cast<std::size_t>(parts));
}

BracketSolver::~BracketSolver() = default;

// Totals of every group from the first `parts` parts, in order.
void BracketSolver::total(std::vector<Group>& groups, std::int64_t parts, GroupTotals Group::*which) const {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(groups.size()); ++i) {
    GroupTotals& totals = groups[i].*which;
    totals = {};
    for (std::int64_t part = 0; part < parts; ++part) {
      const Sums& sums = sums_[part];
      for (std::int64_t c = first_column(i); c < end_column(i); ++c) {
        totals.least = std::min(totals.least, sums.least[c]);
        totals.greatest = std::max(totals.greatest, sums.greatest[c]);
        totals.sum += sums.sums[c];
        totals.own_sum += sums.own_sums[c];
        totals.finite += sums.counts[c];
        totals.own_finite += sums.own_counts[c];
      }
    }
  }
}

// What lies above the brackets, and a histogram of what lies inside.
void BracketSolver::tally(std::vector<Group>& groups, std::int64_t parts) const {
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(groups.size()); ++i) {
    Group& group = groups[i];
    group.above = 0;
    group.above_sum = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      for (std::int64_t c = first_column(i); c < end_column(i); ++c) {
        group.above += sums_[part].above_counts[c];
        group.above_sum += sums_[part].above_sums[c];
      }
    }
    const GroupTotals& totals = group.totals.finite > 0 ? group.totals : group.drawn;
    group.list.start(std::max(lo_[first_column(i)], totals.least), std::min(hi_[first_column(i)], totals.greatest),
                     by_column_ && !small_ ? column_bins(heads_ * sample_.tokens) : list_bins(false));
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    const Inside& list = inside_[part];
    if (by_column_) {
      for (std::size_t i = 0; i < list.values.size(); ++i) {
        Group& group = groups[list.places[i] / gate_rows];
        if (!group.exact) group.list.add(list.values[i]);  // else it may be infinite
      }
    } else {
      for (const float value : list.values) groups[0].list.add(value);
    }
  }
}

void BracketSolver::set_bounds(const std::vector<Group>& groups) {
  for (std::int64_t c = 0; c < sample_.columns(); ++c) {
    const Group* group = c < sample_.blocks ? &groups[group_of(c)] : nullptr;
    lo_[c] = group && !group->exact ? group->lo : nobody;
    hi_[c] = group && !group->exact ? group->hi : nobody;
  }
}

std::vector<std::int64_t> BracketSolver::solve(std::int64_t h0, Selection& selection, const Runner& runner) {
  std::vector<Group> groups(static_cast<std::size_t>(by_column_ ? sample_.blocks : 1));
  std::vector<std::int64_t> left(groups.size());
  std::iota(left.begin(), left.end(), 0);
  // Groups whose gates are not finite are left out; false when no other is there.
  const auto keep_finite = [&](GroupTotals Group::*which) {
    bool any = false;
    for (Group& group : groups) {
      const GroupTotals& totals = group.*which;
      group.exact |= !std::isfinite(totals.sum) || !std::isfinite(totals.least) || !std::isfinite(totals.greatest);
      group.open &= !group.exact;
      any |= !group.exact;
    }
    return any;
  };
  if (!small_) {
    draw(h0, runner);
    total(groups, std::min(most_parts, heads_ * drawn_tiles_), &Group::drawn);
    if (!keep_finite(&Group::drawn)) return left;
  }
  const auto set_budget = [&](Group& group) {
    group.budget = budget_of(sample_.problem->policy(), group.totals.own_finite, sample_.blocks, group.totals);
  };
  const auto note_miss = [](Group& group) {
    const bool higher = group.budget.reached(group.above, group.budget.weight(group.above, group.above_sum));
    (higher ? group.floor : group.ceiling) = higher ? group.hi : group.lo;
    group.open = true;
    group.crowded = false;
  };
  for (const double errors : {4.5, 16.0}) {
    if (!small_) find_brackets(groups, errors, runner);
    if (groups[0].crowded || !sweep(h0, groups, selection, runner)) {
      if (by_column_) return left;
      count(h0, groups, selection, runner);
      if (!keep_finite(&Group::totals)) return left;
      set_budget(groups[0]);
      if (!narrow(groups[0])) {
        note_miss(groups[0]);
        continue;
      }
      if (groups[0].exact || !sweep(h0, groups, selection, runner)) return left;
    }
    if (!keep_finite(&Group::totals)) return left;
    tally(groups, sample_.chunks);
    bool missed = false;
    for (Group& group : groups) {
      if (group.exact) continue;
      set_budget(group);
      group.open = !locate(group);
      if (group.open) note_miss(group);
      missed |= group.open;
    }
    if (!missed) break;
  }
  for (Group& group : groups) group.exact |= group.open;
  resolve(h0, groups, selection, runner);
  std::erase_if(left, [&](std::int64_t i) { return !groups[i].exact; });
  return left;
}

bool BracketSolver::is_small(const SampleGates& sample, std::int64_t heads, bool by_column) {
  return heads * sample.tokens * (by_column ? 1 : sample.blocks) <= small_group;
}

// Room for brackets of several times the width expected. By it a value that very many pairs share is told from
// rounding.
std::int64_t BracketSolver::list_limit(const SampleGates& sample, std::int64_t heads, bool by_column) {
  const std::int64_t pairs = heads * sample.tokens * sample.blocks;
  if (is_small(sample, heads, by_column)) return pairs;
  const bool few = heads == 1 || pairs < std::int64_t{1} << 23;
  return std::max(by_column ? pairs / 5 : few ? pairs / 8 : pairs / 16, std::int64_t{131072});
}

BracketSolver::Bytes BracketSolver::bytes(const SampleGates& sample, std::int64_t heads, bool by_column,
                                          std::int64_t workers) {
  const std::int64_t columns = sample.columns(), groups = by_column ? sample.blocks : 1;
  const std::int64_t pairs = heads * sample.tokens * sample.blocks, step = draw_step(sample, heads, by_column);
  const std::int64_t tiles = heads * ((sample.tokens + gate_rows * step - 1) / (gate_rows * step));
  const std::int64_t parts = std::max(sample.chunks, std::min(most_parts, tiles));
  // Lists grow chunk by chunk, and a vector that grows holds its old and its new memory.
  const std::int64_t listed = std::min(pairs, list_limit(sample, heads, by_column) + workers * sweep_pairs);
  const std::int64_t close = std::min(pairs, most_close(by_column) * groups);
  const auto per_group =
      static_cast<std::int64_t>(sizeof(Group)) +
      list_bins(by_column && !is_small(sample, heads, by_column)) * static_cast<std::int64_t>(sizeof(Histogram::Bin));
  return {
      .kept = (tiles * gate_rows * columns + 2 * columns) * 4 +
              parts * (columns * Sums::bytes_a_column + static_cast<std::int64_t>(sizeof(Sums) + sizeof(Inside))) +
              3 * listed * 8 + 2 * heads * sample.tiles * 8,
      .call =
          4 * close * static_cast<std::int64_t>(sizeof(Pair)) + groups * per_group +
          (by_column ? 0 : (sample.chunks + 1) * list_bins(false) * static_cast<std::int64_t>(sizeof(Histogram::Bin))) +
          (by_column ? workers : 1) *
              (4 * 16384 * 2 + list_bins(by_column && !is_small(sample, heads, by_column)) * 16 +
               (by_column ? tiles * gate_rows * (gate_strip + 1) * 4 : 0))};
}

}  // namespace vmoba::cpu
