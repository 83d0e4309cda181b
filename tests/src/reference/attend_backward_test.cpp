// SPDX-License-Identifier: Apache-2.0
// Reference backward against finite differences of reference forward, and against the naive gradient.
#include <gtest/gtest.h>

#include <cmath>

#include "check/compare.hpp"
#include "check/problems.hpp"

namespace vmoba {
namespace {

using test::Tensor;
using test::Tensors;
const Execution reference_only{.backend = "reference"};

// sum of dout * out + dlse * lse, over rows that attend something.
double objective(const Problem& p, const Selection* selection, Tensors& t, bool with_dlse) {
  if (selection) {
    attend(p, *selection, t.q, t.k, t.v, t.out, t.lse, reference_only);
  } else {
    attend(p, t.q, t.k, t.v, t.out, t.lse, reference_only);
  }
  const std::vector<double> out = t.out.doubles(), dout = t.dout.doubles();
  const std::vector<double> lse = t.lse.doubles(), dlse = t.dlse.doubles();
  double sum = 0;
  for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
  for (std::size_t i = 0; with_dlse && i < lse.size(); ++i) {
    if (std::isfinite(lse[i])) sum += lse[i] * dlse[i];
  }
  return sum;
}

TEST(ReferenceBackward, EqualsFiniteDifferences) {
  test::Rng rng(21);
  for (int i = 0; i < 40; ++i) {
    ProblemOptions options = test::random_options(
        rng, {.axis = 3, .dim_steps = 3, .dim_unit = 1, .heads = 4, .batch = 2, .text = 3, .half = false});
    options.dtype = DType::f64;
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i);
    const Selection random = test::random_selection(p, rng, 50);
    const Selection* selection = i % 4 == 0 ? nullptr : &random;
    const bool with_dlse = i % 2 == 0;
    test::run(p, selection, t, reference_only, with_dlse);
    Tensors moved = t;
    for (auto [input, gradient] : {std::pair{&moved.q, &t.dq}, {&moved.k, &t.dk}, {&moved.v, &t.dv}}) {
      for (int sample = 0; sample < 12; ++sample) {
        const std::int64_t b = rng.integer(0, input->batch() - 1), r = rng.integer(0, input->rows() - 1);
        const std::int64_t h = rng.integer(0, input->heads() - 1), d = rng.integer(0, input->width() - 1);
        const double at = input->get(b, r, h, d), step = 1e-5;
        input->set(b, r, h, d, at + step);
        const double above = objective(p, selection, moved, with_dlse);
        input->set(b, r, h, d, at - step);
        const double below = objective(p, selection, moved, with_dlse);
        input->set(b, r, h, d, at);
        const double expected = (above - below) / (2 * step);
        EXPECT_NEAR(gradient->get(b, r, h, d), expected, 1e-7 * (1 + std::abs(expected)));
      }
    }
  }
}

TEST(ReferenceBackward, EqualsTheNaiveGradient) {
  test::Rng rng(22);
  for (int i = 0; i < 60; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1, .half = false});
    options.dtype = DType::f64;
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    Tensors t = Tensors::random(p, i, i % 2 ? test::Layout::padded : test::Layout::contiguous);
    const Selection random = test::random_selection(p, rng, 50);
    const Selection* selection = i % 5 == 0 ? nullptr : &random;
    test::run(p, selection, t, reference_only, i % 3 != 0);
    const Tensors naive = test::naive(p, selection, t, i % 3 != 0);
    EXPECT_EQ(test::near("dq", t.dq, naive.dq, 1e-12), "");
    EXPECT_EQ(test::near("dk", t.dk, naive.dk, 1e-12), "");
    EXPECT_EQ(test::near("dv", t.dv, naive.dv, 1e-12), "");
    for (const Tensor* g : {&t.dq, &t.dk, &t.dv}) EXPECT_TRUE(g->gaps_untouched());
  }
}

TEST(ReferenceBackward, GroupedHeadsSumTheirGradients) {
  ProblemOptions options{
      .grid = {2, 2, 3}, .block = {1, 2, 2}, .heads = 4, .kv_heads = 2, .dim = 3, .dtype = DType::f64};
  const Problem grouped(options);
  options.kv_heads = 4;
  const Problem repeated(options);
  Tensors a = Tensors::random(grouped, 1), b = Tensors::random(repeated, 1);
  for (auto [to, from] : {std::pair{&b.q, &a.q}, {&b.dout, &a.dout}, {&b.dlse, &a.dlse}}) {
    to->fill([&, from = from](auto s, auto r, auto h, auto d) { return from->get(s, r, h, d); });
  }
  for (auto [to, from] : {std::pair{&b.k, &a.k}, {&b.v, &a.v}}) {
    to->fill([&, from = from](auto s, auto r, auto h, auto d) { return from->get(s, r, h / 2, d); });
  }
  const Selection s = select(grouped, a.q, a.k, reference_only);
  EXPECT_EQ(select(repeated, b.q, b.k, reference_only), s);
  test::run(grouped, &s, a, reference_only);
  test::run(repeated, &s, b, reference_only);
  EXPECT_EQ(a.out.doubles(), b.out.doubles());
  a.dk.for_each([&](auto n, auto r, auto g, auto d) {
    EXPECT_NEAR(a.dk.get(n, r, g, d), b.dk.get(n, r, 2 * g, d) + b.dk.get(n, r, 2 * g + 1, d), 1e-13);
    EXPECT_NEAR(a.dv.get(n, r, g, d), b.dv.get(n, r, 2 * g, d) + b.dv.get(n, r, 2 * g + 1, d), 1e-13);
  });
}

}  // namespace
}  // namespace vmoba
