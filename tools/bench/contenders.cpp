// SPDX-License-Identifier: Apache-2.0
// Timed calls.
#include "tools/bench/contenders.hpp"

#include <torch/torch.h>

namespace vmoba::tools {

Leaves::Leaves(const Inputs& inputs, at::ScalarType type, bool heads_first) {
  const auto ready = [&](const at::Tensor& x) {
    return (heads_first ? x.transpose(1, 2) : x).to(type).contiguous().clone();
  };
  q = ready(inputs.q).requires_grad_();
  k = ready(inputs.k).requires_grad_();
  v = ready(inputs.v).requires_grad_();
  dout = ready(inputs.dout);
}

Forward torch_sdpa() {
  return [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return at::scaled_dot_product_attention(q, k, v);
  };
}
Forward vmoba_attention(const ops::Spec& spec) {
  return
      [spec](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) { return ops::attention(q, k, v, spec); };
}
Forward vmoba_attend(const at::Tensor& bits, const ops::Spec& spec) {
  return [bits, spec](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return std::get<0>(ops::attend(q, k, v, bits, spec));
  };
}

std::function<void()> forward_only(const Leaves& x, Forward forward) {
  return [x, forward = std::move(forward)] {
    const torch::NoGradGuard no_grad;
    forward(x.q, x.k, x.v);
  };
}
std::function<void()> with_backward(const Leaves& x, Forward forward) {
  return [x, forward = std::move(forward)] {
    torch::autograd::grad({forward(x.q, x.k, x.v)}, {x.q, x.k, x.v}, {x.dout});
  };
}
std::function<void()> backward_only(const Leaves& x, const Forward& forward) {
  return [x, out = forward(x.q, x.k, x.v)] {
    torch::autograd::grad({out}, {x.q, x.k, x.v}, {x.dout}, /*retain_graph=*/true);
  };
}
std::function<void()> select_only(const Leaves& x, const ops::Spec& spec) {
  return [x, spec] { select_once(x, spec); };
}

ops::Spec spec_of(const Grid& grid, const Block& block, const Policy& policy, const std::string& backend) {
  ops::Spec spec;
  spec.grids = {grid};
  spec.block = block;
  spec.policy = policy;
  spec.backend = backend;
  return spec;
}

at::Tensor select_once(const Leaves& x, const ops::Spec& spec) {
  const torch::NoGradGuard no_grad;
  return ops::select(x.q, x.k, spec);
}

double density_of(const Leaves& x, const at::Tensor& bits, const ops::Spec& spec) {
  return ops::selection_of(bits, ops::problem_of(x.q, x.k, spec)).density();
}

ops::Spec tuned(const Leaves& x, ops::Spec spec, double density) {
  Threshold policy = std::holds_alternative<Threshold>(spec.policy) ? std::get<Threshold>(spec.policy) : Threshold{};
  double low = 0.001, high = 1.1;
  for (int step = 0; step < 10; ++step) {
    policy.tau = (low + high) / 2;
    spec.policy = policy;
    (density_of(x, select_once(x, spec), spec) < density ? low : high) = policy.tau;
  }
  return spec;
}

}  // namespace vmoba::tools
