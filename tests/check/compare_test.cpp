// SPDX-License-Identifier: Apache-2.0
// The judge judged: a budget sees what is wrong, in one row of many and in a problem of one row, and is no luck.
#include "check/compare.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "check/problems.hpp"

namespace vmoba::test {
namespace {

const Execution reference_only{.backend = "reference"};

TEST(Budget, SeesAWrongElement) {
  const Problem p({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 8});
  Tensors t = Tensors::random(p, 1);
  const Selection s = select(p, t.q, t.k, reference_only);
  run(p, &s, t, reference_only);
  const Standard standard(p, &s, t);
  EXPECT_EQ(check_results(t, standard), "");
  const auto refused = [&](Tensor Tensors::*tensor, double value) {
    Tensors wrong = t;
    (wrong.*tensor).set(0, 5, 1, 0, value);
    EXPECT_NE(check_results(wrong, standard), "") << value;
  };
  refused(&Tensors::out, t.out.get(0, 5, 1, 0) + 5e-6);
  refused(&Tensors::lse, t.lse.get(0, 5, 1, 0) + 1e-5);
  refused(&Tensors::dq, t.dq.get(0, 5, 1, 0) + 5e-6);
  refused(&Tensors::dk, std::numeric_limits<double>::quiet_NaN());
  refused(&Tensors::lse, std::numeric_limits<double>::infinity());
  refused(&Tensors::dv, 1e38);
}

// What f16 cannot hold is infinite in it, where the truth in double is not.
TEST(Budget, KnowsTheRangeOfF16) {
  const Problem p({.grid = {1, 1, 2}, .block = {1, 1, 1}, .dim = 8, .dtype = DType::f16});
  Tensors t = Tensors::random(p, 1);
  run(p, nullptr, t, reference_only);
  Tensor actual = t.out;
  Tensors exact = truth(p, nullptr, t, false);
  const double infinity = std::numeric_limits<double>::infinity();
  const auto special = [&](double stored, double value) {
    actual.set(0, 0, 0, 3, stored);
    exact.out.set(0, 0, 0, 3, value);
    return difference(actual, exact.out).special;
  };
  EXPECT_EQ(special(infinity, 7e4), 0);
  EXPECT_EQ(special(-infinity, -65400), 0);
  EXPECT_EQ(special(-infinity, 7e4), 1);
  EXPECT_EQ(special(infinity, 6e4), 1);
  EXPECT_EQ(special(std::numeric_limits<double>::quiet_NaN(), 7e4), 1);
}

// The rows of an error are of one size: what one row is expected to err by is what thousands measure.
TEST(Budget, ExpectsWhatManyRowsMeasure) {
  const Problem p({.grid = {4, 8, 12}, .block = {2, 4, 6}, .heads = 4, .kv_heads = 2, .dim = 32});
  Rng rng(1);
  const Selection s = random_selection(p, rng, 60);
  for (const Selection* selection : {&s, static_cast<const Selection*>(nullptr)}) {
    for (const Verdict& v : judge(Tensors::random(p, 2), Standard(p, selection, Tensors::random(p, 2)))) {
      EXPECT_GT(v.naive.relative_l2, 0.5 * v.expected.relative_l2) << v.of;
      EXPECT_LT(v.naive.relative_l2, 1.5 * v.expected.relative_l2) << v.of;
    }
  }
}

// A row whose gradient cancels to nothing: any multiple of the naive error may be luck here, the expectation is not.
TEST(Budget, HoldsAFewRows) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Problem p({.grid = {1, 1, 2}, .block = {1, 1, 1}, .dim = 8, .scale = 0.01});
    Tensors t = Tensors::random(p, seed);
    const Tensors exact = truth(p, nullptr, t, false);
    const Standard standard(p, nullptr, t, false);
    const Tensors far = expected_error(p, nullptr, t, false);
    const auto moved = [&](double by) {
      Tensors actual = t;
      for (const Verdict& v : judge(t, standard)) {
        (actual.*v.tensor).fill([&](auto b, auto r, auto h, auto d) {
          const double x = (exact.*v.tensor).get(b, r, h, d);
          return x + by * ((far.*v.tensor).get(b, r, h, d) - x);
        });
      }
      return check_results(actual, standard);
    };
    EXPECT_EQ(moved(0), "") << seed;
    EXPECT_EQ(moved(1), "") << seed;
    EXPECT_NE(moved(20), "") << seed;
  }
}

}  // namespace
}  // namespace vmoba::test
