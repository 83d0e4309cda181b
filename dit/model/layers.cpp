// SPDX-License-Identifier: Apache-2.0
// The small layers of the model.
#include "dit/model/layers.hpp"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <utility>

namespace vmoba::dit {

at::ScalarType exact_type(const at::Tensor& weight) {
  return weight.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

LinearImpl::LinearImpl(std::int64_t in, std::int64_t out)
    : weight(register_parameter("weight", torch::empty({out, in}))),
      bias(register_parameter("bias", torch::empty({out}))) {}

at::Tensor LinearImpl::forward(const at::Tensor& x) const {
  if (at::autocast::is_autocast_enabled(x.device().type())) return at::linear(x, weight, bias);
  return at::linear(x.to(weight.scalar_type()), weight, bias);
}

RmsNormImpl::RmsNormImpl(std::int64_t width, double eps)
    : weight(register_parameter("weight", torch::empty({width}))), eps(eps) {}

at::Tensor RmsNormImpl::forward(const at::Tensor& x) const {
  const at::ScalarType exact = exact_type(weight);
  return at::rms_norm(x.to(exact), weight.sizes(), weight.to(exact), eps).to(x.scalar_type());
}

LayerNormImpl::LayerNormImpl(std::int64_t width, double eps)
    : weight(register_parameter("weight", torch::empty({width}))),
      bias(register_parameter("bias", torch::empty({width}))),
      eps(eps) {}

at::Tensor LayerNormImpl::forward(const at::Tensor& x) const {
  const at::ScalarType exact = exact_type(weight);
  return at::layer_norm(x.to(exact), weight.sizes(), weight.to(exact), bias.to(exact), eps);
}

FeedForwardImpl::FeedForwardImpl(std::int64_t in, std::int64_t inner, std::int64_t out, std::string approximate)
    : approximate_(std::move(approximate)) {
  // Nested so that the names are net.0.proj.weight and net.2.weight; entry 1 is diffusers' dropout, which is never on.
  const auto gelu = std::make_shared<torch::nn::Module>();
  proj_ = gelu->register_module("proj", Linear(in, inner));
  out_ = Linear(inner, out);
  register_module("net", torch::nn::ModuleList(gelu, std::make_shared<torch::nn::Module>(), out_));
}

at::Tensor FeedForwardImpl::forward(const at::Tensor& x) const {
  return out_->forward(at::gelu(proj_->forward(x), approximate_));
}

at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps) {
  const at::Tensor norm = at::layer_norm(x.to(scale.scalar_type()), x.sizes().slice(x.dim() - 1), {}, {}, eps);
  return at::addcmul(shift, norm, scale + 1);
}

}  // namespace vmoba::dit
