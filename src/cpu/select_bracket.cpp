// SPDX-License-Identifier: Apache-2.0
// The quick way to solve groups of finite gates: bracket the cut from a sample, then make the bits in one pass.
//
//   pass 1   gates of every tile; per group least, greatest and sums; one pair in 32 is drawn, in a fixed pattern
//   bracket  where the budget meets the drawn pairs, four standard errors wide: some 3 % of the pairs lie inside
//   pass 2   bits of gates above the bracket, their exact number and sum, and a list of the pairs inside
//   resolve  a histogram of the list finds the bin of the cut, a sort of that bin the cut itself
//
// Whether the cut is in the bracket is checked exactly; a group that misses, or whose list grows too long (a value that
// very many pairs share), is left to select_exact. One head keeps its gates between the passes up to plane_limit;
// beyond it, and when heads share a budget, pass 2 makes them again.
#include "cpu/select_bracket.hpp"

#include <cfloat>
#include <tuple>

namespace vmoba::cpu {
namespace {

constexpr std::int64_t small_group = 16384;  // others; up to it every pair is on the list

// Bins of a list, by which its cut is found, and pairs in the bins of all cuts together, which are sorted. More than
// that share one value.
std::int64_t list_bins(std::int64_t groups) {
  return std::clamp((std::int64_t{1} << 20) / groups, std::int64_t{256}, std::int64_t{1024});
}
std::int64_t most_close(std::int64_t groups) { return 4096 + 256 * groups; }

struct Pair {
  std::uint32_t group;
  std::uint32_t order;  // ascending: greater gate first
  std::int32_t c, token, h;
  float gate;
};
constexpr std::int64_t least_list = 4096;  // pairs a chunk may list in any case
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Histogram {
  struct Bin {
    std::int64_t count = 0;
    double sum = 0;
  };
  double low = 0, per_unit = 0;
  std::vector<Bin> bins;

  void start(double from, double to, std::int64_t size) {
    bins.assign(static_cast<std::size_t>(size), {});
    low = from;
    per_unit = to > from ? static_cast<double>(size) / (to - from) : 0;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(bins.size()); }
  // Never less for a greater gate.
  std::int64_t bin_of(float gate) const {
    const double place = (static_cast<double>(gate) - low) * per_unit;
    return std::clamp(static_cast<std::int64_t>(place), std::int64_t{0}, size() - 1);
  }
  void add(float gate) {
    Bin& bin = bins[bin_of(gate)];
    ++bin.count;
    bin.sum += gate;
  }
};

}  // namespace

// What is known of one group.
struct BracketSolver::Group {
  GroupTotals totals;
  Budget budget;
  float lo = 0, hi = 0;    // the bracket
  std::int64_t above = 0;  // others above it, exactly
  double above_sum = 0;
  Histogram list;            // of those inside
  std::int64_t cut_bin = 0;  // bins above are taken, this one in part
  std::int64_t taken = 0;    // others above the bin of the cut
  double taken_sum = 0;
};

// Pairs inside the brackets, of one chunk, tile after tile and head after head.
struct BracketSolver::Inside {
  std::vector<float> values;
  std::vector<std::uint32_t> places;
  std::vector<std::int64_t> ends;  // [heads of the unit * tiles of the chunk]
};

// Per-column numbers and lists of one worker.
struct BracketSolver::Worker {
  TileScratch tile;
  Buffer<float> least, greatest, values;
  Buffer<double> sums, own_sums;
  Buffer<std::int64_t> counts;
  Buffer<std::uint64_t> words;
  Buffer<std::uint32_t> places;
  explicit Worker(const SampleGates& sample)
      : tile(sample),
        least(sample.columns()),
        greatest(sample.columns()),
        values(sample.columns() * gate_rows + gate_strip),
        sums(sample.columns()),
        own_sums(sample.columns()),
        counts(sample.columns()),
        words(sample.columns()),
        places(sample.columns() * gate_rows + gate_strip) {}
};

BracketSolver::BracketSolver(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t workers)
    : sample_(sample),
      heads_(heads),
      by_column_(by_column),
      drawn_per_column_(2 * heads * sample.tiles),
      drawn_(sample.columns() * drawn_per_column_),
      lo_(sample.columns()),
      hi_(sample.columns()) {
  for (std::int64_t i = 0; i < workers; ++i) workers_.emplace_back(sample);
  if (heads == 1 && sample.tiles * gate_rows * sample.columns() * 4 <= plane_limit) {
    plane_ = Buffer<float>(sample.tiles * gate_rows * sample.columns());
  }
}

BracketSolver::~BracketSolver() = default;

// Makes the gates of a tile, with own pairs at -inf, after showing them to own(row, c, gate).
template <class Own>
float* BracketSolver::make_tile(std::int64_t h, std::int64_t tile, Worker& worker, const Own& own) const {
  float* const gates = plane_.data() ? plane_.data() + tile * gate_rows * sample_.columns() : worker.tile.gates.data();
  sample_.gates(h, tile, 0, sample_.strips, worker.tile.widened.data(), gates);
  own(gates);
  const std::int32_t* blocks = sample_.own + tile * gate_rows;
  for (std::int64_t row = 0; row < sample_.rows_of(tile); ++row) gates[gate_place(row, blocks[row])] = -infinity;
  return gates;
}

// Pass 1. False when a gate is not finite.
bool BracketSolver::measure(std::int64_t h0, std::vector<Group>& groups, const Runner& runner) {
  const std::int64_t columns = sample_.columns(), width = static_cast<std::int64_t>(groups.size());
  std::vector<GroupTotals> parts(static_cast<std::size_t>(sample_.chunks * width));
  runner(sample_.chunks, [&](std::int64_t chunk, std::int64_t which) {
    Worker& worker = workers_[which];
    std::fill_n(worker.least.data(), columns, infinity);
    std::fill_n(worker.greatest.data(), columns, -infinity);
    std::fill_n(worker.sums.data(), columns, 0.0);
    std::fill_n(worker.own_sums.data(), columns, 0.0);
    std::int64_t rows = 0;
    for (std::int64_t h = h0; h < h0 + heads_; ++h) {
      for (std::int64_t tile = sample_.first_tile(chunk); tile < sample_.end_tile(chunk); ++tile) {
        const std::int64_t here = sample_.rows_of(tile);
        rows += here;
        const float* gates = make_tile(h, tile, worker, [&](const float* all) {
          sample_.kernels->stats(all, sample_.strips, here, worker.least.data(), worker.greatest.data(),
                                 worker.sums.data());
          const std::int32_t* own = sample_.own + tile * gate_rows;
          for (std::int64_t row = 0; row < here; ++row) worker.own_sums[own[row]] += all[gate_place(row, own[row])];
        });
        draw(h - h0, tile, gates);
      }
    }
    for (std::int64_t c = 0; c < sample_.blocks; ++c) {
      GroupTotals column;
      column.least = worker.least[c];
      column.greatest = worker.greatest[c];
      column.sum = worker.sums[c];
      column.own_sum = worker.own_sums[c];
      column.finite = rows;
      parts[chunk * width + (by_column_ ? c : 0)].add(column);
    }
  });
  for (std::int64_t i = 0; i < width; ++i) {
    GroupTotals& totals = groups[i].totals;
    for (std::int64_t chunk = 0; chunk < sample_.chunks; ++chunk) totals.add(parts[chunk * width + i]);
    if (!std::isfinite(totals.sum) || !std::isfinite(totals.least) || !std::isfinite(totals.greatest)) return false;
    const Partition& partition = *sample_.problem->sample(sample_.b).partition;
    totals.own_finite = heads_ * (by_column_ ? partition.size(i) : sample_.tokens);
  }
  return true;
}

// Two gates a column and tile, from rows that go round: every row is drawn from about equally.
void BracketSolver::draw(std::int64_t head, std::int64_t tile, const float* gates) {
  const std::int64_t rows = sample_.rows_of(tile);
  float* const to = drawn_.data() + 2 * (head * sample_.tiles + tile);
  for (std::int64_t strip = 0; strip < sample_.strips; ++strip) {
    for (std::int64_t i = 0; i < 32; ++i) {
      const std::int64_t row = 2 * i + ((tile + strip) & 1), lane = (5 * i + 3 * tile + 7 * strip) & (gate_strip - 1);
      to[(strip * gate_strip + lane) * drawn_per_column_ + i / 16] =
          row < rows ? gates[(strip * gate_rows + row) * gate_strip + lane] : -infinity;
    }
  }
}

// The bracket of one group from its drawn gates, a contiguous run of columns.
void BracketSolver::bracket(Group& group, const float* drawn, std::int64_t size) const {
  const std::int64_t others = group.totals.finite - group.totals.own_finite;
  group.lo = -FLT_MAX;
  group.hi = FLT_MAX;
  if (others <= small_group) return;
  std::int64_t valid = 0;
  for (std::int64_t i = 0; i < size; ++i) valid += drawn[i] > -infinity;
  if (valid == 0) return;
  const double share = static_cast<double>(others) / static_cast<double>(valid);
  const Budget& budget = group.budget;
  const auto reached = [&](double n, double sum) {
    if (budget.by_count) return n * share >= static_cast<double>(budget.count);
    return (sum - n * budget.least) / budget.range * share >= budget.target;
  };
  double above = 0, above_sum = 0;
  float low = group.totals.least, high = group.totals.greatest;
  Histogram histogram;
  for (int level = 0; level < 4 && low < high; ++level) {
    histogram.start(low, high, 1024);
    for (std::int64_t i = 0; i < size; ++i) {
      if (drawn[i] >= low && drawn[i] <= high) histogram.add(drawn[i]);
    }
    double n = above, sum = above_sum;
    std::int64_t bin = histogram.size() - 1;
    for (; bin >= 0; --bin) {
      n += static_cast<double>(histogram.bins[bin].count);
      sum += histogram.bins[bin].sum;
      if (reached(n, sum)) break;
    }
    const double margin = 8 + 4 * std::sqrt(n * std::max(0.0, 1 - n / static_cast<double>(valid)));
    const auto edge = [&](std::int64_t i) {
      return static_cast<float>(low + static_cast<double>(i) / histogram.per_unit);
    };
    double seen = above, seen_sum = above_sum, inside = 0;
    float next_low = low, next_high = high;
    for (std::int64_t i = histogram.size() - 1; i >= 0; --i) {
      const auto count = static_cast<double>(histogram.bins[i].count);
      if (seen + count <= n - margin) {
        group.hi = next_high = edge(i);
        above = seen + count;
        above_sum = seen_sum + histogram.bins[i].sum;
      } else {
        inside += count;
      }
      seen += count;
      seen_sum += histogram.bins[i].sum;
      if (seen >= n + margin) {
        group.lo = next_low = edge(i);
        break;
      }
    }
    if (inside <= 4 * margin || (next_low <= low && next_high >= high)) break;
    low = next_low;
    high = next_high;
  }
}

// Pass 2. False when a list grows too long.
bool BracketSolver::emit(std::int64_t h0, std::vector<Group>& groups, std::vector<Inside>& inside, Selection& selection,
                         const Runner& runner) {
  const std::int64_t columns = sample_.columns(), width = static_cast<std::int64_t>(groups.size());
  bool all_listed = true;
  for (std::int64_t c = 0; c < columns; ++c) {
    const Group& group = groups[by_column_ && c < sample_.blocks ? c : 0];
    lo_[c] = c < sample_.blocks ? group.lo : infinity;
    hi_[c] = c < sample_.blocks ? group.hi : infinity;
    all_listed &= c >= sample_.blocks || group.lo == -FLT_MAX;
  }
  struct Part {
    std::int64_t count = 0;
    double sum = 0;
  };
  std::vector<Part> parts(static_cast<std::size_t>(sample_.chunks * width));
  std::atomic<bool> fits{true};
  runner(sample_.chunks, [&](std::int64_t chunk, std::int64_t which) {
    Worker& worker = workers_[which];
    Inside& list = inside[chunk];
    const std::int64_t first = sample_.first_tile(chunk), end = sample_.end_tile(chunk);
    const std::int64_t limit = all_listed ? std::numeric_limits<std::int64_t>::max()
                                          : list_limit(sample_, heads_, by_column_, (end - first) * gate_rows);
    std::fill_n(worker.sums.data(), columns, 0.0);
    std::fill_n(worker.counts.data(), columns, 0);
    for (std::int64_t h = h0; h < h0 + heads_; ++h) {
      for (std::int64_t tile = first; tile < end; ++tile) {
        const float* gates = plane_.data() ? plane_.data() + tile * gate_rows * columns
                                           : make_tile(h, tile, worker, [](const float*) {});
        const std::int64_t found = sample_.kernels->emit({.gates = gates,
                                                          .strips = sample_.strips,
                                                          .rows = sample_.rows_of(tile),
                                                          .lo = lo_.data(),
                                                          .hi = hi_.data(),
                                                          .words = worker.words.data(),
                                                          .sums = worker.sums.data(),
                                                          .counts = worker.counts.data(),
                                                          .values = worker.values.data(),
                                                          .places = worker.places.data()});
        const std::int32_t* own = sample_.own + tile * gate_rows;
        for (std::int64_t row = 0; row < sample_.rows_of(tile); ++row)
          worker.words[own[row]] |= std::uint64_t{1} << row;
        for (std::int64_t c = 0; c < sample_.blocks; ++c) selection.words_of(sample_.b, h, c)[tile] = worker.words[c];
        if (static_cast<std::int64_t>(list.values.size()) + found > limit) {
          fits = false;
          return;
        }
        list.values.insert(list.values.end(), worker.values.data(), worker.values.data() + found);
        list.places.insert(list.places.end(), worker.places.data(), worker.places.data() + found);
        list.ends.push_back(static_cast<std::int64_t>(list.values.size()));
      }
    }
    for (std::int64_t c = 0; c < sample_.blocks; ++c) {
      Part& part = parts[chunk * width + (by_column_ ? c : 0)];
      part.count += worker.counts[c];
      part.sum += worker.sums[c];
    }
  });
  if (!fits) return false;
  for (std::int64_t i = 0; i < width; ++i) {
    for (std::int64_t chunk = 0; chunk < sample_.chunks; ++chunk) {
      groups[i].above += parts[chunk * width + i].count;
      groups[i].above_sum += parts[chunk * width + i].sum;
    }
  }
  return true;
}

// visit(h, tile, row, c, gate) for every pair of a chunk's list, in order.
template <class Visit>
void BracketSolver::for_inside(const Inside& list, std::int64_t chunk, std::int64_t h0, const Visit& visit) const {
  const std::int64_t tiles = sample_.end_tile(chunk) - sample_.first_tile(chunk);
  const auto columns = static_cast<std::uint32_t>(sample_.columns());
  std::int64_t i = 0;
  for (std::int64_t part = 0; part < static_cast<std::int64_t>(list.ends.size()); ++part) {
    const std::int64_t h = h0 + part / tiles, tile = sample_.first_tile(chunk) + part % tiles;
    for (; i < list.ends[part]; ++i) {
      visit(h, tile, static_cast<std::int64_t>(list.places[i] / columns),
            static_cast<std::int64_t>(list.places[i] % columns), list.values[i]);
    }
  }
}

// Finds the cut of every group among the listed pairs and sets their bits. False when a bracket missed its cut.
bool BracketSolver::resolve(std::int64_t h0, std::vector<Group>& groups, const std::vector<Inside>& inside,
                            Selection& selection, const Runner& runner) {
  const std::int64_t bins = list_bins(static_cast<std::int64_t>(groups.size()));
  for (Group& group : groups) {
    group.list.start(std::max(group.lo, group.totals.least), std::min(group.hi, group.totals.greatest), bins);
  }
  for (std::int64_t chunk = 0; chunk < sample_.chunks; ++chunk) {
    for_inside(inside[chunk], chunk, h0, [&](std::int64_t, std::int64_t, std::int64_t, std::int64_t c, float gate) {
      groups[by_column_ ? c : 0].list.add(gate);
    });
  }
  std::int64_t all_close = 0;
  for (Group& group : groups) {
    const Budget& budget = group.budget;
    if (budget.reached(group.above, budget.weight(group.above, group.above_sum))) return false;
    group.taken = group.above;
    group.taken_sum = group.above_sum;
    for (group.cut_bin = bins - 1; group.cut_bin >= 0; --group.cut_bin) {
      const Histogram::Bin& bin = group.list.bins[group.cut_bin];
      const std::int64_t count = group.taken + bin.count;
      if (bin.count > 0 && budget.reached(count, budget.weight(count, group.taken_sum + bin.sum))) break;
      group.taken = count;
      group.taken_sum += bin.sum;
    }
    if (group.cut_bin < 0 && group.lo > -FLT_MAX) return false;  // else all others are taken
    if (group.cut_bin >= 0) all_close += group.list.bins[group.cut_bin].count;
    if (all_close > most_close(static_cast<std::int64_t>(groups.size()))) return false;
  }

  std::vector<std::vector<Pair>> close(static_cast<std::size_t>(sample_.chunks));
  runner(sample_.chunks, [&](std::int64_t chunk, std::int64_t) {
    for_inside(
        inside[chunk], chunk, h0, [&](std::int64_t h, std::int64_t tile, std::int64_t row, std::int64_t c, float gate) {
          const std::int64_t which = by_column_ ? c : 0;
          const Group& group = groups[which];
          const std::int64_t bin = group.list.bin_of(gate);
          if (bin > group.cut_bin) {
            selection.words_of(sample_.b, h, c)[tile] |= std::uint64_t{1} << row;
          } else if (bin == group.cut_bin) {
            close[chunk].push_back({static_cast<std::uint32_t>(which), ~order_key(gate), static_cast<std::int32_t>(c),
                                    static_cast<std::int32_t>(tile * gate_rows + row), static_cast<std::int32_t>(h),
                                    gate});
          }
        });
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
  return true;
}

bool BracketSolver::solve(std::int64_t h0, Selection& selection, const Runner& runner) {
  std::vector<Group> groups(static_cast<std::size_t>(by_column_ ? sample_.blocks : 1));
  if (!measure(h0, groups, runner)) return false;
  for (Group& group : groups) {
    const std::int64_t queries = group.totals.own_finite;
    group.budget = budget_of(sample_.problem->policy(), queries, sample_.blocks, group.totals);
    if (group.budget.all || (group.budget.by_count && group.budget.count == 0)) return false;
  }
  runner(static_cast<std::int64_t>(groups.size()), [&](std::int64_t i, std::int64_t) {
    bracket(groups[i], drawn_.data() + (by_column_ ? i * drawn_per_column_ : 0),
            drawn_per_column_ * (by_column_ ? 1 : sample_.blocks));
  });
  std::vector<Inside> inside(static_cast<std::size_t>(sample_.chunks));
  return emit(h0, groups, inside, selection, runner) && resolve(h0, groups, inside, selection, runner);
}

// Room for brackets of 2.5 times the width expected when half of a group is taken, and for rows that are not all alike.
std::int64_t BracketSolver::list_limit(const SampleGates& sample, std::int64_t heads, bool by_column,
                                       std::int64_t rows) {
  const auto drawn = static_cast<double>(2 * heads * sample.tiles * (by_column ? 1 : sample.blocks));
  const double share = std::clamp(5 * (8 + 2 * std::sqrt(drawn)) / drawn, heads == 1 ? 0.125 : 0.0625, 1.0);
  return std::max(static_cast<std::int64_t>(share * static_cast<double>(heads * rows * sample.columns())), least_list);
}

BracketSolver::Bytes BracketSolver::bytes(const SampleGates& sample, std::int64_t heads, bool by_column,
                                          std::int64_t workers) {
  const std::int64_t columns = sample.columns(), groups = by_column ? sample.blocks : 1;
  const std::int64_t rows = sample.tiles * gate_rows, pairs = heads * sample.tokens * sample.blocks;
  const std::int64_t plane = heads == 1 && rows * columns * 4 <= plane_limit ? rows * columns * 4 : 0;
  const std::int64_t drawn = columns * (2 * heads * sample.tiles + 2) * 4;
  const std::int64_t each = TileScratch::bytes(sample.strips, sample.problem->dim()) + columns * (gate_rows * 8 + 40) +
                            2 * gate_strip * 4 + static_cast<std::int64_t>(sizeof(Worker));
  const std::int64_t listed = std::min(
      pairs, std::max({list_limit(sample, heads, by_column, rows), sample.chunks * least_list, groups * small_group}));
  const std::int64_t close = std::min(pairs, most_close(groups));
  const auto per_group =
      static_cast<std::int64_t>(sizeof(Group)) + list_bins(groups) * static_cast<std::int64_t>(sizeof(Histogram::Bin));
  return {.kept = plane + drawn + workers * each,
          .call = 3 * listed * 8 +  // a vector that grows holds its old and its new memory
                  4 * close * static_cast<std::int64_t>(sizeof(Pair)) + groups * per_group +
                  sample.chunks * (groups * static_cast<std::int64_t>(sizeof(GroupTotals)) + 256) +
                  heads * sample.tiles * 24};
}

}  // namespace vmoba::cpu
