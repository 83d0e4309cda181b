// SPDX-License-Identifier: Apache-2.0
// The public calls refuse wrong tensors before anything is written, and take any sound strides.
#include "vmoba/attention.hpp"

#include <gtest/gtest.h>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "support/errors.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;
using test::Tensors;

const Execution reference{.backend = "reference"};

class Attention : public testing::Test {
 protected:
  Problem p{{.grid = {2, 3, 4}, .block = {1, 3, 2}, .batch = 2, .heads = 4, .kv_heads = 2, .dim = 8}};
  Tensors t = Tensors::random(p, 1);
  Selection s = select(p, t.q, t.k, reference);
  BackwardTensors backward() { return {t.q, t.k, t.v, t.out, t.lse, t.dout, {}, t.dq, t.dk, t.dv}; }
  // The call is refused and no output is touched.
  template <class Body>
  void refused(const std::string& argument, const std::string& value, const std::string& rule,
               const std::string& way_out, Body&& body) {
    t.poison_outputs();
    const Tensors before = t;
    expect_argument_error(argument, value, rule, way_out, body);
    for (auto [after, was] : {std::pair{&t.out, &before.out},
                              {&t.lse, &before.lse},
                              {&t.dq, &before.dq},
                              {&t.dk, &before.dk},
                              {&t.dv, &before.dv}}) {
      EXPECT_TRUE(after->same_bits(*was)) << argument;
    }
  }
};

TEST_F(Attention, RefusesMissingTensors) {
  refused("q", "null", "is no tensor", "memory", [&] { attend(p, s, {}, t.k, t.v, t.out, t.lse, reference); });
  refused("k", "null", "is no tensor", "memory", [&] { select(p, t.q, {}, reference); });
  refused("out", "null", "is no tensor", "memory", [&] { attend(p, t.q, t.k, t.v, {}, t.lse, reference); });
  BackwardTensors b = backward();
  b.lse = {};
  refused("lse", "null", "is no tensor", "memory", [&] { attend_backward(p, s, b, reference); });
  b = backward();
  b.dv = {};
  refused("dv", "null", "is no tensor", "memory", [&] { attend_backward(p, b, reference); });
}

TEST_F(Attention, RefusesWrongDtypes) {
  refused("k.dtype", "f16", "is not the problem's f32", "convert",
          [&] { attend(p, s, t.q, t.k.to(DType::f16), t.v, t.out, t.lse, reference); });
  test::Tensor lse = t.lse.to(DType::f64);
  refused("lse.dtype", "f64", "is not the problem's f32", "convert",
          [&] { attend(p, s, t.q, t.k, t.v, t.out, lse, reference); });
}

TEST_F(Attention, RefusesWrongMemory) {
  View out = t.out;
  out.data = static_cast<char*>(out.data) + 1;
  refused("out.data", "an address", "is not a multiple of the element size 4", "aligned",
          [&] { attend(p, s, t.q, t.k, t.v, out, t.lse, reference); });
  refused("q.token_stride", "-32", "is not a stride", "0 or more",
          [&] { attend(p, s, ConstView(t.q.view().data, DType::f32, 1, -32, 8), t.k, t.v, t.out, t.lse, reference); });
  refused("k strides", "{1, 281474976710656, 281474976710656}", "reach beyond any memory", "strides of a tensor", [&] {
    const std::int64_t big = std::int64_t{1} << 48;
    Problem wide({.grid = {1, 50, 50}, .heads = 2, .dim = 8});
    select(wide, t.q, ConstView(t.k.view().data, DType::f32, 1, big, big), reference);
  });
  refused("out strides", "{768, 8, 8}", "puts two elements of an output in one place", "distinct",
          [&] { attend(p, s, t.q, t.k, t.v, View(t.out.view().data, DType::f32, 768, 8, 8), t.lse, reference); });
}

TEST_F(Attention, RefusesOverlap) {
  refused("out", "an output", "overlaps q", "memory of its own",
          [&] { attend(p, s, t.q, t.k, t.v, View(t.q), t.lse, reference); });
  refused("dk", "an output", "overlaps dq", "memory of its own", [&] {
    BackwardTensors b = backward();
    b.dk = View(static_cast<float*>(t.dq.view().data) + 64);
    attend_backward(p, s, b, reference);
  });
}

