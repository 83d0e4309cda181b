// SPDX-License-Identifier: Apache-2.0
// What every kernel of attend and attend_backward is tested for, whoever calls it: a base of test fixtures.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "check/compare.hpp"
#include "check/problems.hpp"
#include "check/tensors.hpp"

namespace vmoba::test {

class AttendCases {
 public:
  virtual ~AttendCases() = default;

 protected:
  // Forward and backward of these inputs, results into t.
  virtual void run_it(const Problem& problem, const Selection* selection, Tensors& t, const Execution& execution = {},
                      bool dlse = true) const = 0;

  // Forward and backward within the error budget, and nothing written between the rows of strided outputs.
  void expect_like_reference(const Problem& problem, const Selection* selection, Tensors& t, bool dlse = true) const {
    run_it(problem, selection, t, {}, dlse);
    EXPECT_EQ(check_results(problem, selection, t, dlse), "") << words(problem);
    for (const Tensor* tensor : {&t.out, &t.lse, &t.dq, &t.dk, &t.dv}) EXPECT_TRUE(tensor->gaps_untouched());
  }

  void random_problems(std::optional<DType> dtype) const {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      Rng rng(seed);
      ProblemOptions options = random_options(rng, {.axis = 5});
      if (dtype) options.dtype = *dtype;
      const Problem problem(options);
      Tensors t = Tensors::random(problem, seed, rng.integer(0, 1) ? Layout::padded : Layout::contiguous);
      if (rng.integer(0, 4) == 0) {
        expect_like_reference(problem, nullptr, t, rng.integer(0, 1));
      } else {
        const Selection selection = random_selection(problem, rng, rng.integer(0, 10) * 10);
        expect_like_reference(problem, &selection, t, rng.integer(0, 1));
      }
      if (testing::Test::HasFailure()) return;
    }
  }

  // Padding may hold anything, NaN too: nobody reads it.
  void text_in_front_and_rear_with_padding(DType dtype) const {
    for (const Text::At at : {Text::At::front, Text::At::rear}) {
      for (const std::int64_t valid : {0, 1, 20, 33}) {
        const Problem problem({.grid = {2, 4, 9},
                               .block = {1, 3, 4},
                               .batch = 2,
                               .heads = 2,
                               .dim = 32,
                               .dtype = dtype,
                               .text = {.count = 33, .at = at, .valid = {valid, 7}}});
        Rng rng(5);
        const Selection selection = random_selection(problem, rng, 30);
        Tensors t = Tensors::random(problem, 8);
        for (std::int64_t b = 0; b < 2; ++b) {
          const Sample& s = problem.sample(b);
          for (std::int64_t r = s.text_begin + s.text_valid; r < s.text_begin + 33; ++r) {
            for (std::int64_t h = 0; h < 2; ++h) {
              for (Tensor* tensor : {&t.q, &t.k, &t.v, &t.dout}) {
                for (std::int64_t d = 0; d < 32; ++d) tensor->set(b, r, h, d, NAN);
              }
            }
          }
        }
        expect_like_reference(problem, &selection, t);
        expect_like_reference(problem, nullptr, t);
      }
    }
  }

  // The sign of the scale turns the order of logits; 0 makes them all equal.
  void any_scale(DType dtype, std::initializer_list<std::int64_t> dims) const {
    for (const double scale : {-0.7, 0.0, 1e-3, 3.0}) {
      for (const std::int64_t dim : dims) {
        const Problem problem(
            {.grid = {3, 5, 7}, .block = {2, 5, 4}, .heads = 2, .dim = dim, .dtype = dtype, .scale = scale});
        Rng rng(9);
        const Selection selection = random_selection(problem, rng, 50);
        Tensors t = Tensors::random(problem, 10);
        expect_like_reference(problem, &selection, t);
      }
    }
  }

  // Logits of hundreds of nats.
  void extremes(DType dtype) const {
    const Problem problem({.grid = {4, 6, 6}, .block = {2, 3, 6}, .heads = 2, .dim = 64, .dtype = dtype, .scale = 1});
    Rng rng(2);
    const Selection selection = random_selection(problem, rng, 60);
    Tensors t = Tensors::random(problem, 21);
    t.q.fill([&](auto, auto, auto, auto) { return rng.normal() * 3; });
    t.k.fill([&](auto, std::int64_t row, auto, auto) { return rng.normal() * (row % 5 == 0 ? 5 : 1.5); });
    for (const Selection* s : {&selection, static_cast<const Selection*>(nullptr)}) {
      expect_like_reference(problem, s, t);
    }
  }

  // One shared key moves through the largest jumps of the running reference: 2^-126 .. 2^126 from tile to tile.
  void rising_and_falling_logits(DType dtype) const {
    for (const double slope : {2.0, -2.0}) {
      const Problem problem({.grid = {1, 1, 400}, .block = vmoba::Run{40}, .dim = 8, .dtype = dtype, .scale = 1});
      Selection selection(problem);
      selection.fill(true);
      Tensors t = Tensors::random(problem, 22);
      t.q.fill([](auto, auto, auto, std::int64_t d) { return d == 0 ? 1.0 : 0.0; });
      t.k.fill([&](auto, std::int64_t row, auto, auto) { return slope * static_cast<double>(row / 40) * 10; });
      expect_like_reference(problem, &selection, t);
    }
  }

