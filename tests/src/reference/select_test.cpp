// SPDX-License-Identifier: Apache-2.0
// The selection rules: an independent brute force, the published code's errors, ties, floors and caps, hostile numbers.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/selections.hpp"
#include "reference/reference.hpp"

namespace vmoba {
namespace {

using test::Tensors;
const Execution reference_only{.backend = "reference"};
const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };

// q and k with dim = N such that the gate of (s, c) is exactly gates(h, s, c): k of every token of block c is the unit
// vector c, q of token s holds the gates.
template <class Gate>
Tensors with_gates(const Problem& p, Gate&& gate) {
  Tensors t = Tensors::zeros_of(p);
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Sample& sample = p.sample(b);
    const Partition& partition = *sample.partition;
    const std::int64_t at = p.packed() ? 0 : b;
    for (std::int64_t s = 0; s < partition.tokens(); ++s) {
      const std::int64_t row = sample.row_begin + sample.video_begin + s;
      for (std::int64_t d = 0; d < p.dim(); ++d) {
        for (std::int64_t g = 0; g < p.kv_heads(); ++g) t.k.set(at, row, g, d, partition.own(s) == d ? 1 : 0);
        for (std::int64_t h = 0; h < p.heads(); ++h) {
          t.q.set(at, row, h, d, d < partition.blocks() ? gate(b, h, s, d) : 0.0);
        }
      }
    }
  }
  return t;
}

// A line of tokens in equal blocks.
Problem line(std::int64_t tokens, std::int64_t block, Policy policy, std::int64_t heads = 1, std::int64_t batch = 1) {
  return Problem({.grid = {1, 1, tokens},
                  .block = {1, 1, block},
                  .batch = batch,
                  .heads = heads,
                  .dim = (tokens + block - 1) / block,
                  .dtype = DType::f64,
                  .policy = policy});
}

Selection chosen(const Problem& p, const Tensors& t) {
  std::vector<std::uint64_t> dirty(Selection::word_count(p), ~0ull);
  Selection s(p, dirty);
  reference::select(p, t.q.view(), t.k.view(), s, {});
  return s & s;  // owns its words
}

std::vector<std::int32_t> blocks_of(const Selection& s, std::int64_t row, std::int64_t h = 0, std::int64_t b = 0) {
  const auto lists = s.blocks_by_row(b, h);
  return {lists.items.begin() + lists.begin[row], lists.items.begin() + lists.begin[row + 1]};
}
using Blocks = std::vector<std::int32_t>;

// Threshold by its definition, without sorting and without the reference's code: a pair is taken when the weights of
// all pairs before it sum to less than r.
Selection brute_force(const Problem& p, const Tensors& t) {
  Selection result(p);
  const auto threshold = std::get<Threshold>(p.policy());
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Partition& partition = *p.sample(b).partition;
    struct Pair {
      std::int64_t h, s, c;
      double g;
    };
    std::map<std::array<std::int64_t, 2>, std::vector<Pair>> groups;
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const auto gates = reference::gates(p, t.q, t.k, b, h);
      for (std::int64_t s = 0; s < partition.tokens(); ++s) {
        for (std::int64_t c = 0; c < partition.blocks(); ++c) {
          std::array<std::int64_t, 2> key{0, 0};
          if (threshold.scope == Scope::head) key = {h, 0};
          if (threshold.scope == Scope::query) key = {h, s};
          if (threshold.scope == Scope::block) key = {c, 0};
          groups[key].push_back({h, s, c, gates[s * partition.blocks() + c]});
        }
      }
    }
    for (const auto& [key, pairs] : groups) {
      double m = pairs[0].g, M = pairs[0].g;
      for (const Pair& x : pairs) m = std::min(m, x.g), M = std::max(M, x.g);
      const double d = M - m <= 1e-6 ? 1 : M - m;
      double T = 0, A = 0;
      for (const Pair& x : pairs) {
        T += (x.g - m) / d;
        if (partition.own(x.s) == x.c) A += (x.g - m) / d;
      }
      const double r = std::max(0.0, threshold.tau - A / (T + 1e-6)) * (T + 1e-6);
      for (const Pair& x : pairs) {
        if (partition.own(x.s) == x.c) {
          result.set(b, x.h, x.s, x.c);
          continue;
        }
        double before = 0;
        std::int64_t count = 0;
        for (const Pair& y : pairs) {
          if (partition.own(y.s) == y.c) continue;
          const auto place = [](const Pair& z) { return std::tuple(-z.g, z.c, z.s, z.h); };
          if (place(y) < place(x)) before += (y.g - m) / d, ++count;
        }
        if (count == 0 || before < r) result.set(b, x.h, x.s, x.c);
      }
    }
  }
  return result;
}

