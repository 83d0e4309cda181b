// SPDX-License-Identifier: Apache-2.0
// The small layers of the model under diffusers' parameter names. Parameters are allocated, not initialised: see
// init.cpp.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include <string>

namespace vmoba::dit {

// The type norms, modulations and residual sums are computed in: double for double weights, else float.
at::ScalarType exact_type(const at::Tensor& weight);

// y = x weight^T + bias. x in any floating type: it is cast to the weight's unless autocast decides.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(std::int64_t in, std::int64_t out);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out]
};
TORCH_MODULE(Linear);

// Holds the weight of a root-mean-square norm over the whole width; computed in rope.cpp, fused with RoPE.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t width, double eps);
  at::Tensor forward(const at::Tensor& x) const;  // computed in exact_type, returned in x's type
  at::Tensor weight;                              // [width]
  double eps;
};
TORCH_MODULE(RmsNorm);

// Layer norm with weight and bias, computed and returned in exact_type.
class LayerNormImpl : public torch::nn::Module {
 public:
  LayerNormImpl(std::int64_t width, double eps);
  at::Tensor forward(const at::Tensor& x) const;
  at::Tensor weight;  // [width]
  at::Tensor bias;    // [width]
  double eps;
};
TORCH_MODULE(LayerNorm);

// linear, GELU, linear, named net.0.proj and net.2.
class FeedForwardImpl : public torch::nn::Module {
 public:
  // approximate: "tanh" or "none", the GELU's form.
  FeedForwardImpl(std::int64_t in, std::int64_t inner, std::int64_t out, std::string approximate);
  at::Tensor forward(const at::Tensor& x) const;

 private:
  Linear proj_{nullptr}, out_{nullptr};
  std::string approximate_;
};
TORCH_MODULE(FeedForward);

// norm(x) (1 + scale) + shift in the type of scale; norm without weights over the last dimension.
// x [B, S, W]; scale, shift [B, 1, W].
at::Tensor modulated_norm(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift, double eps);

}  // namespace vmoba::dit
