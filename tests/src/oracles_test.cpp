// SPDX-License-Identifier: Apache-2.0
// Truths that need no reference values, on the reference backend: dense limits, block-diagonal, relabelling, extremes,
// edges.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/selections.hpp"
#include "reference/reference.hpp"

namespace vmoba {
namespace {

using test::Tensors;
const Execution reference_only{.backend = "reference"};

Selection by_reference(const Problem& p, const Tensors& t) {
  Selection s(p);
  reference::select(p, p.resolve(t.q.view(), p.heads(), p.dim()), p.resolve(t.k.view(), p.kv_heads(), p.dim()), s, {});
  return s;
}

void expect_equal(const Tensors& a, const Tensors& b) {
  EXPECT_TRUE(a.out.same_bits(b.out));
  EXPECT_TRUE(a.lse.same_bits(b.lse));
  EXPECT_TRUE(a.dq.same_bits(b.dq));
  EXPECT_TRUE(a.dk.same_bits(b.dk));
  EXPECT_TRUE(a.dv.same_bits(b.dv));
}

TEST(Oracles, EverythingSelectedEqualsDense) {
  test::Rng rng(1);
  for (int i = 0; i < 40; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1});
    if (i % 2 == 0) {
      options.policy = Threshold{.tau = 1.1, .scope = static_cast<Scope>(i / 2 % 4)};
    } else {
      const Scope scopes[] = {Scope::query, Scope::head, Scope::all};
      options.policy = TopK{.k = 1 << 20, .scope = scopes[i / 2 % 3]};
    }
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors sparse = Tensors::random(p, i), dense = sparse;
    const Selection s = by_reference(p, sparse);
    EXPECT_EQ(s.density(), 1);
    EXPECT_EQ(select(p, sparse.q, sparse.k, reference_only), s);
    test::run(p, &s, sparse, reference_only);
    test::run(p, nullptr, dense, reference_only);
    expect_equal(sparse, dense);
  }
}

TEST(Oracles, OneBlockAQueryIsBlockDiagonal) {
  test::Rng rng(2);
  for (int i = 0; i < 30; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1, .batch = 1, .text = 0});
    options.policy = TopK{.k = 1, .scope = i % 2 ? Scope::query : Scope::head};
    options.dtype = DType::f64;
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i);
    const Selection s = by_reference(p, t);
    test::run(p, &s, t, reference_only);
    // Each block is a dense problem of its own.
    const Partition& partition = *p.sample(0).partition;
    for (std::int64_t c = 0; c < partition.blocks(); ++c) {
      const auto tokens = partition.tokens_of(c);
      ProblemOptions block = options;
      block.grids.clear();
      block.batch = 1;
      block.grid = {1, 1, static_cast<std::int64_t>(tokens.size())};
      block.block = Block{};
      block.policy = Dense{};
      block.text = {};
      const Problem alone(block);
      Tensors one = Tensors::zeros_of(alone);
      for (auto [to, from] :
           {std::pair{&one.q, &t.q}, {&one.k, &t.k}, {&one.v, &t.v}, {&one.dout, &t.dout}, {&one.dlse, &t.dlse}}) {
        to->fill([&, from = from](auto b, auto r, auto h, auto d) { return from->get(b, tokens[r], h, d); });
      }
      test::run(alone, nullptr, one, reference_only);
      one.out.for_each([&](auto b, auto r, auto h, auto d) {
        ASSERT_EQ(one.out.get(b, r, h, d), t.out.get(b, tokens[r], h, d));
        ASSERT_EQ(one.dq.get(b, r, h, d), t.dq.get(b, tokens[r], h, d));
      });
      one.dv.for_each([&](auto b, auto r, auto h, auto d) {
        ASSERT_NEAR(one.dv.get(b, r, h, d), t.dv.get(b, tokens[r], h, d), 1e-13);
      });
    }
  }
}

TEST(Oracles, ABatchEqualsItsSamples) {
  test::Rng rng(3);
  for (int i = 0; i < 40; ++i) {
    const Problem p(test::random_options(rng, {.axis = 4}));
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i);
    const Selection s = by_reference(p, t);
    test::run(p, &s, t, reference_only);
    for (std::int64_t b = 0; b < p.batch(); ++b) {
      const Problem alone = test::only_sample(p, b);
      Tensors one;
      for (auto [to, from] : {std::pair{&one.q, &t.q},
                              {&one.k, &t.k},
                              {&one.v, &t.v},
                              {&one.dout, &t.dout},
                              {&one.dlse, &t.dlse},
                              {&one.out, &t.out},
                              {&one.lse, &t.lse},
                              {&one.dq, &t.dq},
                              {&one.dk, &t.dk},
                              {&one.dv, &t.dv}}) {
        *to = test::only_sample(p, *from, b);
      }
      const Tensors expected = one;
      const Selection separate = by_reference(alone, one);
      test::run(alone, &separate, one, reference_only);
      expect_equal(one, expected);
    }
  }
}

