// SPDX-License-Identifier: Apache-2.0
// select of every cpu tier against reference: random problems, ties, hostile gates, threads, batches, sizes.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "check/problems.hpp"
#include "check/selections.hpp"
#include "check/tensors.hpp"
#include "cpu/select_bracket.hpp"
#include "cpu/tier.hpp"

namespace vmoba::test {
namespace {

// Backend names of the tiers that this machine can run.
std::vector<std::string> tiers() {
  std::vector<std::string> names;
  for (const Backend& backend : backends()) {
    if (backend.name.starts_with("cpu:") && backend.unavailable().empty()) names.emplace_back(backend.name);
  }
  return names;
}

class Select : public testing::TestWithParam<std::string> {
 protected:
  Execution execution() const { return {.backend = GetParam()}; }
  // Into words that start as ones, so that a bit nobody writes shows.
  Selection run(const Problem& problem, const Tensor& q, const Tensor& k) const {
    return run(problem, q, k, execution());
  }
  static Selection run(const Problem& problem, const Tensor& q, const Tensor& k, const Execution& execution) {
    Selection selection(problem);
    for (std::uint64_t& word : selection.words()) word = ~std::uint64_t{0};
    select_into(problem, q, k, selection, execution);
    return selection;
  }
  static Selection reference(const Problem& problem, const Tensor& q, const Tensor& k) {
    return run(problem, q, k, {.backend = "reference"});
  }
  void expect_like_reference(const ProblemOptions& options, const Tensors& t) const {
    const Problem problem(options);
    EXPECT_EQ(check_selection(problem, t.q, t.k, run(problem, t.q, t.k)), "") << words(options);
  }
};

// Text rows hold NaN, as memory that select may not read.
void poison_text(const Problem& problem, Tensor& tensor) {
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const Sample& sample = problem.sample(b);
    for (std::int64_t i = 0; i < problem.text().count; ++i) {
      const std::int64_t row = sample.text_begin + i + (problem.packed() ? sample.row_begin : 0);
      for (std::int64_t h = 0; h < tensor.heads(); ++h) {
        for (std::int64_t d = 0; d < tensor.width(); ++d) tensor.set(problem.packed() ? 0 : b, row, h, d, NAN);
      }
    }
  }
}

const Policy rules[] = {
    Threshold{0.25, Scope::head}, Threshold{0.25, Scope::query}, Threshold{0.25, Scope::block},
    Threshold{0.25, Scope::all},  TopK{3, Scope::head},          TopK{3, Scope::query},
    TopK{3, Scope::all},
};

TEST_P(Select, RandomProblems) {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    Rng rng(seed);
    const ProblemOptions options = random_options(rng);
    const Problem problem(options);
    Tensors t = Tensors::random(problem, seed, seed % 2 ? Layout::padded : Layout::contiguous);
    poison_text(problem, t.q);
    poison_text(problem, t.k);
    SCOPED_TRACE(seed);
    expect_like_reference(options, t);
  }
}

// Differential property with shrinking: the problem and the data are drawn from RapidCheck.
TEST_P(Select, Property) {
  EXPECT_TRUE(rc::check("select equals reference outside the tie band", [&] {
    const ProblemOptions options = random_options(
        [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange<std::int64_t>(low, high + 1); },
        {.axis = 5, .dim_steps = 3, .heads = 2, .batch = 2, .text = 3});
    const Problem problem(options);
    const auto seed = *rc::gen::inRange<std::uint64_t>(0, 1000);
    const Tensors t = Tensors::random(problem, seed, Layout::padded, *rc::gen::element(1.0, 1e-3, 30.0));
    const std::string difference = check_selection(problem, t.q, t.k, run(problem, t.q, t.k));
    RC_LOG() << words(options) << " seed " << seed << "\n";
    if (!difference.empty()) RC_FAIL(difference);
  }));
}

TEST_P(Select, HeadDimensions) {
  for (std::int64_t dim = 8; dim <= 256; dim += 8) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const ProblemOptions options{.grid = {3, 5, 7}, .block = {2, 3, 4}, .heads = 2, .dim = dim, .dtype = dtype};
      expect_like_reference(options, Tensors::random(Problem(options), static_cast<std::uint64_t>(dim)));
    }
  }
}

