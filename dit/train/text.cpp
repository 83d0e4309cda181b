// SPDX-License-Identifier: Apache-2.0
// Byte-level text embedding learned with the model.
#include "dit/train/text.hpp"

#include <torch/torch.h>

#include <cmath>
#include <filesystem>

#include "dit/train/noise.hpp"
#include "dit/train/tensors.hpp"
#include "vmoba/error.hpp"
#include "vmoba/version.hpp"

namespace vmoba::dit {
namespace {

constexpr std::int64_t reach = 2;  // bytes to either side that the convolution sees

NamedTensors named(const TextEmbedding& embedding) {
  NamedTensors tensors;
  for (const auto& item : embedding->named_parameters()) tensors.emplace_back(item.key(), item.value());
  return tensors;
}

}  // namespace

TextEmbeddingImpl::TextEmbeddingImpl(std::int64_t length, std::int64_t text_dim, std::uint64_t seed)
    : length_(length), text_dim_(text_dim) {
  if (length < 1 || length > 65536) {
    throw_argument("text_length", std::to_string(length), "must be 1..65536 bytes", "use 64");
  }
  if (text_dim < 1 || text_dim > 65536)
    throw_argument("text_dim", std::to_string(text_dim), "must be 1..65536", "use 128");
  std::uint64_t number = 1ull << 32;  // apart from the numbers of the model's own parameters
  const auto random = [&](at::IntArrayRef shape, double deviation) {
    return normal_tensor(shape, {seed, Purpose::weights, number++}) * deviation;
  };
  embedding_ = register_parameter("embedding", random({257, text_dim}, 0.5));
  position_ = register_parameter("position", random({length, text_dim}, 0.1));
  mix_ = register_parameter("mix_weight", random({text_dim, text_dim, 2 * reach + 1},
                                                 1.0 / std::sqrt(static_cast<double>(text_dim * (2 * reach + 1)))));
  bias_ = register_parameter("mix_bias", at::zeros({text_dim}));
}

at::Tensor TextEmbeddingImpl::forward(const at::Tensor& ids) {
  if (ids.scalar_type() != at::kLong || ids.dim() != 2 || ids.size(1) != length_) {
    throw_argument("text_ids", shape_text(ids.sizes()), "must be int64 [B, " + std::to_string(length_) + "]",
                   "make them with caption_ids(caption, length)");
  }
  const at::Tensor real = (ids != padding_id).unsqueeze(2).to(embedding_.scalar_type());  // [B, L, 1]
  const at::Tensor bytes = (at::embedding(embedding_, ids) + position_) * real;
  const at::Tensor words =
      at::gelu(at::conv1d(bytes.transpose(1, 2), mix_, bias_, /*stride=*/1, /*padding=*/reach)).transpose(1, 2);
  return (bytes + words) * real;
}

void save_text_embedding(const TextEmbedding& embedding, const std::string& directory) {
  save_tensors(directory + "/" + text_embedding_file, named(embedding),
               {{"format", "pt"}, {"kind", "byte text embedding"}, {"vmoba", std::string(version)}});
}

TextEmbedding load_text_embedding(const std::string& directory) {
  const std::string path = directory + "/" + text_embedding_file;
  std::vector<std::int64_t> shape;
  {
    const io::SafetensorsFile file(path);
    shape = file.info("position").shape;
  }
  if (shape.size() != 2 || shape[0] < 1 || shape[0] > 65536 || shape[1] < 1 || shape[1] > 65536) {
    throw_file(path, "holds tensor position of shape " + shape_text(shape) + " where [L, text_dim] is needed",
               "use a file written by train");
  }
  TextEmbedding embedding(shape[0], shape[1], 0);
  load_tensors(path, named(embedding));
  return embedding;
}

void load_text_embedding_into(TextEmbedding& embedding, const std::string& directory) {
  load_tensors(directory + "/" + text_embedding_file, named(embedding));
}

bool has_text_embedding(const std::string& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory + "/" + text_embedding_file, ignored);
}

at::Tensor read_embedding(const std::string& path, std::int64_t text_dim) {
  const io::SafetensorsFile file(path);
  at::Tensor found;
  for (const auto& [name, info] : file.tensors()) {
    if (info.shape.size() != 2) continue;
    if (found.defined()) {
      throw_file(path, "holds more than one two-dimensional tensor", "keep the one text embedding [L, text_dim] in it");
    }
    if (info.shape[1] != text_dim) {
      throw_file(path,
                 "holds tensor " + name + " of shape " + shape_text(info.shape) + " where [L, " +
                     std::to_string(text_dim) + "] is needed",
                 "use embeddings of this model's text encoder");
    }
    found = read_tensor(file, name);
  }
  if (!found.defined() || found.size(0) < 1) {
    throw_file(path, "holds no text embedding", "store one float tensor [L, " + std::to_string(text_dim) + "] in it");
  }
  found = found.to(at::kFloat);
  if (!at::isfinite(found).all().item<bool>()) throw_file(path, "holds values that are not finite", "compute it anew");
  return found;
}

}  // namespace vmoba::dit
