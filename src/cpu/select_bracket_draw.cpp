// SPDX-License-Identifier: Apache-2.0
// Rows drawn from a head, and the brackets that follow from them.
#include <numeric>

#include "cpu/select_bracket_parts.hpp"

namespace vmoba::cpu {

// One row in 8 to 64: a row drawn costs its gates, and rows left out make the brackets wider and the lists longer, by
// the root of the step over the pairs. Both together are least where the step grows as the cube root of the pairs. Rows
// that are not one below the other in the grid, whose x they would share.
std::int64_t BracketSolver::draw_step(const SampleGates& sample, std::int64_t heads, bool by_column) {
  const std::int64_t rows = heads * sample.tokens, pairs = rows * sample.blocks;
  const auto root = static_cast<std::int64_t>(std::cbrt(static_cast<double>(by_column ? rows : pairs)));
  std::int64_t step =
      by_column ? std::clamp<std::int64_t>(root / 2, 8, 32) : std::clamp<std::int64_t>(root / 3, 12, 64);
  step = std::max(step, pairs >> 22);
  while (std::gcd(step, sample.problem->sample(sample.b).partition->grid().x) != 1) ++step;
  return step;
}

// Gates of the rows drawn, with own pairs and rows that do not exist at -inf, and their sums.
void BracketSolver::draw(std::int64_t h0, const Runner& runner) {
  const std::int64_t columns = sample_.columns(), tiles = heads_ * drawn_tiles_, parts = std::min(most_parts, tiles);
  runner(parts, [&](std::int64_t part, const Runner& worker) {
    Sums& sums = sums_[part];
    sums.clear(columns);
    for (std::int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
      const std::int64_t h = h0 + tile / drawn_tiles_, first = tile % drawn_tiles_ * gate_rows * step_;
      for (std::int64_t strip = 0; strip < sample_.strips; strip += draw_strips) {
        const std::int64_t count = std::min(draw_strips, sample_.strips - strip), c0 = strip * gate_strip;
        const std::int64_t row0 = first + (3 * h + 5 * tile + 7 * (strip / draw_strips)) % step_;
        const std::int64_t rows = std::clamp<std::int64_t>((sample_.tokens - row0 + step_ - 1) / step_, 0, gate_rows);
        float* const gates = drawn_.data() + (tile * sample_.strips + strip) * gate_rows * gate_strip;
        if (rows > 0) {
          sample_.gates(h, {row0, step_, rows}, strip, count, scratch_.of(worker).widened.data(), gates);
          sample_.kernels->stats(gates, count, rows, sums.least.data() + c0, sums.greatest.data() + c0,
                                 sums.sums.data() + c0);
        }
        for (std::int64_t row = 0; row < rows; ++row) {
          const std::int64_t c = sample_.own[row0 + row * step_] - c0;
          if (c < 0 || c >= count * gate_strip) continue;
          float& gate = gates[gate_place(row, c)];
          sums.own_sums[c0 + c] += gate;
          ++sums.own_counts[c0 + c];
          gate = -infinity;
        }
        for (std::int64_t i = 0; i < count; ++i) {
          std::fill_n(gates + (i * gate_rows + rows) * gate_strip, (gate_rows - rows) * gate_strip, -infinity);
        }
        for (std::int64_t c = c0; c < c0 + count * gate_strip; ++c) sums.counts[c] += rows;
      }
    }
  });
}

// Makes lists and numbers of the rows drawn, against brackets from some 4,000 of a group's pairs.
void BracketSolver::look(std::vector<Group>& groups, const Runner& runner) {
  const std::int64_t tiles = heads_ * drawn_tiles_, parts = std::min(most_parts, tiles);
  set_bounds(groups);
  runner(parts, [&](std::int64_t part, const Runner& worker) {
    Sums& sums = sums_[part];
    Inside& list = inside_[part];
    sums.clear_above(sample_.columns());
    list.clear();
    for (std::int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
      for (std::int64_t strip = 0; strip < sample_.strips; strip += sweep_strips) {
        emit(drawn_.data() + (tile * sample_.strips + strip) * gate_rows * gate_strip, strip, gate_rows, sums, list,
             scratch_.of(worker));
      }
    }
  });
  tally(groups, parts);
}

// What the best others of the drawn pairs have to weigh, when the least gate of the group is `least`.
struct BracketSolver::Wanted {
  bool by_count = false;
  double need = 0, least = 0;
  // By how much n others of this sum exceed it.
  double excess(double n, double sum) const { return by_count ? n - need : sum - n * least - need; }
};

BracketSolver::Wanted BracketSolver::wanted(const GroupTotals& drawn, double least) const {
  const auto pairs = static_cast<double>(drawn.finite), own = static_cast<double>(drawn.own_finite);
  if (const auto* top = std::get_if<TopK>(&sample_.problem->policy())) {
    const auto others = static_cast<double>(std::max<std::int64_t>(1, sample_.blocks - 1));
    return {true, (pairs - own) * static_cast<double>(std::min(top->k, sample_.blocks) - 1) / others, least};
  }
  const double tau = std::get<Threshold>(sample_.problem->policy()).tau;
  return {false, std::max(0.0, tau * (drawn.sum - pairs * least) - (drawn.own_sum - own * least)), least};
}

// Some 4,000 of the gates drawn of all columns.
std::vector<float> BracketSolver::some_drawn(const Group& group) const {
  const std::int64_t tiles = heads_ * drawn_tiles_;
  const std::int64_t others = group.drawn.finite - group.drawn.own_finite;
  std::int64_t every = 1;
  while (every < 16 && others > 8192 * every) every *= 2;
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(tiles * gate_rows / every * sample_.columns()));
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    for (std::int64_t c = 0; c < sample_.blocks; ++c) {
      const float* column =
          drawn_.data() + (tile * sample_.strips + c / gate_strip) * gate_rows * gate_strip + c % gate_strip;
      for (std::int64_t row = (c + every / 2) % every; row < gate_rows; row += every) {
        if (column[row * gate_strip] != -infinity) values.push_back(column[row * gate_strip]);
      }
    }
  }
  return values;
}

