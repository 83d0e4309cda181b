// SPDX-License-Identifier: Apache-2.0
// Reference forward against an independent masked softmax, and its behaviour at the edges.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "reference/reference.hpp"

namespace vmoba {
namespace {

using test::Tensors;
const Execution reference_only{.backend = "reference"};
constexpr double infinity = std::numeric_limits<double>::infinity();

TEST(ReferenceAttend, EqualsAMaskedSoftmax) {
  test::Rng rng(11);
  for (int i = 0; i < 80; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1, .half = false});
    options.dtype = DType::f64;
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i, i % 2 ? test::Layout::padded : test::Layout::contiguous);
    const Selection random = test::random_selection(p, rng, i % 3 * 40);
    const Selection* selection = i % 5 == 0 ? nullptr : &random;
    test::run(p, selection, t, reference_only);
    const Tensors naive = test::naive(p, selection, t);
    EXPECT_EQ(test::near("out", t.out, naive.out, 1e-13), "");
    EXPECT_EQ(test::near("lse", t.lse, naive.lse, 1e-13), "");
    EXPECT_TRUE(t.out.gaps_untouched());
  }
}

TEST(ReferenceAttend, TakesBlockRows) {
  test::Rng rng(12);
  for (int i = 0; i < 30; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1, .batch = 1, .half = false});
    options.dtype = DType::f64;
    const Problem p(options);
    Tensors t = Tensors::random(p, i);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return rng.integer(low, high); };
    const Selection rows =
        test::random_block_selection(p, test::random_block(pick, {p.sample(0).partition->grid()}), rng);
    test::run(p, &rows, t, reference_only);
    const Tensors naive = test::naive(p, &rows, t);
    EXPECT_EQ(test::near("out", t.out, naive.out, 1e-13) + test::near("dk", t.dk, naive.dk, 1e-11), "");
    Tensors expanded = t;
    const Selection tokens = rows.by_token();
    test::run(p, &tokens, expanded, reference_only);
    EXPECT_TRUE(expanded.out.same_bits(t.out));
    EXPECT_TRUE(expanded.dv.same_bits(t.dv));
  }
}

TEST(ReferenceAttend, EmptyRowsGiveZeroAndMinusInfinity) {
  const Problem p({.grid = {1, 2, 3}, .block = {1, 1, 3}, .heads = 1, .dim = 4, .dtype = DType::f64});
  Tensors t = Tensors::random(p, 1);
  Selection s(p);
  s.set(0, 0, 2, 1);
  test::run(p, &s, t, reference_only);
  for (std::int64_t row = 0; row < 6; ++row) {
    for (std::int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(t.out.get(0, row, 0, d) != 0, row == 2);
      EXPECT_EQ(t.dq.get(0, row, 0, d) != 0, row == 2);
      EXPECT_EQ(t.dk.get(0, row, 0, d) != 0, row >= 3);
    }
    EXPECT_EQ(t.lse.get(0, row, 0, 0) == -infinity, row != 2);
  }
}

TEST(ReferenceAttend, TextIsAttendedByAllAndPaddingByNobody) {
  for (auto at : {Text::At::front, Text::At::rear}) {
    const Problem p({.grid = {1, 2, 3},
                     .block = {1, 1, 3},
                     .batch = 2,
                     .heads = 2,
                     .dim = 4,
                     .dtype = DType::f64,
                     .text = {.count = 4, .at = at, .valid = {3, 0}}});
    Tensors t = Tensors::random(p, 1);
    Selection s(p);  // no video key at all
    s.set(0, 0, 1, 0);
    test::run(p, &s, t, reference_only);
    const std::int64_t first_video = at == Text::At::front ? 4 : 0, first_text = at == Text::At::front ? 0 : 6;
    const auto attended = [&](std::int64_t b, std::int64_t h, std::int64_t row) {
      return reference::attended_rows(p, &s, b, h, row);
    };
    EXPECT_EQ(attended(0, 1, first_video), (std::vector<std::int64_t>{first_text, first_text + 1, first_text + 2}));
    EXPECT_EQ(attended(0, 0, first_video + 1).size(), 6u);
    EXPECT_EQ(attended(0, 0, first_text + 2).size(), 9u);
    EXPECT_TRUE(attended(0, 0, first_text + 3).empty());
    EXPECT_TRUE(attended(1, 0, first_text).empty());
    EXPECT_TRUE(attended(1, 0, first_video + 1).empty());
    for (std::int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(t.out.get(0, first_text + 3, 0, d), 0);
      EXPECT_EQ(t.dk.get(0, first_text + 3, 0, d), 0);
      EXPECT_EQ(t.dv.get(0, first_text + 3, 1, d), 0);
      EXPECT_EQ(t.dq.get(0, first_text + 3, 1, d), 0);
      EXPECT_NE(t.dv.get(0, first_text + 2, 1, d), 0);
    }
    EXPECT_EQ(t.lse.get(0, first_text + 3, 0, 0), -infinity);
  }
}

