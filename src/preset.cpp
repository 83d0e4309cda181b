// SPDX-License-Identifier: Apache-2.0
// Named configurations, the schedule, and the paper's model of cost.
#include "vmoba/preset.hpp"

#include <algorithm>
#include <cmath>

#include "text.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba {
namespace {

constexpr std::string_view paper = "VMoBA, arXiv 2506.23858, tables of training-free and training settings";
constexpr std::string_view fastvideo = "FastVideo's VMoBA configuration of Wan 2.1 1.3B";

Policy paper_rule() { return Threshold{.tau = 0.25, .scope = Scope::head}; }
Policy query_threshold() { return Threshold{.tau = 0.25, .scope = Scope::query}; }
Policy query_top(std::int64_t k) { return TopK{.k = k, .scope = Scope::query}; }
Block frames(std::int64_t t) { return {t, full, full}; }
Block columns(std::int64_t y, std::int64_t x) { return {full, y, x}; }

Direction direction_of(Schedule::Use use) {
  return use == Schedule::Use::training ? Direction::forward_backward : Direction::forward;
}

const CostModel& costs_here(const Problem& problem) { return default_costs(choose_backend(problem, {}).name); }

// A break-even looks at the number of blocks only: a tiny grid has as many as a preset's.
std::int64_t usual_break_even(Schedule::Use use) {
  const Problem problem({.grid = {6, 6, 2}, .block = {1, 1, 1}, .heads = 12, .dim = 128});
  return break_even_tokens(costs_here(problem), problem, direction_of(use))
      .value_or(std::numeric_limits<std::int64_t>::max());
}

void check_schedule(const Schedule& s, std::int64_t steps) {
  if (!(s.dense_fraction >= 0 && s.dense_fraction <= 1)) {
    throw_argument("schedule.dense_fraction", number(s.dense_fraction), "is not a share of the steps", "use 0..1");
  }
  if (s.dense_steps && *s.dense_steps < 0) {
    throw_argument("schedule.dense_steps", number(*s.dense_steps), "is negative", "use 0 or more");
  }
  if (s.refresh < 1) throw_argument("schedule.refresh", number(s.refresh), "is not a number of steps", "use 1 or more");
  if (s.min_tokens < 0 && s.min_tokens != Schedule::automatic)
    throw_argument("schedule.min_tokens", number(s.min_tokens), "is negative", "use 0 or more, or automatic");
  if (steps < 0) throw_argument("steps", number(steps), "is negative", "use 0 or more");
}

}  // namespace

std::int64_t Schedule::first_sparse_step(std::int64_t steps) const {
  check_schedule(*this, steps);
  if (dense_steps) return std::min(*dense_steps, steps);
  // 50 steps at 0.25 give 12.5: rounded up, so that at least the fraction is dense. The small number keeps 0.07 * 100,
  // which is 7.000000000000001 in binary, at 7.
  return std::min(steps, static_cast<std::int64_t>(std::ceil(dense_fraction * static_cast<double>(steps) - 1e-9)));
}

bool Schedule::dense(std::int64_t step, std::int64_t steps, std::int64_t layer, std::int64_t tokens, Use use) const {
  check_schedule(*this, steps);
  if (dense_layers.contains(layer) || (use == Use::sampling && step < first_sparse_step(steps))) return true;
  return tokens < (min_tokens == automatic ? usual_break_even(use) : min_tokens);
}

bool Schedule::dense(std::int64_t step, std::int64_t steps, std::int64_t layer, const Problem& problem, Use use,
                     const CostModel* costs, std::int64_t threads) const {
  if (min_tokens != automatic) return dense(step, steps, layer, problem.sample(0).tokens(), use);
  Schedule rest = *this;
  rest.min_tokens = 0;
  return rest.dense(step, steps, layer, problem.sample(0).tokens(), use) ||
         !sparse_pays(costs ? *costs : costs_here(problem), problem, direction_of(use), threads);
}

bool Schedule::refreshes(std::int64_t step, std::int64_t steps) const {
  const std::int64_t since = step - first_sparse_step(steps);
  return since >= 0 && since % refresh == 0;
}

std::span<const Preset> presets() {
  static const std::array<Preset, 7> rows{{
      {"paper-81x480x832",
       {21, 30, 52},
       {{{frames(3), query_top(2)}, {columns(5, 13), query_top(6)}, {{7, 5, 13}, query_top(18)}}},
       {},
       paper},
      {"paper-81x720x1280",
       {21, 45, 80},
       {{{frames(3), query_top(2)}, {columns(9, 10), query_top(10)}, {{7, 15, 20}, query_top(9)}}},
       {},
       paper},
      {"paper-93x576x1024",
       {24, 36, 64},
       {{{frames(3), paper_rule()}, {columns(6, 8), paper_rule()}, {{8, 12, 8}, paper_rule()}}},
       {},
       paper},
      {"paper-141x480x832",
       {36, 30, 52},
       {{{frames(3), paper_rule()}, {columns(5, 13), paper_rule()}, {{12, 10, 13}, paper_rule()}}},
       {},
       paper},
      {"paper-81x320x512",
       {21, 20, 32},
       {{{frames(3), paper_rule()}, {columns(4, 4), paper_rule()}, {{7, 4, 8}, paper_rule()}}},
       {},
       paper},
      {"fastvideo-480x832",
       {20, 30, 52},
       {{{frames(2), query_threshold()}, {columns(3, 4), query_threshold()}, {{4, 6, 4}, query_threshold()}}},
       {},
       fastvideo},
      {"fastvideo-448x832",
       {20, 28, 52},
       {{{frames(2), query_top(2)}, {columns(4, 13), query_top(6)}, {{4, 4, 13}, query_top(18)}}},
       {},
       fastvideo},
  }};
  return rows;
}

const Preset& preset(std::string_view name) {
  std::string names;
  for (const Preset& row : presets()) {
    if (row.name == name) return row;
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  throw_argument("preset", "\"" + std::string(name) + "\"", "is no preset", "use one of " + names);
}

double FlopsModel::attention_dense(std::int64_t tokens) const {
  const double s = static_cast<double>(tokens), w = static_cast<double>(heads * dim);
  return static_cast<double>(layers) * 4 * s * s * w;
}

double FlopsModel::attention_sparse(std::int64_t tokens, double mean_blocks, double density) const {
  const double s = static_cast<double>(tokens), w = static_cast<double>(heads * dim);
  return static_cast<double>(layers) * (2 * s * w * mean_blocks + 4 * density * s * s * w);
}

namespace {

// Everything but self-attention's products: projections, cross-attention over the text, feed-forward.
double other_flops(const FlopsModel& m, std::int64_t tokens) {
  const double s = static_cast<double>(tokens), w = static_cast<double>(m.heads * m.dim);
  const double l = static_cast<double>(m.text), f = static_cast<double>(m.ffn);
  const double cross = 4 * s * w * w + 4 * l * w * w + 4 * l * s * w;
  return static_cast<double>(m.layers) * (8 * s * w * w + cross + 4 * s * w * f);
}

}  // namespace

double FlopsModel::dense(std::int64_t tokens) const { return other_flops(*this, tokens) + attention_dense(tokens); }

double FlopsModel::sparse(std::int64_t tokens, double mean_blocks, double density) const {
  return other_flops(*this, tokens) + attention_sparse(tokens, mean_blocks, density);
}

}  // namespace vmoba
