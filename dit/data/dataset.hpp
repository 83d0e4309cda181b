// SPDX-License-Identifier: Apache-2.0
// Clips for training: video files or clips rendered by the program, as cached latents with captions.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dit/data/tokenizer.hpp"

namespace vmoba::dit {

struct DataOptions {
  std::string directory{};                 // "": rendered clips
  std::string cache{};                     // folder for latents; "": in memory. One that cannot be written: in memory, and a line of log
  double fps = 12;
  std::int64_t height = 192, width = 320;  // of the resized clip, before cropping
  std::array<std::int64_t, 3> crop{12, 12, 20};  // latent T, Y, X of a sample
  std::int64_t rendered_clips = 64;        // number of different rendered clips
  double held_out = 0.1;                   // share of clips (rendered) or of the time of each clip (files) kept for validation
  std::uint64_t seed = 0;
  std::int64_t threads = 1;                // clips decoded or rendered side by side by open()
  std::int64_t text_length = 64;           // L of the byte captions
  std::int64_t text_dim = 0;               // of precomputed embeddings; 0: bytes
  std::function<void(const std::string&)> log{};  // one line for each skipped file
};

// One training batch. text_ids (bytes, 0..256; 256 = padding) unless captions come as embeddings.
struct Batch {
  at::Tensor latents;    // float [B, C, T, Y, X]
  at::Tensor text_ids;   // int64 [B, L] or undefined
  at::Tensor text;       // float [B, L, text_dim] or undefined
  std::vector<std::string> captions;
};

// A sequence of batches that depends only on (options, split, index): batch(i) is the same on every machine, for any number of
// threads, which is what resume and data parallel build on. Thread-safe.
class Dataset {
 public:
  enum class Split { train, validation };
  // Opens, decodes and encodes what is not in the cache. Throws vmoba::Error(kind file) when nothing usable is found.
  static std::shared_ptr<Dataset> open(const DataOptions& options, std::shared_ptr<const Tokenizer> tokenizer);
  virtual ~Dataset() = default;
  virtual std::int64_t clips() const = 0;
  virtual std::int64_t skipped() const = 0;
  virtual std::string identity() const = 0;  // hash of sources and options; checkpoints refuse another
  virtual Batch batch(Split split, std::int64_t index, std::int64_t size) const = 0;
};

// Prefetches batches first, first + stride, ... in the background. next() waits if it must; waited() says how long in all.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, std::int64_t batch_size, std::int64_t first, std::int64_t stride,
         std::int64_t depth = 4);
  ~Loader();
  Batch next();
  double waited() const;  // seconds

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Byte caption to ids [length], padded with 256, cut at a UTF-8 boundary.
at::Tensor caption_ids(const std::string& caption, std::int64_t length);

// A rendered clip: textured shapes that move, rotate, bounce, occlude; cameras that pan and zoom; caption says so. Seeded.
struct RenderedClip {
  at::Tensor rgb;  // uint8 [F, Hp, Wp, 3]
  std::string caption;
};
RenderedClip render_clip(std::uint64_t seed, std::int64_t frames, std::int64_t height, std::int64_t width, double fps = 12);

}  // namespace vmoba::dit