// Every number of blocks and rows around strips and tiles: 15, 16, 17 blocks, 63, 64, 65 rows, ...
TEST_P(Select, SizesAroundTiles) {
  for (const std::int64_t tokens : {1, 15, 16, 17, 63, 64, 65, 129, 257}) {
    for (const std::int64_t run : {1, 4, 8, 33, 64}) {
      if (run > tokens || tokens / run > 200) continue;
      for (const Policy& policy : rules) {
        const ProblemOptions options{
            .grid = {1, 1, tokens}, .block = vmoba::Run{run}, .heads = 2, .dim = 8, .policy = policy};
        expect_like_reference(options, Tensors::random(Problem(options), static_cast<std::uint64_t>(tokens)));
      }
    }
  }
}

// Gates that are exact in fp32 and fp64 and tie all the time: nothing is excused, the tie rule decides alone.
TEST_P(Select, ExactTies) {
  for (std::uint64_t seed = 1; seed <= 15; ++seed) {
    for (const Policy& policy : rules) {
      Rng rng(seed);
      const ProblemOptions options{.grid = {4, 4, rng.integer(1, 20)},
                                   .block = {2, 2, 1},
                                   .batch = 2,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .dim = 8,
                                   .policy = policy};
      const Problem problem(options);
      Tensors t = Tensors::zeros_of(problem);
      const std::int64_t values = rng.integer(0, 3);
      for (Tensor* tensor : {&t.q, &t.k}) {
        tensor->fill([&](auto...) { return static_cast<double>(rng.integer(-values, values)); });
      }
      EXPECT_EQ(run(problem, t.q, t.k), reference(problem, t.q, t.k)) << words(options) << " seed " << seed;
    }
  }
}

// Enough equal gates that ties are shared out over several chunks of rows and over heads.
TEST_P(Select, ManyTies) {
  for (const Policy& policy :
       {Policy(Threshold{0.4, Scope::head}), Policy(Threshold{0.4, Scope::all}), Policy(Threshold{0.4, Scope::block}),
        Policy(TopK{4, Scope::head}), Policy(TopK{5, Scope::all}), Policy(TopK{5, Scope::query})}) {
    const ProblemOptions options{.grid = {8, 16, 12}, .block = {4, 4, 4}, .heads = 3, .dim = 8, .policy = policy};
    const Problem problem(options);
    for (const int kinds : {1, 2, 5}) {  // of query rows; 1: all gates of a block are equal
      Tensors t = Tensors::zeros_of(problem);
      t.q.fill([&](std::int64_t, std::int64_t row, std::int64_t h, std::int64_t d) {
        return static_cast<double>((row * 7 + h * 3) % kinds == d % kinds);
      });
      t.k.fill([&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t d) {
        return static_cast<double>(d < 4 ? problem.sample(0).partition->own(row) % 3 : 1);
      });
      EXPECT_EQ(run(problem, t.q, t.k), reference(problem, t.q, t.k)) << words(options) << " kinds " << kinds;
    }
  }
}

TEST_P(Select, ConstantGates) {
  for (const Policy& policy : rules) {
    const ProblemOptions options{
        .grid = {3, 5, 7}, .block = {2, 3, 3}, .batch = 2, .heads = 2, .dim = 16, .policy = policy};
    const Problem problem(options);
    for (const double q : {0.0, -0.0, 0.1, -3.0}) {
      Tensors t = Tensors::zeros_of(problem);
      t.q.fill([&](auto...) { return q; });
      t.k.fill([&](auto...) { return 0.7; });
      EXPECT_EQ(run(problem, t.q, t.k), reference(problem, t.q, t.k)) << words(options) << " q " << q;
    }
  }
}