TEST_F(Attention, RefusesSelectionsOfOtherProblems) {
  ProblemOptions o = p.options();
  o.batch = 1;
  refused("selection", "1 samples", "is not the problem's batch of 2", "this problem",
          [&] { attend(p, Selection(Problem(o)), t.q, t.k, t.v, t.out, t.lse, reference); });
  o = p.options();
  o.heads = 2;
  refused("selection", "2 heads", "is not the problem's 4", "this problem",
          [&] { attend(p, Selection(Problem(o)), t.q, t.k, t.v, t.out, t.lse, reference); });
  o = p.options();
  o.block = {2, 3, 1};
  Selection other{Problem(o)};
  refused("selection", "blocks {2, 3, 1} of grid {2, 3, 4}", "does not cut the keys as sample 0", "this problem",
          [&] { select_into(p, t.q, t.k, other, reference); });
  test::Rng rng(1);
  Selection rows = test::random_block_selection(p, {1, 1, 4}, rng);
  refused("selection", "rows of blocks", "is not what policy Threshold(0.25, scope=head) chooses", "one row a token",
          [&] { select_into(p, t.q, t.k, rows, reference); });
}

TEST_F(Attention, RefusesWrongExecutions) {
  refused("execution.threads", "0", "is not a number of workers", "1 or more",
          [&] { select(p, t.q, t.k, {.backend = "reference", .threads = 0}); });
  refused("backend", "\"gpu\"", "is no backend of this build", "reference",
          [&] { attend(p, s, t.q, t.k, t.v, t.out, t.lse, {.backend = "gpu"}); });
}

TEST_F(Attention, StridesDoNotMatter) {
  test::run(p, &s, t, reference);
  Tensors padded = Tensors::random(p, 1, test::Layout::padded);
  EXPECT_EQ(select(p, padded.q, padded.k, reference), s);
  test::run(p, &s, padded, reference);
  for (auto [a, b] : {std::pair{&padded.out, &t.out},
                      {&padded.lse, &t.lse},
                      {&padded.dq, &t.dq},
                      {&padded.dk, &t.dk},
                      {&padded.dv, &t.dv}}) {
    EXPECT_EQ(a->doubles(), b->doubles());
    EXPECT_TRUE(a->gaps_untouched());
  }
}

TEST_F(Attention, TakesSlicesOfOneFusedTensor) {
  const Problem same({.grid = {2, 3, 4}, .block = {1, 3, 2}, .heads = 2, .dim = 8});
  Tensors inputs = Tensors::random(same, 3);
  std::vector<float> fused(24 * 3 * 16), gradients(fused.size(), 0);
  for (std::int64_t r = 0; r < 24; ++r) {
    for (std::int64_t i = 0; i < 16; ++i) {
      fused[r * 48 + i] = static_cast<float>(inputs.q.get(0, r, i / 8, i % 8));
      fused[r * 48 + 16 + i] = static_cast<float>(inputs.k.get(0, r, i / 8, i % 8));
      fused[r * 48 + 32 + i] = static_cast<float>(inputs.v.get(0, r, i / 8, i % 8));
    }
  }
  const auto slice = [](std::vector<float>& x, int i) { return View(x.data() + 16 * i, DType::f32, 24 * 48, 48, 8); };
  const Selection chosen = select(same, slice(fused, 0), slice(fused, 1), reference);
  test::run(same, &chosen, inputs, reference, false);
  std::vector<float> out(24 * 16), lse(48);
  attend(same, chosen, slice(fused, 0), slice(fused, 1), slice(fused, 2), out, lse, reference);
  attend_backward(same, chosen,
                  {slice(fused, 0),
                   slice(fused, 1),
                   slice(fused, 2),
                   out,
                   lse,
                   inputs.dout,
                   {},
                   slice(gradients, 0),
                   slice(gradients, 1),
                   slice(gradients, 2)},
                  reference);
  for (std::int64_t r = 0; r < 24; ++r) {
    for (std::int64_t i = 0; i < 16; ++i) {
      EXPECT_EQ(out[r * 16 + i], inputs.out.get(0, r, i / 8, i % 8));
      EXPECT_EQ(gradients[r * 48 + i], inputs.dq.get(0, r, i / 8, i % 8));
      EXPECT_EQ(gradients[r * 48 + 16 + i], inputs.dk.get(0, r, i / 8, i % 8));
      EXPECT_EQ(gradients[r * 48 + 32 + i], inputs.dv.get(0, r, i / 8, i % 8));
    }
  }
}

TEST_F(Attention, SelectIntoWritesEveryBit) {
  std::vector<std::uint64_t> words(Selection::word_count(p), ~0ull);
  Selection into(p, words);
  select_into(p, t.q, t.k, into, reference);
  EXPECT_EQ(into, s);
}

TEST_F(Attention, LseMayBeLeftOut) {
  test::run(p, &s, t, reference);
  test::Tensor out = t.out;
  out.poison();
  attend(p, s, t.q, t.k, t.v, out, {}, reference);
  EXPECT_TRUE(out.same_bits(t.out));
}

TEST_F(Attention, ScratchIsKnown) {
  EXPECT_GT(scratch_bytes(p, reference), 0);
  EXPECT_GE(scratch_bytes(p), 0);
}

}  // namespace
}  // namespace vmoba
