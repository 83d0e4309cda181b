// SPDX-License-Identifier: Apache-2.0
// The operators from C++, as the video DiT calls them; values, gradients and schemas are tested through Python.
#include "torch/attention.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "vmoba/attention.hpp"
#include "vmoba/error.hpp"

namespace vmoba::ops {
namespace {

struct Tensors {
  at::Tensor q, k, v;
};
Tensors random_tensors(std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t kv_heads) {
  torch::manual_seed(7);
  return {torch::randn({batch, rows, heads, 16}), torch::randn({batch, rows, kv_heads, 16}),
          torch::randn({batch, rows, kv_heads, 16})};
}
Spec some_spec() {
  Spec spec;
  spec.grids = {{3, 4, 5}};
  spec.block = {2, 3, full};
  spec.policy = TopK{2};
  return spec;
}

TEST(Attention, EqualsSelectThenAttendAndTheEngine) {
  const auto [q, k, v] = random_tensors(2, 60, 4, 2);
  const Spec spec = some_spec();
  const at::Tensor bits = select(q, k, spec);
  const auto [out, lse] = attend(q, k, v, bits, spec);
  EXPECT_TRUE(torch::equal(out, attention(q, k, v, spec)));
  EXPECT_EQ(lse.sizes(), (std::vector<std::int64_t>{2, 60, 4}));

  const Problem problem = problem_of(q, k, spec);
  EXPECT_EQ(Selection::word_count(problem), bits.size(0));
  EXPECT_TRUE(selection_of(bits, problem) ==
              vmoba::select(problem, q.const_data_ptr<float>(), k.const_data_ptr<float>()));
  std::vector<float> expected(out.numel());
  vmoba::attend(problem, selection_of(bits, problem), q.const_data_ptr<float>(), k.const_data_ptr<float>(),
                v.const_data_ptr<float>(), expected);
  EXPECT_TRUE(torch::equal(out.flatten(), torch::tensor(expected)));  // threads of torch or none: the same bits
}

TEST(Attention, DenseIsUndefinedBitsAndMatchesTorch) {
  const auto [q, k, v] = random_tensors(1, 60, 2, 2);
  Spec spec = some_spec();
  spec.policy = Dense{};
  const at::Tensor expected =
      at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2);
  EXPECT_TRUE(torch::allclose(attention(q, k, v, spec), expected, 1e-4, 1e-5));
  EXPECT_TRUE(torch::allclose(std::get<0>(attend(q, k, v, {}, spec)), expected, 1e-4, 1e-5));
}

TEST(Attention, ViewsOfAFusedProjectionNeedNoCopyAndDifferentiate) {
  torch::manual_seed(1);
  at::Tensor fused = torch::randn({1, 60, 3, 2, 16}).requires_grad_();
  attention(fused.select(2, 0), fused.select(2, 1), fused.select(2, 2), some_spec()).square().sum().backward();
  EXPECT_TRUE(fused.grad().isfinite().all().item<bool>());
  EXPECT_GT(fused.grad().select(2, 0).abs().max().item<float>(), 0);
}

TEST(Attention, TextAndValidReachTheEngine) {
  const auto [q, k, v] = random_tensors(2, 66, 2, 2);
  Spec spec = some_spec();
  spec.text = 6;
  spec.text_at = Text::At::front;
  spec.text_valid = torch::tensor({6, 2}, torch::kLong);
  const at::Tensor out = attention(q, k, v, spec);
  EXPECT_EQ(out.index({1, torch::indexing::Slice(2, 6)}).abs().max().item<float>(), 0);  // padding
  EXPECT_GT(out.index({0, torch::indexing::Slice(2, 6)}).abs().max().item<float>(), 0);
}

TEST(Attention, RefusalsCarryTheEnginesSentence) {
  const auto [q, k, v] = random_tensors(1, 60, 2, 2);
  Spec spec = some_spec();
  spec.block = {2, 50, full};
  try {
    attention(q, k, v, spec);
    FAIL() << "a block larger than the grid was taken";
  } catch (const c10::ValueError& error) {
    EXPECT_NE(std::string(error.what_without_backtrace()).find("vmoba: block.y = 50"), std::string::npos);
  }
  EXPECT_THROW(problem_of(q, k, spec), vmoba::Error);
  EXPECT_THROW(attend(q, k, v, torch::zeros({3}, torch::kLong), some_spec()), c10::ValueError);
}

}  // namespace
}  // namespace vmoba::ops