TEST_P(Select, HugeKeysAndLoudQueries) {
  for (const Policy& policy : rules) {
    const ProblemOptions options{.grid = {6, 10, 13}, .block = {3, 4, 5}, .heads = 2, .dim = 32, .policy = policy};
    const Problem problem(options);
    const Partition& partition = *problem.sample(0).partition;
    for (int kind = 0; kind < 3; ++kind) {
      Tensors t = Tensors::random(problem, 5);
      Rng rng(6);
      t.q.fill([&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t) {
        return rng.normal() * (kind == 1 ? std::exp2(row % 12) : 1);
      });
      t.k.fill([&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t) {
        return rng.normal() * (kind == 0 && partition.own(row) == 3 ? 100 : 1) + (kind == 2 ? 100 : 0);
      });
      expect_like_reference(options, t);
    }
  }
}

TEST_P(Select, InfinitiesAndNaN) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const Policy& policy : rules) {
    const ProblemOptions options{.grid = {4, 6, 7}, .block = {2, 3, 4}, .heads = 2, .dim = 8, .policy = policy};
    const Problem problem(options);
    for (const double bad : {static_cast<double>(NAN), inf, -inf}) {
      for (const std::int64_t every : {1, 5, 1000}) {  // rows that hold it: all, some, one
        for (const bool in_keys : {false, true}) {
          Tensors t = Tensors::random(problem, 9);
          Tensor& tensor = in_keys ? t.k : t.q;
          for (std::int64_t row = 0; row < problem.rows(); row += every) tensor.set(0, row, 1, 3, bad);
          EXPECT_EQ(check_selection(problem, t.q, t.k, run(problem, t.q, t.k)), "")
              << words(options) << " " << bad << " every " << every << " in_keys " << in_keys;
        }
      }
    }
  }
}

// Sizes at which the cut is bracketed from a sample, on data of several characters.
class Data {
 public:
  static constexpr int kinds = 3;
  static const char* name(int kind) {
    constexpr const char* names[]{"normal", "smooth", "loud rows"};
    return names[kind];
  }
  static void fill(const Problem& problem, Tensors& t, int kind) {
    Rng rng(77);
    std::vector<double> phase(static_cast<std::size_t>(problem.dim()));
    for (double& p : phase) p = rng.uniform() * 6;
    const auto value = [&](std::int64_t row, std::int64_t h, std::int64_t d) {
      const double position = static_cast<double>(row) / static_cast<double>(problem.rows());
      switch (kind) {
        case 1:
          return std::sin(position * static_cast<double>(d + 3 * h) + phase[d]) + 0.05 * rng.normal();
        case 2:
          return rng.normal() * (row % 97 == 0 ? 50 : 1);
        default:
          return rng.normal();
      }
    };
    for (Tensor* tensor : {&t.q, &t.k}) {
      tensor->fill([&](std::int64_t, std::int64_t row, std::int64_t h, std::int64_t d) { return value(row, h, d); });
    }
  }
};

TEST_P(Select, LargeProblems) {
  for (const Policy& policy :
       {Policy(Threshold{0.25, Scope::head}), Policy(Threshold{0.3, Scope::block}), Policy(Threshold{0.2, Scope::all}),
        Policy(TopK{7, Scope::head}), Policy(TopK{7, Scope::all}), Policy(Threshold{0.25, Scope::query}),
        Policy(Threshold{0.25, Scope::head, 2, 9})}) {
    for (int kind = 0; kind < Data::kinds; ++kind) {
      const ProblemOptions options{.grid = {6, 19, 20}, .block = {3, 5, 4}, .heads = 2, .dim = 16, .policy = policy};
      const Problem problem(options);
      Tensors t = Tensors::zeros_of(problem);
      Data::fill(problem, t, kind);
      SCOPED_TRACE(Data::name(kind));
      expect_like_reference(options, t);
    }
  }
}

