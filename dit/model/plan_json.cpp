// SPDX-License-Identifier: Apache-2.0
// Plans as JSON. The text may come from a file or another program, so every field is checked.
#include <cmath>
#include <set>
#include <string>
#include <variant>

#include "dit/model/plan.hpp"
#include "io/json.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

using nlohmann::json;

std::string shown(const json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 60);
}

[[noreturn]] void refuse(const std::string& field, const json& value, const std::string& rule) {
  throw_argument("plan" + field, shown(value), rule, "see dit/model/plan.hpp for the form of a plan");
}

std::int64_t integer(const json& value, const std::string& field) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62)) {
    refuse(field, value, "must be a whole number");
  }
  return value.get<std::int64_t>();
}

double number(const json& value, const std::string& field) {
  if (!value.is_number()) refuse(field, value, "must be a number");
  return value.get<double>();
}

void check_object(const json& value, const std::string& field, const std::set<std::string>& known) {
  if (!value.is_object()) refuse(field, value, "must be an object");
  for (const auto& [name, entry] : value.items()) {
    if (!known.contains(name)) refuse(field + "." + name, entry, "is no field of a plan");
  }
}

// Calls read(value, field) when the field is there.
template <class Read>
void optional_field(const json& object, const std::string& field, const char* name, const Read& read) {
  if (const auto found = object.find(name); found != object.end()) read(*found, field + "." + name);
}

Block parse_block(const json& value, const std::string& field) {
  if (value.is_object()) {
    check_object(value, field, {"run"});
    if (!value.contains("run")) refuse(field, value, "must be three extents or {\"run\": tokens}");
    return Run{integer(value["run"], field + ".run")};
  }
  if (!value.is_array() || value.size() != 3) refuse(field, value, "must be three extents or {\"run\": tokens}");
  std::array<std::int64_t, 3> extents{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    extents[axis] = value[axis].is_null() ? full : integer(value[axis], field + "[" + std::to_string(axis) + "]");
  }
  return {extents[0], extents[1], extents[2]};
}

Scope parse_scope(const json& value, const std::string& field) {
  for (const Scope scope : {Scope::head, Scope::query, Scope::block, Scope::all}) {
    if (value == std::string(name(scope))) return scope;
  }
  refuse(field, value, "must be \"head\", \"query\", \"block\" or \"all\"");
}

template <class Rule>
void read_common(const json& value, const std::string& field, Rule& rule) {
  optional_field(value, field, "scope", [&](const json& v, const std::string& f) { rule.scope = parse_scope(v, f); });
  optional_field(value, field, "min_blocks",
                 [&](const json& v, const std::string& f) { rule.min_blocks = integer(v, f); });
  optional_field(value, field, "max_blocks", [&](const json& v, const std::string& f) {
    if (!v.is_null()) rule.max_blocks = integer(v, f);
  });
}

Policy parse_policy(const json& value, const std::string& field) {
  check_object(value, field, {"name", "amount", "scope", "min_blocks", "max_blocks"});
  if (!value.contains("name")) refuse(field, value, "must have a name");
  if (value["name"] == "dense") return Dense{};
  if (value["name"] == "threshold") {
    Threshold rule;
    optional_field(value, field, "amount", [&](const json& v, const std::string& f) { rule.tau = number(v, f); });
    read_common(value, field, rule);
    return rule;
  }
  if (value["name"] == "topk") {
    TopK rule;
    optional_field(value, field, "amount", [&](const json& v, const std::string& f) {
      const double amount = number(v, f);
      if (!(amount >= 1 && amount <= 1e15) || amount != std::floor(amount)) refuse(f, v, "must be a whole number >= 1");
      rule.k = static_cast<std::int64_t>(amount);
    });
    read_common(value, field, rule);
    return rule;
  }
  refuse(field + ".name", value["name"], "must be \"threshold\", \"topk\" or \"dense\"");
}

void read_schedule(const json& value, const std::string& field, Schedule& schedule) {
  check_object(value, field, {"dense_fraction", "dense_steps", "dense_layers", "min_tokens", "refresh"});
  optional_field(value, field, "dense_fraction",
                 [&](const json& v, const std::string& f) { schedule.dense_fraction = number(v, f); });
  optional_field(value, field, "dense_steps", [&](const json& v, const std::string& f) {
    if (v.is_null()) {
      schedule.dense_steps.reset();
    } else {
      schedule.dense_steps = integer(v, f);
    }
  });
  optional_field(value, field, "dense_layers", [&](const json& v, const std::string& f) {
    if (!v.is_array()) refuse(f, v, "must be an array of layers");
    schedule.dense_layers.clear();
    for (const json& layer : v) schedule.dense_layers.insert(integer(layer, f));
  });
  optional_field(value, field, "min_tokens", [&](const json& v, const std::string& f) {
    schedule.min_tokens = v == "auto" ? Schedule::automatic : integer(v, f);
    if (v != "auto" && schedule.min_tokens < 0) refuse(f, v, "must be 0 or more, or \"auto\"");
  });
  optional_field(value, field, "refresh",
                 [&](const json& v, const std::string& f) { schedule.refresh = integer(v, f); });
}

