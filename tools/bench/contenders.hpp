// SPDX-License-Identifier: Apache-2.0
// The calls that are timed: torch's and our attention over tensors that are ready for gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>

#include "tools/bench/data.hpp"
#include "torch/attention.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/types.hpp"

namespace vmoba::tools {

// q, k, v that want gradients, and the gradient that flows back. heads_first: [B, H, S, D], torch's layout.
struct Leaves {
  at::Tensor q, k, v, dout;
  Leaves(const Inputs& inputs, at::ScalarType type, bool heads_first);
};

using Forward = std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;
Forward torch_sdpa();
Forward vmoba_attention(const ops::Spec& spec);                       // selection included, unless the policy is Dense
Forward vmoba_attend(const at::Tensor& bits, const ops::Spec& spec);  // of a selection made before

std::function<void()> forward_only(const Leaves& x, Forward forward);
std::function<void()> with_backward(const Leaves& x, Forward forward);
std::function<void()> backward_only(const Leaves& x, const Forward& forward);  // its forward runs here, once
std::function<void()> select_only(const Leaves& x, const ops::Spec& spec);

ops::Spec spec_of(const Grid& grid, const Block& block, const Policy& policy, const std::string& backend);
at::Tensor select_once(const Leaves& x, const ops::Spec& spec);
double density_of(const Leaves& x, const at::Tensor& bits, const ops::Spec& spec);
// The spec with the tau that gives the wanted density on these tensors; density grows with tau.
ops::Spec tuned(const Leaves& x, ops::Spec spec, double density);

}  // namespace vmoba::tools