// Any gates, exactly: the keys of block c are the unit vector c, so that gate (s, c) is q[s][c]. Gates that mislead a
// sample or an fp32 sum; nothing is excused.
TEST_P(Select, MisleadingGates) {
  constexpr std::int64_t blocks = 32, tokens = 1024;
  // The pairs that select_bracket.cpp draws to find a bracket. If it draws others, cases 0 and 1 only lose their point.
  const auto drawn = [](std::int64_t s, std::int64_t c) {
    const std::int64_t tile = s / 64, row = s % 64, strip = c / 16;
    return row % 2 == ((tile + strip) & 1) && (5 * (row / 2) + 3 * tile + 7 * strip) % 16 == c % 16;
  };
  for (const Policy& policy : rules) {
    const ProblemOptions options{
        .grid = {1, 1, tokens}, .block = vmoba::Run{tokens / blocks}, .dim = blocks, .policy = policy};
    const Problem problem(options);
    for (int kind = 0; kind < 6; ++kind) {
      Rng rng(static_cast<std::uint64_t>(kind + 1));
      Tensors t = Tensors::zeros_of(problem);
      t.k.fill([&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t d) {
        return problem.sample(0).partition->own(row) == d ? 1.0 : 0.0;
      });
      t.q.fill([&](std::int64_t, std::int64_t s, std::int64_t, std::int64_t c) -> double {
        const double any = rng.uniform();
        switch (kind) {
          case 0:
            return any + (drawn(s, c) ? 3 : 0);
          case 1:
            return any - (drawn(s, c) ? 3 : 0);
          case 2:
            return 1e6 + 0.0625 * std::floor(any * 100);
          case 3:
            return std::exp2(60 * any);
          case 4:
            return std::floor(any * 3);
          default:
            return s == 77 && c == 5 ? 1e30 : any;
        }
      });
      EXPECT_EQ(run(problem, t.q, t.k), reference(problem, t.q, t.k)) << words(options) << " kind " << kind;
    }
  }
}

TEST_P(Select, SameBitsForAnyThreads) {
  ThreadPool two(2), five(5);
  for (const Policy& policy : rules) {
    const ProblemOptions options{
        .grid = {7, 14, 15}, .block = {3, 4, 4}, .batch = 2, .heads = 3, .dim = 24, .policy = policy};
    const Problem problem(options);
    const Tensors t = Tensors::random(problem, 3);
    const Selection one = run(problem, t.q, t.k);
    for (int repeat = 0; repeat < 2; ++repeat) {
      EXPECT_EQ(run(problem, t.q, t.k), one) << words(options);
      EXPECT_EQ(run(problem, t.q, t.k, two.execution(GetParam())), one) << words(options);
      EXPECT_EQ(run(problem, t.q, t.k, five.execution(GetParam())), one) << words(options);
    }
  }
}

TEST_P(Select, BatchEqualsItsSamples) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Rng rng(seed);
    ProblemOptions options = random_options(rng, {.axis = 9, .batch = 4});
    if (options.grids.empty()) options.batch = 3;
    if (!options.text.valid.empty())
      options.text.valid.assign(static_cast<std::size_t>(std::max<std::int64_t>(
                                    options.batch, static_cast<std::int64_t>(options.grids.size()))),
                                1);
    if (options.text.count == 0) options.text.valid.clear();
    const Problem problem(options);
    const Tensors t = Tensors::random(problem, seed);
    const Selection batch = run(problem, t.q, t.k);
    for (std::int64_t b = 0; b < problem.batch(); ++b) {
      const Problem alone = only_sample(problem, b);
      const Selection sample = run(alone, only_sample(problem, t.q, b), only_sample(problem, t.k, b));
      for (std::int64_t h = 0; h < problem.heads(); ++h) {
        for (std::int64_t c = 0; c < batch.blocks(b); ++c) {
          for (std::int64_t word = 0; word < batch.shape(b).words(); ++word) {
            ASSERT_EQ(batch.words_of(b, h, c)[word], sample.words_of(0, h, c)[word])
                << words(options) << " seed " << seed << " sample " << b << " head " << h << " block " << c;
          }
        }
      }
    }
  }
}

