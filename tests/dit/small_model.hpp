// SPDX-License-Identifier: Apache-2.0
// A model small enough for tests, with every weight random, and inputs for it.
#pragma once

#include <torch/torch.h>

#include <array>

#include "dit/model/model.hpp"

namespace vmoba::test {

inline dit::Config small_config(std::int64_t layers = 3) {
  return {.patch_size = {1, 2, 2},
          .num_attention_heads = 2,
          .attention_head_dim = 24,
          .in_channels = 4,
          .out_channels = 4,
          .text_dim = 12,
          .freq_dim = 16,
          .ffn_dim = 32,
          .num_layers = layers};
}

// The same for latents of the tokenizer, a token each.
inline dit::Config small_video_config(std::int64_t layers = 3) {
  dit::Config config = small_config(layers);
  config.patch_size = {1, 1, 1};
  config.in_channels = config.out_channels = 16;
  return config;
}

// The output layer starts at zero, where nothing could be seen: it is made random too.
inline dit::WanModel small_model(const dit::Config& config = small_config(), std::uint64_t seed = 1) {
  const at::NoGradGuard no_grad;
  dit::WanModel model(config, dit::WanModelImpl::Weights::uninitialised);
  dit::init_weights(model, seed);
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  model->named_parameters()["proj_out.weight"].normal_(0, 0.2, generator);
  return model;
}

struct Inputs {
  at::Tensor latents, timestep, text;
};

// Token grid of small_config: {t, y / 2, x / 2}.
inline Inputs small_inputs(std::array<std::int64_t, 3> size = {4, 8, 12}, std::int64_t batch = 1,
                           std::uint64_t seed = 2) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return {torch::randn({batch, 4, size[0], size[1], size[2]}, generator), torch::full({batch}, 400.0),
          torch::randn({batch, 5, 12}, generator)};
}

// Sparse in every layer: 1D, 2D, 3D blocks and the paper's rule.
inline dit::AttentionPlan sparse_plan(double tau = 0.25, Block runs = {1, full, full}, Block columns = {full, 2, 2},
                                      Block cuboids = {2, 2, 2}) {
  dit::AttentionPlan plan;
  plan.dense = false;
  for (const Block& block : {runs, columns, cuboids}) plan.cycle.push_back({block, Threshold{tau}});
  return plan;
}

}  // namespace vmoba::test