TEST(ReferenceSelect, ThresholdFollowsItsDefinition) {
  test::Rng rng(7);
  for (int i = 0; i < 120; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 3, .dim_unit = 3, .heads = 2, .batch = 2});
    const double taus[] = {0.1, 0.25, 0.5, 0.8};
    options.policy = Threshold{.tau = taus[i % 4], .scope = static_cast<Scope>(i / 4 % 4)};
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    const Tensors t = Tensors::random(p, i, test::Layout::padded);
    EXPECT_EQ(chosen(p, t), brute_force(p, t));
    EXPECT_EQ(test::check_selection(p, t.q, t.k, brute_force(p, t)), "");
  }
}

TEST(ReferenceSelect, WorkedExampleByHand) {
  // Two blocks of one token. Gates: row 0 {8, 4}, row 1 {6, 0}: m 0, M 8, w {1, .5}, {.75, 0}; T 2.25, A 1.
  const auto gate = [](auto, auto, std::int64_t s, std::int64_t c) { return std::array{8., 4., 6., 0.}[s * 2 + c]; };
  const auto run = [&](double tau) {
    const Problem p = line(2, 1, Threshold{.tau = tau});
    return chosen(p, with_gates(p, gate));
  };
  // tau .4: r = .9 - 1 < 0: still one other, the best: row 1 block 0.
  EXPECT_EQ(blocks_of(run(.4), 0), Blocks{0});
  EXPECT_EQ(blocks_of(run(.4), 1), (Blocks{0, 1}));
  // tau .75: r = .6875 <= .75: the same. tau .8: r = .8 > .75: both.
  EXPECT_EQ(blocks_of(run(.75), 0), Blocks{0});
  EXPECT_EQ(blocks_of(run(.8), 0), (Blocks{0, 1}));
}

TEST(ReferenceSelect, ThePairThatReachesTheSumIsIncluded) {
  // One query of interest in scope query: own w 1, others 1, .5, .5, 0 -> T 3, A 1. tau 2/3: r = 1, reached by the
  // first.
  const auto gate = [](auto, auto, auto, std::int64_t c) { return std::array{2., 2., 1., 1., 0.}[c]; };
  const auto run = [&](double tau) {
    const Problem p = line(5, 1, Threshold{.tau = tau, .scope = Scope::query});
    return blocks_of(chosen(p, with_gates(p, gate)), 0);
  };
  EXPECT_EQ(run(0.66), (Blocks{0, 1}));
  EXPECT_EQ(run(0.67), (Blocks{0, 1, 2}));
  EXPECT_EQ(run(0.83), (Blocks{0, 1, 2}));
  EXPECT_EQ(run(0.84), (Blocks{0, 1, 2, 3}));
  EXPECT_EQ(run(1.0), (Blocks{0, 1, 2, 3, 4}));
}

// What the published code gets wrong (spec section 3), one test each.

TEST(PublishedErrors, OwnBlocksOnlyIsNotFullAttention) {
  for (Scope scope : {Scope::query, Scope::head, Scope::all}) {
    const Problem p(
        {.grid = {2, 4, 4}, .block = {2, 2, 2}, .heads = 2, .dim = 8, .policy = TopK{.k = 1, .scope = scope}});
    const Tensors t = Tensors::random(p, 1);
    const Selection s = chosen(p, t);
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t row = 0; row < 32; ++row) {
        EXPECT_EQ(blocks_of(s, row, h), Blocks{p.sample(0).partition->own(row)});
      }
    }
  }
}

TEST(PublishedErrors, AThresholdNeverReachedTakesAll) {
  for (Scope scope : {Scope::query, Scope::block, Scope::head, Scope::all}) {
    const Problem p = line(12, 2, Threshold{.tau = 1.1, .scope = scope}, 2);
    EXPECT_EQ(chosen(p, Tensors::random(p, 1)).density(), 1) << name(scope);
    // A constant group: T = 0, r = tau eps is never reached.
    const Problem constant = line(12, 2, Threshold{.tau = 0.25, .scope = scope}, 2);
    EXPECT_EQ(chosen(constant, with_gates(constant, [](auto...) { return 3.0; })).density(), 1) << name(scope);
  }
}

