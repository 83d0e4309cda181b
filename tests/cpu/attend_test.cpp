// SPDX-License-Identifier: Apache-2.0
// attend and attend_backward of every cpu tier against reference: shapes around every tile edge, dtypes, text, packed
// batches, grouped heads, block rows, extremes, poison, threads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attend_cases.hpp"
#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/tensors.hpp"

namespace vmoba::test {
namespace {

// Names of all cpu tiers; a test of one that this machine cannot run is skipped, in words.
std::vector<std::string> tiers() {
  std::vector<std::string> names;
  for (const Backend& backend : backends()) {
    if (backend.name.starts_with("cpu:")) names.emplace_back(backend.name);
  }
  return names;
}

class Attend : public AttendCases, public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    for (const Backend& backend : backends()) {
      if (backend.name != GetParam()) continue;
      const std::string reason = backend.unavailable();
      if (!reason.empty()) GTEST_SKIP() << GetParam() << ": " << reason;
    }
  }
  Execution execution() const { return {.backend = GetParam()}; }

  void run_it(const Problem& problem, const Selection* selection, Tensors& t, const Execution& how = {},
              bool dlse = true) const override {
    Execution named = how;
    named.backend = GetParam();
    run(problem, selection, t, named, dlse);
  }
};

TEST_P(Attend, RandomProblems) { random_problems({}); }

// Whole vectors, parts of vectors and odd numbers of vectors on every tier.
TEST_P(Attend, EveryWidthInEveryDtype) {
  for (const std::int64_t dim : {8, 16, 24, 40, 64, 72, 96, 128, 136, 256}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Problem problem({.grid = {3, 5, 7}, .block = {2, 5, 4}, .heads = 2, .dim = dim, .dtype = dtype});
      Rng rng(static_cast<std::uint64_t>(dim));
      const Selection selection = random_selection(problem, rng, 50);
      Tensors t = Tensors::random(problem, 7, Layout::padded);
      expect_like_reference(problem, &selection, t);
    }
  }
}

// Blocks of 1 to 257 keys, and as many rows as end before, at and after a group of rows.
TEST_P(Attend, TileEdges) {
  for (const std::int64_t keys : {1, 3, 4, 5, 12, 15, 16, 17, 31, 33, 95, 97, 127, 128, 129, 257}) {
    const std::int64_t tokens = keys < 20 ? 100 : 290;
    const Problem problem({.grid = {1, 1, tokens}, .block = vmoba::Run{keys}, .dim = 16});
    Rng rng(static_cast<std::uint64_t>(keys));
    const Selection selection = random_selection(problem, rng, 60);
    Tensors t = Tensors::random(problem, 3);
    expect_like_reference(problem, &selection, t);
  }
  for (const std::int64_t tokens : {1, 2, 4, 5, 8, 9, 12, 13, 63, 64, 65, 95, 96, 97, 191, 193, 255, 257}) {
    const Problem problem({.grid = {1, 1, tokens}, .dim = 8});
    Tensors t = Tensors::random(problem, 4);
    expect_like_reference(problem, nullptr, t);
  }
}

TEST_P(Attend, TextInFrontAndRearWithPadding) { text_in_front_and_rear_with_padding(DType::f32); }

TEST_P(Attend, AnyScale) { any_scale(DType::f32, {24}); }

