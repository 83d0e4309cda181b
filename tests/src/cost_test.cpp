// SPDX-License-Identifier: Apache-2.0
// The cost model: what predictions are made of, where sparse begins to pay, the file and its refusals.
#include "vmoba/cost.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "support/errors.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"
#include "vmoba/preset.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

Problem problem_of(Grid grid, Block block, Policy policy = Threshold{}, std::int64_t text = 0) {
  return Problem({.grid = grid,
                  .block = block,
                  .batch = 2,
                  .heads = 4,
                  .kv_heads = 2,
                  .dim = 16,
                  .policy = policy,
                  .text = {.count = text}});
}
const CostModel& skylake() { return default_costs("cpu:skylake"); }

TEST(Cost, PredictsUnitsOfWorkTimesCoefficients) {
  // 2 samples, 4 heads over 2 key heads, 64 tokens in 4 blocks of 16, D 16.
  const Problem problem = problem_of({4, 4, 4}, {1, 4, 4});
  const double pairs = 2 * 4 * 64 * 64;
  const auto with = [](const std::string& name) {
    CostModel costs;
    visit_coefficients(costs, [&](const std::string& each, double& value) { value = each == name ? 1 : 0; });
    return costs;
  };
  const auto forward = [&](const char* name) { return predict(with(name), problem, Direction::forward, 1, 0.5); };
  const auto both = [&](const char* name) { return predict(with(name), problem, Direction::forward_backward, 1, 0.5); };
  EXPECT_DOUBLE_EQ(forward("dense.forward.flop").dense, pairs * 4 * 16);
  EXPECT_DOUBLE_EQ(forward("dense.forward.pair").dense, pairs);
  EXPECT_DOUBLE_EQ(forward("dense.forward.token").dense, 2 * 4 * 64 * 16);
  EXPECT_DOUBLE_EQ(forward("dense.forward.call").dense, 1);
  EXPECT_DOUBLE_EQ(forward("dense.backward.flop").dense, 0);
  EXPECT_DOUBLE_EQ(both("dense.backward.flop").dense, pairs * 10 * 16);
  EXPECT_DOUBLE_EQ(forward("sparse.forward.flop").attend, pairs / 2 * 4 * 16);
  EXPECT_DOUBLE_EQ(forward("sparse.forward.pair").attend, pairs / 2);
  EXPECT_DOUBLE_EQ(forward("sparse.forward.visit").attend, 2 * 4 * 64 * 4 / 2);
  EXPECT_DOUBLE_EQ(forward("sparse.forward.token").attend, 2 * 2 * 64 * 16);
  EXPECT_DOUBLE_EQ(both("sparse.backward.visit").attend, 2 * 4 * 64 * 4 / 2);
  EXPECT_DOUBLE_EQ(forward("select.flop").select, 2 * 4 * 64 * 4 * 2 * 16);
  EXPECT_DOUBLE_EQ(forward("select.pair.head").select, 2 * 4 * 64 * 4);
  EXPECT_DOUBLE_EQ(forward("select.pair.all").select, 0);
  EXPECT_DOUBLE_EQ(forward("select.token").select, 2 * 64 * 6 * 16);
  EXPECT_DOUBLE_EQ(forward("select.call").select, 1);
  // Text: attended by all, attends all, whatever the density.
  const Prediction text = predict(with("sparse.forward.pair"), problem_of({4, 4, 4}, {1, 4, 4}, Threshold{}, 6),
                                  Direction::forward, 1, 0.5);
  EXPECT_DOUBLE_EQ(text.attend, 2 * 4 * (64 * 64 / 2 + 2 * 64 * 6 + 6 * 6));
  // Blocks larger than a tile are several tiles.
  const Prediction large =
      predict(with("sparse.forward.visit"), problem_of({4, 20, 20}, {2, full, full}), Direction::forward, 1, 0.5);
  EXPECT_DOUBLE_EQ(large.attend, 2 * 4 * 1600 * (2 * 7) / 2);
}

TEST(Cost, ThreadsShareEverythingButTheCall) {
  const Problem problem = problem_of({4, 4, 4}, {1, 4, 4});
  CostModel costs = skylake();
  visit_coefficients(costs, [](const std::string& name, double& value) {
    if (name.ends_with(".call")) value = 0;
  });
  const Prediction one = predict(costs, problem, Direction::forward_backward, 1);
  const Prediction four = predict(costs, problem, Direction::forward_backward, 4);
  EXPECT_NEAR(one.dense / four.dense, 4, 1e-12);
  EXPECT_NEAR(one.sparse() / four.sparse(), 4, 1e-12);
  expect_argument_error("threads", "0", "is not a number of threads", "1 or more",
                        [&] { predict(costs, problem, Direction::forward, 0); });
  expect_argument_error("density", "1.5", "is outside 0..1", "a share",
                        [&] { predict(costs, problem, Direction::forward, 1, 1.5); });
}

