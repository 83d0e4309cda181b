// SPDX-License-Identifier: Apache-2.0
// Policies: their words, their checks, and when they keep everything.
#include "vmoba/policy.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "policy/policy.hpp"
#include "support/errors.hpp"
#include "vmoba/vmoba.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

Problem with(Policy policy) {
  return Problem({.grid = {2, 4, 4}, .block = {2, 2, 2}, .heads = 2, .dim = 8, .policy = policy});
}

TEST(Policy, InWords) {
  EXPECT_EQ(describe(Threshold{}), "Threshold(0.25, scope=head)");
  EXPECT_EQ(describe(TopK{.k = 3, .scope = Scope::all, .min_blocks = 2, .max_blocks = 5}),
            "TopK(3, scope=all, min_blocks=2, max_blocks=5)");
  EXPECT_EQ(describe(Dense{}), "Dense()");
  EXPECT_EQ(name(Scope::query), "query");
  EXPECT_EQ(name(Scope::block), "block");
}

TEST(Policy, TableFollowsTheVariant) {
  ASSERT_EQ(policy::table().size(), std::variant_size_v<Policy>);
  EXPECT_EQ(policy::entry(Threshold{}).name, "Threshold");
  EXPECT_EQ(policy::entry(TopK{}).name, "TopK");
  EXPECT_EQ(policy::entry(Dense{}).name, "Dense");
}

TEST(Policy, RefusesEveryWrongOption) {
  expect_argument_error("policy.tau", "0", "is not a positive share", "above 0", [] { with(Threshold{.tau = 0}); });
  expect_argument_error("policy.tau", "-0.5", "is not a positive share", "above 0",
                        [] { with(Threshold{.tau = -0.5}); });
  expect_argument_error("policy.tau", "nan", "is not a positive share", "above 0",
                        [] { with(Threshold{.tau = std::numeric_limits<double>::quiet_NaN()}); });
  expect_argument_error("policy.tau", "inf", "is not a positive share", "above 0",
                        [] { with(Threshold{.tau = std::numeric_limits<double>::infinity()}); });
  expect_argument_error("policy.k", "0", "is not a number of blocks", "1 or more", [] { with(TopK{.k = 0}); });
  expect_argument_error("policy.scope", "block", "has no TopK rule", "use scope head, query or all",
                        [] { with(TopK{.k = 2, .scope = Scope::block}); });
  expect_argument_error("policy.min_blocks", "0", "is below the own block", "1 or more",
                        [] { with(Threshold{.min_blocks = 0}); });
  expect_argument_error("policy.max_blocks", "2", "is below policy.min_blocks = 3", "use 3 or more",
                        [] { with(TopK{.k = 2, .min_blocks = 3, .max_blocks = 2}); });
  expect_argument_error("policy.max_blocks", "0", "is below policy.min_blocks = 1", "use 1 or more",
                        [] { with(Threshold{.max_blocks = 0}); });
  expect_argument_error("policy.scope", "9", "is no scope", "head, query, block or all",
                        [] { with(Threshold{.scope = static_cast<Scope>(9)}); });
}

TEST(Policy, KnowsWhenItKeepsEverything) {  // 4 blocks
  EXPECT_TRUE(selects_all(with(Dense{})));
  EXPECT_TRUE(selects_all(with(TopK{.k = 4})));
  EXPECT_TRUE(selects_all(with(TopK{.k = 9, .max_blocks = 4})));
  EXPECT_FALSE(selects_all(with(TopK{.k = 9, .max_blocks = 3})));
  EXPECT_FALSE(selects_all(with(TopK{.k = 3})));
  EXPECT_TRUE(selects_all(with(Threshold{.tau = 1.1})));
  EXPECT_TRUE(selects_all(with(Threshold{.tau = 1})));
  EXPECT_FALSE(selects_all(with(Threshold{.tau = 0.999})));
  EXPECT_TRUE(selects_all(with(Threshold{.min_blocks = 4})));
  EXPECT_FALSE(selects_all(with(Threshold{.min_blocks = 3})));
}

}  // namespace
}  // namespace vmoba
