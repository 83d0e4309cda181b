// SPDX-License-Identifier: Apache-2.0
// The record of a training run: its options as JSON, their rules, what a continued run may change.
#include "dit/train/options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <tuple>
#include <type_traits>
#include <utility>

#include "dit/model/plan.hpp"
#include "dit/train/flow.hpp"
#include "io/json.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

using Json = nlohmann::ordered_json;

void at_least(const char* name, std::int64_t value, std::int64_t least) {
  if (value < least) {
    throw_argument(name, std::to_string(value), "must be at least " + std::to_string(least),
                   "use " + std::to_string(least) + " or more");
  }
}

void at_most(const char* name, std::int64_t value, std::int64_t most) {
  if (value > most) {
    throw_argument(name, std::to_string(value), "must be at most " + std::to_string(most),
                   "use " + std::to_string(most) + " or less");
  }
}

void within(const char* name, double value, double low, double high, const char* way_out) {
  if (!(value >= low && value <= high)) {
    throw_argument(name, Json(value).dump(), "must lie in " + Json(low).dump() + ".." + Json(high).dump(), way_out);
  }
}

template <class Value>
std::string text(const Value& value) {
  return Json(value).dump();
}

// Whole numbers are written as such: 1.5, 1e300 and 2^70 would be cut to some other number.
template <class Value>
void read_field(const Json& json, const char* key, Value& field, const std::string& name) {
  const auto read = [&](const Json& from, auto& to) {
    using Number = std::remove_reference_t<decltype(to)>;
    if constexpr (std::is_integral_v<Number> && !std::is_same_v<Number, bool>) {
      const bool large = from.is_number_unsigned() && from.template get<std::uint64_t>() > INT64_MAX;
      const bool negative = from.is_number_integer() && !from.is_number_unsigned();
      if (!from.is_number_integer() || (std::is_signed_v<Number> ? large : negative))
        throw_file(name, std::string("holds no whole number in range as ") + key, "use a file written by train");
    }
    from.get_to(to);
  };
  if constexpr (requires { std::tuple_size<Value>::value; }) {
    if (!json.is_array() || json.size() != field.size())
      throw_file(name, std::string("holds no ") + std::to_string(field.size()) + " numbers as " + key,
                 "use a file written by train");
    for (std::size_t i = 0; i < field.size(); ++i) read(json[i], field[i]);
  } else {
    read(json, field);
  }
}

// The record of a run that went: its values are those check_options allows, and the model one that config.json allows.
void check_record(TrainOptions options, const std::string& name) {
  options.out = name;  // is no part of the record
  try {
    check_options(options);
    parse_config(to_json(options.model), name);
  } catch (const Error& error) {
    throw_file(name, "holds options that are refused (" + std::string(error.sentence()) + ")",
               "use a file written by train");
  }
}

}  // namespace

void check_options(const TrainOptions& o) {
  if (o.out.empty()) throw_argument("out", "", "must name a folder for the run", "for example --out run");
  if (o.resume && !o.init.empty() && o.init == o.out) {
    throw_argument("init", o.init, "is the folder of the run itself", "use --resume alone to continue it");
  }
  at_least("layers", o.model.num_layers, 1);
  at_least("heads", o.model.num_attention_heads, 1);
  at_least("head-dim", o.model.attention_head_dim, 8);
  if (o.model.attention_head_dim % 8 != 0 || o.model.attention_head_dim > 256) {
    throw_argument("head-dim", std::to_string(o.model.attention_head_dim), "must be a multiple of 8 up to 256",
                   "use 64 or 128");
  }
  at_least("ffn", o.model.ffn_dim, 1);
  at_least("text-dim", o.model.text_dim, 1);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    at_least("patch", o.model.patch_size[axis], 1);
    at_least("crop", o.data.crop[axis], 1);
    if (o.data.crop[axis] % o.model.patch_size[axis] != 0) {
      const std::int64_t patch = o.model.patch_size[axis];
      throw_argument("crop", text(o.data.crop),
                     "must be a multiple of patch " + text(o.model.patch_size) + " on each axis",
                     "use " + std::to_string((o.data.crop[axis] / patch + 1) * patch) + " on axis " + "TYX"[axis]);
    }
  }
  at_least("steps", o.steps, 1);
  at_least("batch", o.batch, 1);
  at_least("accumulate", o.accumulate, 1);
  // Bounds far beyond any use: what is above them is a slip or a damaged record, and would fill the memory first.
  for (const auto& [name, value] :
       {std::pair{"batch", o.batch}, {"accumulate", o.accumulate}, {"validation-samples", o.validation_samples}})
    at_most(name, value, 1 << 20);
  at_most("threads", o.threads, 4096);
  double tokens = 1;
  for (std::size_t axis = 0; axis < 3; ++axis)
    tokens *= static_cast<double>(o.data.crop[axis] / o.model.patch_size[axis]);
  if (tokens > 1 << 26)
    throw_argument("crop", text(o.data.crop), "makes more than 67108864 tokens a sample", "use a smaller crop");
  if (!(o.data.fps > 0 && o.data.fps <= 1000))
    throw_argument("fps", text(o.data.fps), "is not a frame rate", "use more than 0 and at most 1000");
  at_least("warmup", o.warmup, 0);
  if (!(o.lr > 0) || !std::isfinite(o.lr))
    throw_argument("lr", text(o.lr), "must be a positive number", "use 1e-3 for a small model");
  if (o.lr_schedule != "cosine" && o.lr_schedule != "constant") {
    throw_argument("lr-schedule", o.lr_schedule, "is not a schedule of the learning rate", "use cosine or constant");
  }
  within("weight-decay", o.weight_decay, 0, 10, "use 0.01");
  within("beta1", o.beta1, 0, 0.999999, "use 0.9");
  within("beta2", o.beta2, 0, 0.999999, "use 0.95");
  within("clip", o.clip, 0, 1e9, "use 1, or 0 for no clipping");
  within("caption-dropout", o.caption_dropout, 0, 1, "use 0.1");
  within("ema", o.ema, 0, 0.999999, "use 0.999, or 0 for none");
  within("held-out", o.data.held_out, 0, 0.9, "use 0.1");
  parse_times(o.times);
  if (!(o.shift > 0) || !std::isfinite(o.shift))
    throw_argument("shift", text(o.shift), "must be a positive number", "use 1 for none");
  at_least("validation-samples", o.validation_samples, 1);
  at_least("validate-every", o.validate_every, 0);
  at_least("checkpoint-every", o.checkpoint_every, 0);
  at_least("keep", o.keep, 1);
  at_least("log-every", o.log_every, 1);
  at_least("stop-after", o.stop_after, 0);
  at_least("threads", o.threads, 0);
  at_least("loader-threads", o.data.threads, 1);
  at_least("sequence-parallel", o.sequence_parallel, 1);
}

