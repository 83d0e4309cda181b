// SPDX-License-Identifier: Apache-2.0
// A training step of a video transformer, sparse over dense, beside what its attention's share lets one expect.
#include <ATen/Functions.h>
#include <fmt/format.h>
#include <torch/optim/adamw.h>

#include <numeric>

#include "dit/model/model.hpp"
#include "tools/bench/contenders.hpp"
#include "tools/bench/targets.hpp"

namespace vmoba::tools {

namespace {

constexpr std::int64_t model_heads = 4, model_dim = 128, model_layers = 3, batch = 1;

// A model with an optimizer of its own, so that two plans do not share anything but their start.
struct Step {
  dit::WanModel model;
  torch::optim::AdamW optimizer;
  at::Tensor latents, timestep, text;

  Step(const dit::Config& config, const Grid& grid, dit::AttentionPlan plan)
      : model(config), optimizer(model->parameters(), torch::optim::AdamWOptions(1e-4)) {
    model->set_plan(std::move(plan));
    latents =
        at::randn({batch, config.in_channels, grid.t, grid.y * config.patch_size[1], grid.x * config.patch_size[2]});
    timestep = at::full({batch}, 500.0);
    text = at::randn({batch, 8, config.text_dim});
  }
  void operator()() {
    optimizer.zero_grad();
    model->forward(latents, timestep, text).square().mean().backward();
    optimizer.step();
  }
};

void training_of(Targets& t, const std::string& what, const Grid& grid, const std::vector<Block>& blocks) {
  if (!t.wants(what)) return;
  dit::Config config;
  config.num_attention_heads = model_heads;
  config.attention_head_dim = model_dim;
  config.num_layers = model_layers;
  config.ffn_dim = 4 * model_heads * model_dim;
  config.text_dim = 64;
  dit::AttentionPlan dense{.dense_path = dit::AttentionPlan::DensePath::engine}, sparse;
  sparse.dense = false;
  for (const Block& block : blocks) sparse.cycle.push_back({block, Threshold{}});
  Step dense_step(config, grid, dense), sparse_step(config, grid, sparse);
  sparse_step.model->record_density(true);

  const Leaves x(make_inputs("smooth", grid, model_heads, model_dim, t.seed), at::kFloat, false);
  std::vector<Contender> all{
      {"step: dense", [&] { dense_step(); }},
      {"step: sparse", [&] { sparse_step(); }},
      {"attention: dense", with_backward(x, vmoba_attention(spec_of(grid, Block{}, Dense{}, t.backend)))}};
  t.rounds(all, 20, 7);

  // Of the dense step, what is attention; of that, what the sparse one keeps: selected pairs and gate products.
  const double share = static_cast<double>(model_layers) * all[2].times.median() / all[0].times.median();
  const std::vector<double> densities = sparse_step.model->last_density();
  double kept = 0, mean = 0;
  for (std::int64_t l = 0; l < model_layers; ++l) {
    const double gates = static_cast<double>(Partition(grid, blocks[static_cast<std::size_t>(l)]).blocks()) /
                         (2 * 3.5 * static_cast<double>(grid.tokens()));
    kept += (densities[static_cast<std::size_t>(l)] + gates) / model_layers;
    mean += densities[static_cast<std::size_t>(l)] / model_layers;
  }
  const double expected = 1 / (1 - share + share * kept);
  const Ratio r = ratio(all[0].times, all[1].times);
  t.add({what, r.value / expected, '>', 0.9, r.spread,
         fmt::format("{:.2f}x of {:.2f}x: {:.0f} % of a dense step of {} is attention, density {:.3f}, {} layers of {} "
                     "heads of {}",
                     r.value, expected, 100 * share, seconds_text(all[0].times.median()), mean, model_layers,
                     model_heads, model_dim)});
}

}  // namespace

void training_targets(Targets& t) {
  training_of(t, "training step at 4K tokens, sparse over dense: share of what its FLOPs let expect", {8, 16, 32},
              {{1, full, full}, {full, 4, 8}, {4, 4, 8}});
  if (!t.quick)
    training_of(t, "training step at 8K tokens, sparse over dense: share of what its FLOPs let expect", {16, 16, 32},
                {{2, full, full}, {full, 4, 8}, {4, 4, 8}});
}

}  // namespace vmoba::tools
