// SPDX-License-Identifier: Apache-2.0
// The options of train, sample and analyze that say what each layer's self-attention does.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "dit/model/model.hpp"

namespace vmoba::tools {

struct PlanOptions {
  std::string policy, cycle, dense_layers, dense_path, schedule, min_tokens, costs;
  // min_tokens of a plan that has none of its own: training and sampling leave it to the cost model.
  std::int64_t default_min_tokens = 0;
  // Set the default above before. when_left_out: of --policy; checkpoint: a trained plan stands where nothing is given.
  void declare(CLI::App& command, const char* when_left_out, bool checkpoint);
  // --dense-path, of verbs whose dense layers take their time.
  void declare_dense_path(CLI::App& command, bool checkpoint);
  bool given(const CLI::App& command) const;  // whether one of them stands on the command line
  // A plan from what is given. Defaults: threshold:0.25 over 3,f,f;f,4,5;4,4,5 (the 1D, 2D, 3D cycle). base: the plan
  // whose parts stay where nothing is given, or null. Throws Error (kind argument).
  dit::AttentionPlan plan(const CLI::App& command, const dit::AttentionPlan* base) const;
};

// "dense_steps=2,dense_fraction=0.25,dense_layers=0+1,min_tokens=4096,refresh=2" onto a schedule.
Schedule parse_schedule(const std::string& text, const std::string& option, Schedule schedule);

}  // namespace vmoba::tools
