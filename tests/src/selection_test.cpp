// SPDX-License-Identifier: Apache-2.0
// The selection's bits, algebra, lists and expansions.
#include "vmoba/selection.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "check/problems.hpp"
#include "support/errors.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };

// A random problem's selection with random bits, token or block rows.
Selection arbitrary_selection(const Problem& p) {
  test::Rng rng(*rc::gen::arbitrary<std::uint64_t>());
  if (pick(0, 1) == 0) return test::random_selection(p, rng);
  std::vector<Grid> grids;
  for (std::int64_t b = 0; b < p.batch(); ++b) grids.push_back(p.sample(b).partition->grid());
  return test::random_block_selection(p, test::random_block(pick, grids), rng);
}

TEST(Selection, StartsEmptyAndSetsBits) {
  const Problem p({.grid = {3, 5, 7}, .block = {3, 2, 7}, .heads = 2, .dim = 8});
  Selection s(p);
  EXPECT_EQ(s.words().size(), 2u * 3 * 2);  // 105 rows are 2 words
  EXPECT_EQ(Selection::word_count(p), 12);
  EXPECT_EQ(s.density(), 0);
  s.set(0, 1, 104, 2);
  s.set(0, 1, 64, 0);
  EXPECT_TRUE(s.test(0, 1, 104, 2));
  EXPECT_FALSE(s.test(0, 0, 104, 2));
  EXPECT_EQ(s.words_of(0, 1, 2)[1], 1ull << 40);
  s.set(0, 1, 104, 2, false);
  EXPECT_FALSE(s.test(0, 1, 104, 2));
  EXPECT_EQ(s.counts(0, 1)[64], 1);
}

TEST(Selection, FillKeepsUnusedBitsZero) {
  const Problem p({.grid = {3, 5, 7}, .block = {3, 2, 7}, .heads = 2, .dim = 8});
  Selection s(p);
  s.fill(true);
  EXPECT_EQ(s.density(), 1);
  EXPECT_EQ(s.words_of(0, 0, 0)[1], (1ull << 41) - 1);
  s.fill(false);
  EXPECT_EQ(s, Selection(p));
}

TEST(Selection, DensityCountsRaggedBlocksByTheirTokens) {
  const Problem p({.grid = {1, 1, 5}, .block = {1, 1, 3}, .heads = 1, .dim = 8});
  Selection s(p);
  for (std::int64_t row = 0; row < 5; ++row) s.set(0, 0, row, 1);  // the block of 2
  EXPECT_DOUBLE_EQ(s.density(), 0.4);
}

TEST(Selection, MeanDensityWeighsByPairs) {
  const Problem p({.grids = {{1, 1, 2}, {1, 1, 6}}, .block = {1, 1, 2}, .heads = 1, .dim = 8});
  Selection s(p);
  s.set(0, 0, 0, 0);
  s.set(0, 0, 1, 0);
  EXPECT_DOUBLE_EQ(s.density(), 4.0 / 40);
}

TEST(Selection, UsesTheCallersMemory) {
  const Problem p({.grid = {3, 5, 7}, .block = {3, 2, 7}, .heads = 2, .dim = 8});
  std::vector<std::uint64_t> words(12, 0);
  Selection s(p, words);
  s.set(0, 0, 3, 1);
  EXPECT_EQ(words[2], 8u);
  expect_argument_error("words", "11 entries", "is not the selection's size of 12", "word_count",
                        [&] { Selection(p, std::span(words).first(11)); });
}

TEST(Selection, RefusesWrongShapes) {
  const auto grid = std::make_shared<const Partition>(Grid{2, 3, 4}, Block{1, 3, 4});
  const auto other = std::make_shared<const Partition>(Grid{2, 3, 5}, Block{1, 3, 4});
  expect_argument_error("heads", "0", "is not a number of heads", "1 or more", [&] { Selection({{grid}}, 0); });
  expect_argument_error("shapes[0].keys", "null", "is no partition", "keys", [&] { Selection({{nullptr}}, 1); });
  expect_argument_error("shapes[0].queries", "30 tokens", "the 24 tokens of the keys", "same grid", [&] {
    Selection({{grid, other}}, 1);
  });
  const Selection a({{grid}}, 1), b({{grid}}, 2);
  expect_argument_error("selection", "1 samples of 2 heads, the first 24 rows by 2 blocks of {1, 3, 4}",
                        "does not have the shape of the other, 1 samples of 1 heads", "one problem", [&] { a& b; });
  const Selection c({{grid, grid}}, 1);
  EXPECT_THROW(a | c, Error);
  EXPECT_FALSE(a == c);
}

