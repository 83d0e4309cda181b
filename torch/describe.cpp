// SPDX-License-Identifier: Apache-2.0
// The engine about itself, as JSON: what runs here, the presets, what a call would do, the schedule.
#include "torch/describe.hpp"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "torch/spec.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/preset.hpp"
#include "vmoba/version.hpp"

namespace vmoba::ops {
namespace {

using nlohmann::json;

json json_of(const Block& block) {
  if (const Run* run = block.run()) return {{"run", run->tokens}};
  json extents = json::array();
  for (const std::int64_t extent : numbers_of(block)) extents.push_back(extent == full ? json() : json(extent));
  return extents;
}

// The form that plans of the video DiT have too (dit/model/plan.hpp).
json json_of(const Policy& policy) {
  const PolicyNumbers numbers = numbers_of(policy);
  if (numbers.name == "dense") return {{"name", "dense"}};
  return {{"name", numbers.name},
          {"amount", numbers.amount},
          {"scope", numbers.scope},
          {"min_blocks", numbers.min_blocks},
          {"max_blocks", numbers.max_blocks ? json(*numbers.max_blocks) : json()}};
}

json json_of(const Schedule& schedule) {
  return {{"dense_fraction", schedule.dense_fraction},
          {"dense_steps", schedule.dense_steps ? json(*schedule.dense_steps) : json()},
          {"dense_layers", schedule.dense_layers},
          {"min_tokens", schedule.min_tokens == Schedule::automatic ? json("auto") : json(schedule.min_tokens)},
          {"refresh", schedule.refresh}};
}

json json_of(const Explanation::Expected& e) {
  return {{"density", e.time.density},
          {"select_seconds", e.time.select},
          {"sparse_seconds", e.time.sparse()},
          {"dense_seconds", e.time.dense},
          {"break_even_tokens", e.break_even_tokens ? json(*e.break_even_tokens) : json()},
          {"crossover_density", e.crossover_density},
          {"quicker", e.quicker}};
}

DType dtype_named(const std::string& text) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    if (name(dtype) == text) return dtype;
  }
  throw_argument("dtype", "\"" + text + "\"", "is not a dtype of attention", "use f32, bf16, f16 or f64");
}

}  // namespace

std::string info() {
  json backend_list = json::array();
  for (const Backend& backend : backends()) {
    backend_list.push_back(
        {{"name", backend.name}, {"description", backend.description}, {"unavailable", backend.unavailable()}});
  }
  return json{{"version", version},
              {"built_with_torch", TORCH_VERSION},
              {"threads", at::get_num_threads()},
              {"backends", backend_list}}
      .dump();
}

std::string presets_json() {
  json list = json::array();
  for (const Preset& preset : presets()) {
    json cycle = json::array();
    for (const LayerPolicy& layer : preset.cycle) {
      cycle.push_back({{"block", json_of(layer.block)}, {"policy", json_of(layer.policy)}});
    }
    list.push_back({{"name", preset.name},
                    {"grid", {preset.grid.t, preset.grid.y, preset.grid.x}},
                    {"cycle", cycle},
                    {"schedule", json_of(preset.schedule)},
                    {"source", preset.source}});
  }
  return list.dump();
}

std::string explain_json(at::IntArrayRef grid, at::IntArrayRef block, const std::string& policy, double amount,
                         const std::string& scope, std::int64_t min_blocks, std::optional<std::int64_t> max_blocks,
                         std::int64_t batch, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim,
                         const std::string& dtype, std::optional<double> scale, std::int64_t text,
                         const std::string& text_at, const std::string& backend) {
  return translated([&] {
    ProblemOptions options;
    const std::vector<Grid> grids = grids_of(grid);
    if (grids.size() == 1) {
      options.grid = grids[0];
      options.batch = batch;
    } else {
      options.grids = grids;
    }
    options.block = block_of(block);
    options.heads = heads;
    options.kv_heads = kv_heads;
    options.dim = dim;
    options.dtype = dtype_named(dtype);
    options.policy = policy_of(policy, amount, scope, min_blocks, max_blocks);
    options.scale = scale;
    options.text.count = text;
    options.text.at = text_at_of(text_at);
    const Explanation what = vmoba::explain(Problem(std::move(options)), execution_of(backend, dtype_named(dtype)));
    json refusals = json::object();
    for (const Explanation::Refusal& refusal : what.backends) refusals[refusal.backend] = refusal.reason;
    return json{{"backend", what.backend},
                {"backends", refusals},
                {"tokens", what.tokens},
                {"rows", what.rows},
                {"blocks", what.blocks},
                {"smallest_block", what.smallest_block},
                {"largest_block", what.largest_block},
                {"policy", what.policy},
                {"budget", what.budget},
                {"dense_flops", what.dense_flops},
                {"gate_flops", what.gate_flops},
                {"selection_bytes", what.selection_bytes},
                {"scratch_bytes", what.scratch_bytes},
                {"path", what.path},
                {"costs", what.costs},
                {"forward", json_of(what.forward)},
                {"training", json_of(what.training)},
                {"text", to_text(what)}}
        .dump();
  });
}

std::tuple<bool, bool, std::int64_t> schedule(double dense_fraction, std::optional<std::int64_t> dense_steps,
                                              at::IntArrayRef dense_layers, std::optional<std::int64_t> min_tokens,
                                              std::int64_t refresh, std::int64_t step, std::int64_t steps,
                                              std::int64_t layer, std::int64_t tokens, const std::string& use) {
  return translated([&] {
    Schedule plan;
    plan.dense_fraction = dense_fraction;
    plan.dense_steps = dense_steps;
    plan.dense_layers = {dense_layers.begin(), dense_layers.end()};
    plan.min_tokens = min_tokens.value_or(Schedule::automatic);
    plan.refresh = refresh;
    if (use != "sampling" && use != "training") {
      throw_argument("use", "\"" + use + "\"", "is not a use", "use \"sampling\" or \"training\"");
    }
    const auto kind = use == "sampling" ? Schedule::Use::sampling : Schedule::Use::training;
    return std::make_tuple(plan.dense(step, steps, layer, tokens, kind), plan.refreshes(step, steps),
                           plan.first_sparse_step(steps));
  });
}

}  // namespace vmoba::ops
