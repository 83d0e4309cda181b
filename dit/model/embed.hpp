// SPDX-License-Identifier: Apache-2.0
// What conditions the blocks: embeddings of time, text and image, and the cut of a latent into patches.
#pragma once

#include <array>
#include <optional>

#include "dit/model/config.hpp"
#include "dit/model/layers.hpp"

namespace vmoba::dit {

// Kernel = stride = patch, so the convolution is a matrix product over patches; the weight keeps Conv3d's shape.
class PatchEmbeddingImpl : public torch::nn::Module {
 public:
  explicit PatchEmbeddingImpl(const Config& config);
  // latents [B, C, T, Y, X] -> patches [B, S, C pt py px], S in raster order.
  at::Tensor patches(const at::Tensor& latents) const;
  at::Tensor forward(const at::Tensor& patches) const;  // [B, S, W]
  at::Tensor weight;                                    // [W, C, pt, py, px]
  at::Tensor bias;                                      // [W]

 private:
  std::array<std::int64_t, 3> patch_;
};
TORCH_MODULE(PatchEmbedding);

class ConditionEmbedderImpl : public torch::nn::Module {
 public:
  explicit ConditionEmbedderImpl(const Config& config);
  struct Time {
    at::Tensor embedding;    // [B, W], exact type
    at::Tensor modulations;  // [B, 6, W], exact type
  };
  Time time(const at::Tensor& timestep) const;      // timestep [B]
  at::Tensor text(const at::Tensor& text) const;    // [B, L, text_dim] -> [B, L, W]
  at::Tensor image(const at::Tensor& image) const;  // [B, Li, image_dim] -> [B, Li, W]

 private:
  std::int64_t freq_dim_, width_;
  Linear time_1_{nullptr}, time_2_{nullptr}, time_proj_{nullptr}, text_1_{nullptr}, text_2_{nullptr};
  LayerNorm image_norm1_{nullptr}, image_norm2_{nullptr};
  FeedForward image_ff_{nullptr};
  at::Tensor image_position_;  // [1, pos_embed_seq_len, image_dim] or undefined
};
TORCH_MODULE(ConditionEmbedder);

}  // namespace vmoba::dit
