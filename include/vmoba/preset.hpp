// SPDX-License-Identifier: Apache-2.0
// Named configurations of the paper and of FastVideo, and the schedule that says which steps and layers are dense.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "vmoba/cost.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/types.hpp"

namespace vmoba {

// Spec section 8. Each field has an effect on dense() or refreshes().
struct Schedule {
  // min_tokens that leaves the choice to the cost model (cost.hpp): dense wherever sparse is not predicted to be quicker.
  static constexpr std::int64_t automatic = std::numeric_limits<std::int64_t>::min();
  double dense_fraction = 0.25;                 // of the sampling steps, from the first; none in training. 0..1
  std::optional<std::int64_t> dense_steps{};    // a count instead of the fraction
  std::set<std::int64_t> dense_layers{};
  std::int64_t min_tokens = 0;                  // below it everything is dense; or automatic
  std::int64_t refresh = 1;                     // recompute a selection every n sparse steps; >= 1
  enum class Use : std::uint8_t { sampling, training };
  // Automatic stands for the break-even of a usual call here: 72 blocks, Threshold 0.25, 12 heads of 128, built-in costs.
  bool dense(std::int64_t step, std::int64_t steps, std::int64_t layer, std::int64_t tokens, Use use) const;
  // The same for a call that is known. Automatic: dense where sparse_pays says no: too few tokens, too high a density.
  // costs null: those built in for the backend that would run it.
  bool dense(std::int64_t step, std::int64_t steps, std::int64_t layer, const Problem& problem, Use use,
             const CostModel* costs = nullptr, std::int64_t threads = 1) const;
  std::int64_t first_sparse_step(std::int64_t steps) const;
  bool refreshes(std::int64_t step, std::int64_t steps) const;  // whether a sparse step chooses anew
  bool operator==(const Schedule&) const = default;
};

struct LayerPolicy {
  Block block;
  Policy policy;
  bool operator==(const LayerPolicy&) const = default;
};

struct Preset {
  std::string_view name;
  Grid grid;
  std::array<LayerPolicy, 3> cycle;  // 1D, 2D, 3D: layer l uses cycle[l mod 3]
  Schedule schedule;
  std::string_view source;           // where the row comes from
  const LayerPolicy& layer(std::int64_t l) const { return cycle[l % 3]; }
};

std::span<const Preset> presets();
const Preset& preset(std::string_view name);  // throws Error listing the names

// FLOPs of one transformer layer, batch 1 (spec section 6): W = heads * dim, F = ffn, L = text, S = tokens.
struct FlopsModel {
  std::int64_t layers = 30, heads = 12, dim = 128, ffn = 8960, text = 300;  // Wan2.1-T2V-1.3B
  double dense(std::int64_t tokens) const;                                        // all layers
  double sparse(std::int64_t tokens, double mean_blocks, double density) const;   // density: own block included
  double attention_dense(std::int64_t tokens) const;                              // the A term, all layers
  double attention_sparse(std::int64_t tokens, double mean_blocks, double density) const;
};

}  // namespace vmoba
