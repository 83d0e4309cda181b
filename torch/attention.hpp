// SPDX-License-Identifier: Apache-2.0
// VMoBA attention on torch tensors, from C++: what the video DiT calls. The same operators as torch.ops.vmoba.*.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "vmoba/partition.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::ops {

// What an attention call needs beyond tensors. Batch, heads, dim and dtype come from the tensors.
struct Spec {
  std::vector<Grid> grids;  // one: the grid of every sample; several: packed, q is [1, sum of rows, H, D]
  Block block;
  Policy policy = Threshold{};
  std::optional<double> scale{};  // 1/sqrt(D) unless given
  std::int64_t text = 0;          // L text tokens a sample, padding included
  Text::At text_at = Text::At::rear;
  at::Tensor text_valid{};  // int64 [B], optional: valid text tokens of each sample
  std::string backend{};    // "" automatic
};

// q [B, R, H, D]; k, v [B, R, G, D]; out [B, R, H, D]; any strides with contiguous D (others are copied).
// dtype f32, bf16, f16; f64 runs on the reference backend. Threads: torch's intra-op pool. Differentiable in q, k, v.
// All throw c10::Error carrying the engine's message.

// Selection bits, int64 [words], words = Selection::word_count(problem). Not differentiable.
at::Tensor select(const at::Tensor& q, const at::Tensor& k, const Spec& spec);
// out, lse (fp32 [B, R, H], natural log). bits undefined: dense. Differentiable, through lse too.
std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const at::Tensor& bits, const Spec& spec);
// select and attend fused; policy Dense attends everything.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Spec& spec);

// The engine's problem for these tensors and spec; throws vmoba::Error.
Problem problem_of(const at::Tensor& q, const at::Tensor& k, const Spec& spec);
// A view on bits (kept alive by the caller) as an engine Selection.
Selection selection_of(const at::Tensor& bits, const Problem& problem);

}  // namespace vmoba::ops
