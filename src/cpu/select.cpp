// SPDX-License-Identifier: Apache-2.0
// select of the cpu backend: block means, then the groups by scope, then floors and caps.
#include "cpu/select.hpp"

#include <variant>

#include "cpu/select_bracket.hpp"
#include "cpu/select_sample.hpp"

namespace vmoba::cpu {
namespace {

// What the rules have in common.
struct Rule {
  Scope scope = Scope::head;
  bool limits = false;  // a floor or cap that can change something
};

Rule rule_of(const Policy& policy, std::int64_t blocks) {
  return std::visit(
      [&](const auto& rule) -> Rule {
        if constexpr (requires { rule.min_blocks; }) {
          return {rule.scope, rule.min_blocks > 1 || rule.max_blocks.value_or(blocks) < blocks};
        } else {
          return {};
        }
      },
      policy);
}

void fill_means(const SampleGates& sample, const Runner& runner) {
  const std::int64_t heads = sample.problem->kv_heads(), some = SampleGates::mean_heads;
  const std::int64_t groups = (heads + some - 1) / some, width = some * sample.problem->dim();
  const Buffer<double> sums(runner.workers() * width);
  const Buffer<float> mean(runner.workers() * width);
  runner(sample.blocks * groups, [&](std::int64_t item, const Runner& mine) {
    const std::int64_t first = mine.worker() * width;
    sample.means(item / groups, item % groups * some, sums.data() + first, mean.data() + first);
  });
}

// Budgets that do not depend on the gates: every pair, or own pairs only.
bool select_without_gates(const SampleGates& sample, Selection& selection) {
  const Budget budget = budget_of(sample.problem->policy(), 1, sample.blocks, {});
  if (!budget.all && !(budget.by_count && budget.count == 0)) return false;
  const std::int64_t words = selection.shape(sample.b).words();
  for (std::int64_t h = 0; h < sample.problem->heads(); ++h) {
    std::uint64_t* const first = selection.words_of(sample.b, h, 0);
    for (std::int64_t c = 0; c < sample.blocks; ++c) {
      for (std::int64_t word = 0; word < words; ++word) {
        const std::int64_t rows = std::min<std::int64_t>(64, sample.tokens - word * 64);
        first[c * words + word] = budget.all ? ~std::uint64_t{0} >> (64 - rows) : 0;
      }
    }
    for (std::int64_t s = 0; s < sample.tokens; ++s)
      first[sample.own[s] * words + s / 64] |= std::uint64_t{1} << s % 64;
  }
  return true;
}

void select_one(const SampleGates& sample, Selection& selection, const Runner& runner) {
  const std::int64_t heads = sample.problem->heads();
  const Rule rule = rule_of(sample.problem->policy(), sample.blocks);
  PerWorker<TileScratch> tiles(sample, runner);
  if (select_without_gates(sample, selection)) {
    // then only floors and caps look at gates
  } else if (rule.scope == Scope::query) {
    select_queries(sample, selection, runner);
  } else {
    PerWorker<BracketScratch> scratch(sample, runner);
    if (rule.scope == Scope::head) {
      std::vector<std::unique_ptr<BracketSolver>> solvers(static_cast<std::size_t>(runner.workers()));
      runner(heads, [&](std::int64_t h, const Runner& inside) {
        std::unique_ptr<BracketSolver>& solver = solvers[static_cast<std::size_t>(inside.worker())];
        if (!solver) solver = std::make_unique<BracketSolver>(sample, 1, false, scratch);
        if (solver->solve(h, selection, inside).empty()) return;
        select_exact(sample, {h, h + 1, 0, sample.blocks}, selection, inside, tiles);
      });
    } else {
      const bool by_column = rule.scope == Scope::block;
      const auto left = BracketSolver(sample, heads, by_column, scratch).solve(0, selection, runner);
      const std::int64_t width = by_column ? 1 : sample.blocks;
      runner(static_cast<std::int64_t>(left.size()), [&](std::int64_t i, const Runner& inside) {
        select_exact(sample, {0, heads, left[i] * width, (left[i] + 1) * width}, selection, inside, tiles);
      });
    }
  }
  if (rule.limits) apply_limits(sample, selection, runner, tiles);
}

}  // namespace

void select(const GateKernels& kernels, const Problem& problem, const ConstView& q, const ConstView& k,
            Selection& selection, const Execution& execution) {
  if (std::holds_alternative<Dense>(problem.policy())) {
    selection.fill(true);
    return;
  }
  Crew::run(execution, [&](const Runner& runner) {
    for (std::int64_t b = 0; b < problem.batch(); ++b) {
      SampleGates sample(problem, kernels, q, k, b);
      const Buffer<float> panels(sample.panels_size());
      sample.panels = panels.data();
      fill_means(sample, runner);
      select_one(sample, selection, runner);
    }
  });
}

std::int64_t select_scratch_bytes(const Problem& problem, const Execution& execution) {
  constexpr GateKernels no_kernels{};  // only sizes are asked for
  if (std::holds_alternative<Dense>(problem.policy())) return 0;
  const std::int64_t workers = cpu::workers(execution), heads = problem.heads();
  std::int64_t most = 0;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const SampleGates sample(problem, no_kernels, {}, {}, b);
    const Rule rule = rule_of(problem.policy(), sample.blocks);
    const std::int64_t tiles = workers * TileScratch::bytes(sample.strips, problem.dim());
    std::int64_t step = 0;
    if (rule.scope == Scope::query) {
      step = select_queries_bytes(sample, workers);
    } else {
      const bool each = rule.scope == Scope::head, by_column = rule.scope == Scope::block;
      const auto [kept, call] = BracketSolver::bytes(sample, each ? 1 : heads, by_column, workers);
      const std::int64_t solvers = each ? std::min(heads, workers) : 1;
      const std::int64_t exact = select_exact_bytes(sample, by_column ? 1 : sample.blocks);
      step = solvers * (kept + call) + (by_column ? workers : solvers) * exact + tiles +
             workers * BracketScratch::bytes(problem.dim());
    }
    if (rule.limits) step = std::max(step, tiles + workers * sample.blocks * 20);
    const std::int64_t means = sample.panels_size() * 4 + workers * SampleGates::mean_heads * problem.dim() * 12;
    most = std::max(most, Crew::bytes(workers) + means + step);
  }
  return most;
}

}  // namespace vmoba::cpu
