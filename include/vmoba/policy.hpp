// SPDX-License-Identifier: Apache-2.0
// Policies: rules that make a selection. Plain option structs; the code of each is one file in src/policy/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace vmoba {

// The set of (query, block) pairs that share one budget (spec section 3). Names in the published code in brackets.
enum class Scope : std::uint8_t {
  head,   // all pairs of one head of one sample: the paper's rule, our default  [head_global]
  query,  // all blocks of one query of one head                                 [query_head]
  block,  // all heads and queries of one block of one sample, Threshold only    [block]
  all,    // all pairs of one sample                                             [overall]
};
std::string_view name(Scope scope);

// Order of pairs, everywhere a rule says "best" or "worst": the higher gate first; equal gates by lower block, then lower
// token, then lower head. A NaN gate counts as -inf. Gates are q . mean(k) of the block, unscaled (spec section 2).
//
// Floors and caps, after the budget is met and query by query, own block counted in both:
//   min_blocks: a query with fewer gets its best others that were not selected, until it has min_blocks;
//   max_blocks: a query with more loses its worst others until it has max_blocks; the own block stays.
// Both are clamped to N, so a floor of N selects everything and a cap of N changes nothing. The budget itself does not
// see them: what a floor adds or a cap removes is not taken from, or given to, other queries. max_blocks = 1 keeps own
// blocks only.

// VMoBA's threshold rule (paper section 3.4): per group, the best pairs by min-max normalised gate until their sum
// reaches tau of the group's sum, own pairs counted first and always selected. The pair that reaches it is included, and
// at least one other pair per group is taken; when the others never reach it, all are. The sum is of
//   w = (g - m) / (M - m), or g - m when M - m <= 1e-6,
// with m and M over the group's finite gates, own included; +inf weighs 1, -inf and NaN weigh 0.
struct Threshold {
  double tau = 0.25;                        // > 0; from 1 on everything is selected
  Scope scope = Scope::head;
  std::int64_t min_blocks = 1;              // per query, own counted; >= 1
  std::optional<std::int64_t> max_blocks{}; // per query, own counted; >= min_blocks
  bool operator==(const Threshold&) const = default;
};

// The k best blocks a query on average over the group, own pairs counted and always taken first: k times the number of
// queries of the group (queries of all heads for Scope::all). k is clamped to N.
// Scope::query gives every query exactly min(k, N); Scope::block is refused.
struct TopK {
  std::int64_t k = 1;                       // >= 1
  Scope scope = Scope::query;
  std::int64_t min_blocks = 1;
  std::optional<std::int64_t> max_blocks{};
  bool operator==(const TopK&) const = default;
};

// Everything is selected.
struct Dense {
  bool operator==(const Dense&) const = default;
};

using Policy = std::variant<Threshold, TopK, Dense>;

std::string describe(const Policy& policy);  // "Threshold(0.25, scope=head)"

}  // namespace vmoba
