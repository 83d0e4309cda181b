// SPDX-License-Identifier: Apache-2.0
// The three steps of the engine: select, attend, attend_backward.
#pragma once

#include "vmoba/execution.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"
#include "vmoba/types.hpp"

namespace vmoba {

// Common to all: q, out, dout, dq are [B, R, H, D]; k, v, dk, dv are [B, R, G, D]; all of the problem's dtype; D contiguous,
// other strides free. lse and dlse are [B, H, R] in fp32 (double for f64), natural log. Outputs may not overlap inputs or
// each other. Accumulation in fp32 (reference: double). Results do not depend on the number of threads, are the same on
// every run, and a batch gives the bits of its samples run one by one. Thread-safe for distinct outputs.
// Throws Error before anything is written.

// Chooses (query, block) pairs by the problem's policy (paper sections 3.3, 3.4; spec sections 2, 3). Reads the video rows of
// q and k only. Ties go to the lower block, then the lower token.
Selection select(const Problem& problem, ConstView q, ConstView k, const Execution& execution = {});
// The same into an existing selection of the problem's shape (every bit is written).
void select_into(const Problem& problem, ConstView q, ConstView k, Selection& selection, const Execution& execution = {});

// True when the policy selects every pair whatever q and k hold (Dense, one block, TopK of all blocks, tau above 1, ...).
// select then computes no gates, and attend without a selection gives the same result for less work.
bool selects_all(const Problem& problem);

// out[s] = softmax over the keys of selected blocks (and valid text) of scale * q_s . k_j, times v. A row that attends nothing
// gives out 0 and lse -inf. lse may be empty. The policy is not looked at: the selection is used as given.
void attend(const Problem& problem, const Selection& selection, ConstView q, ConstView k, ConstView v, View out,
            View lse = {}, const Execution& execution = {});
// Dense: every row attends every key of its sample.
void attend(const Problem& problem, ConstView q, ConstView k, ConstView v, View out, View lse = {},
            const Execution& execution = {});

struct BackwardTensors {
  ConstView q, k, v, out, lse, dout;  // out and lse as attend wrote them
  ConstView dlse{};                   // may be empty: no gradient through lse
  View dq, dk, dv;                    // written, not added to
};
// Exact gradient of attend for the fixed selection (spec section 5). dk and dv sum over the query heads of a group.
void attend_backward(const Problem& problem, const Selection& selection, const BackwardTensors& tensors,
                     const Execution& execution = {});
void attend_backward(const Problem& problem, const BackwardTensors& tensors, const Execution& execution = {});  // dense

// Bytes the chosen backend would allocate beyond inputs, outputs and the selection, for the larger of forward and backward.
std::int64_t scratch_bytes(const Problem& problem, const Execution& execution = {});

}  // namespace vmoba
