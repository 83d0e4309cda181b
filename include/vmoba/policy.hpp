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

// VMoBA's threshold rule (paper section 3.4): per group, the best pairs by min-max normalised gate until their sum
// reaches tau of the group's sum, own pairs counted first and always selected; at least one other pair per group.
struct Threshold {
  double tau = 0.25;                        // > 0; above 1 selects everything
  Scope scope = Scope::head;
  std::int64_t min_blocks = 1;              // per query, own counted; >= 1
  std::optional<std::int64_t> max_blocks{}; // per query, own counted; >= min_blocks
  bool operator==(const Threshold&) const = default;
};

// The k best blocks a query on average over the group, own pairs counted and always taken first. k is clamped to N.
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
