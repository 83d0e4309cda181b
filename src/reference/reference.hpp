// SPDX-License-Identifier: Apache-2.0
// The specification in double precision, single-threaded, loops in the order of the text. Every other backend is
// compared with it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmoba/backend.hpp"

namespace vmoba::reference {

extern const Backend backend;

// Reading and writing one row of any dtype. Views are resolved. Row: a sequence position within sample b.
std::vector<double> read_row(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t row,
                             std::int64_t head, std::int64_t width);
void write_row(const Problem& problem, const View& view, std::int64_t b, std::int64_t row, std::int64_t head,
               const double* values, std::int64_t width);

// One head's rows [rows, D] of sample b: all rows of the sample, text included.
std::vector<double> read_rows(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t head);
// lse, dlse: [rows].
std::vector<double> read_lse(const Problem& problem, const ConstView& view, std::int64_t b, std::int64_t head);

// Spec section 2. Block means of key/value head g: [N, D].
std::vector<double> block_means(const Problem& problem, const ConstView& k, std::int64_t b, std::int64_t kv_head);
// Gates of query head h: [S, N], token s in raster order, block c. May hold NaN and infinities.
std::vector<double> gates(const Problem& problem, const ConstView& q, const ConstView& k, std::int64_t b,
                          std::int64_t head);

// The set of pairs that share one budget, by scope; groups of a sample are numbered
// head: h, query: h * S + s, block: c, all: 0.
std::int64_t group_count(const Problem& problem, std::int64_t b);
std::int64_t group_of(const Problem& problem, std::int64_t b, std::int64_t head, std::int64_t token,
                      std::int64_t block);

// How one group was cut, before floors and caps.
struct Cut {
  double min = 0, max = 0;  // over the group's finite gates, own pairs included
  std::int64_t others = 0;  // non-own pairs
  std::int64_t taken = 0;   // of them; a prefix of their order
  double last_taken = 0;    // gate of the last pair taken (NaN counts as -inf); +inf when none is
  double first_left = 0;    // gate of the first pair not taken; -inf when all are taken
  double needed = 0;        // Threshold: r, in sums of w; TopK: 0
  double total = 0;         // Threshold: T; TopK: 0
};

// What a selection was made from, so that tests can tell pairs that rounding may flip from those it may not.
struct Trace {
  std::vector<std::vector<double>> gates;  // [H] of [S, N]
  std::vector<Cut> cuts;                   // [group_count]
};
// Fills sample b of selection (all its bits) and returns how. Policies: Threshold, TopK. share_shifts, one a group or
// empty, are added to r as shares of T: tests pass small numbers to learn which pairs a rounding of the sums may move.
Trace select_sample(const Problem& problem, const ConstView& q, const ConstView& k, std::int64_t b,
                    Selection& selection, std::span<const double> share_shifts = {});

// Backend functions.
void select(const Problem& problem, const ConstView& q, const ConstView& k, Selection& selection, const Execution&);
void attend(const Problem& problem, const Selection* selection, const ConstView& q, const ConstView& k,
            const ConstView& v, const View& out, const View& lse, const Execution&);
void attend_backward(const Problem& problem, const Selection* selection, const BackwardTensors& tensors,
                     const Execution&);

// Key rows (sequence positions, ascending) that query row attends, by spec sections 4 and 7.
std::vector<std::int64_t> attended_rows(const Problem& problem, const Selection* selection, std::int64_t b,
                                        std::int64_t head, std::int64_t row);

}  // namespace vmoba::reference