std::string options_json(const TrainOptions& options) {
  Json json;
  visit_fields(options, [&](const char* name, const auto& field, const char*, Role) { json[name] = field; });
  json["plan"] = Json::parse(to_json(options.plan));
  json["config"] = Json::parse(to_json(options.model));
  return json.dump();
}

TrainOptions parse_options(const std::string& source, const std::string& name) {
  try {
    const Json json = io::parse_json<Json>(source);
    if (!json.is_object()) throw_file(name, "holds no run options", "use a file written by train");
    TrainOptions options;
    if (json.contains("config")) options.model = parse_config(json.at("config").dump(), name);
    visit_fields(options, [&](const char* key, auto& field, const char*, Role) {
      if (json.contains(key)) read_field(json.at(key), key, field, name);
    });
    if (json.contains("plan")) {
      try {
        options.plan = parse_plan(json.at("plan").dump());
      } catch (const Error& error) {
        throw_file(name, "holds an attention plan that is refused (" + std::string(error.sentence()) + ")",
                   "use a file written by train");
      }
    }
    for (const auto& [key, value] : json.items()) {
      bool known = key == "plan" || key == "config";
      visit_fields(options, [&](const char* field, auto&, const char*, Role) { known = known || key == field; });
      if (!known) throw_file(name, "holds the unknown option " + key, "use the version of vmoba that wrote it");
    }
    check_record(options, name);
    return options;
  } catch (const Json::exception& error) {
    throw_file(name, std::string("holds no readable run options (") + error.what() + ")",
               "use a file written by train");
  }
}

void check_same_run(const TrainOptions& saved, TrainOptions asked) {
  // Which dense path is quicker was measured when the run began, and stays.
  if (asked.plan.dense_path == AttentionPlan::DensePath::automatic) asked.plan.dense_path = saved.plan.dense_path;
  // So are the layers that automatic min_tokens made dense. A layer asked to be dense that is not one of them would be
  // another run.
  if (asked.plan.schedule.min_tokens == Schedule::automatic) {
    const std::set<std::int64_t>&kept = saved.plan.schedule.dense_layers, &wanted = asked.plan.schedule.dense_layers;
    if (!std::includes(kept.begin(), kept.end(), wanted.begin(), wanted.end()))
      throw_argument("dense-layers", Json(wanted).dump(),
                     "has layers beyond the " + Json(kept).dump() + " of the run that is continued",
                     "leave it out to continue, or start a new run in another folder");
    asked.plan.schedule.min_tokens = saved.plan.schedule.min_tokens;
    asked.plan.schedule.dense_layers = saved.plan.schedule.dense_layers;
  }
  if (!asked.init.empty() && asked.init == saved.init) asked.model = saved.model;
  const Json before = Json::parse(options_json(saved)), now = Json::parse(options_json(asked));
  const auto compare = [&](const std::string& name) {
    if (before.at(name) == now.at(name)) return;
    throw_argument(name, now.at(name).dump(),
                   "differs from the " + before.at(name).dump() + " of the run that is continued",
                   "leave it out to continue, or start a new run in another folder");
  };
  visit_fields(saved, [&](const char* name, const auto&, const char*, Role role) {
    if (role == Role::fixed) compare(name);
  });
  compare("plan");
  compare("config");
}

}  // namespace vmoba::dit
