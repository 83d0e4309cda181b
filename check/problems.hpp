// SPDX-License-Identifier: Apache-2.0
// Random problems: grid, block, policy, scope, dtype, heads, text, batch; for seeded loops and for RapidCheck.
#pragma once

#include <functional>
#include <sstream>
#include <string>

#include "tensors.hpp"

namespace vmoba::test {

// What to draw from. Defaults fit a backend that takes f32, bf16, f16 and multiples of 8.
struct Limits {
  std::int64_t axis = 7;       // largest grid axis
  std::int64_t dim_steps = 5;  // dim is dim_unit * 1..dim_steps
  std::int64_t dim_unit = 8;
  std::int64_t heads = 4;
  std::int64_t batch = 3;
  std::int64_t text = 9;
  bool half = true;    // also bf16 and f16
  bool dense = false;  // also policy Dense
};

// pick(low, high), both included: from an Rng, or from RapidCheck so that failures shrink.
using Pick = std::function<std::int64_t(std::int64_t, std::int64_t)>;

inline Grid random_grid(const Pick& pick, const Limits& limits) {
  return {pick(1, limits.axis), pick(1, limits.axis), pick(1, limits.axis)};
}

// A block that fits every one of the grids.
inline Block random_block(const Pick& pick, const std::vector<Grid>& grids) {
  Grid least = grids[0];
  std::int64_t tokens = least.tokens();
  for (const Grid& g : grids) {
    least = {std::min(least.t, g.t), std::min(least.y, g.y), std::min(least.x, g.x)};
    tokens = std::min(tokens, g.tokens());
  }
  switch (pick(0, 4)) {
    case 0:
      return {pick(1, least.t), full, full};
    case 1:
      return {full, pick(1, least.y), pick(1, least.x)};
    case 2:
      return Run{pick(1, tokens)};
    default:
      return {pick(1, least.t), pick(1, least.y), pick(1, least.x)};
  }
}

inline Policy random_policy(const Pick& pick, std::int64_t blocks, const Limits& limits) {
  const std::int64_t floor = pick(0, 3) == 0 ? pick(1, blocks + 1) : 1;
  std::optional<std::int64_t> cap;
  if (pick(0, 3) == 0) cap = floor + pick(0, blocks);
  const std::int64_t kind = pick(0, limits.dense ? 4 : 3);
  if (kind == 4) return Dense{};
  if (kind == 3) {
    const Scope scopes[] = {Scope::query, Scope::head, Scope::all};
    return TopK{pick(1, blocks + 1), scopes[pick(0, 2)], floor, cap};
  }
  const double taus[] = {0.25, 0.05, 0.15, 0.5, 0.9, 1.0, 1.1, 1e-9};
  return Threshold{taus[pick(0, 7)], static_cast<Scope>(pick(0, 3)), floor, cap};
}

inline ProblemOptions random_options(const Pick& pick, const Limits& limits = {}) {
  ProblemOptions options;
  std::vector<Grid> grids{random_grid(pick, limits)};
  if (pick(0, 2) == 0) {
    const std::int64_t more = pick(0, limits.batch - 1);
    for (std::int64_t i = 0; i < more; ++i) grids.push_back(random_grid(pick, limits));
    options.grids = grids;
  } else {
    options.grid = grids[0];
    options.batch = pick(1, limits.batch);
  }
  const auto batch = options.grids.empty() ? options.batch : static_cast<std::int64_t>(grids.size());
  options.block = random_block(pick, grids);
  options.kv_heads = pick(1, limits.heads);
  options.heads = options.kv_heads * pick(1, std::max<std::int64_t>(1, limits.heads / options.kv_heads));
  options.dim = limits.dim_unit * pick(1, limits.dim_steps);
  if (limits.half) options.dtype = static_cast<DType>(pick(0, 2));
  options.policy = random_policy(pick, Partition(grids[0], options.block).blocks(), limits);
  if (pick(0, 2) == 0) options.scale = static_cast<double>(pick(1, 20)) / 20;
  if (pick(0, 1) == 0) {
    options.text.count = pick(0, limits.text);
    options.text.at = pick(0, 1) == 0 ? Text::At::front : Text::At::rear;
    if (pick(0, 1) == 0) {
      for (std::int64_t b = 0; b < batch; ++b) options.text.valid.push_back(pick(0, options.text.count));
    }
  }
  return options;
}

inline ProblemOptions random_options(Rng& rng, const Limits& limits = {}) {
  return random_options([&](std::int64_t low, std::int64_t high) { return rng.integer(low, high); }, limits);
}

// Sets each bit with a chance of keep percent, ignoring any budget; rows may attend nothing.
inline void set_random_bits(Selection& selection, Rng& rng, std::int64_t keep) {
  for (std::int64_t b = 0; b < selection.batch(); ++b) {
    for (std::int64_t h = 0; h < selection.heads(); ++h) {
      for (std::int64_t c = 0; c < selection.blocks(b); ++c) {
        for (std::int64_t row = 0; row < selection.shape(b).rows(); ++row) {
          if (rng.integer(0, 99) < keep) selection.set(b, h, row, c);
        }
      }
    }
  }
}

inline Selection random_selection(const Problem& problem, Rng& rng, std::int64_t keep = 40) {
  Selection selection(problem);
  set_random_bits(selection, rng, keep);
  return selection;
}

// The same with block rows: queries cut by query_block.
inline Selection random_block_selection(const Problem& problem, Block query_block, Rng& rng, std::int64_t keep = 40) {
  std::vector<Selection::Shape> shapes;
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const auto& keys = problem.sample(b).partition;
    shapes.push_back({keys, std::make_shared<const Partition>(keys->grid(), query_block)});
  }
  Selection selection(std::move(shapes), problem.heads());
  set_random_bits(selection, rng, keep);
  return selection;
}

// A problem in words, for SCOPED_TRACE and for reproducing a failure.
inline std::string words(const ProblemOptions& o) {
  std::ostringstream text;
  const auto grid = [&](const Grid& g) { text << "{" << g.t << "," << g.y << "," << g.x << "}"; };
  text << "grid ";
  if (o.grids.empty()) grid(o.grid);
  for (const Grid& g : o.grids) grid(g);
  text << " block ";
  if (const Run* run = o.block.run()) {
    text << "Run{" << run->tokens << "}";
  } else {
    text << "{" << o.block.cuboid()->t << "," << o.block.cuboid()->y << "," << o.block.cuboid()->x << "}";
  }
  text << " batch " << o.batch << " heads " << o.heads << "/" << o.kv_heads << " dim " << o.dim << " " << name(o.dtype)
       << " " << describe(o.policy);
  if (o.scale) text << " scale " << *o.scale;
  if (o.text.count > 0) {
    text << " text " << o.text.count << (o.text.at == Text::At::front ? " front" : " rear");
    for (std::int64_t valid : o.text.valid) text << " valid " << valid;
  }
  return text.str();
}
inline std::string words(const Problem& problem) { return words(problem.options()); }

}  // namespace vmoba::test
