// SPDX-License-Identifier: Apache-2.0
// A training run of a second or two: two layers, tiny rendered clips.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dit/train/trainer.hpp"

namespace vmoba::test {

inline dit::TrainOptions small_run(const std::string& out) {
  dit::TrainOptions options;
  options.out = out;
  options.model.num_layers = 3;
  options.model.num_attention_heads = 2;
  options.model.attention_head_dim = 24;
  options.model.ffn_dim = 64;
  options.model.text_dim = 16;
  options.data.rendered_clips = 4;
  options.data.held_out = 0.25;
  options.data.height = 64;
  options.data.width = 96;
  options.data.crop = {3, 5, 7};
  options.data.text_length = 24;
  options.plan.dense = false;
  options.plan.cycle = {
      {Block{2, full, full}, Threshold{0.4}}, {Block{full, 2, 3}, Threshold{0.4}}, {Block{2, 2, 3}, Threshold{0.4}}};
  options.plan.dense_path = dit::AttentionPlan::DensePath::torch_sdpa;
  options.steps = 8;
  options.batch = 2;
  options.warmup = 2;
  options.validation_samples = 2;
  options.validate_every = 4;
  options.checkpoint_every = 0;
  options.log_every = 1;
  options.threads = 1;
  return options;
}

struct Lines {
  std::vector<nlohmann::json> steps, validations;
};

inline Lines read_metrics(const std::string& out) {
  Lines lines;
  std::ifstream file(out + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    (json.contains("validation_loss") ? lines.validations : lines.steps).push_back(json);
  }
  return lines;
}

}  // namespace vmoba::test
