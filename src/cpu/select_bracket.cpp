// SPDX-License-Identifier: Apache-2.0
// The quick way to solve groups of finite gates: bracket the cut from a few rows, then make bits in one pass.
//
//   draw     gates of one row in 12 to 32, other rows for every 64 blocks
//   bracket  where the budget meets the drawn pairs, several standard errors wide: some 3 % of the pairs lie inside
//   sweep    gates of every tile, read while they are in cache: least, greatest and sums per group, bits of gates
//            above the bracket, their exact number and sum, and a list of the pairs inside
//   resolve  a histogram of the list finds the bin of the cut, a sort of that bin the cut itself
//
// What the rows drawn say is only trusted to save work. The budget comes from the sums of the sweep, and whether the
// cut lies in the bracket is checked with exact numbers; if not, a wider bracket is swept once more. What then is left
// (a value that very many pairs share, gates that are not finite) goes to select_exact.
#include "cpu/select_bracket.hpp"

#include <cfloat>
#include <numeric>
#include <tuple>

namespace vmoba::cpu {
namespace {

constexpr std::int64_t small_group = 16384;  // pairs; up to it every one is on the list and nothing is drawn
constexpr std::int64_t draw_strips = 4;      // strips that share the rows drawn
constexpr std::int64_t sweep_strips = 12;    // strips made before they are read: 48 KB of gates
constexpr std::int64_t most_parts = 64;      // of the rows drawn; a part's numbers are added up in order
constexpr float infinity = std::numeric_limits<float>::infinity();

// Bins of a list, by which its cut is found, and pairs of its bin that are worth sorting. More than that share a value.
std::int64_t list_bins(bool narrow) { return narrow ? 256 : 1024; }
std::int64_t most_close(bool by_column) { return by_column ? 256 : 4096; }

struct Pair {
  std::uint32_t group;
  std::uint32_t order;  // ascending: greater gate first
  std::int32_t c, token, h;
  float gate;
};

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
    return static_cast<std::int64_t>(std::clamp(place, 0.0, static_cast<double>(size() - 1)));
  }
  void add(float gate) {
    Bin& bin = bins[bin_of(gate)];
    ++bin.count;
    bin.sum += gate;
  }
  // About where a bin begins.
  float edge(std::int64_t bin) const {
    return per_unit > 0 ? static_cast<float>(low + static_cast<double>(bin) / per_unit) : static_cast<float>(low);
  }
  // Exactly: the least gate of this bin or a higher one.
  float begin(std::int64_t bin) const {
    if (bin <= 0) return -infinity;
    if (bin >= size()) return infinity;
    std::uint32_t from = order_key(-FLT_MAX), to = order_key(infinity);
    while (from < to) {
      const std::uint32_t middle = from + (to - from) / 2;
      if (bin_of(from_order_key(middle)) >= bin) {
        to = middle;
      } else {
        from = middle + 1;
      }
    }
    return from_order_key(from);
  }
};

}  // namespace

// What is known of one group.
struct BracketSolver::Group {
  GroupTotals drawn, totals;
  Budget budget;                      // of totals
  bool open = true;                   // lacks a bracket
  double reach = 0;                   // how far below the least gate drawn that of all may lie
  float lo = -FLT_MAX, hi = FLT_MAX;  // the bracket
  double expected = 0;                // share of the pairs drawn that lie inside
  std::int64_t above = 0;             // others above it, exactly
  double above_sum = 0;
  Histogram list;            // of those inside: first of the rows drawn, then of all
  std::int64_t cut_bin = 0;  // bins above are taken, this one in part
  std::int64_t taken = 0;    // others above the bin of the cut
  double taken_sum = 0;
  float take = 0, close = 0;  // listed gates from `take` on are taken, from `close` on sorted
  bool exact = false;         // left to select_exact
};

// Pairs inside the brackets, of one part of the rows, tile after tile and head after head.
struct BracketSolver::Inside {
  std::vector<float> values;
  std::vector<std::uint32_t> places;  // block column * 64 + row
  std::vector<std::int64_t> ends;     // [heads of the unit * tiles of the part]
  void clear() {
    values.clear();
    places.clear();
    ends.clear();
  }
};

