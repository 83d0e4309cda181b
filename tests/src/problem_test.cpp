// SPDX-License-Identifier: Apache-2.0
// Problem: what it refuses, and the layout of its samples.
#include "vmoba/problem.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "support/errors.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

ProblemOptions good() { return {.grid = {4, 5, 6}, .block = {2, 2, 3}, .heads = 4, .dim = 16}; }

template <class Change>
auto changed(Change&& change) {
  ProblemOptions options = good();
  change(options);
  return [options] { Problem problem(options); };
}

TEST(Problem, FillsInWhatIsLeftOut) {
  const Problem p(good());
  EXPECT_EQ(p.kv_heads(), 4);
  EXPECT_EQ(p.scale(), 0.25);
  EXPECT_EQ(p.batch(), 1);
  EXPECT_EQ(p.rows(), 120);
  EXPECT_EQ(p.tokens(), 120);
  EXPECT_FALSE(p.packed());
  EXPECT_EQ(p.lse_dtype(), DType::f32);
}

TEST(Problem, GroupedHeadsShareInOrder) {
  ProblemOptions options = good();
  options.kv_heads = 2;
  const Problem p(options);
  EXPECT_EQ(p.kv_head(0), 0);
  EXPECT_EQ(p.kv_head(1), 0);
  EXPECT_EQ(p.kv_head(2), 1);
  EXPECT_EQ(p.kv_head(3), 1);
}

TEST(Problem, TextFrontAndRear) {
  ProblemOptions options = good();
  options.batch = 2;
  options.text = {.count = 7, .at = Text::At::front, .valid = {7, 3}};
  const Problem front(options);
  EXPECT_EQ(front.rows(), 127);
  EXPECT_EQ(front.sample(1).video_begin, 7);
  EXPECT_EQ(front.sample(1).text_begin, 0);
  EXPECT_EQ(front.sample(1).text_valid, 3);
  EXPECT_EQ(front.sample(1).row_begin, 0);
  options.text.at = Text::At::rear;
  options.text.valid = {};
  const Problem rear(options);
  EXPECT_EQ(rear.sample(1).video_begin, 0);
  EXPECT_EQ(rear.sample(1).text_begin, 120);
  EXPECT_EQ(rear.sample(1).text_valid, 7);
}

TEST(Problem, PackedGridsLieOneAfterAnother) {
  ProblemOptions options = good();
  options.grid = {};
  options.grids = {{2, 3, 4}, {4, 5, 6}, {2, 3, 4}};
  options.block = {2, 3, 2};
  options.text.count = 5;
  const Problem p(options);
  EXPECT_TRUE(p.packed());
  EXPECT_EQ(p.batch(), 3);
  EXPECT_EQ(p.rows(), 24 + 120 + 24 + 15);
  EXPECT_EQ(p.tokens(), 24 + 120 + 24);
  EXPECT_EQ(p.sample(1).row_begin, 29);
  EXPECT_EQ(p.sample(2).row_begin, 29 + 125);
  EXPECT_EQ(p.sample(0).partition, p.sample(2).partition);
  EXPECT_NE(p.sample(0).partition, p.sample(1).partition);
  const ConstView q = p.resolve(ConstView(static_cast<const float*>(nullptr)), 4, 16);
  EXPECT_EQ(p.offset(q, 2, 3, 1), (29 + 125 + 3) * 64 + 16);
}

TEST(Problem, ResolvesOnlyViewsWithoutStrides) {
  const Problem p(good());
  const ConstView q = p.resolve(ConstView(static_cast<const float*>(nullptr)), 4, 16);
  EXPECT_EQ(q.batch_stride, 120 * 64);
  EXPECT_EQ(q.token_stride, 64);
  EXPECT_EQ(q.head_stride, 16);
  const ConstView given = p.resolve(ConstView(nullptr, DType::f32, 1, 192, 16), 4, 16);
  EXPECT_EQ(given.token_stride, 192);
  const ConstView lse = p.resolve_lse(ConstView(static_cast<const float*>(nullptr)));
  EXPECT_EQ(lse.batch_stride, 480);
  EXPECT_EQ(lse.token_stride, 1);
  EXPECT_EQ(lse.head_stride, 120);
}

TEST(Problem, RefusesEveryWrongField) {
  expect_argument_error("heads", "0", "is not a number of heads", "1 or more", changed([](auto& o) { o.heads = 0; }));
  expect_argument_error("heads", "-4", "is not a number of heads", "1 or more", changed([](auto& o) { o.heads = -4; }));
  expect_argument_error("kv_heads", "3", "does not divide heads = 4", "divisor",
                        changed([](auto& o) { o.kv_heads = 3; }));
  expect_argument_error("kv_heads", "-1", "does not divide heads = 4", "divisor",
                        changed([](auto& o) { o.kv_heads = -1; }));
  expect_argument_error("kv_heads", "8", "does not divide heads = 4", "divisor",
                        changed([](auto& o) { o.kv_heads = 8; }));
  expect_argument_error("dim", "0", "is not a number of channels", "1 or more", changed([](auto& o) { o.dim = 0; }));
  expect_argument_error("batch", "0", "is not a number of samples", "1 or more", changed([](auto& o) { o.batch = 0; }));
  expect_argument_error("batch", "1048577", "is more than 1048576", "smaller",
                        changed([](auto& o) { o.batch = 1048577; }));
  expect_argument_error("dtype", "9", "is no element type", "use f32, bf16, f16 or f64",
                        changed([](auto& o) { o.dtype = static_cast<DType>(9); }));
  expect_argument_error("scale", "inf", "is not a finite number", "leave it out",
                        changed([](auto& o) { o.scale = std::numeric_limits<double>::infinity(); }));
  expect_argument_error("grid", "{4, 5, 6}", "is given beside grids", "one of the two", changed([](auto& o) {
                          o.grids = {{4, 5, 6}};
                        }));
  expect_argument_error("batch", "2", "is given beside grids", "leave batch at 1", changed([](auto& o) {
                          o.grid = {};
                          o.grids = {{4, 5, 6}, {4, 5, 6}};
                          o.batch = 2;
                        }));
  expect_argument_error("block.t", "5", "is larger than grid.t = 4", "use 1..4", changed([](auto& o) {
                          o.block = {5, 1, 1};
                        }));
  expect_argument_error("text.count", "-1", "is negative", "0 or more", changed([](auto& o) { o.text.count = -1; }));
  expect_argument_error("text.count", "2147483648", "is more than 2147483647", "fewer",
                        changed([](auto& o) { o.text.count = std::int64_t{1} << 31; }));
  expect_argument_error("text.at", "7", "is no place for text", "front or rear",
                        changed([](auto& o) { o.text.at = static_cast<Text::At>(7); }));
  expect_argument_error("text.valid", "2 numbers", "is not one number a sample of a batch of 1", "one number a sample",
                        changed([](auto& o) {
                          o.text = {.count = 3, .valid = {1, 2}};
                        }));
  expect_argument_error("text.valid[0]", "4", "is not a number of valid text tokens", "use 0..3",
                        changed([](auto& o) { o.text = {.count = 3, .valid = {4}}; }));
  expect_argument_error("text.valid[0]", "-1", "is not a number of valid text tokens", "use 0..3",
                        changed([](auto& o) { o.text = {.count = 3, .valid = {-1}}; }));
  expect_argument_error("heads", "4611686018427387904", "makes a tensor of more than 2^63 bytes", "fewer heads",
                        changed([](auto& o) { o.heads = std::int64_t{1} << 62; }));
}

}  // namespace
}  // namespace vmoba