// TopK keeps exactly the number of pairs it promises, whatever rounding does.
TEST_P(Select, TopKCounts) {
  for (const Scope scope : {Scope::head, Scope::query, Scope::all}) {
    for (const std::int64_t k : {1, 2, 5, 11, 12, 100}) {
      const ProblemOptions options{
          .grid = {5, 9, 11}, .block = {3, 3, 6}, .heads = 3, .dim = 8, .policy = TopK{k, scope}};
      const Problem problem(options);
      const Tensors t = Tensors::random(problem, 4);
      const Selection selection = run(problem, t.q, t.k);
      const std::int64_t tokens = problem.tokens(), blocks = selection.blocks(0);
      std::int64_t all = 0;
      for (std::int64_t h = 0; h < 3; ++h) {
        std::int64_t head = 0;
        for (const std::int64_t count : selection.counts(0, h)) {
          head += count;
          if (scope == Scope::query) {
            EXPECT_EQ(count, std::min(k, blocks));
          }
        }
        if (scope == Scope::head) {
          EXPECT_EQ(head, std::min(k, blocks) * tokens);
        }
        all += head;
      }
      EXPECT_EQ(all, std::min(k, blocks) * tokens * 3);
    }
  }
}

TEST_P(Select, FloorsAndCapsHold) {
  for (const Policy& policy : {Policy(Threshold{0.25, Scope::head, 3, 5}), Policy(Threshold{0.25, Scope::query, 3, 5}),
                               Policy(Threshold{0.25, Scope::block, 3, 5}), Policy(Threshold{0.25, Scope::all, 3, 5}),
                               Policy(TopK{4, Scope::head, 2, 4}), Policy(TopK{1, Scope::query, 3, 3})}) {
    const ProblemOptions options{.grid = {5, 9, 11}, .block = {3, 3, 6}, .heads = 2, .dim = 8, .policy = policy};
    const Problem problem(options);
    Tensors t = Tensors::random(problem, 8);
    Rng rng(9);  // queries of very different magnitude: many take nothing, many take all
    t.q.fill(
        [&](std::int64_t, std::int64_t row, std::int64_t, std::int64_t) { return rng.normal() * std::exp2(row % 7); });
    const auto [floor, cap] = std::visit(
        [](const auto& rule) -> std::pair<std::int64_t, std::int64_t> {
          if constexpr (requires { rule.min_blocks; }) return {rule.min_blocks, *rule.max_blocks};
          return {};
        },
        policy);
    const Selection selection = run(problem, t.q, t.k);
    for (std::int64_t h = 0; h < 2; ++h) {
      for (const std::int64_t count : selection.counts(0, h)) {
        EXPECT_GE(count, floor);
        EXPECT_LE(count, cap);
      }
      for (std::int64_t s = 0; s < problem.tokens(); ++s) {
        EXPECT_TRUE(selection.test(0, h, s, problem.sample(0).partition->own(s)));
      }
    }
    expect_like_reference(options, t);
  }
}

// The groups that BracketSolver leaves to the exact walk, head after head.
std::vector<std::int64_t> left_by_bracket(const Problem& problem, const Tensors& t) {
  const std::int64_t heads = problem.heads(), dim = problem.dim();
  const ConstView q = problem.resolve(t.q.view(), heads, dim);
  const ConstView k = problem.resolve(t.k.view(), problem.kv_heads(), dim);
  cpu::SampleGates sample(problem, cpu::generic_tier.gate, q, k, 0);
  const cpu::Buffer<float> panels(sample.panels_size());
  sample.panels = panels.data();
  std::vector<double> sums(static_cast<std::size_t>(cpu::SampleGates::mean_heads * dim));
  std::vector<float> mean(sums.size());
  for (std::int64_t c = 0; c < sample.blocks; ++c) {
    for (std::int64_t g = 0; g < problem.kv_heads(); g += cpu::SampleGates::mean_heads)
      sample.means(c, g, sums.data(), mean.data());
  }
  Selection selection(problem);
  const Scope scope = std::get<Threshold>(problem.policy()).scope;
  const std::int64_t pooled = scope == Scope::head ? 1 : heads;
  cpu::PerWorker<cpu::BracketScratch> scratch(sample, {});
  cpu::BracketSolver solver(sample, pooled, scope == Scope::block, scratch);
  std::vector<std::int64_t> left;
  for (std::int64_t h = 0; h < heads; h += pooled) {
    const auto more = solver.solve(h, selection, {});
    left.insert(left.end(), more.begin(), more.end());
  }
  return left;
}

