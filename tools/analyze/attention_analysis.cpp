// SPDX-License-Identifier: Apache-2.0
// Where the attention of one layer goes.
#include "tools/analyze/attention_analysis.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

namespace vmoba::tools {

namespace {

// Windows of about an eighth of the keys: half-widths per axis; an axis that is not looked at stays whole.
std::array<std::array<double, 3>, 3> windows(const Grid& grid) {
  const auto half = [](std::int64_t extent, double share) {
    return std::max(0.5, static_cast<double>(extent) * share / 2);
  };
  const double whole = 1e9;
  const double plane = std::sqrt(1.0 / 8), cube = 0.5;
  return {{{half(grid.t, 1.0 / 8), whole, whole},
           {whole, half(grid.y, plane), half(grid.x, plane)},
           {half(grid.t, cube), half(grid.y, cube), half(grid.x, cube)}}};
}

}  // namespace

LayerAnalysis analyze_layer(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const Grid& grid,
                            std::int64_t queries) {
  const torch::NoGradGuard no_grad;
  const std::int64_t tokens = q.size(1), heads = q.size(2);
  const std::int64_t sampled = std::min(queries, tokens);
  const at::Tensor rows =
      (torch::arange(sampled, torch::kDouble) * (static_cast<double>(tokens) / static_cast<double>(sampled)))
          .to(torch::kLong);
  const at::Tensor index = torch::arange(tokens);
  const std::array<at::Tensor, 3> place{index.div(grid.y * grid.x, "floor"),
                                        index.div(grid.x, "floor").remainder(grid.y), index.remainder(grid.x)};
  std::array<at::Tensor, 3> near;  // [sampled, S] float 0 or 1
  const auto extents = windows(grid);
  for (int kind = 0; kind < 3; ++kind) {
    near[kind] = torch::ones({sampled, tokens});
    for (int axis = 0; axis < 3; ++axis) {
      const at::Tensor apart = (place[axis].index_select(0, rows).unsqueeze(1) - place[axis].unsqueeze(0)).abs();
      near[kind] *= apart.le(extents[kind][axis]).to(torch::kFloat);
    }
  }
  LayerAnalysis out{layer, {}};
  const std::int64_t quarter = std::max<std::int64_t>(1, tokens / 4);
  for (std::int64_t h = 0; h < heads; ++h) {
    const at::Tensor from = q.select(0, 0).select(1, h).index_select(0, rows).to(torch::kFloat);
    const at::Tensor to = k.select(0, 0).select(1, h).to(torch::kFloat);
    const at::Tensor mass = torch::softmax(from.matmul(to.t()) / std::sqrt(static_cast<double>(q.size(3))), 1);
    HeadAnalysis head;
    for (int kind = 0; kind < 3; ++kind) {
      head.mass[kind] = (mass * near[kind]).sum(1).mean().item<double>();
      head.lift[kind] = head.mass[kind] / near[kind].mean().item<double>();
    }
    const at::Tensor top = std::get<0>(mass.topk(quarter, 1)).sum(1).contiguous();
    head.top_quarter.assign(top.data_ptr<float>(), top.data_ptr<float>() + top.numel());
    // Half of the mass of all sampled rows together, best pairs first, in double: millions of small numbers are summed.
    const at::Tensor running = std::get<0>(mass.flatten().sort(0, true)).cumsum(0, torch::kDouble);
    const at::Tensor half = torch::full({1}, 0.5 * static_cast<double>(sampled), torch::kDouble);
    const double pairs = static_cast<double>(torch::searchsorted(running, half).item<std::int64_t>() + 1);
    head.half_pairs = pairs * static_cast<double>(tokens) / static_cast<double>(sampled);
    head.all_pairs = static_cast<double>(tokens) * static_cast<double>(tokens);
    out.heads.push_back(std::move(head));
  }
  return out;
}

}  // namespace vmoba::tools