  // Logits up to the edge of fp32, each one exact product, so that the greatest of a row, or those that tie, have all
  // the weight. Gradients start from an fp32 lse, which cannot say so beyond 1e7: they are finite, of weights between 0
  // and 1.
  void huge_logits(DType dtype) const {
    for (const int power : {13, 27, 33, 40, 83, 115}) {
      for (const double scale : {1.0, -0.7}) {
        const Problem problem(
            {.grid = {1, 1, 300}, .block = vmoba::Run{40}, .dim = 16, .dtype = dtype, .scale = scale});
        Rng rng(23);
        const Selection selection = random_selection(problem, rng, 50);
        Tensors t = Tensors::random(problem, 24);
        t.q.fill([](auto, auto, auto, std::int64_t d) { return d == 3 ? 1.0 : 0.0; });
        t.k.fill([&](auto, std::int64_t row, auto, std::int64_t d) {
          return d == 3 ? std::ldexp(static_cast<double>(row * 29 % 64) / 32 - 1, power) : 0.0;
        });
        std::vector<double> most(16, 0);  // of dv: every row with all its weight
        t.dout.for_each([&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
          most[static_cast<std::size_t>(d)] += std::abs(t.dout.get(b, r, h, d)) * 1.01;
        });
        for (const Selection* s : {&selection, static_cast<const Selection*>(nullptr)}) {
          run_it(problem, s, t);
          const Tensors expected = truth(problem, s, t);
          const std::string of = words(problem) + ", 2^" + std::to_string(power);
          EXPECT_EQ(near("out", t.out, expected.out, dtype == DType::f32 ? 1e-6 : 4e-3), "") << of;
          EXPECT_EQ(near("lse", t.lse, expected.lse, 1e-6), "") << of;
          t.dv.for_each([&](std::int64_t b, std::int64_t r, std::int64_t h, std::int64_t d) {
            EXPECT_LE(std::abs(t.dv.get(b, r, h, d)), most[static_cast<std::size_t>(d)]) << of;
          });
          for (const Tensor* tensor : {&t.dq, &t.dk}) {
            for (const double x : tensor->doubles()) EXPECT_TRUE(std::isfinite(x)) << of;
          }
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }

  void empty_rows_and_unused_blocks(DType dtype) const {
    const Problem problem({.grid = {2, 5, 7}, .block = {1, 5, 3}, .heads = 2, .dim = 24, .dtype = dtype});
    Selection selection(problem);
    Tensors t = Tensors::random(problem, 31);
    run_it(problem, &selection, t);
    for (const Tensor* tensor : {&t.out, &t.dq, &t.dk, &t.dv}) {
      for (const double x : tensor->doubles()) ASSERT_EQ(x, 0);
    }
    for (const double x : t.lse.doubles()) ASSERT_EQ(x, -std::numeric_limits<double>::infinity());
    for (std::int64_t row = 0; row < 70; row += 3) selection.set(0, 1, row, 2);  // one block, one head, every third row
    expect_like_reference(problem, &selection, t);
  }

  // Few heads and many rows, so that rows are cut into pieces and backward items take turns.
  void same_bits_for_any_threads(const Problem& problem, const Selection* selection) const {
    Tensors first = Tensors::random(problem, 52);
    run_it(problem, selection, first);
    for (const std::int64_t threads : {1, 2, 5, 5}) {
      ThreadPool pool(threads);
      Tensors again = Tensors::random(problem, 52);
      run_it(problem, selection, again, pool.execution());
      EXPECT_TRUE(first.out.same_bits(again.out)) << threads;
      EXPECT_TRUE(first.lse.same_bits(again.lse)) << threads;
      EXPECT_TRUE(first.dq.same_bits(again.dq)) << threads;
      EXPECT_TRUE(first.dk.same_bits(again.dk)) << threads;
      EXPECT_TRUE(first.dv.same_bits(again.dv)) << threads;
    }
  }

  void a_batch_equals_its_samples(const Problem& problem) const {
    Rng rng(71);
    const Selection selection = random_selection(problem, rng);
    Tensors all = Tensors::random(problem, 72);
    ThreadPool pool(2);
    run_it(problem, &selection, all, pool.execution());
    for (std::int64_t b = 0; b < problem.batch(); ++b) {
      const Problem one = only_sample(problem, b);
      Selection part(one);
      for (std::int64_t h = 0; h < problem.heads(); ++h) {
        for (std::int64_t c = 0; c < part.blocks(0); ++c) {
          std::copy_n(selection.words_of(b, h, c), part.shape(0).words(), part.words_of(0, h, c));
        }
      }
      Tensors t = Tensors::zeros_of(one);
      for (auto [to, from] :
           {std::pair{&t.q, &all.q}, {&t.k, &all.k}, {&t.v, &all.v}, {&t.dout, &all.dout}, {&t.dlse, &all.dlse}}) {
        *to = only_sample(problem, *from, b);
      }
      run_it(one, &part, t);
      EXPECT_EQ(t.out.doubles(), only_sample(problem, all.out, b).doubles());
      EXPECT_EQ(t.lse.doubles(), only_sample(problem, all.lse, b).doubles());
      EXPECT_EQ(t.dq.doubles(), only_sample(problem, all.dq, b).doubles());
      EXPECT_EQ(t.dk.doubles(), only_sample(problem, all.dk, b).doubles());
      EXPECT_EQ(t.dv.doubles(), only_sample(problem, all.dv, b).doubles());
    }
  }
};

}  // namespace vmoba::test