// A bracket of the drawn pairs' cut, from some of them; all finite.
void BracketSolver::guess(Group& group, std::span<const float> values) const {
  const std::int64_t others = group.drawn.finite - group.drawn.own_finite;
  float least = infinity;
  for (const float value : values) least = std::min(least, value);
  group.lo = -FLT_MAX;
  group.hi = FLT_MAX;
  if (values.empty()) return;
  const double share = static_cast<double>(others) / static_cast<double>(values.size());
  const Wanted near = wanted(group.drawn, group.drawn.least);
  const double range = static_cast<double>(group.drawn.greatest) - group.drawn.least;
  group.reach = std::max(0.1 * range, 2 * (static_cast<double>(least) - group.drawn.least));

  double above = 0, above_sum = 0;
  float low = group.drawn.least, high = group.drawn.greatest;
  Histogram histogram;
  for (int level = 0; level < 4 && low < high; ++level) {
    histogram.start(low, high, list_bins(by_column_));
    for (const float value : values) {
      if (value >= low && value <= high) histogram.add(value);
    }
    double n = above, sum = above_sum;
    for (std::int64_t bin = histogram.size() - 1; bin >= 0; --bin) {
      n += static_cast<double>(histogram.bins[bin].count);
      sum += histogram.bins[bin].sum;
      if (near.excess(n * share, sum * share) >= 0) break;
    }
    const double margin = 8 + 8 * std::sqrt(n * std::max(0.0, 1 - n / static_cast<double>(values.size())));
    double seen = above, seen_sum = above_sum, inside = 0;
    float next_low = low, next_high = high;
    for (std::int64_t i = histogram.size() - 1; i >= 0; --i) {
      const auto count = static_cast<double>(histogram.bins[i].count);
      if (seen + count <= n - margin) {
        group.hi = next_high = histogram.edge(i);
        above = seen + count;
        above_sum = seen_sum + histogram.bins[i].sum;
      } else {
        inside += count;
      }
      seen += count;
      seen_sum += histogram.bins[i].sum;
      if (seen >= n + margin) {
        group.lo = next_low = histogram.edge(i);
        break;
      }
    }
    if (inside <= 4 * margin || (next_low <= low && next_high >= high)) break;
    low = next_low;
    high = next_high;
  }
}