// Ordinary gates are solved from their bracket; the exact walk costs many times as much and no other test would tell.
TEST(BracketSolver, SolvesOrdinaryGates) {
  for (const std::int64_t heads : {1, 4, 6}) {
    for (const Grid grid : {Grid{5, 16, 16}, Grid{8, 20, 25}, Grid{16, 16, 32}}) {
      for (const Scope scope : {Scope::head, Scope::block, Scope::all}) {
        for (const double tau : {0.1, 0.25, 0.5}) {
          const Problem problem(
              {.grid = grid, .block = {4, 4, 8}, .heads = heads, .dim = 8, .policy = Threshold{tau, scope}});
          EXPECT_TRUE(left_by_bracket(problem, Tensors::random(problem, 21)).empty()) << words(problem);
        }
      }
    }
  }
}

// Rows whose gates are high or low together: rows drawn say little about where the cut is, the bracket is wide, and its
// pairs are too many for a list.
TEST(BracketSolver, SolvesRowsThatVaryTogether) {
  for (const Grid grid : {Grid{5, 16, 16}, Grid{6, 15, 17}}) {
    for (const Scope scope : {Scope::head, Scope::all}) {
      for (const double tau : {0.1, 0.5}) {
        const Problem problem(
            {.grid = grid, .block = {1, 4, 4}, .heads = 2, .dim = 8, .policy = Threshold{tau, scope}});
        Tensors t = Tensors::random(problem, 23);
        for (std::int64_t s = 0; s < problem.rows(); ++s) {
          for (std::int64_t h = 0; h < 2; ++h) {
            t.q.set(0, s, h, 0, 20 * t.q.get(0, s, h, 0));
            t.k.set(0, s, h, 0, 1);
          }
        }
        EXPECT_TRUE(left_by_bracket(problem, t).empty()) << words(problem);
        Selection mine(problem);
        select_into(problem, t.q, t.k, mine, {.backend = "cpu:generic"});
        EXPECT_EQ(check_selection(problem, t.q, t.k, mine), "") << words(problem);
      }
    }
  }
}

// One row far below all others, drawn or not: every weight of the head is measured from its least gate.
TEST(BracketSolver, SolvesAHeadWithOneLowRow) {
  for (std::int64_t row = 100; row < 150; ++row) {
    const Problem problem({.grid = {5, 16, 16}, .block = {1, 4, 4}, .dim = 8, .policy = Threshold{0.25}});
    Tensors t = Tensors::random(problem, 24);
    for (std::int64_t d = 0; d < 8; ++d) t.q.set(0, row, 0, d, 12 * t.q.get(0, row, 0, d));
    EXPECT_TRUE(left_by_bracket(problem, t).empty()) << row;
    Selection mine(problem);
    select_into(problem, t.q, t.k, mine, {.backend = "cpu:generic"});
    EXPECT_EQ(check_selection(problem, t.q, t.k, mine), "") << row;
  }
}

// Scope block: a block with a key that is not finite is a group of its own, and the others are none the slower.
TEST(BracketSolver, LeavesOnlyTheBlocksThatAreNotFinite) {
  for (const Grid grid : {Grid{4, 8, 16}, Grid{8, 40, 30}}) {  // every pair listed, and some drawn
    const Problem problem(
        {.grid = grid, .block = {4, 4, 8}, .heads = 2, .dim = 8, .policy = Threshold{0.25, Scope::block}});
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      Tensors t = Tensors::random(problem, 22);
      t.k.set(0, problem.rows() - 1, 1, 3, bad);
      const std::int64_t block = problem.sample(0).partition->own(problem.rows() - 1);
      EXPECT_EQ(left_by_bracket(problem, t), std::vector<std::int64_t>{block}) << words(problem) << " " << bad;
      Selection mine(problem);
      select_into(problem, t.q, t.k, mine, {.backend = "cpu:generic"});
      EXPECT_EQ(check_selection(problem, t.q, t.k, mine), "") << words(problem) << " " << bad;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiers, Select, testing::ValuesIn(tiers()),
                         [](const auto& info) { return info.param.substr(info.param.find(':') + 1); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Select);

}  // namespace
}  // namespace vmoba::test