TEST(Cost, ExpectsTheDensityThatThePolicyGives) {
  const auto density = [](Policy policy) { return expected_density(problem_of({8, 8, 8}, {2, 2, 2}, policy)); };
  EXPECT_NEAR(density(Threshold{.tau = 0.25}), 0.19, 1e-12);
  EXPECT_NEAR(density(Threshold{.tau = 0.5}), 0.39, 1e-12);
  EXPECT_GT(density(Threshold{.tau = 0.3}), density(Threshold{.tau = 0.29}));
  EXPECT_DOUBLE_EQ(density(Threshold{.tau = 3}), 1);
  EXPECT_DOUBLE_EQ(density(Threshold{.tau = 1e-9}), 1.0 / 64);
  EXPECT_DOUBLE_EQ(density(Threshold{.tau = 0.25, .min_blocks = 32}), 0.5);
  EXPECT_DOUBLE_EQ(density(Threshold{.tau = 0.25, .max_blocks = 2}), 2.0 / 64);
  EXPECT_DOUBLE_EQ(density(TopK{.k = 16}), 0.25);
  EXPECT_DOUBLE_EQ(density(TopK{.k = 500}), 1);
  EXPECT_DOUBLE_EQ(density(TopK{.k = 16, .max_blocks = 8}), 0.125);
  EXPECT_DOUBLE_EQ(density(Dense{}), 1);
}

// What break_even_tokens and crossover_density say is what predict says on both sides of it.
TEST(Cost, BreakEvenAndCrossoverAgreeWithPredictions) {
  for (const char* backend : {"cpu:skylake", "cpu:haswell", "cpu:generic"}) {
    const CostModel& costs = default_costs(backend);
    for (const auto direction : {Direction::forward, Direction::forward_backward}) {
      const Problem shape({.grid = {8, 8, 8}, .block = {2, 4, 8}, .heads = 4, .dim = 128});
      const std::optional<std::int64_t> tokens = break_even_tokens(costs, shape, direction, 2);
      ASSERT_TRUE(tokens) << backend;
      EXPECT_GT(*tokens, 8) << backend;
      EXPECT_LE(*tokens, 2048) << backend;
      const auto run = [&](std::int64_t count) {  // 8 runs of equal length
        const Problem p({.grid = {8, 1, count / 8}, .block = {1, full, full}, .heads = 4, .dim = 128});
        return predict(costs, p, direction, 2);
      };
      const Prediction below = run(std::max<std::int64_t>(*tokens / 2 / 8, 1) * 8), above = run(*tokens * 2 / 8 * 8);
      EXPECT_GT(below.sparse(), below.dense) << backend << " " << *tokens;
      EXPECT_LT(above.sparse(), above.dense) << backend << " " << *tokens;

      const Problem large({.grid = {16, 16, 16}, .block = {4, 4, 4}, .heads = 4, .dim = 128});
      const double density = crossover_density(costs, large, direction, 2);
      EXPECT_GT(density, 0.5) << backend;
      EXPECT_LT(density, 1) << backend;
      const Prediction there = predict(costs, large, direction, 2, density);
      EXPECT_NEAR(there.sparse() / there.dense, 1, 1e-9) << backend;
      EXPECT_TRUE(sparse_pays(costs, large, direction, 2));
    }
    EXPECT_EQ(default_costs(backend).backend, backend);
  }
  EXPECT_EQ(&default_costs("cpu:of-tomorrow"), &skylake());
}

TEST(Cost, SparseNeverPaysWhereItCannot) {
  const auto problem = [](Policy policy) {
    return Problem({.grid = {16, 16, 16}, .block = {4, 4, 4}, .heads = 4, .dim = 128, .policy = policy});
  };
  EXPECT_TRUE(sparse_pays(skylake(), problem(Threshold{}), Direction::forward));
  CostModel odd = skylake();  // a fit on a disturbed machine may call a pair of sparse attention cheaper
  odd.sparse_forward.flop = odd.dense_forward.flop / 2;
  for (const CostModel& costs : {skylake(), odd})
    for (const Policy& policy : {Policy{Dense{}}, Policy{TopK{.k = 64}}, Policy{Threshold{.tau = 2}}}) {
      EXPECT_FALSE(sparse_pays(costs, problem(policy), Direction::forward)) << describe(policy);
      EXPECT_FALSE(break_even_tokens(costs, problem(policy), Direction::forward)) << describe(policy);
    }
  EXPECT_FALSE(sparse_pays(odd, problem_of({16, 16, 16}, {full, full, full}), Direction::forward));
  CostModel slow = skylake();
  slow.select.call = 1e-3;  // seconds a call: longer than a tiny dense attention takes
  const Problem tiny({.grid = {4, 4, 4}, .block = {2, 2, 2}, .heads = 1, .dim = 64});
  EXPECT_EQ(crossover_density(slow, tiny, Direction::forward), 0);
}

