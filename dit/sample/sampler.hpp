// SPDX-License-Identifier: Apache-2.0
// Sampling: prompts and a seed to latents, Euler steps over a checkpoint's model, classifier-free guidance.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dit/data/tokenizer.hpp"
#include "dit/model/model.hpp"
#include "dit/train/options.hpp"
#include "dit/train/text.hpp"

namespace vmoba::dit {

// A model to sample from: a run (its newest checkpoint), one checkpoint, or a plain diffusers folder.
struct Checkpoint {
  std::string folder;
  WanModel model{nullptr};
  TextEmbedding text{nullptr};            // undefined: prompts must come as embeddings
  std::optional<TrainOptions> trained{};  // what it was trained with; nothing for a plain diffusers folder
  std::int64_t step = 0;
};
// averaged: the EMA weights. Throws Error(kind file).
Checkpoint load_checkpoint_for_sampling(const std::string& directory, bool averaged = false);

struct SampleOptions {
  std::array<std::int64_t, 3> latent{12, 12, 20};  // T, Y, X
  std::int64_t steps = 50;
  double shift = 3;  // 3 for 480p, 5 for 720p
  enum class Times : std::uint8_t {
    euler,
    wan
  } times = Times::euler;  // as diffusers' FlowMatchEuler, or as Wan's pipeline
  double guidance = 5;     // 1: none, half the work
  std::uint64_t seed = 0;
};

struct SampleStep {
  std::int64_t step = 0, steps = 0;
  double time = 0;  // s before the step
  double seconds = 0;
  bool dense = true;
  std::vector<double> density;  // per layer
};

struct Sampled {
  at::Tensor latents;  // float [B, C, T, Y, X]
  std::vector<SampleStep> steps;
  double seconds = 0;
};

// context, null_context float [B, L, text_dim]; null_context is not read when guidance is 1. Sample b starts from noise
// of (seed + b), so that a clip does not depend on its batch mates. With guidance both contexts go through the model as
// one batch. The model's plan and schedule decide which steps and layers are dense. on_step may be empty; it returns
// false to stop, and then latents are undefined. Same bits on one machine for a given number of threads; the starting
// noise for any number.
Sampled sample(WanModel& model, const at::Tensor& context, const at::Tensor& null_context, const SampleOptions& options,
               const std::function<bool(const SampleStep&)>& on_step = {});

// Prompts to contexts: [B, L, text_dim] of the byte embedding. An empty prompt is the null context.
at::Tensor embed_prompts(TextEmbedding& text, const std::vector<std::string>& prompts);

// Prompts, one a line; empty lines and lines that start with # are left out. Throws Error(kind file) when none is left
// or the file is not UTF-8.
std::vector<std::string> read_prompts(const std::string& path);

// Writes rgb uint8 [F, Hp, Wp, 3] by the path's extension (io::write_video).
void write_clip(const std::string& path, const at::Tensor& rgb, double fps);
// Two clips of one size next to each other, a 4 pixel gap between: [F, Hp, 2 Wp + 4, 3].
at::Tensor side_by_side(const at::Tensor& left, const at::Tensor& right);
// clip.mp4 -> clip-2.mp4 for number 2 of several; unchanged when there is one.
std::string numbered_path(const std::string& path, std::size_t number, std::size_t count);

}  // namespace vmoba::dit