// Numbers of one part of the rows, per column.
struct BracketSolver::Sums {
  Buffer<float> least, greatest;
  Buffer<double> sums, own_sums, above_sums;
  Buffer<std::int64_t> counts, own_counts, above_counts;
  explicit Sums(std::int64_t columns)
      : least(columns),
        greatest(columns),
        sums(columns),
        own_sums(columns),
        above_sums(columns),
        counts(columns),
        own_counts(columns),
        above_counts(columns) {}
  static constexpr std::int64_t bytes_a_column = 56;
  void clear(std::int64_t columns) {
    std::fill_n(least.data(), columns, infinity);
    std::fill_n(greatest.data(), columns, -infinity);
    std::fill_n(sums.data(), columns, 0.0);
    std::fill_n(own_sums.data(), columns, 0.0);
    std::fill_n(counts.data(), columns, 0);
    std::fill_n(own_counts.data(), columns, 0);
    clear_above(columns);
  }
  void clear_above(std::int64_t columns) {
    std::fill_n(above_sums.data(), columns, 0.0);
    std::fill_n(above_counts.data(), columns, 0);
  }
};

struct BracketSolver::Worker {
  Buffer<float> widened, gates, values;
  Buffer<std::uint64_t> words;
  Buffer<std::uint32_t> places;
  explicit Worker(std::int64_t dim)
      : widened(gate_rows * dim),
        gates(most),
        values(most + gate_strip),
        words(sweep_strips * gate_strip),
        places(most + gate_strip) {}
  static constexpr std::int64_t most = sweep_strips * gate_rows * gate_strip;
  static std::int64_t bytes(std::int64_t dim) {
    return gate_rows * dim * 4 + (3 * most + 2 * gate_strip) * 4 + sweep_strips * gate_strip * 8 +
           static_cast<std::int64_t>(sizeof(Worker));
  }
};

// One row in 12 to 32: at 8K tokens and 144 blocks that is 8 % of a product for a bracket of 3 % of the pairs. Rows
// that are not one below the other in the grid, whose x they would share.
std::int64_t BracketSolver::draw_step(const SampleGates& sample, std::int64_t heads, bool by_column) {
  const std::int64_t rows = heads * sample.tokens, pairs = rows * sample.blocks;
  std::int64_t step =
      by_column ? std::clamp<std::int64_t>(rows >> 12, 8, 32) : std::clamp<std::int64_t>(pairs >> 17, 12, 32);
  step = std::max(step, pairs >> 22);
  while (std::gcd(step, sample.problem->sample(sample.b).partition->grid().x) != 1) ++step;
  return step;
}

BracketSolver::BracketSolver(const SampleGates& sample, std::int64_t heads, bool by_column, std::int64_t workers)
    : sample_(sample),
      heads_(heads),
      by_column_(by_column),
      small_(is_small(sample, heads, by_column)),
      step_(draw_step(sample, heads, by_column)),
      drawn_tiles_((sample.tokens + gate_rows * step_ - 1) / (gate_rows * step_)),
      drawn_(small_ ? 0 : heads * drawn_tiles_ * gate_rows * sample.columns()),
      lo_(sample.columns()),
      hi_(sample.columns()) {
  const std::int64_t parts = std::max(sample.chunks, std::min(most_parts, heads * drawn_tiles_));
  for (std::int64_t i = 0; i < parts; ++i) sums_.emplace_back(sample.columns());
  inside_.resize(static_cast<std::size_t>(parts));
  for (std::int64_t i = 0; i < workers; ++i) workers_.emplace_back(sample.problem->dim());
}

BracketSolver::~BracketSolver() = default;

