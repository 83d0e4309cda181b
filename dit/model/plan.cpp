// SPDX-License-Identifier: Apache-2.0
// What a layer's self-attention does at a step.
#include "dit/model/plan.hpp"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>

#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

// The block with extents no larger than the grid's axes.
Block clamped(const Block& block, const Grid& grid) {
  if (const Run* run = block.run()) return Run{std::min(run->tokens, grid.tokens())};
  const Cuboid& cuboid = *block.cuboid();
  return {std::min(cuboid.t, grid.t), std::min(cuboid.y, grid.y), std::min(cuboid.x, grid.x)};  // full is negative
}

double seconds(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

AttentionPlan plan_of(const Preset& preset) {
  AttentionPlan plan;
  plan.dense = false;
  plan.cycle.assign(preset.cycle.begin(), preset.cycle.end());
  plan.schedule = preset.schedule;
  return plan;
}

void check_plan(const AttentionPlan& plan) {
  if (plan.dense) return;
  if (plan.cycle.empty()) {
    throw_argument("plan.cycle", "[]", "must hold at least one block and policy", "give some, or set dense");
  }
  if (plan.first < 0) throw_argument("plan.first", std::to_string(plan.first), "must not be negative", "use 0");
  const Schedule& schedule = plan.schedule;
  if (!(schedule.dense_fraction >= 0 && schedule.dense_fraction <= 1)) {
    throw_argument("schedule.dense_fraction", std::to_string(schedule.dense_fraction), "must lie in 0..1", "use 0.25");
  }
  if (schedule.dense_steps && *schedule.dense_steps < 0) {
    throw_argument("schedule.dense_steps", std::to_string(*schedule.dense_steps), "must not be negative", "use 0");
  }
  if (schedule.min_tokens < 0 && schedule.min_tokens != Schedule::automatic) {
    throw_argument("schedule.min_tokens", std::to_string(schedule.min_tokens), "must not be negative",
                   "use 0, or automatic");
  }
  if (schedule.refresh < 1) {
    throw_argument("schedule.refresh", std::to_string(schedule.refresh), "must be at least 1", "use 1");
  }
  for (const LayerPolicy& layer : plan.cycle) {
    // A one-token grid lets the engine judge the policy and the signs of the extents without knowing the real grid.
    ProblemOptions options;
    options.block = clamped(layer.block, options.grid);
    options.dim = 8;
    options.policy = layer.policy;
    Problem{options};
  }
}

std::optional<ops::Spec> sparse_call(const AttentionPlan& plan, std::int64_t layer, const Grid& grid,
                                     const StepContext& context, const CallSize& size) {
  if (plan.dense) return {};
  const LayerPolicy& entry = plan.cycle[(layer + plan.first) % static_cast<std::int64_t>(plan.cycle.size())];
  if (std::holds_alternative<Dense>(entry.policy)) return {};
  const Schedule& schedule = plan.schedule;
  if (schedule.min_tokens == Schedule::automatic) {
    const Problem problem({.grid = grid,
                           .block = clamped(entry.block, grid),
                           .batch = size.batch,
                           .heads = size.heads,
                           .dim = size.dim,
                           .policy = entry.policy});
    if (schedule.dense(context.step, context.steps, layer, problem, context.use, plan.costs ? &*plan.costs : nullptr,
                       at::get_num_threads()))
      return {};
  } else if (schedule.dense(context.step, context.steps, layer, grid.tokens(), context.use)) {
    return {};
  }
  ops::Spec spec;
  spec.grids = {grid};
  spec.block = clamped(entry.block, grid);
  spec.policy = entry.policy;
  return spec;
}

void resolve_min_tokens(AttentionPlan& plan, std::int64_t layers, const Grid& grid, const CallSize& size,
                        Schedule::Use use) {
  if (plan.schedule.min_tokens != Schedule::automatic) return;
  if (!plan.dense) {
    AttentionPlan asked = plan;
    asked.schedule.dense_layers.clear();
    // The last step of many: behind the dense steps of a sampling run.
    const StepContext late{.use = use, .step = std::int64_t{1} << 20, .steps = (std::int64_t{1} << 20) + 1};
    for (std::int64_t layer = 0; layer < layers; ++layer)
      if (!sparse_call(asked, layer, grid, late, size)) plan.schedule.dense_layers.insert(layer);
  }
  plan.schedule.min_tokens = 0;
}

AttentionPlan::DensePath measure_dense_path(std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                                            std::int64_t dim, at::ScalarType type, bool training) {
  const std::int64_t rows = std::min<std::int64_t>(tokens, 4096);
  const c10::AutoGradMode grad(training);
  const at::Tensor base = torch::linspace(-2, 2, batch * rows * heads * dim).mul_(12.9898).sin_();
  const auto make = [&](std::int64_t shift) {
    return base.roll(shift).view({batch, rows, heads, dim}).to(type).requires_grad_(training);
  };
  const at::Tensor q = make(0), k = make(7), v = make(31);
  ops::Spec spec;
  spec.grids = {Grid{1, 1, rows}};
  const auto run = [&](bool engine) {
    const at::Tensor out =
        engine ? std::get<0>(ops::attend(q, k, v, {}, spec))
               : at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2));
    if (training) torch::autograd::grad({out.sum()}, {q, k, v});
  };
  try {
    run(true);
  } catch (const std::exception&) {
    return AttentionPlan::DensePath::torch_sdpa;  // e.g. a head dim that the engine's kernels do not take
  }
  run(false);
  // The quickest of three, alternating, so that a burst of other load does not decide.
  std::array<double, 2> best{1e30, 1e30};
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (const bool engine : {false, true}) {
      best[engine] = std::min(best[engine], seconds([&] { run(engine); }));
    }
  }
  return best[1] < best[0] ? AttentionPlan::DensePath::engine : AttentionPlan::DensePath::torch_sdpa;
}

}  // namespace vmoba::dit
