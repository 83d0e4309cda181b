// SPDX-License-Identifier: Apache-2.0
// Inputs for measurements: random, or correlated as video tokens are. Never zeros.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "vmoba/types.hpp"

namespace vmoba::tools {

struct Inputs {
  at::Tensor q, k, v, dout;  // float [1, S, H, D]
};
// Throws Error for a kind that make_inputs does not know; no file is looked at. For options, before anything is
// measured.
void check_kind_of_data(const std::string& kind);
// kind: "random": independent normal numbers; "smooth": low-passed noise through random projections; "clip:FILE": the
// latents of a video file through random projections; "rendered": those of a clip drawn by the program. Correlated q
// and k get an RMS norm over all heads, as the model gives them. Throws Error for another kind or a bad file. Seeded.
Inputs make_inputs(const std::string& kind, const Grid& grid, std::int64_t heads, std::int64_t dim, std::uint64_t seed);

}  // namespace vmoba::tools