// One key: out is v, dv is dout, bit for bit, through widening and rounding. Values on the grid of ties of a sum of two
// keys: the mean of two neighbours lies halfway and goes to the even one; infinities, NaN, zeros and subnormals pass.
TEST_P(Attend, RoundsToNearestEven) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Problem one({.grid = {1, 1, 64}, .block = vmoba::Run{1}, .dim = 16, .dtype = dtype});
    Selection own(one);
    for (std::int64_t i = 0; i < 64; ++i) own.set(0, 0, i, i);
    Tensors t = Tensors::random(one, 13);
    for (Tensor* tensor : {&t.q, &t.k}) tensor->fill([](auto...) { return 0.0; });
    const double special[] = {0.0, -0.0, INFINITY, -INFINITY, 6e-8, -6e-8, 6.1e-5, 65504, 1e-3, 3.140625};
    t.v.fill([&](auto, std::int64_t row, auto, std::int64_t d) {
      return row < 10 ? special[row] : std::ldexp(row - 37, static_cast<int>(d) - 10);
    });
    run(one, &own, t, execution());
    EXPECT_EQ(t.out.doubles(), t.v.doubles()) << name(dtype);
    EXPECT_EQ(t.dv.doubles(), t.dout.doubles()) << name(dtype);

    const Problem two({.grid = {1, 1, 64}, .block = vmoba::Run{2}, .dim = 16, .dtype = dtype});
    Selection pairs(two);
    for (std::int64_t i = 0; i < 64; ++i) pairs.set(0, 0, i, i / 2);
    const int bits = dtype == DType::bf16 ? 8 : 11;
    const auto value = [&](std::int64_t row, std::int64_t d) {  // 2^(bits - 1) + n and + n + 1, n = 16 * pair + d
      return std::ldexp(1, bits - 1) + static_cast<double>((row / 2 * 16 + d) % (1 << (bits - 2)) + row % 2);
    };
    Tensors u = Tensors::random(two, 14);
    for (Tensor* tensor : {&u.q, &u.k}) tensor->fill([](auto...) { return 0.0; });
    u.v.fill([&](auto, std::int64_t row, auto, std::int64_t d) { return value(row, d); });
    run(two, &pairs, u, execution());
    for (std::int64_t row = 0; row < 64; ++row) {
      for (std::int64_t d = 0; d < 16; ++d) {
        const double low = value(row - row % 2, d), even = std::fmod(low, 2) == 0 ? low : low + 1;
        EXPECT_EQ(u.out.get(0, row, 0, d), even) << name(dtype) << " " << low;
      }
    }
  }
}

TEST_P(Attend, BlockRows) {
  const Problem problem({.grids = {{3, 4, 5}, {2, 5, 6}},
                         .block = {2, 2, 3},
                         .heads = 4,
                         .kv_heads = 2,
                         .dim = 24,
                         .text = {.count = 6, .valid = {6, 2}}});
  Rng rng(11);
  const Selection selection = random_block_selection(problem, {1, 3, 2}, rng);
  Tensors t = Tensors::random(problem, 12);
  expect_like_reference(problem, &selection, t);
  const Selection by_token = selection.by_token();
  Tensors other = t;
  run(problem, &by_token, other, execution());
  EXPECT_TRUE(t.out.same_bits(other.out));
  EXPECT_TRUE(t.dq.same_bits(other.dq));
  EXPECT_EQ(near("dk", t.dk, other.dk, 1e-5), "");
}

// Logits of hundreds of nats, and nothing at all. The worst row of dq is wrong by up to 1e-4 here, in the naive
// computation as in the tiers: fp32 rounds such logits off by 1e-5. (The fp32 lse by itself, with everything else in
// double, costs 1.5e-5.)
TEST_P(Attend, Extremes) {
  extremes(DType::f32);
  const Problem problem({.grid = {4, 6, 6}, .block = {2, 3, 6}, .heads = 2, .dim = 64, .scale = 1});
  Rng rng(2);
  const Selection selection = random_selection(problem, rng, 60);
  Tensors t = Tensors::random(problem, 21);
  for (Tensor* tensor : {&t.q, &t.k}) tensor->fill([](auto...) { return 0.0; });
  expect_like_reference(problem, &selection, t);
}

TEST_P(Attend, RisingAndFallingLogits) { rising_and_falling_logits(DType::f32); }

TEST_P(Attend, HugeLogits) {
  for (const DType dtype : {DType::f32, DType::bf16}) huge_logits(dtype);
}

TEST_P(Attend, EmptyRowsAndUnusedBlocks) {
  for (const DType dtype : {DType::f32, DType::bf16}) empty_rows_and_unused_blocks(dtype);
}

