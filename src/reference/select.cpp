// SPDX-License-Identifier: Apache-2.0
// Selection (spec section 3): per group, the best pairs until the budget is met, own pairs always; then floors and
// caps.
//
// Order of pairs everywhere: higher gate first; ties to the lower block, then the lower token, then the lower head.
// A NaN gate counts as -inf. Weights use the smallest and largest finite gate; infinite gates weigh 1 and 0.
#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "reference/reference.hpp"

namespace vmoba::reference {
namespace {

constexpr double eps = 1e-6;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Pair {
  double gate;
  std::int64_t block, token, head;
};

bool comes_before(const Pair& a, const Pair& b) {
  if (a.gate != b.gate) return a.gate > b.gate;
  return std::tie(a.block, a.token, a.head) < std::tie(b.block, b.token, b.head);
}

Scope scope_of(const Policy& policy) {
  if (const auto* rule = std::get_if<Threshold>(&policy)) return rule->scope;
  return std::get<TopK>(policy).scope;
}

struct Group {
  std::vector<Pair> own, others;
};

// Threshold: how many of the ordered others are taken.
void cut_by_threshold(const Group& group, double tau, double share_shift, Cut& cut) {
  double min = infinity, max = -infinity;
  for (const auto* pairs : {&group.own, &group.others}) {
    for (const Pair& pair : *pairs) {
      if (!std::isfinite(pair.gate)) continue;
      min = std::min(min, pair.gate);
      max = std::max(max, pair.gate);
    }
  }
  if (min > max) min = max = 0;  // no finite gate
  const double range = max - min <= eps ? 1 : max - min;
  const auto weight = [&](double gate) {
    if (gate == infinity) return 1.0;
    if (gate == -infinity) return 0.0;
    return (gate - min) / range;
  };
  double own = 0, total = 0;
  for (const Pair& pair : group.own) own += weight(pair.gate);
  for (const Pair& pair : group.others) total += weight(pair.gate);
  total += own;
  // From tau = 1 on the others sum to less than r = tau (T + eps) - A by eps, whatever rounding makes of it.
  const double needed =
      tau >= 1 ? infinity : std::max(0.0, tau - own / (total + eps)) * (total + eps) + share_shift * total;
  double sum = 0;
  for (const Pair& pair : group.others) {
    sum += weight(pair.gate);
    ++cut.taken;
    if (sum >= needed) break;
  }
  cut.min = min;
  cut.max = max;
  cut.needed = needed;
  cut.total = total;
}

// TopK: k times the number of queries in the group, own pairs counted.
void cut_by_count(const Group& group, std::int64_t k, std::int64_t blocks, Cut& cut) {
  cut.min = infinity;
  cut.max = -infinity;
  for (const auto* pairs : {&group.own, &group.others}) {
    for (const Pair& pair : *pairs) {
      if (!std::isfinite(pair.gate)) continue;
      cut.min = std::min(cut.min, pair.gate);
      cut.max = std::max(cut.max, pair.gate);
    }
  }
  if (cut.min > cut.max) cut.min = cut.max = 0;
  const auto queries = static_cast<std::int64_t>(group.own.size());
  cut.taken = (std::min(k, blocks) - 1) * queries;
}

// Floors and caps, after the budget: a query under the floor gets its best others, one over the cap loses its worst.
void apply_floor_and_cap(const std::vector<double>& gates, const Partition& partition, std::int64_t b,
                         std::int64_t head, std::int64_t min_blocks, std::int64_t max_blocks, Selection& selection) {
  const std::int64_t blocks = partition.blocks();
  for (std::int64_t s = 0; s < partition.tokens(); ++s) {
    std::vector<Pair> others;
    std::int64_t selected = 1;
    for (std::int64_t c = 0; c < blocks; ++c) {
      if (c == partition.own(s)) continue;
      const double gate = gates[s * blocks + c];
      others.push_back({std::isnan(gate) ? -infinity : gate, c, s, head});
      selected += selection.test(b, head, s, c);
    }
    std::sort(others.begin(), others.end(), comes_before);
    for (auto pair = others.begin(); pair != others.end() && selected < min_blocks; ++pair) {
      if (selection.test(b, head, s, pair->block)) continue;
      selection.set(b, head, s, pair->block);
      ++selected;
    }
    for (auto pair = others.rbegin(); pair != others.rend() && selected > max_blocks; ++pair) {
      if (!selection.test(b, head, s, pair->block)) continue;
      selection.set(b, head, s, pair->block, false);
      --selected;
    }
  }
}

}  // namespace

std::int64_t group_count(const Problem& problem, std::int64_t b) {
  const Sample& sample = problem.sample(b);
  switch (scope_of(problem.policy())) {
    case Scope::head:
      return problem.heads();
    case Scope::query:
      return problem.heads() * sample.tokens();
    case Scope::block:
      return sample.partition->blocks();
    case Scope::all:
      break;
  }
  return 1;
}

std::int64_t group_of(const Problem& problem, std::int64_t b, std::int64_t head, std::int64_t token,
                      std::int64_t block) {
  switch (scope_of(problem.policy())) {
    case Scope::head:
      return head;
    case Scope::query:
      return head * problem.sample(b).tokens() + token;
    case Scope::block:
      return block;
    case Scope::all:
      break;
  }
  return 0;
}

Trace select_sample(const Problem& problem, const ConstView& q, const ConstView& k, std::int64_t b,
                    Selection& selection, std::span<const double> share_shifts) {
  const Partition& partition = *problem.sample(b).partition;
  const std::int64_t tokens = partition.tokens(), blocks = partition.blocks();
  Trace trace;
  for (std::int64_t h = 0; h < problem.heads(); ++h) trace.gates.push_back(gates(problem, q, k, b, h));

  std::vector<Group> groups(group_count(problem, b));
  for (std::int64_t h = 0; h < problem.heads(); ++h) {
    for (std::int64_t s = 0; s < tokens; ++s) {
      for (std::int64_t c = 0; c < blocks; ++c) {
        const double gate = trace.gates[h][s * blocks + c];
        Group& group = groups[group_of(problem, b, h, s, c)];
        const Pair pair{std::isnan(gate) ? -infinity : gate, c, s, h};
        (c == partition.own(s) ? group.own : group.others).push_back(pair);
        selection.set(b, h, s, c, false);
      }
    }
  }

  for (Group& group : groups) {
    std::sort(group.others.begin(), group.others.end(), comes_before);
    Cut cut;
    cut.others = static_cast<std::int64_t>(group.others.size());
    if (const auto* rule = std::get_if<Threshold>(&problem.policy())) {
      const double shift = share_shifts.empty() ? 0 : share_shifts[trace.cuts.size()];
      cut_by_threshold(group, rule->tau, shift, cut);
    } else {
      cut_by_count(group, std::get<TopK>(problem.policy()).k, blocks, cut);
    }
    cut.last_taken = cut.taken > 0 ? group.others[cut.taken - 1].gate : infinity;
    cut.first_left = cut.taken < cut.others ? group.others[cut.taken].gate : -infinity;
    trace.cuts.push_back(cut);
    for (std::int64_t i = 0; i < cut.taken; ++i) {
      const Pair& pair = group.others[i];
      selection.set(b, pair.head, pair.token, pair.block);
    }
    for (const Pair& pair : group.own) selection.set(b, pair.head, pair.token, pair.block);
    group = {};
  }

  std::visit(
      [&](const auto& rule) {
        if constexpr (requires { rule.min_blocks; }) {
          const std::int64_t min_blocks = std::min(rule.min_blocks, blocks);
          const std::int64_t max_blocks = std::min(rule.max_blocks.value_or(blocks), blocks);
          for (std::int64_t h = 0; h < problem.heads(); ++h) {
            apply_floor_and_cap(trace.gates[h], partition, b, h, min_blocks, max_blocks, selection);
          }
        }
      },
      problem.policy());
  return trace;
}

void select(const Problem& problem, const ConstView& q, const ConstView& k, Selection& selection, const Execution&) {
  selection.fill(false);  // also the unused high bits
  for (std::int64_t b = 0; b < problem.batch(); ++b) select_sample(problem, q, k, b, selection);
}

}  // namespace vmoba::reference