// Standard error of what the drawn pairs of a group weigh above `cut`. Pairs of one row vary together, so it is taken
// from the differences between rows drawn one after the other, a quarter of them; that also leaves out what changes
// slowly from row to row, which rows drawn at even distances catch.
double BracketSolver::spread(const Group& group, std::span<const float> column, float cut) const {
  const bool by_count = std::holds_alternative<TopK>(sample_.problem->policy());
  const float least = group.drawn.least;
  const double others = static_cast<double>(group.drawn.finite - group.drawn.own_finite);
  const auto* rule = std::get_if<Threshold>(&sample_.problem->policy());
  const float tau = static_cast<float>(rule ? rule->tau : wanted(group.drawn, least).need / std::max(1.0, others));
  constexpr std::int64_t apart = 8;
  double squares = 0;
  const auto compare = [&](float a, float b) { squares += static_cast<double>(a - b) * (a - b) / 2; };
  const auto weight = [&](float drawn) {
    const float gate = drawn > least ? drawn : least;
    return (by_count ? 1 : gate - least) * (gate > cut ? 1 - tau : -tau);
  };
  for (std::size_t row = 0; row < column.size(); row += apart) compare(weight(column[row]), weight(column[row + 1]));
  for (std::int64_t tile = 0; tile < heads_ * drawn_tiles_ && column.empty(); ++tile) {
    const float* const gates = drawn_.data() + tile * sample_.strips * gate_rows * gate_strip;
    for (std::int64_t strip = 0; strip < sample_.strips; strip += draw_strips) {
      for (std::int64_t row = 0; row < gate_rows; row += apart) {
        float weights[2];
        for (std::int64_t next = 0; next < 2; ++next) {
          const float* from = gates + (strip * gate_rows + row + next) * gate_strip;
          float lanes[gate_strip] = {};
          for (std::int64_t i = 0; i < std::min(draw_strips, sample_.strips - strip); ++i) {
            for (std::int64_t lane = 0; lane < gate_strip; ++lane) lanes[lane] += weight(from[lane]);
            from += gate_rows * gate_strip;
          }
          weights[next] = std::accumulate(lanes, lanes + gate_strip, 0.0f);
        }
        compare(weights[0], weights[1]);
      }
    }
  }
  return std::sqrt(squares * apart);
}

// The bracket of a group, from the numbers and the list of its drawn pairs against the guess it holds. False when the
// guess is too narrow for it.
bool BracketSolver::bracket(Group& group, std::span<const float> column, double errors) const {
  const bool wide_hi = group.hi == FLT_MAX, wide_lo = group.lo == -FLT_MAX;
  // The least of all gates lies somewhat below that of the drawn ones, unless a sweep has found it.
  const bool swept = group.totals.finite > 0;
  const double least = swept ? group.totals.least : group.drawn.least;
  const Wanted near = wanted(group.drawn, least), far = wanted(group.drawn, least - (swept ? 0 : group.reach));
  const Histogram& list = group.list;
  const auto others = static_cast<double>(group.drawn.finite - group.drawn.own_finite);

  auto n = static_cast<double>(group.above), sum = group.above_sum;
  if (near.excess(n, sum) >= 0 && !wide_hi) return false;
  float cut = list.edge(0);
  for (std::int64_t i = list.size() - 1; i >= 0; --i) {
    n += static_cast<double>(list.bins[i].count);
    sum += list.bins[i].sum;
    if (near.excess(n, sum) < 0) continue;
    cut = list.edge(i);
    break;
  }
  const double margin =
      errors * spread(group, column, cut) + 8 * (near.by_count ? 1 : static_cast<double>(cut) - near.least);

  n = static_cast<double>(group.above);
  sum = group.above_sum;
  float hi = group.hi, lo = -FLT_MAX;
  if (std::max(near.excess(n, sum), far.excess(n, sum)) > -margin && !wide_hi) return false;
  double inside = 0;
  for (std::int64_t i = list.size() - 1; i >= 0 && lo == -FLT_MAX; --i) {
    const auto count = static_cast<double>(list.bins[i].count);
    n += count;
    sum += list.bins[i].sum;
    inside += list.edge(i) < group.ceiling && list.edge(i + 1) > group.floor ? count : 0;
    if (std::max(near.excess(n, sum), far.excess(n, sum)) <= -margin) {
      hi = list.edge(i);
      inside = 0;
    } else if (std::min(near.excess(n, sum), far.excess(n, sum)) >= margin) {
      lo = list.edge(i);
    }
  }
  if (lo == -FLT_MAX && !wide_lo) return false;
  group.expected = inside / std::max(1.0, others);
  if (hi <= group.floor || lo >= group.ceiling) {  // on the wrong side altogether: all of the right one
    hi = FLT_MAX;
    lo = -FLT_MAX;
    group.expected = 1;
  }
  group.lo = std::max(lo, group.floor);
  group.hi = std::min(hi, group.ceiling);
  return true;
}