// Heads that keep everything run as dense ones do, to the bit; their neighbours do not.
TEST_P(Attend, HeadsThatKeepEverything) {
  const Problem problem({.grid = {5, 9, 16},
                         .block = {2, 3, 4},
                         .heads = 6,
                         .kv_heads = 3,
                         .dim = 32,
                         .text = {.count = 9, .at = Text::At::front, .valid = {4}}});
  Rng rng(37);
  Selection selection = random_selection(problem, rng, 30);
  for (const std::int64_t head : {0, 1, 2}) {  // the first group, half of the second
    for (std::int64_t c = 0; c < selection.blocks(0); ++c) {
      for (std::int64_t row = 0; row < problem.sample(0).tokens(); ++row) selection.set(0, head, row, c);
    }
  }
  Tensors t = Tensors::random(problem, 38), dense = Tensors::random(problem, 38);
  expect_like_reference(problem, &selection, t);
  run(problem, nullptr, dense, execution());
  const auto same = [&](const Tensor& a, const Tensor& b, std::int64_t head) {
    for (std::int64_t row = 0; row < a.rows(); ++row) {
      for (std::int64_t d = 0; d < problem.dim(); ++d) {
        if (a.get(0, row, head, d) != b.get(0, row, head, d)) return false;
      }
    }
    return true;
  };
  for (const std::int64_t head : {0, 1, 2}) EXPECT_TRUE(same(t.out, dense.out, head)) << head;
  for (const std::int64_t head : {0, 1}) EXPECT_TRUE(same(t.dq, dense.dq, head)) << head;
  EXPECT_TRUE(same(t.dk, dense.dk, 0) && same(t.dv, dense.dv, 0));
  EXPECT_FALSE(same(t.out, dense.out, 3));
}

// A NaN key reaches the rows that attend its block and no other; a NaN query its own row (and the gradients of keys).
TEST_P(Attend, NanStaysWhereReferenceHasIt) {
  const Problem problem({.grid = {2, 5, 7}, .block = {1, 5, 3}, .heads = 2, .dim = 24});
  Rng rng(41);
  const Selection selection = random_selection(problem, rng, 40);
  for (const int which : {0, 1, 2, 3}) {
    Tensors t = Tensors::random(problem, 42);
    Tensor* tensors[] = {&t.q, &t.k, &t.v, &t.dout};
    tensors[which]->set(0, 17, 1, 3, NAN);
    SCOPED_TRACE(which);
    expect_like_reference(problem, &selection, t);
  }
}

// One thread takes the 2,602 rows of a key/value head in one item, which reads them where they lie (and sums dq there:
// fp32, D 32), but for blocks of more than 64 keys; two and five take pieces of 704 that copy them.
TEST_P(Attend, SameBitsForAnyThreads) {
  struct Case {
    DType dtype;
    bool dense;
    Block block;
  };
  const Block small{3, 5, 4}, large{3, 16, 8};
  for (const Case& c : {Case{DType::f32, false, small}, Case{DType::f32, true, small}, Case{DType::f32, false, large},
                        Case{DType::bf16, false, small}, Case{DType::bf16, true, small}}) {
    const Problem problem({.grid = {5, 16, 16},
                           .block = c.block,
                           .heads = 4,
                           .kv_heads = 2,
                           .dim = c.dtype == DType::f32 ? 32 : 24,
                           .dtype = c.dtype,
                           .text = {.count = 40, .at = Text::At::front, .valid = {21}}});
    Rng rng(51);
    const Selection selection = random_selection(problem, rng, 20);
    same_bits_for_any_threads(problem, c.dense ? nullptr : &selection);
  }
}

// Three query heads of a group share panels of keys and values, which seven groups take turns to hold; a head alone
// packs for itself. In a batch of samples with other blocks, and one where all heads but one keep everything.
TEST_P(Attend, SharedPanelsOnThreads) {
  for (const DType dtype : {DType::f32, DType::f16}) {
    ProblemOptions options{.grids = {{3, 5, 9}, {2, 16, 17}, {2, 7, 4}},
                           .block = {2, 4, 3},
                           .heads = 21,
                           .kv_heads = 7,
                           .dim = 24,
                           .dtype = dtype,
                           .text = {.count = 5, .valid = {5, 0, 2}}};
    const Problem problem(options);
    Rng rng(53);
    Selection selection = random_selection(problem, rng, 15);
    for (std::int64_t h = 4; h < 6; ++h) {  // not 3, of the same group
      for (std::int64_t c = 0; c < selection.blocks(0); ++c) {
        for (std::int64_t row = 0; row < problem.sample(0).tokens(); ++row) selection.set(0, h, row, c);
      }
    }
    Tensors all = Tensors::random(problem, 54);
    options.heads = options.kv_heads = 1;
    const Problem one(options);
    for (const std::int64_t threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      run_it(problem, &selection, all, pool.execution());
      for (std::int64_t h = 0; h < problem.heads(); ++h) {
        Selection part(one);
        for (std::int64_t b = 0; b < problem.batch(); ++b) {
          for (std::int64_t c = 0; c < part.blocks(b); ++c) {
            std::copy_n(selection.words_of(b, h, c), part.shape(b).words(), part.words_of(b, 0, c));
          }
        }
        Tensors t = Tensors::zeros_of(one);
        const auto copy_head = [](Tensor& to, const Tensor& from, std::int64_t head) {
          to.fill([&](std::int64_t b, std::int64_t row, auto, std::int64_t d) { return from.get(b, row, head, d); });
        };
        copy_head(t.q, all.q, h);
        copy_head(t.k, all.k, problem.kv_head(h));
        copy_head(t.v, all.v, problem.kv_head(h));
        run_it(one, &part, t);
        Tensor out = t.out, lse = t.lse;
        copy_head(out, all.out, h);
        copy_head(lse, all.lse, h);
        ASSERT_TRUE(t.out.same_bits(out) && t.lse.same_bits(lse)) << "head " << h << ", " << threads << " threads";
      }
    }
  }
}

