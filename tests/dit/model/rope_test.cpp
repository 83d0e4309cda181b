// SPDX-License-Identifier: Apache-2.0
// The fused norm and RoPE against torch's operators and finite differences; bits for any number of threads.
#include "dit/model/rope.hpp"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace vmoba::dit {
namespace {

struct Case {
  Grid grid;
  std::int64_t batch, heads, dim;
};
class NormRope : public testing::TestWithParam<Case> {};

TEST_P(NormRope, EqualsTorchForwardAndBackward) {
  const auto [grid, batch, heads, dim] = GetParam();
  torch::manual_seed(3);
  const RopeTable table = rope_table(grid, dim, at::kDouble, at::kCPU);
  const at::Tensor x = torch::randn({batch, grid.tokens(), heads * dim}, at::kDouble).mul_(3).requires_grad_();
  const at::Tensor weight = torch::randn({heads * dim}, at::kDouble).requires_grad_();
  const at::Tensor y = norm_rope(x, weight, 1e-6, table), expected = norm_rope_composed(x, weight, 1e-6, table);
  EXPECT_EQ(y.sizes(), (at::IntArrayRef{batch, grid.tokens(), heads, dim}));
  const at::Tensor dy = torch::randn_like(y);
  const auto grads = torch::autograd::grad({y}, {x, weight}, {dy});
  const auto expected_grads = torch::autograd::grad({expected}, {x, weight}, {dy});
  EXPECT_LT((y - expected).abs().max().item<double>(), 1e-12);
  EXPECT_LT((grads[0] - expected_grads[0]).abs().max().item<double>(), 1e-12);
  EXPECT_LT((grads[1] - expected_grads[1]).abs().max().item<double>(), 1e-10);

  const RopeTable narrow = rope_table(grid, dim, at::kFloat, at::kCPU);
  const at::Tensor single = norm_rope(x.to(at::kFloat), weight.to(at::kFloat), 1e-6, narrow);
  EXPECT_LT((single - expected).abs().max().item<double>(), 2e-6 * expected.abs().max().item<double>());
  EXPECT_EQ(norm_rope(x.to(at::kBFloat16), weight.to(at::kFloat), 1e-6, narrow).scalar_type(), at::kBFloat16);
}

INSTANTIATE_TEST_SUITE_P(Shapes, NormRope,
                         testing::Values(Case{{1, 1, 1}, 1, 1, 2}, Case{{3, 1, 2}, 2, 3, 6}, Case{{2, 3, 5}, 1, 2, 24},
                                         Case{{1, 7, 1}, 3, 1, 64}, Case{{2, 2, 9}, 2, 3, 128}));

TEST(NormRopeBits, DoNotDependOnThreads) {
  const Grid grid{3, 7, 5};
  const RopeTable table = rope_table(grid, 24, at::kFloat, at::kCPU);
  const at::Tensor x = torch::randn({2, grid.tokens(), 72}).requires_grad_(),
                   weight = torch::randn({72}).requires_grad_();
  const at::Tensor dy = torch::randn({2, grid.tokens(), 3, 24});
  const int before = at::get_num_threads();
  std::vector<at::Tensor> first;
  for (const int threads : {1, 2, 5}) {
    at::set_num_threads(threads);
    const at::Tensor y = norm_rope(x, weight, 1e-6, table);
    std::vector<at::Tensor> found = torch::autograd::grad({y}, {x, weight}, {dy});
    found.push_back(y.detach());
    if (first.empty()) first = found;
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(at::equal(found[i], first[i])) << threads;
  }
  at::set_num_threads(before);
}

TEST(RopeTable, TurnsTheAxesAsWanDoes) {
  const Grid grid{2, 3, 4};
  const RopeTable table = rope_table(grid, 24, at::kDouble, at::kCPU);  // y and x turn 8 numbers each, t the other 8
  for (std::int64_t token = 0; token < grid.tokens(); ++token) {
    const double t = token / 12, y = token / 4 % 3, x = token % 4;
    for (std::int64_t pair = 0; pair < 12; ++pair) {
      const double position = pair < 4 ? t : pair < 8 ? y : x;
      const double angle = position * std::pow(10000.0, -2.0 * (pair % 4) / 8);
      EXPECT_NEAR(table.cos[token][pair].item<double>(), std::cos(angle), 1e-14);
      EXPECT_NEAR(table.sin[token][pair].item<double>(), std::sin(angle), 1e-14);
    }
  }
}

}  // namespace
}  // namespace vmoba::dit