TEST(PublishedErrors, NoPairReachesIntoAnotherSample) {
  // Selections index blocks of their own sample only; what can leak is the budget: a sample of huge gates must not take
  // pairs from its neighbour, nor change which are taken.
  test::Rng rng(3);
  for (int i = 0; i < 60; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .batch = 3});
    options.grids = {{2, 3, 4}, {3, 3, 4}, {1, 2, 5}};
    options.grid = {};
    options.batch = 1;
    options.block = {1, 2, 2};
    options.text.valid = {};
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i);
    const Selection before = chosen(p, t);
    const Sample& last = p.sample(2);
    for (std::int64_t r = 0; r < last.rows; ++r) {
      for (std::int64_t h = 0; h < p.heads(); ++h) t.q.set(0, last.row_begin + r, h, 0, 60000);
    }
    const Selection after = chosen(p, t);
    for (std::int64_t b : {0, 1}) {
      for (std::int64_t h = 0; h < p.heads(); ++h) {
        EXPECT_EQ(before.blocks_by_row(b, h).items, after.blocks_by_row(b, h).items);
        EXPECT_EQ(before.counts(b, h), after.counts(b, h));
      }
    }
  }
}

TEST(PublishedErrors, ABatchEqualsItsSamples) {
  test::Rng rng(4);
  for (int i = 0; i < 100; ++i) {
    const Problem p(test::random_options(rng, {.axis = 4, .dim_unit = 3}));
    SCOPED_TRACE(test::words(p));
    const Tensors t = Tensors::random(p, i);
    const Selection together = chosen(p, t);
    for (std::int64_t b = 0; b < p.batch(); ++b) {
      const Problem alone = test::only_sample(p, b);
      Tensors one;
      one.q = test::only_sample(p, t.q, b);
      one.k = test::only_sample(p, t.k, b);
      const Selection separate = chosen(alone, one);
      ASSERT_TRUE(std::equal(separate.words().begin(), separate.words().end(), together.words_of(b, 0, 0)));
    }
  }
}

RC_GTEST_PROP(PublishedErrors, AnyGridTakesAnyExtent, ()) {
  ProblemOptions options = test::random_options(pick, {.axis = 5});
  const Problem p(options);
  const Tensors t = Tensors::random(p, *rc::gen::arbitrary<std::uint64_t>());
  const Selection s = chosen(p, t);
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      for (std::int64_t row = 0; row < s.shape(b).rows(); ++row)
        RC_ASSERT(s.test(b, h, row, p.sample(b).partition->own(row)));
    }
  }
}

TEST(PublishedErrors, MemoryIsTheBitsAndBoundedScratch) {
  // 33K tokens, 72 blocks, 12 heads: 3.5 MB of selection, known from shapes alone.
  const Problem p({.grid = {21, 30, 52}, .block = {7, 5, 13}, .heads = 12, .dim = 128});
  EXPECT_EQ(Selection::word_count(p) * 8, 12 * 72 * 512 * 8);
}

TEST(ReferenceSelect, TopKCountsOwnAndKeepsTheBest) {
  const auto gate = [](auto, auto, std::int64_t s, std::int64_t c) { return static_cast<double>((c * 7 + s) % 11); };
  const Problem p = line(11, 1, TopK{.k = 3});
  const Selection s = chosen(p, with_gates(p, gate));
  for (std::int64_t row = 0; row < 11; ++row) {
    std::vector<std::int64_t> order;
    for (std::int64_t c = 0; c < 11; ++c) {
      if (c != row) order.push_back(c);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return gate(0, 0, row, a) > gate(0, 0, row, b); });
    Blocks expected{static_cast<std::int32_t>(row), static_cast<std::int32_t>(order[0]),
                    static_cast<std::int32_t>(order[1])};
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(blocks_of(s, row), expected);
  }
}