// Brackets of the groups of one strip's columns, whose drawn gates are put side by side first: columns, [16][rows]. A
// guess from a quarter of them narrows a column down, the others are looked at where they are.
void BracketSolver::bracket_columns(std::vector<Group>& groups, std::int64_t strip, double errors,
                                    float* columns) const {
  const std::int64_t tiles = heads_ * drawn_tiles_, rows = tiles * gate_rows, every = 4;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const float* from = drawn_.data() + (tile * sample_.strips + strip) * gate_rows * gate_strip;
    for (std::int64_t lane = 0; lane < gate_strip; ++lane) {
      float* to = columns + lane * rows + tile * gate_rows;
      for (std::int64_t row = 0; row < gate_rows; ++row) to[row] = from[row * gate_strip + lane];
    }
  }
  std::vector<float> some;
  some.reserve(static_cast<std::size_t>(rows));
  for (std::int64_t c = strip * gate_strip; c < std::min((strip + 1) * gate_strip, sample_.blocks); ++c) {
    Group& group = groups[c];
    if (!group.open) continue;
    const std::span<const float> column(columns + c % gate_strip * rows, static_cast<std::size_t>(rows));
    some.clear();
    for (std::int64_t row = 0; row < rows; row += every) {
      if (column[row] != -infinity) some.push_back(column[row]);
    }
    guess(group, some);
    for (int attempt = 0; attempt < 2 && group.open; ++attempt) {
      const float lo = group.lo, hi = group.hi;
      std::int64_t above = 0;
      double above_sum = 0;
      std::size_t inside = 0;
      some.resize(column.size());
      for (const float gate : column) {  // no branches: where a gate lies is as good as random
        above += gate > hi;
        above_sum += gate > hi ? gate : 0;
        some[inside] = gate;
        inside += (gate >= lo) & (gate <= hi);
      }
      group.above = above;
      group.above_sum = above_sum;
      group.list.start(std::max(lo, group.drawn.least), std::min(hi, group.drawn.greatest), list_bins(true));
      for (std::size_t i = 0; i < inside; ++i) group.list.add(some[i]);
      group.open = !bracket(group, column, errors);
      if (!group.open) break;
      group.lo = -FLT_MAX;
      group.hi = FLT_MAX;
    }
  }
}

// The bracket of the one group of all columns.
void BracketSolver::bracket_all(std::vector<Group>& groups, double errors, const Runner& runner) {
  Group& group = groups[0];
  guess(group, some_drawn(group));
  for (int attempt = 0; attempt < 2 && group.open; ++attempt) {
    look(groups, runner);
    group.open = !bracket(group, {}, errors);
    if (!group.open) break;
    group.lo = -FLT_MAX;
    group.hi = FLT_MAX;
  }
}

// Brackets of the groups that lack one. Where the lists would be too long, the one group is marked as crowded; of
// columns, those with the longest are left to select_exact.
void BracketSolver::find_brackets(std::vector<Group>& groups, double errors, const Runner& runner) {
  if (by_column_) {
    const std::int64_t rows = heads_ * drawn_tiles_ * gate_rows;
    const Buffer<float> columns(runner.workers() * gate_strip * rows);
    runner(sample_.strips, [&](std::int64_t strip, const Runner& worker) {
      bracket_columns(groups, strip, errors, columns.data() + worker.worker() * gate_strip * rows);
    });
  } else {
    bracket_all(groups, errors, runner);
  }
  const double pairs = static_cast<double>(heads_ * sample_.tokens * (by_column_ ? 1 : sample_.blocks));
  double listed = 0;
  std::vector<Group*> longest;
  for (Group& group : groups) {
    listed += group.expected * pairs;
    longest.push_back(&group);
  }
  std::sort(longest.begin(), longest.end(), [](const Group* a, const Group* b) { return a->expected > b->expected; });
  for (Group* group : longest) {
    if (listed <= 0.8 * static_cast<double>(list_limit(sample_, heads_, by_column_))) break;
    listed -= group->expected * pairs;
    (by_column_ ? group->exact : group->crowded) = true;
  }
}

}  // namespace vmoba::cpu
