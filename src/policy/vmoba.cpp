// SPDX-License-Identifier: Apache-2.0
// VMoBA's two budget rules, Threshold and TopK: a gate per (query, block), cut per group by the backend's select.
#include <algorithm>
#include <cmath>

#include "policy/policy.hpp"
#include "text.hpp"
#include "vmoba/error.hpp"

namespace vmoba::policy {
namespace {

void check_scope(Scope scope) {
  if (scope > Scope::all) {
    throw_argument("policy.scope", number(static_cast<std::int64_t>(scope)), "is no scope",
                   "use scope head, query, block or all");
  }
}

void check_threshold(const ProblemOptions& options) {
  const auto& rule = std::get<Threshold>(options.policy);
  check_scope(rule.scope);
  if (!std::isfinite(rule.tau) || rule.tau <= 0) {
    throw_argument("policy.tau", number(rule.tau), "is not a positive share of the gate sum",
                   "use a number above 0, such as 0.25; 1 selects everything");
  }
  check_floor_and_cap(rule.min_blocks, rule.max_blocks);
}

void check_top_k(const ProblemOptions& options) {
  const auto& rule = std::get<TopK>(options.policy);
  check_scope(rule.scope);
  if (rule.k < 1) {
    throw_argument("policy.k", number(rule.k), "is not a number of blocks a query", "use 1 or more, own block counted");
  }
  if (rule.scope == Scope::block) {
    throw_argument("policy.scope", "block", "has no TopK rule: pairs of one block share no fixed number of queries",
                   "use scope head, query or all, or Threshold");
  }
  check_floor_and_cap(rule.min_blocks, rule.max_blocks);
}

std::int64_t most_blocks(const Problem& problem) {
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < problem.batch(); ++b) most = std::max(most, problem.sample(b).partition->blocks());
  return most;
}

template <class Rule>
bool selects_all(const Problem& problem) {
  const auto& rule = std::get<Rule>(problem.policy());
  const std::int64_t blocks = most_blocks(problem);
  if (rule.max_blocks && *rule.max_blocks < blocks) return false;
  if (rule.min_blocks >= blocks) return true;
  if constexpr (std::is_same_v<Rule, TopK>) {
    return rule.k >= blocks;
  } else {
    return rule.tau >= 1;
  }
}

void select(const Problem& problem, const ConstView& q, const ConstView& k, Selection& selection,
            const Backend& backend, const Execution& execution) {
  backend.select(problem, q, k, selection, execution);
}

}  // namespace

Selection token_rows(const Problem& problem) { return Selection(problem); }

void check_floor_and_cap(std::int64_t min_blocks, const std::optional<std::int64_t>& max_blocks) {
  if (min_blocks < 1) {
    throw_argument("policy.min_blocks", number(min_blocks), "is below the own block, which is always selected",
                   "use 1 or more");
  }
  if (max_blocks && *max_blocks < min_blocks) {
    throw_argument("policy.max_blocks", number(*max_blocks), "is below policy.min_blocks = " + number(min_blocks),
                   "use " + number(min_blocks) + " or more, or leave it out");
  }
}

constexpr Entry threshold{"Threshold", check_threshold, token_rows, selects_all<Threshold>, select, {}};
constexpr Entry top_k{"TopK", check_top_k, token_rows, selects_all<TopK>, select, {}};

}  // namespace vmoba::policy