RC_GTEST_PROP(ReferenceSelect, TopKKeepsExactlyItsBudget, ()) {
  ProblemOptions options = test::random_options(pick, {.axis = 4, .dim_unit = 1});
  const Scope scopes[] = {Scope::query, Scope::head, Scope::all};
  const TopK rule{.k = pick(1, 9), .scope = scopes[pick(0, 2)]};
  options.policy = rule;
  const Problem p(options);
  const Selection s = chosen(p, Tensors::random(p, *rc::gen::arbitrary<std::uint64_t>()));
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const std::int64_t k = std::min(rule.k, s.blocks(b)), tokens = p.sample(b).tokens();
    std::int64_t all = 0;
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      const auto counts = s.counts(b, h);
      const std::int64_t sum = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
      all += sum;
      if (rule.scope == Scope::head) RC_ASSERT(sum == k * tokens);
      if (rule.scope == Scope::query) RC_ASSERT(std::ranges::count(counts, k) == tokens);
    }
    RC_ASSERT(all == k * tokens * p.heads());
  }
}

TEST(ReferenceSelect, TiesGoToTheLowerBlockThenTheLowerToken) {
  const auto constant = [](auto...) { return 1.0; };
  const Problem query = line(6, 1, TopK{.k = 3});
  const Selection a = chosen(query, with_gates(query, constant));
  EXPECT_EQ(blocks_of(a, 0), (Blocks{0, 1, 2}));
  EXPECT_EQ(blocks_of(a, 1), (Blocks{0, 1, 2}));
  EXPECT_EQ(blocks_of(a, 5), (Blocks{0, 1, 5}));
  // Scope head, 6 others: block 0 for tokens 1..5 first, then block 1 for token 0.
  const Problem head = line(6, 1, TopK{.k = 2, .scope = Scope::head});
  const Selection b = chosen(head, with_gates(head, constant));
  EXPECT_EQ(blocks_of(b, 0), (Blocks{0, 1}));
  for (std::int64_t row = 1; row < 6; ++row) EXPECT_EQ(blocks_of(b, row), (Blocks{0, static_cast<std::int32_t>(row)}));
  // Scope all: equal block and token, the lower head first: 3 tokens x 2 heads, k 2: 6 others of 12.
  const Problem all = line(3, 1, TopK{.k = 2, .scope = Scope::all}, 2);
  const Selection c = chosen(all, with_gates(all, constant));
  for (std::int64_t h : {0, 1}) {
    EXPECT_EQ(blocks_of(c, 1, h), (Blocks{0, 1}));
    EXPECT_EQ(blocks_of(c, 2, h), (Blocks{0, 2}));
    EXPECT_EQ(blocks_of(c, 0, h), (Blocks{0, 1}));
  }
}

TEST(ReferenceSelect, FloorsAddTheBestOthersAndCapsRemoveTheWorst) {
  // Row 0 has the large gates, so scope head gives the others only what every rule gives: own blocks.
  const auto gate = [](auto, auto, std::int64_t s, std::int64_t c) {
    return (s == 0 ? 100.0 : 1.0) + static_cast<double>((c * 5) % 8) / 10;
  };
  const auto run = [&](std::int64_t floor, std::optional<std::int64_t> cap) {
    const Problem p = line(8, 1, Threshold{.tau = 0.5, .min_blocks = floor, .max_blocks = cap});
    return chosen(p, with_gates(p, gate));
  };
  const Selection plain = run(1, {});
  EXPECT_EQ(plain.counts(0, 0)[0], 5);
  for (std::int64_t row = 1; row < 8; ++row) EXPECT_EQ(blocks_of(plain, row), Blocks{static_cast<std::int32_t>(row)});
  // Order of blocks by gate: 3 (.7), 6 (.6), 1 (.5), 4 (.4), 7 (.3), 2, 5, 0.
  EXPECT_EQ(blocks_of(plain, 0), (Blocks{0, 1, 3, 4, 6}));
  const Selection floor = run(3, {});
  EXPECT_EQ(blocks_of(floor, 1), (Blocks{1, 3, 6}));
  EXPECT_EQ(blocks_of(floor, 3), (Blocks{1, 3, 6}));
  EXPECT_EQ(blocks_of(floor, 0), blocks_of(plain, 0));
  const Selection cap = run(1, 3);
  EXPECT_EQ(blocks_of(cap, 0), (Blocks{0, 3, 6}));
  EXPECT_EQ(blocks_of(cap, 1), Blocks{1});
  const Selection own = run(1, 1);
  for (std::int64_t row = 0; row < 8; ++row) EXPECT_EQ(blocks_of(own, row), Blocks{static_cast<std::int32_t>(row)});
  const Selection both = run(2, 2);
  for (std::int64_t row = 0; row < 8; ++row) EXPECT_EQ(blocks_of(both, row).size(), 2u);
}

