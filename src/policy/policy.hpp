// SPDX-License-Identifier: Apache-2.0
// The table of policies: what each checks, the shape of its selection, how it chooses, and its branches.
#pragma once

#include <span>
#include <string_view>

#include "vmoba/backend.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::policy {

// One alternative of the variant Policy; the table is in the variant's order. A new policy is one file here with its
// three functions, one option struct in vmoba/policy.hpp, and one entry.
struct Entry {
  std::string_view name;
  void (*check)(const ProblemOptions&);  // throws Error naming the option; grids and blocks are sound by then
  Selection (*empty)(const Problem&);    // all bits 0, in the shape this policy chooses: token or block rows
  bool (*selects_all)(const Problem&);   // true when every pair is selected whatever q and k hold
  void (*select)(const Problem&, const ConstView& q, const ConstView& k, Selection&, const Backend&, const Execution&);
  std::span<const std::string_view> branches;  // extra outputs beside attend, by name; none yet
};

std::span<const Entry> table();
const Entry& entry(const Policy& policy);

// Rows are tokens, keys cut as the problem says.
Selection token_rows(const Problem& problem);
// The two options that every budget rule shares; rule is the policy's name for messages.
void check_floor_and_cap(std::int64_t min_blocks, const std::optional<std::int64_t>& max_blocks);

extern const Entry threshold, top_k, dense;

}  // namespace vmoba::policy
