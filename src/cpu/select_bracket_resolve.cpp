// SPDX-License-Identifier: Apache-2.0
// The exact cut among the listed pairs, and their bits.
#include <tuple>

#include "cpu/select_bracket_parts.hpp"

namespace vmoba::cpu {

// Finds the bin of the cut among the listed pairs, and the exact numbers above it. False when the bracket missed it.
bool BracketSolver::locate(Group& group) const {
  const Budget& budget = group.budget;
  if (budget.reached(group.above, budget.weight(group.above, group.above_sum))) return false;
  group.taken = group.above;
  group.taken_sum = group.above_sum;
  for (group.cut_bin = group.list.size() - 1; group.cut_bin >= 0; --group.cut_bin) {
    const Histogram::Bin& bin = group.list.bins[group.cut_bin];
    const std::int64_t count = group.taken + bin.count;
    if (bin.count > 0 && budget.reached(count, budget.weight(count, group.taken_sum + bin.sum))) break;
    group.taken = count;
    group.taken_sum += bin.sum;
  }
  if (group.cut_bin < 0 && group.lo > -FLT_MAX) return false;  // else all others are taken
  group.exact = group.cut_bin >= 0 && group.list.bins[group.cut_bin].count > most_close(by_column_);
  group.take = group.list.begin(group.cut_bin + 1);
  group.close = group.list.begin(group.cut_bin);
  return true;
}

// Makes the bin of the cut, among the pairs counted, the bracket. False when the cut is in none of them.
bool BracketSolver::narrow(Group& group) const {
  if (!locate(group)) return false;
  const bool inside = group.cut_bin >= 0;  // else all others are taken
  group.exact = inside && group.list.bins[group.cut_bin].count > list_limit(sample_, heads_, by_column_);
  if (inside) group.lo = std::max(group.lo, group.close);
  if (group.cut_bin + 1 < group.list.size()) group.hi = inside ? std::nextafter(group.take, -infinity) : -FLT_MAX;
  return true;
}

// Sets the bits of listed pairs above the cuts.
void BracketSolver::resolve(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner) {
  for (std::int64_t c = 0; c < sample_.blocks; ++c) {  // the brackets have done their work
    const Group& group = groups[group_of(c)];
    hi_[c] = group.exact ? nobody : group.take;
    lo_[c] = group.exact ? nobody : group.close;
  }
  std::vector<std::vector<Pair>> close(static_cast<std::size_t>(sample_.chunks));
  runner(sample_.chunks, [&](std::int64_t chunk, const Runner&) {
    const Inside& list = inside_[chunk];
    const std::int64_t tiles = sample_.end_tile(chunk) - sample_.first_tile(chunk);
    const std::int64_t words_a_block = selection.shape(sample_.b).words();
    const float *take = hi_.data(), *least = lo_.data(), *values = list.values.data();
    const std::uint32_t* const places = list.places.data();
    std::int64_t i = 0;
    for (std::int64_t part = 0; part < static_cast<std::int64_t>(list.ends.size()); ++part) {
      const std::int64_t h = h0 + part / tiles, tile = sample_.first_tile(chunk) + part % tiles;
      std::uint64_t* const words = selection.words_of(sample_.b, h, 0) + tile;
      for (const std::int64_t end = list.ends[part]; i < end; ++i) {
        const float gate = values[i];
        const std::uint32_t c = places[i] / gate_rows, row = places[i] % gate_rows;
        const bool taken = gate >= take[c];  // as likely as not: no branch
        words[c * words_a_block] |= static_cast<std::uint64_t>(taken) << row;
        if ((gate >= least[c]) != taken) {
          close[chunk].push_back({static_cast<std::uint32_t>(group_of(c)), ~order_key(gate),
                                  static_cast<std::int32_t>(c), static_cast<std::int32_t>(tile * gate_rows + row),
                                  static_cast<std::int32_t>(h), gate});
        }
      }
    }
  });
  std::vector<Pair> pairs;
  for (const std::vector<Pair>& part : close) pairs.insert(pairs.end(), part.begin(), part.end());
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    return std::tie(a.group, a.order, a.c, a.token, a.h) < std::tie(b.group, b.order, b.c, b.token, b.h);
  });
  for (const Pair& pair : pairs) {
    Group& group = groups[pair.group];
    if (group.budget.reached(group.taken, group.budget.weight(group.taken, group.taken_sum))) continue;
    ++group.taken;
    group.taken_sum += pair.gate;
    selection.words_of(sample_.b, pair.h, pair.c)[pair.token / gate_rows] |= std::uint64_t{1} << pair.token % gate_rows;
  }
}

}  // namespace vmoba::cpu