RC_GTEST_PROP(ReferenceSelect, FloorsAndCapsHoldForEveryQuery, ()) {
  ProblemOptions options = test::random_options(pick, {.axis = 4, .dim_unit = 1});
  const std::int64_t floor = pick(1, 6), cap = floor + pick(0, 4);
  options.policy =
      Threshold{.tau = 0.3, .scope = static_cast<Scope>(pick(0, 3)), .min_blocks = floor, .max_blocks = cap};
  const Problem p(options);
  const Selection s = chosen(p, Tensors::random(p, *rc::gen::arbitrary<std::uint64_t>()));
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    for (std::int64_t h = 0; h < p.heads(); ++h) {
      for (std::int64_t count : s.counts(b, h)) {
        RC_ASSERT(count >= std::min(floor, s.blocks(b)));
        RC_ASSERT(count <= cap);
      }
    }
  }
}

RC_GTEST_PROP(ReferenceSelect, AHigherThresholdKeepsMore, ()) {
  ProblemOptions options = test::random_options(pick, {.axis = 4, .dim_unit = 1});
  const Scope scope = static_cast<Scope>(pick(0, 3));
  options.policy = Threshold{.tau = 0.2, .scope = scope};
  const Problem low(options);
  options.policy = Threshold{.tau = 0.5, .scope = scope};
  const Problem high(options);
  const Tensors t = Tensors::random(low, *rc::gen::arbitrary<std::uint64_t>());
  const Selection a = chosen(low, t), b = chosen(high, t);
  RC_ASSERT((a & b) == a);
}

TEST(ReferenceSelect, HostileNumbersNeitherCrashNorLoop) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (Scope scope : {Scope::query, Scope::block, Scope::head, Scope::all}) {
    for (double value : {nan, infinity, -infinity}) {
      const Problem p = line(12, 2, Threshold{.tau = 0.25, .scope = scope}, 2);
      Tensors t = Tensors::random(p, 1);
      for (std::int64_t h : {0, 1}) t.q.set(0, 3, h, 2, value);
      t.k.set(0, 5, 0, 1, value);
      const Selection s = chosen(p, t);
      for (std::int64_t row = 0; row < 12; ++row) EXPECT_TRUE(s.test(0, 0, row, row / 2));
      t.q.fill([&](auto...) { return value; });
      t.k.fill([&](auto...) { return value; });
      EXPECT_GT(chosen(p, t).density(), 0);
    }
  }
}

TEST(ReferenceSelect, NaNGatesComeLast) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Problem p = line(5, 1, TopK{.k = 3});
  Tensors t = with_gates(p, [&](auto, auto, auto, std::int64_t c) { return -static_cast<double>(c); });
  // Key 1 is NaN: gate NaN in every row for block 1 (and, 0 x NaN, nowhere else).
  for (std::int64_t d = 0; d < 5; ++d) t.k.set(0, 1, 0, d, nan);
  EXPECT_EQ(blocks_of(chosen(p, t), 0), (Blocks{0, 2, 3}));
  EXPECT_EQ(blocks_of(chosen(p, t), 1), (Blocks{0, 1, 2}));  // the own block stays
}

TEST(ReferenceSelect, TextTakesNoPart) {
  ProblemOptions options{.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 8, .dtype = DType::f64};
  const Problem plain(options);
  const Tensors t = Tensors::random(plain, 1);
  for (auto at : {Text::At::front, Text::At::rear}) {
    options.text = {.count = 5, .at = at, .valid = {3}};
    const Problem p(options);
    Tensors joint = Tensors::random(p, 2);
    for (auto [to, from] : {std::pair{&joint.q, &t.q}, {&joint.k, &t.k}}) {
      from->for_each([&](auto b, auto r, auto h, auto d) {
        to->set(b, p.sample(0).video_begin + r, h, d, from->get(b, r, h, d));
      });
    }
    EXPECT_EQ(chosen(p, joint), chosen(plain, t));
  }
}

TEST(ReferenceSelect, DensityFollowsTau) {
  // The paper's block counts on Gaussian data give about .13/.19/.27/.39 for tau .15/.25/.35/.50.
  const double taus[] = {.15, .25, .35, .5}, densities[] = {.13, .19, .27, .39};
  for (int i = 0; i < 4; ++i) {
    const Problem p(
        {.grid = {12, 12, 8}, .block = {4, 4, 2}, .heads = 1, .dim = 32, .policy = Threshold{.tau = taus[i]}});
    EXPECT_NEAR(chosen(p, Tensors::random(p, 9)).density(), densities[i], 0.05) << taus[i];
  }
}

