// SPDX-License-Identifier: Apache-2.0
// Partition: every token in exactly one block, on any grid and any extent.
#include "vmoba/partition.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

#include "check/problems.hpp"
#include "support/errors.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

TEST(Partition, CountsOfThePaper) {
  EXPECT_EQ(Partition({21, 30, 52}, {3, full, full}).blocks(), 7);
  EXPECT_EQ(Partition({21, 30, 52}, {full, 5, 13}).blocks(), 24);
  EXPECT_EQ(Partition({21, 30, 52}, {7, 5, 13}).blocks(), 72);
  EXPECT_EQ(Partition({24, 36, 64}, {8, 12, 8}).blocks(), 72);
}

TEST(Partition, RaggedEdgesAreShorterAndNothingIsPadded) {
  const Partition p({5, 3, 4}, {2, 2, 3});
  EXPECT_EQ(p.blocks(), 3 * 2 * 2);
  EXPECT_EQ(p.largest(), 12);
  EXPECT_EQ(p.smallest(), 1);
  EXPECT_EQ(p.size(p.blocks() - 1), 1);  // t 4, y 2, x 3
  EXPECT_EQ(p.tokens_of(p.blocks() - 1)[0], (4 * 3 + 2) * 4 + 3);
}

TEST(Partition, BlocksAreNumberedInRasterOrderOfTheirPositions) {
  const Partition p({2, 4, 6}, {1, 2, 3});
  const auto own = [&](std::int64_t t, std::int64_t y, std::int64_t x) { return p.own((t * 4 + y) * 6 + x); };
  EXPECT_EQ(own(0, 0, 0), 0);
  EXPECT_EQ(own(0, 0, 3), 1);
  EXPECT_EQ(own(0, 2, 0), 2);
  EXPECT_EQ(own(0, 3, 5), 3);
  EXPECT_EQ(own(1, 0, 0), 4);
  EXPECT_EQ(own(1, 3, 5), 7);
}

TEST(Partition, RunsCutFrames) {
  const Partition p({2, 2, 3}, vmoba::Run{5});
  EXPECT_EQ(p.blocks(), 3);
  EXPECT_EQ(p.size(2), 2);
  EXPECT_EQ(p.own(5), 1);  // the last token of frame 0 lies in the second run
}

TEST(Partition, OneInEveryPosition) {
  for (Grid grid : {Grid{1, 5, 4}, Grid{5, 1, 4}, Grid{5, 4, 1}, Grid{1, 1, 7}, Grid{1, 7, 1}, Grid{7, 1, 1}, Grid{}}) {
    EXPECT_EQ(Partition(grid, {1, 1, 1}).blocks(), grid.tokens());
    EXPECT_EQ(Partition(grid, Block{}).blocks(), 1);
    EXPECT_EQ(Partition(grid, vmoba::Run{1}).blocks(), grid.tokens());
    EXPECT_EQ(Partition(grid, vmoba::Run{grid.tokens()}).blocks(), 1);
  }
}

RC_GTEST_PROP(Partition, CoversEachTokenOnce, ()) {
  const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };
  const Grid grid = test::random_grid(pick, {.axis = 9});
  const Block block = test::random_block(pick, {grid});
  const Partition p(grid, block);
  RC_ASSERT(p.tokens() == grid.tokens());
  RC_ASSERT(static_cast<std::int64_t>(p.order().size()) == grid.tokens());
  RC_ASSERT(p.begin().front() == 0 && p.begin().back() == p.tokens());
  std::vector<int> seen(p.tokens(), 0);
  for (std::int64_t c = 0; c < p.blocks(); ++c) {
    RC_ASSERT(p.size(c) > 0);
    RC_ASSERT(std::ranges::is_sorted(p.tokens_of(c)));
    for (std::int32_t s : p.tokens_of(c)) {
      ++seen[s];
      RC_ASSERT(p.own(s) == c);
    }
  }
  RC_ASSERT(std::ranges::count(seen, 1) == p.tokens());
}

RC_GTEST_PROP(Partition, CuboidsHoldNeighboursOnly, ()) {
  const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };
  const Grid g = test::random_grid(pick, {.axis = 7});
  const Cuboid c{pick(1, g.t), pick(1, g.y), pick(1, g.x)};
  const Partition p(g, c);
  for (std::int64_t s = 0; s < p.tokens(); ++s) {
    const std::int64_t x = s % g.x, y = s / g.x % g.y, t = s / g.x / g.y;
    const std::int64_t first = p.tokens_of(p.own(s))[0];  // the lowest corner
    RC_ASSERT(first / g.x / g.y == t / c.t * c.t);
    RC_ASSERT(first / g.x % g.y == y / c.y * c.y);
    RC_ASSERT(first % g.x == x / c.x * c.x);
  }
}

TEST(Partition, RefusesWhatDoesNotFit) {
  expect_argument_error("block.x", "70", "is larger than grid.x = 52", "use 1..52, or full", [] {
    Partition({21, 30, 52}, {1, 1, 70});
  });
  expect_argument_error("block.y", "0", "is not a number of tokens", "use 1..30", [] {
    Partition({21, 30, 52}, {1, 0, 1});
  });
  expect_argument_error("block.t", "-2", "is not a number of tokens", "use 1..21", [] {
    Partition({21, 30, 52}, {-2, 1, 1});
  });
  expect_argument_error("block.run", "0", "is not a number of tokens", "use 1..24", [] {
    Partition({2, 3, 4}, vmoba::Run{0});
  });
  expect_argument_error("block.run", "25", "is not a number of tokens", "use 1..24", [] {
    Partition({2, 3, 4}, vmoba::Run{25});
  });
  expect_argument_error("grid.t", "0", "is not a number of tokens", "use 1 or more", [] {
    Partition({0, 3, 4}, Block{});
  });
  expect_argument_error("grid.y", "-3", "is not a number of tokens", "use 1 or more", [] {
    Partition({2, -3, 4}, Block{});
  });
  expect_argument_error("grid", "{65536, 65536, 1}", "more than 2147483647 tokens", "smaller", [] {
    Partition({65536, 65536, 1}, Block{});
  });
  const std::int64_t huge = std::int64_t{1} << 62;
  expect_argument_error("grid", "{4611686018427387904, 4611686018427387904, 4}", "more than 2147483647 tokens",
                        "smaller", [&] {
                          Partition({huge, huge, 4}, Block{});
                        });
}

}  // namespace
}  // namespace vmoba