// Gates of the rows drawn, with own pairs and rows that do not exist at -inf, and their sums.
void BracketSolver::draw(std::int64_t h0, const Runner& runner) {
  const std::int64_t columns = sample_.columns(), tiles = heads_ * drawn_tiles_, parts = std::min(most_parts, tiles);
  runner(parts, [&](std::int64_t part, std::int64_t which) {
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
          sample_.gates(h, {row0, step_, rows}, strip, count, workers_[which].widened.data(), gates);
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
                     list_bins(by_column_ && !small_));
  }
  for (std::int64_t part = 0; part < parts; ++part) {
    const Inside& list = inside_[part];
    if (by_column_) {
      for (std::size_t i = 0; i < list.values.size(); ++i) groups[list.places[i] / gate_rows].list.add(list.values[i]);
    } else {
      for (const float value : list.values) groups[0].list.add(value);
    }
  }
}

void BracketSolver::set_bounds(const std::vector<Group>& groups) {
  for (std::int64_t c = 0; c < sample_.columns(); ++c) {
    const Group* group = c < sample_.blocks ? &groups[group_of(c)] : nullptr;
    lo_[c] = group && !group->exact ? group->lo : infinity;
    hi_[c] = group && !group->exact ? group->hi : infinity;
  }
}

// Makes lists and numbers of the rows drawn, against brackets from some 4,000 of a group's pairs.
void BracketSolver::look(std::vector<Group>& groups, const Runner& runner) {
  const std::int64_t tiles = heads_ * drawn_tiles_, parts = std::min(most_parts, tiles);
  set_bounds(groups);
  runner(parts, [&](std::int64_t part, std::int64_t which) {
    Sums& sums = sums_[part];
    Inside& list = inside_[part];
    sums.clear_above(sample_.columns());
    list.clear();
    for (std::int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
      for (std::int64_t strip = 0; strip < sample_.strips; strip += sweep_strips) {
        emit(drawn_.data() + (tile * sample_.strips + strip) * gate_rows * gate_strip, strip, gate_rows, sums, list,
             workers_[which]);
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

// A bracket of the drawn pairs' cut, from some 4,000 of them.
void BracketSolver::guess(Group& group, std::int64_t which) const {
  const std::int64_t tiles = heads_ * drawn_tiles_;
  const std::int64_t others = group.drawn.finite - group.drawn.own_finite;
  std::int64_t every = 1;
  while (every < 16 && others > 8192 * every) every *= 2;
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(tiles * gate_rows / every * (by_column_ ? 1 : sample_.columns())));
  float least = infinity;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    for (std::int64_t c = first_column(which); c < end_column(which); ++c) {
      const float* column =
          drawn_.data() + (tile * sample_.strips + c / gate_strip) * gate_rows * gate_strip + c % gate_strip;
      for (std::int64_t row = (c + every / 2) % every; row < gate_rows; row += every) {
        const float value = column[row * gate_strip];
        if (value == -infinity) continue;
        values.push_back(value);
        least = std::min(least, value);
      }
    }
  }
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
    histogram.start(low, high, list_bins(by_column_ && !small_));
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
double BracketSolver::spread(const Group& group, std::int64_t which, float cut) const {
  const bool by_count = std::holds_alternative<TopK>(sample_.problem->policy());
  const float least = group.drawn.least;
  const double others = static_cast<double>(group.drawn.finite - group.drawn.own_finite);
  const auto* rule = std::get_if<Threshold>(&sample_.problem->policy());
  const float tau = static_cast<float>(rule ? rule->tau : wanted(group.drawn, least).need / std::max(1.0, others));
  constexpr std::int64_t apart = 8;
  double squares = 0;
  for (std::int64_t tile = 0; tile < heads_ * drawn_tiles_; ++tile) {
    const float* const gates = drawn_.data() + tile * sample_.strips * gate_rows * gate_strip;
    const std::int64_t first = first_column(which) / gate_strip, end = (end_column(which) - 1) / gate_strip + 1;
    for (std::int64_t strip = first; strip < end; strip += draw_strips) {
      for (std::int64_t row = 0; row < gate_rows; row += apart) {
        float weights[2];
        for (std::int64_t next = 0; next < 2; ++next) {
          const float* from = gates + (strip * gate_rows + row + next) * gate_strip;
          float lanes[gate_strip] = {};
          if (by_column_) {
            const float gate = std::max(from[which % gate_strip], least);
            lanes[0] = (gate - least) * (gate > cut ? 1 - tau : -tau);
          } else {
            for (std::int64_t i = 0; i < std::min(draw_strips, end - strip); ++i, from += gate_rows * gate_strip) {
              for (std::int64_t lane = 0; lane < gate_strip; ++lane) {
                const float gate = from[lane] > least ? from[lane] : least;
                const float weight = by_count ? 1 : gate - least;
                lanes[lane] += weight * (gate > cut ? 1 - tau : -tau);
              }
            }
          }
          weights[next] = std::accumulate(lanes, lanes + gate_strip, 0.0f);
        }
        squares += static_cast<double>(weights[0] - weights[1]) * (weights[0] - weights[1]) / 2;
      }
    }
  }
  return std::sqrt(squares * apart);
}

// The bracket of a group, from the numbers and the list of its drawn pairs against the guess it holds. False when the
// guess is too narrow for it.
bool BracketSolver::bracket(Group& group, std::int64_t which, double errors) const {
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
      errors * spread(group, which, cut) + 8 * (near.by_count ? 1 : static_cast<double>(cut) - near.least);

  n = static_cast<double>(group.above);
  sum = group.above_sum;
  float hi = group.hi, lo = -FLT_MAX;
  if (std::max(near.excess(n, sum), far.excess(n, sum)) > -margin && !wide_hi) return false;
  double inside = 0;
  for (std::int64_t i = list.size() - 1; i >= 0 && lo == -FLT_MAX; --i) {
    const auto count = static_cast<double>(list.bins[i].count);
    n += count;
    sum += list.bins[i].sum;
    inside += count;
    if (std::max(near.excess(n, sum), far.excess(n, sum)) <= -margin) {
      hi = list.edge(i);
      inside = 0;
    } else if (std::min(near.excess(n, sum), far.excess(n, sum)) >= margin) {
      lo = list.edge(i);
    }
  }
  if (lo == -FLT_MAX && !wide_lo) return false;
  group.lo = lo;
  group.hi = hi;
  group.expected = inside / std::max(1.0, others);
  return true;
}

// Brackets of the groups that lack one; groups whose lists would be too long are left to select_exact.
void BracketSolver::find_brackets(std::vector<Group>& groups, double errors, const Runner& runner) {
  const auto count = static_cast<std::int64_t>(groups.size());
  runner(count, [&](std::int64_t i, std::int64_t) {
    if (groups[i].open) guess(groups[i], i);
  });
  for (int attempt = 0; attempt < 2; ++attempt) {
    look(groups, runner);
    std::atomic<bool> all{true};
    runner(count, [&](std::int64_t i, std::int64_t) {
      Group& group = groups[i];
      if (!group.open) return;
      group.open = !bracket(group, i, errors);
      if (!group.open) return;
      group.lo = -FLT_MAX;
      group.hi = FLT_MAX;
      all = false;
    });
    if (all) break;
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
    group->exact = true;
  }
}

// Bits of one tile's columns from `strip` on, against the brackets; those within go to the list.
void BracketSolver::emit(const float* gates, std::int64_t strip, std::int64_t rows, Sums& sums, Inside& list,
                         Worker& worker) const {
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

// The pass over all gates. False when the lists grow too long.
bool BracketSolver::sweep(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner) {
  const std::int64_t columns = sample_.columns(), limit = list_limit(sample_, heads_, by_column_);
  set_bounds(groups);
  std::atomic<std::int64_t> listed{0};
  runner(sample_.chunks, [&](std::int64_t chunk, std::int64_t which) {
    Worker& worker = workers_[which];
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
        list.ends.push_back(static_cast<std::int64_t>(list.values.size()));
        if ((listed += static_cast<std::int64_t>(list.values.size() - before)) > limit) return;
      }
    }
  });
  if (listed > limit) return false;
  total(groups, sample_.chunks, &Group::totals);
  return true;
}

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

// Sets the bits of listed pairs above the cuts.
void BracketSolver::resolve(std::int64_t h0, std::vector<Group>& groups, Selection& selection, const Runner& runner) {
  std::vector<std::vector<Pair>> close(static_cast<std::size_t>(sample_.chunks));
  runner(sample_.chunks, [&](std::int64_t chunk, std::int64_t) {
    const Inside& list = inside_[chunk];
    const std::int64_t tiles = sample_.end_tile(chunk) - sample_.first_tile(chunk);
    const std::int64_t words_a_block = selection.shape(sample_.b).words();
    std::int64_t i = 0;
    for (std::int64_t part = 0; part < static_cast<std::int64_t>(list.ends.size()); ++part) {
      const std::int64_t h = h0 + part / tiles, tile = sample_.first_tile(chunk) + part % tiles;
      std::uint64_t* const words = selection.words_of(sample_.b, h, 0) + tile;
      for (; i < list.ends[part]; ++i) {
        const float gate = list.values[i];
        const std::int64_t c = list.places[i] / gate_rows, row = list.places[i] % gate_rows;
        const Group& group = groups[group_of(c)];
        if (gate >= group.take) {
          words[c * words_a_block] |= std::uint64_t{1} << row;
        } else if (gate >= group.close && !group.exact) {
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

std::vector<std::int64_t> BracketSolver::solve(std::int64_t h0, Selection& selection, const Runner& runner) {
  std::vector<Group> groups(static_cast<std::size_t>(by_column_ ? sample_.blocks : 1));
  std::vector<std::int64_t> left(groups.size());
  std::iota(left.begin(), left.end(), 0);
  const auto finite = [&](GroupTotals Group::*which) {
    return std::all_of(groups.begin(), groups.end(), [&](const Group& group) {
      const GroupTotals& totals = group.*which;
      return std::isfinite(totals.sum) && std::isfinite(totals.least) && std::isfinite(totals.greatest);
    });
  };
  if (!small_) {
    draw(h0, runner);
    total(groups, std::min(most_parts, heads_ * drawn_tiles_), &Group::drawn);
    if (!finite(&Group::drawn)) return left;
  }
  for (const double errors : {4.5, 16.0}) {
    if (!small_) find_brackets(groups, errors, runner);
    if (!sweep(h0, groups, selection, runner) || !finite(&Group::totals)) return left;
    tally(groups, sample_.chunks);
    bool missed = false;
    for (Group& group : groups) {
      group.budget = budget_of(sample_.problem->policy(), group.totals.own_finite, sample_.blocks, group.totals);
      group.open = !group.exact && !locate(group);
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
  return std::max(by_column ? pairs / 5 : heads == 1 ? pairs / 8 : pairs / 16, std::int64_t{65536});
}

BracketSolver::Bytes BracketSolver::bytes(const SampleGates& sample, std::int64_t heads, bool by_column,
                                          std::int64_t workers) {
  const std::int64_t columns = sample.columns(), groups = by_column ? sample.blocks : 1;
  const std::int64_t pairs = heads * sample.tokens * sample.blocks, step = draw_step(sample, heads, by_column);
  const std::int64_t tiles = heads * ((sample.tokens + gate_rows * step - 1) / (gate_rows * step));
  const std::int64_t parts = std::max(sample.chunks, std::min(most_parts, tiles));
  // Lists grow chunk by chunk, and a vector that grows holds its old and its new memory.
  const std::int64_t listed = std::min(pairs, list_limit(sample, heads, by_column) + workers * Worker::most);
  const std::int64_t close = std::min(pairs, most_close(by_column) * groups);
  const auto per_group =
      static_cast<std::int64_t>(sizeof(Group)) +
      list_bins(by_column && !is_small(sample, heads, by_column)) * static_cast<std::int64_t>(sizeof(Histogram::Bin));
  return {.kept = (tiles * gate_rows * columns + 2 * columns) * 4 + workers * Worker::bytes(sample.problem->dim()) +
                  parts * (columns * Sums::bytes_a_column + static_cast<std::int64_t>(sizeof(Sums) + sizeof(Inside))) +
                  3 * listed * 8 + 2 * heads * sample.tiles * 8,
          .call = 4 * close * static_cast<std::int64_t>(sizeof(Pair)) + groups * per_group +
                  workers * (4 * 16384 * 2 + list_bins(by_column && !is_small(sample, heads, by_column)) * 16)};
}

}  // namespace vmoba::cpu
