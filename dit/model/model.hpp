// SPDX-License-Identifier: Apache-2.0
// The Wan 2.1 video diffusion transformer (diffusers' WanTransformer3DModel) whose self-attention can be sparse.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dit/model/config.hpp"
#include "vmoba/preset.hpp"

namespace vmoba::dit {

// Self-attention across ranks: the token dimension is split over ranks outside attend, heads are split inside.
// Implemented in dit/train/distributed; null means one rank.
struct SequenceParallel {
  virtual ~SequenceParallel() = default;
  virtual std::int64_t rank() const = 0;
  virtual std::int64_t size() const = 0;
  // [B, S / size, H, D] -> [B, S, H / size, D] and back; differentiable.
  virtual at::Tensor tokens_to_heads(const at::Tensor& x) = 0;
  virtual at::Tensor heads_to_tokens(const at::Tensor& x) = 0;
  // [B, S / size, W] -> [B, S, W] on every rank; differentiable (gradient: own slice of the sum over ranks).
  virtual at::Tensor gather_tokens(const at::Tensor& x) = 0;
};

// Where in a sampling run a forward stands; what the schedule decides from. Training: the default.
struct StepContext {
  Schedule::Use use = Schedule::Use::training;
  std::int64_t step = 0, steps = 1;
  std::int64_t branch = 0;  // cached selections are kept per branch (e.g. conditional / unconditional)
};

// What each layer's self-attention does: dense, or a block cut and a policy.
struct AttentionPlan {
  bool dense = true;               // everything dense, the rest unused
  std::vector<LayerPolicy> cycle;  // layer l uses cycle[(l + first) % size]; size 1 or 3 usually, or one per layer
  std::int64_t first = 0;
  Schedule schedule{};
  enum class DensePath {
    automatic,
    torch_sdpa,
    engine
  } dense_path = DensePath::automatic;  // automatic: measured better one
  // Of this machine, for a schedule with automatic min_tokens; nothing: those built in. Not part of a plan's JSON.
  std::optional<CostModel> costs{};
};
AttentionPlan plan_of(const Preset& preset);

class WanModelImpl : public torch::nn::Module {
 public:
  enum class Weights { initialised, uninitialised };  // as init_weights(model, 0); or for weights that are loaded next
  explicit WanModelImpl(const Config& config, Weights weights = Weights::initialised);

  // latents [B, C, T, Y, X]; timestep [B] (0..1000); text [B, L, text_dim]; image [B, Li, image_dim] for
  // image-to-video. Returns the prediction [B, out_channels, T, Y, X]. Grid sizes must be multiples of patch_size.
  at::Tensor forward(const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text,
                     const at::Tensor& image = {}, const StepContext& context = {});

  const Config& config() const { return config_; }
  const AttentionPlan& plan() const { return plan_; }
  void set_plan(AttentionPlan plan);  // drops cached selections
  void set_sequence_parallel(std::shared_ptr<SequenceParallel> parallel);
  void set_activation_checkpointing(bool on);  // recompute each block in backward
  void record_density(bool on);                // costs a popcount a layer
  std::vector<double> last_density() const;    // [layers] of the last forward; 1 where dense
  // Receives (layer, q, k) after norm and RoPE, [B, S, H, D], for analyses; empty: none.
  void set_probe(std::function<void(std::int64_t layer, const at::Tensor& q, const at::Tensor& k)> probe);
  Grid token_grid(const at::Tensor& latents) const;

 private:
  struct Parts;
  std::shared_ptr<Parts> parts_;
  Config config_;
  AttentionPlan plan_;
};
TORCH_MODULE(WanModel);

// Weights at the start of training as in Wan: Xavier, normal 0.02 in the embeddings of time and text, biases and the
// output layer zero. Depends on the seed and the tensor names only.
void init_weights(WanModel& model, std::uint64_t seed);
void init_weights(WanModelImpl& model, std::uint64_t seed);
// Names of parameters that hold NaN or infinity. Loading accepts such weights, as diffusers does.
std::vector<std::string> non_finite_weights(const WanModel& model);

// Weights as diffusers lays them out: DIR/config.json and DIR/diffusion_pytorch_model.safetensors, or sharded with
// DIR/diffusion_pytorch_model.safetensors.index.json. Throws vmoba::Error(kind file) with the tensor name and both
// shapes.
WanModel load_model(const std::string& directory);
// Throws Error (kind file) naming `described`, the file the config came from, when the weights in directory hold fewer
// numbers than any model of this config: before memory for them is asked for.
void check_size(const Config& config, const std::string& directory, const std::string& described);
void load_weights(WanModel& model, const std::string& directory);
// Atomic per file; files of more than shard_bytes are split, with an index, as diffusers does. Weights of an earlier
// save in the folder are removed once the new ones are there.
void save_model(const WanModel& model, const std::string& directory, std::uint64_t shard_bytes = 10'000'000'000);

}  // namespace vmoba::dit