// Seven heads take turns in the panels of two or five, which the first piece of a head's rows packs for the other two.
TEST_P(Attend, SharedPanelsOfTheBackwardOnThreads) {
  const Problem problem({.grid = {17, 16, 16}, .block = {3, 8, 8}, .heads = 7, .dim = 16});
  Rng rng(55);
  const Selection selection = random_selection(problem, rng, 8);
  same_bits_for_any_threads(problem, &selection);
}

// Samples of one item a head, which share nothing, lie between those that take turns in the panels.
TEST_P(Attend, SharedPanelsBesideSmallSamplesOnThreads) {
  const Problem problem({.grids = {{19, 16, 16}, {3, 8, 8}, {3, 8, 8}, {19, 16, 16}, {3, 8, 8}, {19, 16, 16}},
                         .block = {3, 8, 8},
                         .heads = 2,
                         .dim = 16});
  Rng rng(57);
  const Selection selection = random_selection(problem, rng, 8);
  same_bits_for_any_threads(problem, &selection);
}

// Workers that run one after another, in any order: items that take turns may not wait for a worker yet to start.
TEST_P(Attend, WorkersInSequence) {
  const Problem problem({.grid = {10, 16, 16}, .block = {5, 8, 8}, .dim = 16, .dtype = DType::f16});
  Rng rng(61);
  const Selection selection = random_selection(problem, rng, 30);
  Tensors first = Tensors::random(problem, 62), again = first;
  run(problem, &selection, first, execution());
  Execution sequence = execution();
  sequence.threads = 3;
  sequence.parallel_for = [](std::int64_t workers, const std::function<void(std::int64_t)>& body) {
    for (std::int64_t worker = workers - 1; worker >= 0; --worker) body(worker);
  };
  run(problem, &selection, again, sequence);
  EXPECT_TRUE(first.dq.same_bits(again.dq));
  EXPECT_TRUE(first.dk.same_bits(again.dk));
}

TEST_P(Attend, ABatchEqualsItsSamples) {
  const Problem packed({.grids = {{3, 4, 5}, {2, 16, 33}, {1, 7, 4}},
                        .block = {1, 4, 2},
                        .heads = 2,
                        .kv_heads = 1,
                        .dim = 40,
                        .text = {.count = 5, .valid = {5, 2, 0}}});
  const Problem uniform({.grid = {3, 7, 5}, .block = {2, 3, 4}, .batch = 3, .heads = 2, .dim = 40});
  for (const Problem& problem : {packed, uniform}) a_batch_equals_its_samples(problem);
}

TEST_P(Attend, RefusesInWords) {
  for (const Backend& backend : backends()) {
    if (backend.name != GetParam()) continue;
    EXPECT_EQ(backend.why_not(Problem({.grid = {1, 2, 3}, .dim = 64})), "");
    EXPECT_NE(backend.why_not(Problem({.grid = {1, 2, 3}, .dim = 12})).find("dim = 12 is not a multiple of 8"),
              std::string::npos);
    EXPECT_NE(backend.why_not(Problem({.grid = {1, 2, 3}, .dim = 264})).find("up to 256"), std::string::npos);
    EXPECT_NE(backend.why_not(Problem({.grid = {1, 2, 3}, .dim = 64, .dtype = DType::f64})).find("f64"),
              std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, Attend, testing::ValuesIn(tiers()),
                         [](const auto& info) { return info.param.substr(info.param.find(':') + 1); });

}  // namespace
}  // namespace vmoba::test