TEST(ReferenceAttend, DroppingTextEqualsMaskingIt) {
  ProblemOptions options{.grid = {2, 2, 3}, .block = {1, 2, 2}, .heads = 2, .dim = 4, .dtype = DType::f64};
  options.text = {.count = 5, .valid = {2}};
  const Problem padded(options);
  options.text = {.count = 2};
  const Problem cut(options);
  Tensors a = Tensors::random(padded, 1), b = Tensors::random(cut, 2);
  for (auto [to, from] : {std::pair{&b.q, &a.q}, {&b.k, &a.k}, {&b.v, &a.v}, {&b.dout, &a.dout}, {&b.dlse, &a.dlse}}) {
    to->fill([&, from = from](auto s, auto r, auto h, auto d) { return from->get(s, r, h, d); });
  }
  const Selection x = select(padded, a.q, a.k, reference_only), y = select(cut, b.q, b.k, reference_only);
  test::run(padded, &x, a, reference_only);
  test::run(cut, &y, b, reference_only);
  b.out.for_each([&](auto s, auto r, auto h, auto d) {
    EXPECT_EQ(a.out.get(s, r, h, d), b.out.get(s, r, h, d));
    EXPECT_EQ(a.dk.get(s, r, h, d), b.dk.get(s, r, h, d));
  });
}

TEST(ReferenceAttend, PartsMergeByTheirLse) {
  // Attending two halves of the blocks and merging by lse equals attending both.
  const Problem p({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 4, .dtype = DType::f64});
  test::Rng rng(3);
  Selection a(p), b(p);
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t row = 0; row < 24; ++row) {
      for (std::int64_t c = 0; c < 4; ++c) (c % 2 ? a : b).set(0, h, row, c, rng.integer(0, 2) > 0);
    }
  }
  Tensors x = Tensors::random(p, 1), y = x, both = x;
  const Selection all = a | b;
  test::run(p, &a, x, reference_only);
  test::run(p, &b, y, reference_only);
  test::run(p, &all, both, reference_only);
  both.out.for_each([&](auto s, auto r, auto h, auto d) {
    const double lse = both.lse.get(s, r, h, 0);
    if (lse == -infinity) return;
    const double merged = std::exp(x.lse.get(s, r, h, 0) - lse) * x.out.get(s, r, h, d) +
                          std::exp(y.lse.get(s, r, h, 0) - lse) * y.out.get(s, r, h, d);
    EXPECT_NEAR(merged, both.out.get(s, r, h, d), 1e-14);
  });
}

TEST(ReferenceAttend, ResultsOfHalfInputsAreRoundedOnce) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Problem p({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 8, .dtype = dtype});
    Tensors t = Tensors::random(p, 1);
    const Selection s = select(p, t.q, t.k, reference_only);
    test::run(p, &s, t, reference_only);
    const Tensors exact = test::truth(p, &s, t);
    EXPECT_EQ(t.out.doubles(), exact.out.to(dtype).doubles());
    EXPECT_EQ(t.lse.doubles(), exact.lse.to(DType::f32).doubles());
    EXPECT_EQ(test::check_results(p, &s, t), "");
  }
}

TEST(ReferenceAttend, NaNStaysWhereItBelongs) {
  const Problem p({.grid = {1, 1, 8}, .block = {1, 1, 2}, .heads = 1, .dim = 4});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Tensors t = Tensors::random(p, 1);
  Selection s(p);
  for (std::int64_t row = 0; row < 8; ++row) s.set(0, 0, row, row / 2);
  t.k.set(0, 3, 0, 1, nan);
  t.v.set(0, 6, 0, 2, nan);
  test::run(p, &s, t, reference_only);
  for (std::int64_t row = 0; row < 8; ++row) {
    for (std::int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(std::isnan(t.out.get(0, row, 0, d)), row / 2 == 1 || (row / 2 == 3 && d == 2)) << row << " " << d;
    }
    EXPECT_EQ(std::isnan(t.lse.get(0, row, 0, 0)), row / 2 == 1);
  }
}

}  // namespace
}  // namespace vmoba
