// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding on (t, y, x), and the norm of queries and keys that always precedes it.
#pragma once

#include <ATen/core/Tensor.h>

#include "vmoba/types.hpp"

namespace vmoba::dit {

// cos and sin of every token and pair of a head: [S, D / 2], contiguous, float or double.
struct RopeTable {
  at::Tensor cos, sin;
};

// Of D numbers the y and the x axis turn 2 * (D / 6) each and t the rest; theta 10000; angles in double.
RopeTable rope_table(const Grid& grid, std::int64_t dim, at::ScalarType type, at::Device device);

// Root-mean-square norm of x over its whole width W = H D times weight, then pairs (2i, 2i + 1) of each head turned:
//   y = rope(x / sqrt(mean(x^2) + eps) * weight)
// x [B, S, W], weight [W], table [S, D / 2]; y [B, S, H, D] in x's type, computed in float (double for double).
// Differentiable in x and weight. On CPUs one pass each way; results do not depend on the number of threads.
at::Tensor norm_rope(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTable& table);

// The same from torch's operators, x and weight in the table's type: for other devices, and to test the fused form
// against.
at::Tensor norm_rope_composed(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTable& table);

}  // namespace vmoba::dit
