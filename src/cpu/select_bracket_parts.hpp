// SPDX-License-Identifier: Apache-2.0
// What the steps of BracketSolver share: groups, their numbers and lists, and histograms.
#pragma once

#include <cfloat>
#include <limits>
#include <vector>

#include "cpu/select_bracket.hpp"

namespace vmoba::cpu {

inline constexpr std::int64_t draw_strips = 4;   // strips that share the rows drawn
inline constexpr std::int64_t sweep_strips = 6;  // strips made before they are read: 24 KB of gates
inline constexpr std::int64_t sweep_pairs = sweep_strips * gate_rows * gate_strip;
inline constexpr std::int64_t most_parts = 64;  // of the rows drawn; a part's numbers are added up in order
inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr float nobody = std::numeric_limits<float>::quiet_NaN();  // a bound: no gate is above, none inside

// Bins of a list, by which its cut is found, and pairs of its bin that are worth sorting. More than that share a value.
inline std::int64_t list_bins(bool narrow) { return narrow ? 256 : 1024; }
// The same for a column of so many rows: 144 histograms of 256 bins are 590 KB, more than the L2 of many machines.
inline std::int64_t column_bins(std::int64_t rows) { return rows < 32768 ? 64 : 256; }
inline std::int64_t most_close(bool by_column) { return by_column ? 256 : 4096; }

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
  void add(const Histogram& other) {  // of the same bins
    for (std::size_t i = 0; i < bins.size(); ++i) {
      bins[i].count += other.bins[i].count;
      bins[i].sum += other.bins[i].sum;
    }
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

// A pair near a cut, as it is sorted.
struct Pair {
  std::uint32_t group;
  std::uint32_t order;  // ascending: greater gate first
  std::int32_t c, token, h;
  float gate;
};

// What is known of one group.
struct BracketSolver::Group {
  GroupTotals drawn, totals;
  Budget budget;                      // of totals
  bool open = true;                   // lacks a bracket
  double reach = 0;                   // how far below the least gate drawn that of all may lie
  float lo = -FLT_MAX, hi = FLT_MAX;  // the bracket
  // The cut is known to lie between these: a bracket that missed it tells on which side it is.
  float floor = -FLT_MAX, ceiling = FLT_MAX;
  double expected = 0;     // share of the pairs drawn that lie inside
  bool crowded = false;    // too many of them for a list
  std::int64_t above = 0;  // others above it, exactly
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

}  // namespace vmoba::cpu