TEST(Oracles, RelabellingBlocksChangesNothing) {
  // The same sets of keys under another numbering: a grid turned upside down along t, y and x.
  const Grid grid{3, 4, 5};
  const Problem p({.grid = grid, .block = {1, 2, 5}, .heads = 2, .dim = 4, .dtype = DType::f64});
  Tensors t = Tensors::random(p, 1), mirrored = Tensors::zeros_of(p);
  const std::int64_t last = grid.tokens() - 1;
  for (auto [to, from] : {std::pair{&mirrored.q, &t.q},
                          {&mirrored.k, &t.k},
                          {&mirrored.v, &t.v},
                          {&mirrored.dout, &t.dout},
                          {&mirrored.dlse, &t.dlse}}) {
    to->fill([&, from = from](auto b, auto r, auto h, auto d) { return from->get(b, last - r, h, d); });
  }
  const Selection s = by_reference(p, t), m = by_reference(p, mirrored);
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t row = 0; row <= last; ++row) {
      for (std::int64_t c = 0; c < 6; ++c) ASSERT_EQ(s.test(0, h, row, c), m.test(0, h, last - row, 5 - c));
    }
  }
  test::run(p, &s, t, reference_only);
  test::run(p, &m, mirrored, reference_only);
  t.out.for_each([&](auto b, auto r, auto h, auto d) {
    EXPECT_NEAR(t.out.get(b, r, h, d), mirrored.out.get(b, last - r, h, d), 1e-14);
    EXPECT_NEAR(t.dk.get(b, r, h, d), mirrored.dk.get(b, last - r, h, d), 1e-13);
  });
}

TEST(Oracles, OneBlockChosenByAllAndOneByNone) {
  const Problem p({.grid = {1, 1, 24}, .block = {1, 1, 4}, .heads = 1, .dim = 4, .dtype = DType::f64});
  Tensors t = Tensors::random(p, 1);
  Selection s(p);
  for (std::int64_t row = 0; row < 24; ++row) s.set(0, 0, row, 2);
  test::run(p, &s, t, reference_only);
  for (std::int64_t row = 0; row < 24; ++row) {
    for (std::int64_t d = 0; d < 4; ++d) EXPECT_EQ(t.dv.get(0, row, 0, d) != 0, row / 4 == 2);
  }
  EXPECT_EQ(s.popularity(0, 0), (std::vector<std::int64_t>{0, 0, 24, 0, 0, 0}));
  const Tensors naive = test::naive(p, &s, t);
  EXPECT_EQ(test::near("dk", t.dk, naive.dk, 1e-12), "");
}

TEST(Oracles, ZeroQueriesAndKeysGiveTheMean) {
  const Problem p({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 8});
  Tensors t = Tensors::random(p, 1);
  for (test::Tensor* x : {&t.q, &t.k}) x->fill([](auto...) { return 0.0; });
  const Selection s = by_reference(p, t);
  EXPECT_EQ(s.density(), 1);  // a constant group takes all
  test::run(p, &s, t, reference_only);
  for (std::int64_t d = 0; d < 8; ++d) {
    double mean = 0;
    for (std::int64_t r = 0; r < 24; ++r) mean += t.v.get(0, r, 1, d) / 24;
    EXPECT_NEAR(t.out.get(0, 7, 1, d), mean, 1e-7);
  }
  EXPECT_FLOAT_EQ(static_cast<float>(t.lse.get(0, 3, 0, 0)), std::log(24.f));
}

