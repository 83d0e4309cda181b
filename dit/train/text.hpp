// SPDX-License-Identifier: Apache-2.0
// Byte-level text embedding learned with the model: captions without a tokenizer or a language model.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <string>

namespace vmoba::dit {

// ids int64 [B, L] of bytes 0..255, 256 = padding -> text [B, L, text_dim]: byte and position vectors, one convolution
// over five bytes so that a row knows its letters' neighbours, rows of padding zero. A caption of padding only is the
// null context.
class TextEmbeddingImpl : public torch::nn::Module {
 public:
  TextEmbeddingImpl(std::int64_t length, std::int64_t text_dim, std::uint64_t seed);
  // Throws Error when ids is not int64 [B, length].
  at::Tensor forward(const at::Tensor& ids);
  std::int64_t length() const { return length_; }
  std::int64_t text_dim() const { return text_dim_; }

 private:
  std::int64_t length_, text_dim_;
  at::Tensor embedding_;  // [257, text_dim]
  at::Tensor position_;   // [L, text_dim]
  at::Tensor mix_;        // [text_dim, text_dim, 5]
  at::Tensor bias_;       // [text_dim]
};
TORCH_MODULE(TextEmbedding);

inline constexpr std::int64_t padding_id = 256;
inline constexpr const char* text_embedding_file = "text_embedding.safetensors";

// DIR/text_embedding.safetensors. load throws Error(kind file) naming the tensor and both shapes.
void save_text_embedding(const TextEmbedding& embedding, const std::string& directory);
TextEmbedding load_text_embedding(const std::string& directory);
void load_text_embedding_into(TextEmbedding& embedding, const std::string& directory);
bool has_text_embedding(const std::string& directory);
// Precomputed embeddings: the only two-dimensional tensor of a safetensors file, float [L, text_dim].
at::Tensor read_embedding(const std::string& path, std::int64_t text_dim);

}  // namespace vmoba::dit