constexpr std::array<std::string_view, 3> path_names{"automatic", "torch_sdpa", "engine"};

AttentionPlan::DensePath parse_path(const json& value, const std::string& field) {
  for (std::size_t i = 0; i < path_names.size(); ++i) {
    if (value == std::string(path_names[i])) return static_cast<AttentionPlan::DensePath>(i);
  }
  refuse(field, value, "must be \"automatic\", \"torch_sdpa\" or \"engine\"");
}

AttentionPlan parse_object(const json& value) {
  check_object(value, "", {"dense", "preset", "cycle", "first", "schedule", "dense_path"});
  AttentionPlan plan;
  optional_field(value, "", "preset", [&](const json& v, const std::string& f) {
    if (!v.is_string()) refuse(f, v, "must be the name of a preset");
    plan = plan_of(preset(v.get<std::string>()));
  });
  optional_field(value, "", "cycle", [&](const json& v, const std::string& f) {
    if (!v.is_array()) refuse(f, v, "must be an array of {\"block\", \"policy\"}");
    plan.dense = false;
    plan.cycle.clear();
    for (const json& entry : v) {
      const std::string at = f + "[" + std::to_string(plan.cycle.size()) + "]";
      check_object(entry, at, {"block", "policy"});
      LayerPolicy layer{Block{}, Threshold{}};
      optional_field(entry, at, "block", [&](const json& b, const std::string& g) { layer.block = parse_block(b, g); });
      optional_field(entry, at, "policy",
                     [&](const json& p, const std::string& g) { layer.policy = parse_policy(p, g); });
      plan.cycle.push_back(layer);
    }
  });
  optional_field(value, "", "dense", [&](const json& v, const std::string& f) {
    if (!v.is_boolean()) refuse(f, v, "must be true or false");
    plan.dense = v.get<bool>();
  });
  optional_field(value, "", "first", [&](const json& v, const std::string& f) { plan.first = integer(v, f); });
  optional_field(value, "", "schedule",
                 [&](const json& v, const std::string& f) { read_schedule(v, f, plan.schedule); });
  optional_field(value, "", "dense_path",
                 [&](const json& v, const std::string& f) { plan.dense_path = parse_path(v, f); });
  return plan;
}

json to_json(const Block& block) {
  if (const Run* run = block.run()) return {{"run", run->tokens}};
  const auto extent = [](std::int64_t size) { return size == full ? json(nullptr) : json(size); };
  const Cuboid& cuboid = *block.cuboid();
  return json::array({extent(cuboid.t), extent(cuboid.y), extent(cuboid.x)});
}

template <class Rule>
void write_common(json& object, const Rule& rule) {
  object["scope"] = std::string(name(rule.scope));
  object["min_blocks"] = rule.min_blocks;
  object["max_blocks"] = rule.max_blocks ? json(*rule.max_blocks) : json(nullptr);
}

json to_json(const Policy& policy) {
  json object;
  if (const auto* threshold = std::get_if<Threshold>(&policy)) {
    object = {{"name", "threshold"}, {"amount", threshold->tau}};
    write_common(object, *threshold);
  } else if (const auto* top = std::get_if<TopK>(&policy)) {
    object = {{"name", "topk"}, {"amount", top->k}};
    write_common(object, *top);
  } else {
    object = {{"name", "dense"}};
  }
  return object;
}

}  // namespace

AttentionPlan parse_plan(const std::string& text) {
  const json value = io::parse_json(text);
  AttentionPlan plan;
  if (value.is_discarded()) {
    throw_argument("plan", text.substr(0, 60), "is not JSON", "quote a preset's name, or pass an object");
  }
  if (value.is_string() && value != "dense") {
    plan = plan_of(preset(value.get<std::string>()));
  } else if (value.is_object()) {
    plan = parse_object(value);
  } else if (!value.is_null() && value != "dense") {
    refuse("", value, "must be null, \"dense\", the name of a preset or an object");
  }
  check_plan(plan);
  return plan;
}

std::string to_json(const AttentionPlan& plan) {
  json cycle = json::array();
  for (const LayerPolicy& layer : plan.cycle) {
    cycle.push_back({{"block", to_json(layer.block)}, {"policy", to_json(layer.policy)}});
  }
  const Schedule& schedule = plan.schedule;
  const json object{
      {"dense", plan.dense},
      {"cycle", cycle},
      {"first", plan.first},
      {"schedule",
       {{"dense_fraction", schedule.dense_fraction},
        {"dense_steps", schedule.dense_steps ? json(*schedule.dense_steps) : json(nullptr)},
        {"dense_layers", schedule.dense_layers},
        {"min_tokens", schedule.min_tokens == Schedule::automatic ? json("auto") : json(schedule.min_tokens)},
        {"refresh", schedule.refresh}}},
      {"dense_path", std::string(path_names[static_cast<std::size_t>(plan.dense_path)])},
  };
  return object.dump();
}

}  // namespace vmoba::dit
