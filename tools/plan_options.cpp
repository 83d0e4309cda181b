// SPDX-License-Identifier: Apache-2.0
// Attention plans as people write them on a command line.
#include "tools/plan_options.hpp"

#include <charconv>
#include <sstream>

#include "dit/model/plan.hpp"
#include "tools/parse.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

constexpr const char* default_policy = "threshold:0.25";
constexpr const char* default_cycle = "3,f,f;f,4,5;4,4,5";

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::int64_t whole(const std::string& text, const std::string& option, const std::string& all) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty() || value < 0)
    throw_argument(option, all, "has '" + text + "', which is no whole number",
                   "write for example 0,3 or dense_steps=5");
  return value;
}

std::set<std::int64_t> layers(const std::string& text, char separator, const std::string& option) {
  std::set<std::int64_t> set;
  for (const std::string& part : split(text, separator)) set.insert(whole(part, option, text));
  return set;
}

bool is_preset(const std::string& text) {
  for (const Preset& preset : presets())
    if (preset.name == text) return true;
  return false;
}

// What an option does, and what stands where it is left out.
std::string with_default(const std::string& help, const std::string& otherwise, bool checkpoint) {
  return help + "; left out: " + (checkpoint ? "as in training, else " : "") + otherwise;
}

}  // namespace

Schedule parse_schedule(const std::string& text, const std::string& option, Schedule schedule) {
  for (const std::string& part : split(text, ',')) {
    const std::size_t equals = part.find('=');
    const std::string key = part.substr(0, equals), value = equals == std::string::npos ? "" : part.substr(equals + 1);
    if (key == "dense_steps") {
      schedule.dense_steps = whole(value, option, text);
    } else if (key == "dense_fraction") {
      schedule.dense_fraction = parse_numbers(value, option).at(0);
      schedule.dense_steps.reset();
    } else if (key == "dense_layers") {
      schedule.dense_layers = layers(value, '+', option);
    } else if (key == "min_tokens") {
      schedule.min_tokens = value == "auto" ? Schedule::automatic : whole(value, option, text);
    } else if (key == "refresh") {
      schedule.refresh = whole(value, option, text);
    } else {
      throw_argument(option, text, "has '" + key + "', which is no part of a schedule",
                     "use dense_steps=N, dense_fraction=F, dense_layers=A+B, min_tokens=N or auto, refresh=N, apart by "
                     "commas");
    }
  }
  return schedule;
}

void PlanOptions::declare(CLI::App& command, const char* when_left_out, bool checkpoint) {
  const auto left_out = [&](const std::string& help, const std::string& otherwise) {
    return with_default(help, otherwise, checkpoint);
  };
  command.add_option(
      "--policy", policy,
      std::string("dense, a preset's name, threshold:TAU[:SCOPE] or topk:K[:SCOPE]; left out: ") + when_left_out);
  command.add_option("--cycle", cycle,
                     left_out("blocks of layers 0, 1, 2, 0, ... as T,Y,X;T,Y,X;... (f: the whole axis, run:TOKENS), "
                              "each with @POLICY for its own policy",
                              default_cycle));
  command.add_option("--dense-layers", dense_layers, left_out("layers that stay dense, for example 0,3", "none"));
  command.add_option("--min-tokens", min_tokens,
                     left_out("below so many tokens everything is dense; auto: a layer is dense where sparse is not "
                              "predicted to be quicker",
                              default_min_tokens == Schedule::automatic ? "auto" : "0"));
  command.add_option("--cost", costs,
                     "costs that auto predicts from, written by vmoba bench --fit --out; left out: those built in");
}

void PlanOptions::declare_dense_path(CLI::App& command, bool checkpoint) {
  command.add_option(
      "--dense-path", dense_path,
      with_default("who computes dense attention: auto (measured once), sdpa (torch), engine", "auto", checkpoint));
}

