// SPDX-License-Identifier: Apache-2.0
// A model small enough for tests, with every weight random, and inputs for it.
#pragma once

#include <torch/torch.h>

#include <array>

#include "dit/model/model.hpp"

namespace vmoba::dit::test {

inline Config small_config(std::int64_t layers = 3) {
  Config config;
  config.patch_size = {1, 2, 2};
  config.num_attention_heads = 2;
  config.attention_head_dim = 24;
  config.in_channels = 4;
  config.out_channels = 4;
  config.text_dim = 12;
  config.freq_dim = 16;
  config.ffn_dim = 32;
  config.num_layers = layers;
  return config;
}

// The output layer starts at zero, where nothing could be seen: it is made random too.
inline WanModel small_model(const Config& config = small_config(), std::uint64_t seed = 1) {
  const at::NoGradGuard no_grad;
  WanModel model(config, WanModelImpl::Weights::uninitialised);
  init_weights(model, seed);
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
inline AttentionPlan sparse_plan(double tau = 0.25) {
  AttentionPlan plan;
  plan.dense = false;
  plan.cycle = {
      {Block{1, full, full}, Threshold{tau}}, {Block{full, 2, 2}, Threshold{tau}}, {Block{2, 2, 2}, Threshold{tau}}};
  return plan;
}

}  // namespace vmoba::dit::test
