// SPDX-License-Identifier: Apache-2.0
// Pixels to latents and back. The default needs no weights: a fixed orthonormal transform of the shape of Wan's VAE.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>

namespace vmoba::dit {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::int64_t channels() const = 0;
  // {T, Y, X} of the latent of frames x height x width pixels. Throws vmoba::Error when they do not fit, naming sizes that do.
  virtual std::array<std::int64_t, 3> latent_shape(std::int64_t frames, std::int64_t height, std::int64_t width) const = 0;
  // rgb uint8 [F, Hp, Wp, 3] -> latents float [C, T, Y, X], about unit variance.
  virtual at::Tensor encode(const at::Tensor& rgb) const = 0;
  // latents float [C, T, Y, X] -> rgb uint8 [F, Hp, Wp, 3].
  virtual at::Tensor decode(const at::Tensor& latents) const = 0;
  virtual std::string identity() const = 0;  // goes into cache manifests and checkpoints
};
// x4 in time with the first frame alone (F = 4 (T - 1) + 1), x8 in space, 16 channels. Thread-safe.
std::unique_ptr<Tokenizer> make_dct_tokenizer();

}  // namespace vmoba::dit