bool PlanOptions::given(const CLI::App& command) const {
  for (const char* option : {"--policy", "--cycle", "--dense-layers", "--min-tokens", "--dense-path", "--cost"})
    if (const CLI::Option* one = command.get_option_no_throw(option); one && one->count() > 0) return true;
  return !schedule.empty();
}

dit::AttentionPlan PlanOptions::plan(const CLI::App& command, const dit::AttentionPlan* base) const {
  dit::AttentionPlan plan = base != nullptr ? *base : dit::AttentionPlan{};
  if (policy == "dense") {
    if (!cycle.empty())
      throw_argument("--cycle", cycle, "has no effect with --policy dense", "leave one of the two out");
    plan.dense = true;
    plan.cycle.clear();
  } else if (is_preset(policy)) {
    if (!cycle.empty())
      throw_argument("--cycle", cycle, "has no effect with the preset " + policy,
                     "leave it out, or write the policy itself");
    const dit::AttentionPlan named = dit::plan_of(vmoba::preset(policy));
    plan.dense = false;
    plan.cycle = named.cycle;
    plan.first = named.first;
    plan.schedule = named.schedule;
  } else if (!policy.empty() || !cycle.empty() || base == nullptr) {
    if (!policy.empty() && policy.find(':') == std::string::npos && policy != "dense") {
      std::string names;
      for (const Preset& one : presets()) names += (names.empty() ? "" : ", ") + std::string(one.name);
      throw_argument("--policy", policy, "is neither a policy nor a preset",
                     "write dense, threshold:0.25, topk:3, or one of " + names);
    }
    const bool keep_blocks = cycle.empty() && !plan.cycle.empty();
    if (!keep_blocks) {
      std::vector<LayerPolicy> layers;
      for (const std::string& part : split(cycle.empty() ? default_cycle : cycle, ';')) {
        const std::size_t at = part.find('@');
        LayerPolicy layer;
        layer.block = parse_block(part.substr(0, at), "--cycle");
        if (at != std::string::npos)
          layer.policy = parse_policy(part.substr(at + 1), "--cycle");
        else if (!policy.empty())
          layer.policy = parse_policy(policy, "--policy");
        else
          layer.policy = plan.cycle.empty() ? parse_policy(default_policy, "--policy")
                                            : plan.cycle[layers.size() % plan.cycle.size()].policy;
        layers.push_back(layer);
      }
      plan.cycle = layers;
    } else {
      for (LayerPolicy& layer : plan.cycle) layer.policy = parse_policy(policy, "--policy");
    }
    plan.dense = false;
  }
  if (command.get_option("--dense-layers")->count() > 0)
    plan.schedule.dense_layers = layers(dense_layers, ',', "--dense-layers");
  if (base == nullptr || base->dense) plan.schedule.min_tokens = default_min_tokens;
  if (!min_tokens.empty())
    plan.schedule.min_tokens =
        min_tokens == "auto" ? Schedule::automatic : whole(min_tokens, "--min-tokens", min_tokens);
  if (!schedule.empty()) plan.schedule = parse_schedule(schedule, "--schedule", plan.schedule);
  if (plan.costs = read_costs(costs); plan.costs && (plan.dense || plan.schedule.min_tokens != Schedule::automatic))
    throw_argument("--cost", costs, "has no effect unless min_tokens is auto in a sparse plan",
                   "leave it out, or add --min-tokens auto");
  using Path = dit::AttentionPlan::DensePath;
  if (!dense_path.empty()) {
    if (dense_path != "auto" && dense_path != "sdpa" && dense_path != "engine")
      throw_argument("--dense-path", dense_path, "is not a dense path", "use auto, sdpa or engine");
    plan.dense_path = dense_path == "auto" ? Path::automatic : dense_path == "sdpa" ? Path::torch_sdpa : Path::engine;
  }
  dit::check_plan(plan);
  return plan;
}

}  // namespace vmoba::tools
