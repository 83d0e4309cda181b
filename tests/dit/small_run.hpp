// SPDX-License-Identifier: Apache-2.0
// A training run of a second or two on tiny rendered clips.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dit/small_model.hpp"
#include "dit/train/trainer.hpp"

namespace vmoba::test {

inline dit::TrainOptions small_run(const std::string& out) {
  dit::TrainOptions options;
  options.out = out;
  options.model = small_video_config();
  options.data.rendered_clips = 4;
  options.data.held_out = 0.25;
  options.data.height = 64;
  options.data.width = 96;
  options.data.crop = {3, 5, 7};
  options.data.text_length = 24;
  options.plan = sparse_plan(0.4, {2, full, full}, {full, 2, 3}, {2, 2, 3});
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
