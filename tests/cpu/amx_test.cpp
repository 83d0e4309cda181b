// SPDX-License-Identifier: Apache-2.0
// The matrix tile kernels against reference: with emulated tiles over the vectors of every instruction set this machine
// has, and as tier sapphire, whose AMX instructions are answered by a trap where the machine lacks them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "attend_cases.hpp"
#include "cpu/amx_emulated.hpp"
#if defined(VMOBA_TEST_SAPPHIRE)
#include "cpu/amx_trap.hpp"
#endif
#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/tensors.hpp"
#include "cpu/attend.hpp"

namespace vmoba::test {
namespace {

struct Case {
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
  const char* name;
  const cpu::Tier& tier;
  const char* needs;  // the backend whose instructions it uses
};
const Case cases[] = {
    {"generic", cpu::emulated_generic_tier, "cpu:generic"},
#if defined(__x86_64__)
    {"haswell", cpu::emulated_haswell_tier, "cpu:haswell"},
    {"skylake", cpu::emulated_skylake_tier, "cpu:skylake"},
#endif
#if defined(VMOBA_TEST_SAPPHIRE)
    {"sapphire", cpu::sapphire_tier, "cpu:sapphire"},
#endif
};

// As support's run(), with the kernels of a tier that is no backend.
void run_tier(const cpu::Tier& tier, const Problem& p, const Selection* selection, Tensors& t,
              const Execution& execution = {}, bool with_dlse = true) {
  t.poison_outputs();
  const auto queries = [&](auto view) { return p.resolve(view, p.heads(), p.dim()); };
  const auto keys = [&](auto view) { return p.resolve(view, p.kv_heads(), p.dim()); };
  BackwardTensors b{queries(ConstView(t.q)),
                    keys(ConstView(t.k)),
                    keys(ConstView(t.v)),
                    queries(ConstView(t.out)),
                    p.resolve_lse(ConstView(t.lse)),
                    queries(ConstView(t.dout)),
                    with_dlse ? p.resolve_lse(ConstView(t.dlse)) : ConstView{},
                    queries(View(t.dq)),
                    keys(View(t.dk)),
                    keys(View(t.dv))};
  cpu::attend(tier, p, selection, b.q, b.k, b.v, queries(View(t.out)), p.resolve_lse(View(t.lse)), execution);
  if (tier.attend_backward) cpu::attend_backward(tier, p, selection, b, execution);
}

class AmxKernels : public AttendCases, public testing::TestWithParam<Case> {
 protected:
  static std::string unavailable(std::string_view name) {
    for (const Backend& backend : backends()) {
      if (backend.name == name) return backend.unavailable();
    }
    return std::string(name) + " is not in this binary";
  }
  void SetUp() override {
    const std::string reason = unavailable(GetParam().needs);
    if (reason.empty()) return;
#if defined(VMOBA_TEST_SAPPHIRE)
    if (GetParam().needs == std::string("cpu:sapphire") && unavailable("cpu:genoa").empty()) {
      trap_ = std::make_unique<Trap>();
      return;
    }
#endif
    GTEST_SKIP() << GetParam().needs << ": " << reason;
  }
#if defined(VMOBA_TEST_SAPPHIRE)
  std::unique_ptr<Trap> trap_;
#endif
  void run_it(const Problem& p, const Selection* selection, Tensors& t, const Execution& execution = {},
              bool dlse = true) const override {
    run_tier(GetParam().tier, p, selection, t, execution, dlse);
  }
};

TEST_P(AmxKernels, RandomProblems) { random_problems(DType::bf16); }

TEST_P(AmxKernels, EveryWidth) {
  for (std::int64_t dim = 8; dim <= 256; dim += dim < 80 ? 8 : 24) {
    const Problem problem({.grid = {3, 5, 7}, .block = {2, 5, 4}, .heads = 2, .dim = dim, .dtype = DType::bf16});
    Rng rng(static_cast<std::uint64_t>(dim));
    const Selection selection = random_selection(problem, rng, 50);
    Tensors t = Tensors::random(problem, 7, Layout::padded);
    expect_like_reference(problem, &selection, t);
  }
}

// Key counts around 16, 32 and 128, and rows that end before, at and after a tile, a pair and a group.
TEST_P(AmxKernels, TileEdges) {
  for (const std::int64_t keys : {1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 95, 96, 97, 127, 128, 129, 257}) {
    const std::int64_t tokens = keys < 20 ? 100 : 290;
    const Problem problem({.grid = {1, 1, tokens}, .block = vmoba::Run{keys}, .dim = 16, .dtype = DType::bf16});
    Rng rng(static_cast<std::uint64_t>(keys));
    const Selection selection = random_selection(problem, rng, 60);
    Tensors t = Tensors::random(problem, 3);
    expect_like_reference(problem, &selection, t);
  }
  for (const std::int64_t tokens :
       {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 97, 127, 128, 129, 161, 255, 257}) {
    const Problem problem({.grid = {1, 1, tokens}, .dim = 40, .dtype = DType::bf16});
    Tensors t = Tensors::random(problem, 4);
    expect_like_reference(problem, nullptr, t);
  }
}

TEST_P(AmxKernels, ManyRowsAndKeys) {
  const Problem problem({.grid = {5, 12, 13},
                         .block = {5, 6, 5},
                         .heads = 2,
                         .kv_heads = 1,
                         .dim = 128,
                         .dtype = DType::bf16,
                         .text = {.count = 40, .valid = {33}}});
  Rng rng(6);
  const Selection selection = random_selection(problem, rng, 40);
  Tensors t = Tensors::random(problem, 5);
  expect_like_reference(problem, &selection, t);
  expect_like_reference(problem, nullptr, t);
}

TEST_P(AmxKernels, TextInFrontAndRearWithPadding) { text_in_front_and_rear_with_padding(DType::bf16); }

TEST_P(AmxKernels, AnyScale) { any_scale(DType::bf16, {24, 64}); }

// One key: out is v, dv is dout, bit for bit, and dq and dk are exactly 0; infinities, NaN and zeros pass. Two keys:
// the mean of two neighbours lies halfway and goes to the even one.
TEST_P(AmxKernels, OneAndTwoKeysAreExact) {
  const Problem one({.grid = {1, 1, 64}, .block = vmoba::Run{1}, .dim = 136, .dtype = DType::bf16});
  Selection own(one);
  for (std::int64_t i = 0; i < 64; ++i) own.set(0, 0, i, i);
  Tensors t = Tensors::random(one, 13);
  run_it(one, &own, t, {}, false);
  EXPECT_EQ(t.out.doubles(), t.v.doubles());
  EXPECT_EQ(t.dv.doubles(), t.dout.doubles());
  // Only what fp32 leaves of lse keeps dq and dk from 0: p is 1 to 1e-6, dp - delta is 0.
  for (const Tensor* tensor : {&t.dq, &t.dk}) {
    for (const double x : tensor->doubles()) EXPECT_EQ(x, 0);
  }
  const double special[] = {0.0, -0.0, INFINITY, -INFINITY, 6e-8, -6e-8, 6.1e-5, 65504, 1e-3, 3.140625};
  t.v.fill([&](auto, std::int64_t row, auto, std::int64_t d) {
    return row < 10 ? special[row] : std::ldexp(row - 37, static_cast<int>(d) - 70);
  });
  run_it(one, &own, t);
  EXPECT_EQ(t.out.doubles(), t.v.doubles());

  const Problem two({.grid = {1, 1, 64}, .block = vmoba::Run{2}, .dim = 16, .dtype = DType::bf16});
  Selection pairs(two);
  for (std::int64_t i = 0; i < 64; ++i) pairs.set(0, 0, i, i / 2);
  const auto value = [&](std::int64_t row, std::int64_t d) {
    return 128 + static_cast<double>((row / 2 * 16 + d) % 64 + row % 2);
  };
  Tensors u = Tensors::random(two, 14);
  for (Tensor* tensor : {&u.q, &u.k}) tensor->fill([](auto...) { return 0.0; });
  u.v.fill([&](auto, std::int64_t row, auto, std::int64_t d) { return value(row, d); });
  run_it(two, &pairs, u);
  for (std::int64_t row = 0; row < 64; ++row) {
    for (std::int64_t d = 0; d < 16; ++d) {
      const double low = value(row - row % 2, d), even = std::fmod(low, 2) == 0 ? low : low + 1;
      EXPECT_EQ(u.out.get(0, row, 0, d), even) << low;
    }
  }
}

TEST_P(AmxKernels, BlockRows) {
  const Problem problem({.grids = {{3, 4, 5}, {2, 5, 6}},
                         .block = {2, 2, 3},
                         .heads = 4,
                         .kv_heads = 2,
                         .dim = 24,
                         .dtype = DType::bf16,
                         .text = {.count = 6, .valid = {6, 2}}});
  Rng rng(11);
  const Selection selection = random_block_selection(problem, {1, 3, 2}, rng);
  Tensors t = Tensors::random(problem, 12);
  expect_like_reference(problem, &selection, t);
}

TEST_P(AmxKernels, Extremes) {
  extremes(DType::bf16);
  rising_and_falling_logits(DType::bf16);
}

TEST_P(AmxKernels, HugeLogits) { huge_logits(DType::bf16); }

// Weights of columns beyond a tile's keys, whose scores are 0, would be 2^288 here.
TEST_P(AmxKernels, AllLogitsFarBelowZero) {
  const Problem problem({.grid = {1, 1, 39}, .block = vmoba::Run{13}, .dim = 8, .dtype = DType::bf16, .scale = 1});
  Selection all(problem);
  all.fill(true);
  Tensors t = Tensors::random(problem, 22);
  t.q.fill([](auto, auto, auto, std::int64_t d) { return d == 0 ? 1.0 : 0.0; });
  t.k.fill([](auto, std::int64_t row, auto, std::int64_t d) {
    return d == 0 ? -200.0 - static_cast<double>(row % 3) : 0.5;
  });
  expect_like_reference(problem, &all, t);
}

TEST_P(AmxKernels, EmptyRowsAndUnusedBlocks) { empty_rows_and_unused_blocks(DType::bf16); }

// A NaN key reaches the rows that attend its block and no other; a NaN query its own row (and the gradients of keys),
// although they share tiles with others.
TEST_P(AmxKernels, NanStaysWhereReferenceHasIt) {
  for (const std::int64_t block : {3, 19}) {
    const Problem problem({.grid = {2, 5, 19}, .block = {1, 5, block}, .heads = 2, .dim = 24, .dtype = DType::bf16});
    Rng rng(41);
    const Selection selection = random_selection(problem, rng, 40);
    for (const int which : {0, 1, 2, 3}) {
      Tensors t = Tensors::random(problem, 42);
      Tensor* tensors[] = {&t.q, &t.k, &t.v, &t.dout};
      tensors[which]->set(0, 17, 1, 3, NAN);
      run_it(problem, &selection, t);
      const Tensors expected = truth(problem, &selection, t);
      EXPECT_EQ(near("out", t.out, expected.out, 0.02), "") << which;
      EXPECT_EQ(near("lse", t.lse, expected.lse, 1e-5), "") << which;
      EXPECT_EQ(near("dq", t.dq, expected.dq, 0.3), "") << which;
      EXPECT_EQ(near("dk", t.dk, expected.dk, 0.3), "") << which;
      EXPECT_EQ(near("dv", t.dv, expected.dv, 0.02), "") << which;
    }
  }
}

// Rows are cut into pieces and backward items take turns.
TEST_P(AmxKernels, SameBitsForAnyThreads) {
  const Problem problem({.grid = {9, 16, 16},
                         .block = {3, 16, 8},
                         .heads = 2,
                         .kv_heads = 1,
                         .dim = 24,
                         .dtype = DType::bf16,
                         .text = {.count = 40, .at = Text::At::front, .valid = {21}}});
  Rng rng(51);
  const Selection selection = random_selection(problem, rng, 15);
  same_bits_for_any_threads(problem, &selection);
}

// The sums that items hand over, against reference: two pieces of a head.
TEST_P(AmxKernels, HandedOverSums) {
  const Problem problem({.grid = {1, 1, 2100}, .block = vmoba::Run{100}, .dim = 16, .dtype = DType::bf16});
  Rng rng(81);
  const Selection selection = random_selection(problem, rng, 15);
  Tensors t = Tensors::random(problem, 82);
  ThreadPool pool(2);
  run_it(problem, &selection, t, pool.execution());
  const Tensors expected = truth(problem, &selection, t);
  EXPECT_EQ(near("dq", t.dq, expected.dq, 0.03), "");
  EXPECT_EQ(near("dk", t.dk, expected.dk, 0.03), "");
  EXPECT_EQ(near("dv", t.dv, expected.dv, 0.03), "");
}

TEST_P(AmxKernels, ABatchEqualsItsSamples) {
  const Problem problem({.grids = {{3, 4, 5}, {2, 8, 17}, {1, 7, 4}},
                         .block = {1, 4, 2},
                         .heads = 2,
                         .kv_heads = 1,
                         .dim = 40,
                         .dtype = DType::bf16,
                         .text = {.count = 5, .valid = {5, 2, 0}}});
  a_batch_equals_its_samples(problem);
}

#if defined(VMOBA_TEST_SAPPHIRE)
// Tier sapphire's machine code against the same kernels over emulated tiles, bit for bit.
TEST(Sapphire, EqualsEmulatedTiles) {
  const Problem problem({.grid = {3, 8, 9},
                         .block = {3, 4, 5},
                         .heads = 2,
                         .kv_heads = 1,
                         .dim = 136,
                         .dtype = DType::bf16,
                         .text = {.count = 19, .valid = {19}}});
  const auto unavailable = [](std::string_view name) {
    for (const Backend& backend : backends()) {
      if (backend.name == name) return backend.unavailable();
    }
    return std::string("not in this binary");
  };
  const bool native = unavailable("cpu:sapphire").empty();
  if (!native && !unavailable("cpu:genoa").empty()) GTEST_SKIP() << "neither AMX nor AVX512_BF16 here";
  Rng rng(91);
  const Selection selection = random_selection(problem, rng, 50);
  Tensors emulated = Tensors::random(problem, 92), real = emulated;
  run_tier(cpu::emulated_skylake_tier, problem, &selection, emulated);
  {
    std::unique_ptr<Trap> trap;
    if (!native) trap = std::make_unique<Trap>();
    const long before = Trap::instructions();
    run_tier(cpu::sapphire_tier, problem, &selection, real);
    if (!native) {
      EXPECT_GT(Trap::instructions(), before + 1000);
    }
  }
  EXPECT_TRUE(emulated.out.same_bits(real.out));
  EXPECT_TRUE(emulated.lse.same_bits(real.lse));
  EXPECT_TRUE(emulated.dq.same_bits(real.dq));
  EXPECT_TRUE(emulated.dk.same_bits(real.dk));
  EXPECT_TRUE(emulated.dv.same_bits(real.dv));
}
#endif

INSTANTIATE_TEST_SUITE_P(Vectors, AmxKernels, testing::ValuesIn(cases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace vmoba::test
