// SPDX-License-Identifier: Apache-2.0
// Embeddings of patches, time, text and image.
#include "dit/model/embed.hpp"

#include <torch/torch.h>

#include <cmath>

#include "vmoba/error.hpp"

namespace vmoba::dit {

PatchEmbeddingImpl::PatchEmbeddingImpl(const Config& config)
    : weight(register_parameter("weight", torch::empty({config.width(), config.in_channels, config.patch_size[0],
                                                        config.patch_size[1], config.patch_size[2]}))),
      bias(register_parameter("bias", torch::empty({config.width()}))),
      patch_(config.patch_size) {}

at::Tensor PatchEmbeddingImpl::patches(const at::Tensor& latents) const {
  const auto [pt, py, px] = patch_;
  const std::int64_t batch = latents.size(0), channels = latents.size(1);
  const std::int64_t t = latents.size(2) / pt, y = latents.size(3) / py, x = latents.size(4) / px;
  return latents.reshape({batch, channels, t, pt, y, py, x, px})
      .permute({0, 2, 4, 6, 1, 3, 5, 7})
      .reshape({batch, t * y * x, channels * pt * py * px});
}

at::Tensor PatchEmbeddingImpl::forward(const at::Tensor& patches) const {
  return at::linear(patches.to(weight.scalar_type()), weight.flatten(1), bias);
}

ConditionEmbedderImpl::ConditionEmbedderImpl(const Config& config)
    : freq_dim_(config.freq_dim), width_(config.width()) {
  const auto time_embedder = register_module("time_embedder", std::make_shared<torch::nn::Module>());
  time_1_ = time_embedder->register_module("linear_1", Linear(freq_dim_, width_));
  time_2_ = time_embedder->register_module("linear_2", Linear(width_, width_));
  time_proj_ = register_module("time_proj", Linear(width_, 6 * width_));
  const auto text_embedder = register_module("text_embedder", std::make_shared<torch::nn::Module>());
  text_1_ = text_embedder->register_module("linear_1", Linear(config.text_dim, width_));
  text_2_ = text_embedder->register_module("linear_2", Linear(width_, width_));
  if (!config.image_dim) return;
  const std::int64_t image_dim = *config.image_dim;
  const auto image_embedder = register_module("image_embedder", std::make_shared<torch::nn::Module>());
  image_norm1_ = image_embedder->register_module("norm1", LayerNorm(image_dim, 1e-5));
  image_ff_ = image_embedder->register_module("ff", FeedForward(image_dim, image_dim, width_, "none"));
  image_norm2_ = image_embedder->register_module("norm2", LayerNorm(width_, 1e-5));
  if (config.pos_embed_seq_len) {
    image_position_ =
        image_embedder->register_parameter("pos_embed", torch::empty({1, *config.pos_embed_seq_len, image_dim}));
  }
}

ConditionEmbedderImpl::Time ConditionEmbedderImpl::time(const at::Tensor& timestep) const {
  // Frequencies in float and in this order of operations, as diffusers has them: at t = 1000 the rounding of a
  // frequency moves an angle by 1e-4, which checkpoints were trained with.
  const std::int64_t half = freq_dim_ / 2;
  const at::Tensor exponent = -std::log(10000.0) * torch::arange(0, half, timestep.options().dtype(at::kFloat)) / half;
  const at::Tensor angle = timestep.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  const at::Tensor waves = at::cat({at::cos(angle), at::sin(angle)}, 1).to(time_1_->weight.scalar_type());
  const at::Tensor embedding = time_2_->forward(at::silu(time_1_->forward(waves)));
  const at::ScalarType exact = exact_type(time_1_->weight);
  return {embedding.to(exact), time_proj_->forward(at::silu(embedding)).to(exact).unflatten(1, {6, width_})};
}

at::Tensor ConditionEmbedderImpl::text(const at::Tensor& text) const {
  return text_2_->forward(at::gelu(text_1_->forward(text), "tanh"));
}

at::Tensor ConditionEmbedderImpl::image(const at::Tensor& image) const {
  at::Tensor features = image.to(exact_type(time_1_->weight));
  if (image_position_.defined()) {
    // First and last frame of a sample follow one another in the batch: [2 B, Li, image_dim] -> [B, 2 Li, image_dim].
    const std::int64_t length = image_position_.size(1);
    if (features.size(0) * features.size(1) % length != 0 || 2 * features.size(1) != length) {
      throw_argument("image", std::to_string(features.size(1)) + " tokens an image",
                     "a model with pos_embed_seq_len = " + std::to_string(length) +
                         " takes two images of half as many tokens for each sample",
                     "pass image [2 B, " + std::to_string(length / 2) + ", image_dim]");
    }
    features = features.reshape({-1, length, features.size(2)}) + image_position_.to(features.scalar_type());
  }
  return image_norm2_->forward(image_ff_->forward(image_norm1_->forward(features)));
}

}  // namespace vmoba::dit