TEST(ReferenceSelect, ACheckThatCannotFailWouldBeADefect) {
  const Problem p({.grid = {3, 4, 5}, .block = {2, 2, 2}, .heads = 2, .dim = 16});
  const Tensors t = Tensors::random(p, 1);
  Selection s = chosen(p, t);
  EXPECT_EQ(test::check_selection(p, t.q, t.k, s), "");
  const reference::Trace trace = [&] {
    Selection scratch(p);
    return reference::select_sample(p, t.q.view(), t.k.view(), 0, scratch);
  }();
  // The best other and the worst other are far from the cut.
  const std::int64_t blocks = s.blocks(0);
  for (bool best : {true, false}) {
    std::int64_t at = -1;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(trace.gates[1].size()); ++i) {
      if (p.sample(0).partition->own(i / blocks) == i % blocks) continue;
      const double g = trace.gates[1][i];
      if (at < 0 || (best ? g > trace.gates[1][at] : g < trace.gates[1][at])) at = i;
    }
    Selection wrong = s & s;
    wrong.set(0, 1, at / blocks, at % blocks, !best);
    EXPECT_NE(test::check_selection(p, t.q, t.k, wrong), "");
  }
  Selection no_own = s & s;
  no_own.set(0, 0, 7, p.sample(0).partition->own(7), false);
  EXPECT_NE(test::check_selection(p, t.q, t.k, no_own), "");
}

// Two keys of a block cancel, so that its mean is what rounding left of 1e25: nobody knows the cuts of that head. Own
// pairs, and the other head, are judged all the same.
TEST(ReferenceSelect, KeysThatCancelExcuseTheirGroupOnly) {
  const Problem p({.grid = {3, 4, 5}, .block = {2, 2, 2}, .heads = 2, .dim = 16});
  Tensors t = Tensors::random(p, 1);
  const std::span<const std::int32_t> block = p.sample(0).partition->tokens_of(3);
  for (std::int64_t d = 0; d < 16; ++d) {
    t.k.set(0, block[0], 1, d, 1e25);
    t.k.set(0, block[1], 1, d, -1e25);
  }
  const Selection s = chosen(p, t);
  for (const std::int64_t head : {0, 1}) {
    for (const bool own : {false, true}) {
      Selection wrong = s & s;
      for (std::int64_t row = 0; row < p.sample(0).tokens(); ++row) {
        for (std::int64_t c = 0; c < s.blocks(0); ++c) {
          if ((c == p.sample(0).partition->own(row)) == own) wrong.set(0, head, row, c, !s.test(0, head, row, c));
        }
      }
      EXPECT_EQ(test::check_selection(p, t.q, t.k, wrong).empty(), head == 1 && !own) << head << own;
    }
  }
}

// Keys whose means are 1/3 in different channels give equal gates, which fp32 rounds apart: whether their range counts
// as 1, and with it how many are taken, is up to the rounding. Gates of the same numbers are equal for everybody.
TEST(ReferenceSelect, EqualGatesOfDifferentNumbersExcuseTheirGroup) {
  for (const bool same : {false, true}) {
    const Problem p(
        {.grid = {1, 1, 12}, .block = {1, 1, 3}, .heads = 2, .dim = 8, .policy = Threshold{.9, Scope::query}});
    Tensors t = Tensors::random(p, 1);
    t.q.fill([](std::int64_t, std::int64_t, std::int64_t head, std::int64_t) { return head == 0 ? 25 : 0; });
    t.k.fill([&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t d) {
      return row % 3 == 0 && d == (same ? 0 : row / 3) ? 1 : 0;
    });
    const Selection s = chosen(p, t);
    for (const std::int64_t head : {0, 1}) {
      Selection wrong = s & s;
      for (std::int64_t row = 0; row < 12; ++row) {
        for (std::int64_t c = 0; c < 4; ++c) {
          if (c != p.sample(0).partition->own(row)) wrong.set(0, head, row, c, !s.test(0, head, row, c));
        }
      }
      EXPECT_EQ(test::check_selection(p, t.q, t.k, wrong).empty(), head == 0 && !same) << head << same;
    }
  }
}

}  // namespace
}  // namespace vmoba
