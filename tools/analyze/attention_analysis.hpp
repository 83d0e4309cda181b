// SPDX-License-Identifier: Apache-2.0
// Where the attention of one layer goes: neighbourhoods, the share of the top keys, the pairs that hold half of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

#include "vmoba/types.hpp"

namespace vmoba::tools {

// The softmax rows of a sample of queries, per head, and what follows from them. Source: paper section 3.1.
struct HeadAnalysis {
  // Mean attention mass on keys near the query in time (1D: all of the nearest frames), in space (2D: a window through
  // all frames) and in both (3D), each window about an eighth of the keys; lift: mass over the window's share of keys.
  std::array<double, 3> mass{}, lift{};
  std::vector<float> top_quarter;  // per sampled query: mass held by its best 25 % of keys
  double half_pairs = 0;           // best pairs of the head that hold 50 % of all mass, scaled to all queries
  double all_pairs = 0;            // S^2
};

struct LayerAnalysis {
  std::int64_t layer = 0;
  std::vector<HeadAnalysis> heads;
};

// q, k float [1, S, H, D] in raster order of grid; queries: how many rows are sampled, evenly over the tokens.
// scale 1 / sqrt(D).
LayerAnalysis analyze_layer(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const Grid& grid,
                            std::int64_t queries);

}  // namespace vmoba::tools
