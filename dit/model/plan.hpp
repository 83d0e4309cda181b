// SPDX-License-Identifier: Apache-2.0
// Plans: what a layer's self-attention does at a step, and plans as JSON.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "dit/model/model.hpp"
#include "torch/attention.hpp"

namespace vmoba::dit {

// Throws vmoba::Error(kind argument) unless the plan can be followed: a cycle when not dense, policies and blocks that
// some grid allows, schedule numbers in range.
void check_plan(const AttentionPlan& plan);

// The engine call of one layer, or nothing when the plan makes the layer dense at this step. Extents of a block that
// are larger than the grid's axis are cut to the axis (runs: to the grid), so that a preset serves other grids than its
// own.
struct CallSize {  // looked at by a schedule with automatic min_tokens
  std::int64_t batch = 1, heads = 12, dim = 128;
};
std::optional<ops::Spec> sparse_call(const AttentionPlan& plan, std::int64_t layer, const Grid& grid,
                                     const StepContext& context, const CallSize& size = {});
// Puts what automatic min_tokens decides for these layers into the plan's dense_layers, and 0 into min_tokens, so that
// a run stays what it was on another machine. Does nothing when min_tokens is a number.
void resolve_min_tokens(AttentionPlan& plan, std::int64_t layers, const Grid& grid, const CallSize& size,
                        Schedule::Use use);

// A plan as JSON, and back; what training configurations, checkpoints and the Python package exchange. Accepted:
//   "dense" or null; the name of a preset, "wan-..."; or
//   {"dense": false, "cycle": [{"block": [3, null, null] or {"run": 1024}, "policy": POLICY}, ...], "first": 0,
//    "schedule": {"dense_fraction": 0.25, "dense_steps": null, "dense_layers": [], "min_tokens": 0 or "auto",
//                 "refresh": 1},
//    "dense_path": "automatic" | "torch_sdpa" | "engine"}
//   POLICY: {"name": "threshold" | "topk" | "dense", "amount": tau or k, "scope": "head", "min_blocks": 1,
//   "max_blocks": null} (dense takes only its name into account);
//   {"preset": NAME, ...} starts from a preset and replaces what else is given.
// null in a block stands for the whole axis. Missing fields keep their defaults; unknown ones are refused.
// Throws vmoba::Error(kind argument) naming the field.
AttentionPlan parse_plan(const std::string& json);
std::string to_json(const AttentionPlan& plan);

// The quicker of torch's and the engine's dense attention for [B, S, H, D] on this machine, timed on random numbers of
// at most 4096 tokens; training: forward and backward together. Takes some hundred milliseconds; never returns
// automatic. The answer may differ from run to run where both are close: keep it (a training run stores it in its
// plan).
AttentionPlan::DensePath measure_dense_path(std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                                            std::int64_t dim, at::ScalarType type, bool training);

}  // namespace vmoba::dit