TEST(Cost, TextComesBackAsItWas) {
  CostModel costs = skylake();
  double next = 1.0 / 3;
  visit_coefficients(costs, [&](const std::string&, double& value) { value = next /= 3; });
  costs.backend = "cpu:some_tier9";
  EXPECT_EQ(parse_costs(to_text(costs), "a.cost"), costs);
  EXPECT_EQ(parse_costs(to_text(skylake()) + "\n\n", "a.cost"), skylake());
}

TEST(Cost, TakesTheLineEndsOfWindows) {
  std::string text;
  for (const char c : to_text(skylake())) text += c == '\n' ? std::string("\r\n") : std::string(1, c);
  EXPECT_EQ(parse_costs(text + "\r\n", "a.cost"), skylake());
}

void refused(const std::string& text, const std::string& word) {
  try {
    parse_costs(text, "a.cost");
    ADD_FAILURE() << "taken: " << text.substr(0, 80);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::file);
    EXPECT_EQ(error.argument(), "a.cost");
    const std::string what = error.what();
    EXPECT_NE(what.find(word), std::string::npos) << what;
    EXPECT_NE(what.find("--fit"), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos);
  }
}

TEST(Cost, RefusesFilesThatHoldNoCosts) {
  const std::string good = to_text(skylake());
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  const std::string line =
      good.substr(good.find("select.flop"), good.find("\nselect.pair.head") - good.find("select.flop"));
  refused("", "is empty");
  refused("{}", "does not begin");
  refused("vmoba-cost 2\n" + good, "does not begin");
  refused("vmoba-cost 1\n", "lacks backend");
  refused(with(line, ""), "lacks select.flop");
  refused(with(line, line + "\n" + line), "repeats");
  refused(with(line, "select.flop"), "select.flop");
  refused(with(line, "select.flop 1e-9 2"), "select.flop");
  refused(with(line, "select.flop nan"), "select.flop");
  refused(with(line, "select.flop inf"), "select.flop");
  refused(with(line, "select.flop -1e-12"), "select.flop");
  refused(with(line, "select.flop 1e300"), "select.flop");
  refused(with(line, line + "\nselect.colour 1"), "is no coefficient");
  refused(with(line, line + "\r\r"), "select.flop");
  refused(with("\n", "\r"), "does not begin");
  refused(with("cpu:skylake", ""), "names no backend");
  refused(with("cpu:skylake", "cpu:\x1b[31m"), "names no backend");
  refused(with("cpu:skylake", std::string(50, 'a')), "names no backend");
  refused(good + std::string(70000, '\n'), "64 KB");
  CostModel nothing;
  nothing.backend = "cpu:x";
  refused(to_text(nothing), "costs nothing");
}

// Whatever the bytes: costs or a refusal, and never a coefficient out of range.
TEST(Cost, SurvivesBrokenFiles) {
  std::mt19937 random(1);
  const std::string good = to_text(skylake());
  int taken = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    for (unsigned edit = random() % 3 + 1; edit > 0; --edit) {
      const std::size_t at = random() % text.size();
      if (random() % 2) text[at] = static_cast<char>(random());
      if (random() % 4 == 0) text.erase(at, random() % 20);
      if (random() % 4 == 0) text.insert(at, text.substr(random() % text.size(), random() % 20));
    }
    try {
      CostModel costs = parse_costs(text, "a.cost");
      ++taken;
      visit_coefficients(costs,
                         [](const std::string& name, double value) { EXPECT_TRUE(value >= 0 && value <= 1) << name; });
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::file);
    }
  }
  EXPECT_GT(taken, 0);
}

TEST(Cost, ExplainShowsIt) {
  const Problem problem({.grid = {16, 16, 16}, .block = {4, 4, 4}, .heads = 4, .dim = 128});
  const Explanation built_in = explain(problem);
  EXPECT_EQ(built_in.costs, default_costs(built_in.backend).backend);
  EXPECT_EQ(built_in.training.quicker, "sparse");
  CostModel costs = skylake();
  costs.backend = "cpu:mine";
  costs.select.call = 1;
  Execution four;
  four.threads = 4;
  const Explanation told = explain(problem, four, &costs);
  EXPECT_EQ(told.costs, "cpu:mine");
  EXPECT_EQ(told.forward.quicker, "dense");
  EXPECT_DOUBLE_EQ(told.forward.time.dense, predict(costs, problem, Direction::forward, 4).dense);
  EXPECT_EQ(told.forward.crossover_density, 0);
  EXPECT_EQ(told.training.break_even_tokens, break_even_tokens(costs, problem, Direction::forward_backward, 4));
  const std::string text = to_text(told);
  EXPECT_NE(text.find("dense is quicker"), std::string::npos) << text;
  EXPECT_NE(text.find("by the costs of cpu:mine"), std::string::npos) << text;
  EXPECT_NE(text.find("tokens, no density"), std::string::npos) << text;
}

}  // namespace
}  // namespace vmoba