TEST(Oracles, LogitsOfAHundredNatsStayExact) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Problem p({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 1, .dim = 8, .dtype = dtype, .scale = 1.0});
    Tensors t = Tensors::random(p, 1);
    t.q.fill([](auto, auto r, auto, auto d) { return d == 0 ? (r % 2 ? 10.0 : -10.0) : 0.0; });
    t.k.fill([](auto, auto r, auto, auto d) { return d == 0 ? (r % 3 - 1) * 10.0 : 0.0; });
    const Selection s = by_reference(p, t);
    test::run(p, &s, t, reference_only);
    EXPECT_EQ(test::check_results(p, &s, t), "") << name(dtype);
    t.out.for_each([&](auto b, auto r, auto h, auto d) { ASSERT_TRUE(std::isfinite(t.out.get(b, r, h, d))); });
  }
}

// In double: logits of several hundred nats leave an fp32 lse wrong by 1e-5, which the gradient of any backend
// inherits.
TEST(Oracles, OneBlocksKeysScaledByAHundred) {
  const Problem p({.grid = {2, 4, 4}, .block = {1, 2, 2}, .heads = 2, .dim = 8, .dtype = DType::f64});
  Tensors t = Tensors::random(p, 1);
  for (std::int32_t s : p.sample(0).partition->tokens_of(5)) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t d = 0; d < 8; ++d) t.k.set(0, s, h, d, 100 * t.k.get(0, s, h, d));
    }
  }
  const Selection s = by_reference(p, t);
  // Half the queries give that block the largest gate of their row; it leads the head's order.
  EXPECT_GT(s.popularity(0, 0)[5], 8);
  test::run(p, &s, t, reference_only);
  const Tensors naive = test::naive(p, &s, t);
  EXPECT_EQ(test::near("out", t.out, naive.out, 1e-12), "");
  EXPECT_EQ(test::near("lse", t.lse, naive.lse, 1e-14), "");
  EXPECT_EQ(test::near("dq", t.dq, naive.dq, 1e-11), "");
  EXPECT_EQ(test::near("dk", t.dk, naive.dk, 1e-11), "");
  EXPECT_EQ(test::near("dv", t.dv, naive.dv, 1e-11), "");
}

TEST(Oracles, EdgesOfTiles) {
  // Sequence lengths and extents around powers of two; a 1 in every position of the grid.
  for (std::int64_t n : {1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65}) {
    for (Grid grid : {Grid{n, 1, 1}, Grid{1, n, 1}, Grid{1, 1, n}}) {
      for (std::int64_t run : {std::int64_t{1}, (n + 1) / 2, n}) {
        const Problem p({.grid = grid,
                         .block = vmoba::Run{run},
                         .heads = 1,
                         .dim = n == 1 ? 1 : n % 5 + 1,
                         .policy = Threshold{.tau = 0.3}});
        Tensors t = Tensors::random(p, n);
        const Selection s = by_reference(p, t);
        EXPECT_EQ(test::check_selection(p, t.q, t.k, s), "");
        test::run(p, &s, t, reference_only);
        EXPECT_EQ(test::check_results(p, &s, t), "") << test::words(p);
      }
    }
  }
}

TEST(Oracles, RepeatedRunsAndThreadsGiveTheSameBits) {
  const Problem p({.grid = {3, 4, 5}, .block = {2, 2, 2}, .heads = 4, .kv_heads = 2, .dim = 8, .text = {.count = 3}});
  Tensors first = Tensors::random(p, 1);
  const Selection s = select(p, first.q, first.k, reference_only);
  test::run(p, &s, first, reference_only);
  for (std::int64_t threads : {1, 2, 5}) {
    Tensors again = Tensors::random(p, 1);
    const Execution execution{
        .backend = "reference", .threads = threads, .parallel_for = [](std::int64_t workers, const auto& body) {
          for (std::int64_t w = 0; w < workers; ++w) body(w);
        }};
    EXPECT_EQ(select(p, again.q, again.k, execution), s);
    test::run(p, &s, again, execution);
    expect_equal(again, first);
  }
}

RC_GTEST_PROP(Oracles, EveryOutputIsWrittenOverPoison, ()) {
  const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };
  const Problem p(test::random_options(pick, {.axis = 3, .dim_unit = 1, .dense = true}));
  Tensors t = Tensors::random(p, *rc::gen::arbitrary<std::uint64_t>(), test::Layout::padded);
  const Selection s = select(p, t.q, t.k, reference_only);
  test::run(p, &s, t, reference_only);
  for (const test::Tensor* x : {&t.out, &t.lse, &t.dq, &t.dk, &t.dv}) {
    for (double value : x->doubles()) RC_ASSERT(!std::isnan(value));
    RC_ASSERT(x->gaps_untouched());
  }
}

}  // namespace
}  // namespace vmoba