RC_GTEST_PROP(Selection, AlgebraHolds, ()) {
  const Problem p(test::random_options(pick));
  test::Rng rng(*rc::gen::arbitrary<std::uint64_t>());
  const Selection a = test::random_selection(p, rng), b = test::random_selection(p, rng);
  Selection all(p);
  all.fill(true);
  RC_ASSERT((a & b) == (b & a));
  RC_ASSERT((a | b) == (b | a));
  RC_ASSERT((a & a) == a);
  RC_ASSERT((a | a) == a);
  RC_ASSERT((a & all) == a);
  RC_ASSERT((a | all) == all);
  RC_ASSERT((a & (a | b)) == a);
  RC_ASSERT(std::abs((a & b).density() + (a | b).density() - a.density() - b.density()) < 1e-12);
}

RC_GTEST_PROP(Selection, ListsAreTransposesAndCountTheBits, ()) {
  const Problem p(test::random_options(pick));
  const Selection s = arbitrary_selection(p);
  for (std::int64_t b = 0; b < s.batch(); ++b) {
    for (std::int64_t h = 0; h < s.heads(); ++h) {
      const auto rows = s.rows_by_block(b, h), blocks = s.blocks_by_row(b, h);
      const auto counts = s.counts(b, h), popularity = s.popularity(b, h);
      RC_ASSERT(rows.items.size() == blocks.items.size());
      std::int64_t bits = 0;
      for (std::int64_t c = 0; c < s.blocks(b); ++c) {
        RC_ASSERT(rows.begin[c + 1] - rows.begin[c] == popularity[c]);
        for (std::int64_t i = rows.begin[c]; i < rows.begin[c + 1]; ++i) {
          RC_ASSERT(s.test(b, h, rows.items[i], c));
          RC_ASSERT((i == rows.begin[c] || rows.items[i - 1] < rows.items[i]));  // ((: the macro does not short-circuit
        }
      }
      double kept = 0;
      for (std::int64_t row = 0; row < s.shape(b).rows(); ++row) {
        RC_ASSERT(blocks.begin[row + 1] - blocks.begin[row] == counts[row]);
        for (std::int64_t i = blocks.begin[row]; i < blocks.begin[row + 1]; ++i) {
          RC_ASSERT(s.test(b, h, row, blocks.items[i]));
          RC_ASSERT((i == blocks.begin[row] || blocks.items[i - 1] < blocks.items[i]));
        }
        for (std::int64_t c = 0; c < s.blocks(b); ++c) {
          bits += s.test(b, h, row, c);
          if (s.test(b, h, row, c)) kept += static_cast<double>(s.shape(b).row_tokens(row) * s.shape(b).keys->size(c));
        }
      }
      RC_ASSERT(static_cast<std::int64_t>(rows.items.size()) == bits);
      const double tokens = static_cast<double>(s.shape(b).keys->tokens());
      RC_ASSERT(std::abs(s.density(b, h) - kept / (tokens * tokens)) < 1e-12);
    }
  }
}

RC_GTEST_PROP(Selection, ByTokenGivesEachTokenItsRow, ()) {
  const Problem p(test::random_options(pick));
  const Selection s = arbitrary_selection(p), t = s.by_token();
  RC_ASSERT(std::abs(s.density() - t.density()) < 1e-12);
  RC_ASSERT(t.by_token() == t);
  for (std::int64_t b = 0; b < s.batch(); ++b) {
    RC_ASSERT(!t.shape(b).queries);
    for (std::int64_t h = 0; h < s.heads(); ++h) {
      for (std::int64_t c = 0; c < s.blocks(b); ++c) {
        for (std::int64_t token = 0; token < s.shape(b).keys->tokens(); ++token) {
          const std::int64_t row = s.shape(b).queries ? s.shape(b).queries->own(token) : token;
          RC_ASSERT(t.test(b, h, token, c) == s.test(b, h, row, c));
        }
      }
    }
  }
}

}  // namespace
}  // namespace vmoba
