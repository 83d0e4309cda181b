// SPDX-License-Identifier: Apache-2.0
// The whole model: patches, conditioning, blocks, output.
#include "dit/model/model.hpp"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <map>
#include <tuple>
#include <utility>

#include "dit/model/attention.hpp"
#include "dit/model/block.hpp"
#include "dit/model/embed.hpp"
#include "dit/model/plan.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {

struct WanModelImpl::Parts {
  PatchEmbedding patch_embedding{nullptr};
  ConditionEmbedder condition_embedder{nullptr};
  std::vector<TransformerBlock> blocks;
  Linear proj_out{nullptr};
  at::Tensor scale_shift_table;  // [1, 2, W]

  std::shared_ptr<SequenceParallel> parallel;
  std::shared_ptr<SelectionCache> cache = std::make_shared<SelectionCache>();
  std::shared_ptr<std::vector<double>> density;
  std::function<void(std::int64_t, const at::Tensor&, const at::Tensor&)> probe;
  bool checkpointing = false;

  // The last RoPE table; grids rarely change.
  Grid rope_grid{0, 0, 0};
  RopeTable rope;
  // What automatic was measured to be, by batch, tokens, heads and type.
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, at::ScalarType>, AttentionPlan::DensePath> measured;

  AttentionPlan::DensePath dense_path(const AttentionPlan& plan, const StepContext& context, std::int64_t batch,
                                      std::int64_t tokens, std::int64_t heads, std::int64_t dim, at::ScalarType type);
};

WanModelImpl::WanModelImpl(const Config& config, Weights weights) : parts_(std::make_shared<Parts>()), config_(config) {
  const std::int64_t width = config.width();
  const auto [pt, py, px] = config.patch_size;
  Parts& parts = *parts_;
  parts.scale_shift_table = register_parameter("scale_shift_table", torch::empty({1, 2, width}));
  parts.patch_embedding = register_module("patch_embedding", PatchEmbedding(config));
  parts.condition_embedder = register_module("condition_embedder", ConditionEmbedder(config));
  torch::nn::ModuleList blocks;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    parts.blocks.emplace_back(config);
    blocks->push_back(parts.blocks.back());
  }
  register_module("blocks", blocks);
  parts.proj_out = register_module("proj_out", Linear(width, config.out_channels * pt * py * px));
  if (weights == Weights::initialised) init_weights(*this, 0);
}

void WanModelImpl::set_plan(AttentionPlan plan) {
  check_plan(plan);
  if (parts_->parallel) check_sequence_parallel(*parts_->parallel, config_, plan);
  plan_ = std::move(plan);
  parts_->cache->clear();
}

void WanModelImpl::set_sequence_parallel(std::shared_ptr<SequenceParallel> parallel) {
  if (parallel) check_sequence_parallel(*parallel, config_, plan_);
  parts_->parallel = std::move(parallel);
  parts_->cache->clear();
}

void WanModelImpl::set_activation_checkpointing(bool on) { parts_->checkpointing = on; }

void WanModelImpl::record_density(bool on) {
  if (on == (parts_->density != nullptr)) return;
  parts_->density = on ? std::make_shared<std::vector<double>>(config_.num_layers, 1) : nullptr;
}

std::vector<double> WanModelImpl::last_density() const {
  return parts_->density ? *parts_->density : std::vector<double>{};
}

void WanModelImpl::set_probe(std::function<void(std::int64_t layer, const at::Tensor& q, const at::Tensor& k)> probe) {
  parts_->probe = std::move(probe);
}

Grid WanModelImpl::token_grid(const at::Tensor& latents) const {
  if (latents.dim() != 5) {
    throw_argument("latents", std::to_string(latents.dim()) + " dimensions", "must be [B, C, T, Y, X]",
                   "add or remove dimensions");
  }
  if (latents.size(1) != config_.in_channels) {
    throw_argument("latents", std::to_string(latents.size(1)) + " channels",
                   "must have the model's in_channels = " + std::to_string(config_.in_channels),
                   "pass latents of the tokenizer that the model was trained with");
  }
  std::array<std::int64_t, 3> tokens{};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    const std::int64_t size = latents.size(static_cast<std::int64_t>(axis) + 2), patch = config_.patch_size[axis];
    const std::string argument = std::string("latents' axis ") + "TYX"[axis];
    if (size < 1 || size % patch != 0) {
      const std::int64_t fitting = std::max(patch, size / patch * patch);
      throw_argument(argument, std::to_string(size), "must be a multiple of the patch, " + std::to_string(patch),
                     "use " + std::to_string(fitting) + " or " + std::to_string(fitting + patch));
    }
    tokens[axis] = size / patch;
    if (tokens[axis] > config_.rope_max_seq_len) {
      throw_argument(argument, std::to_string(size),
                     "gives more positions than rope_max_seq_len = " + std::to_string(config_.rope_max_seq_len),
                     "use at most " + std::to_string(config_.rope_max_seq_len * patch));
    }
  }
  return {tokens[0], tokens[1], tokens[2]};
}

AttentionPlan::DensePath WanModelImpl::Parts::dense_path(const AttentionPlan& plan, const StepContext& context,
                                                         std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                                                         std::int64_t dim, at::ScalarType type) {
  if (plan.dense_path != AttentionPlan::DensePath::automatic) return plan.dense_path;
  // A training run must take the same path after a resume: automatic is torch's there unless the plan says otherwise.
  if (context.use == Schedule::Use::training || at::GradMode::is_enabled()) {
    return AttentionPlan::DensePath::torch_sdpa;
  }
  const auto [entry, added] = measured.try_emplace({batch, tokens, heads, type}, AttentionPlan::DensePath::torch_sdpa);
  if (added) entry->second = measure_dense_path(batch, tokens, heads, dim, type, /*training=*/false);
  return entry->second;
}

namespace {

void check_inputs(const Config& config, const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text,
                  const at::Tensor& image) {
  const std::int64_t batch = latents.size(0);
  const auto shape = [](const at::Tensor& tensor) {
    return tensor.defined() ? c10::str(tensor.sizes()) : std::string("undefined");
  };
  if (batch < 1) throw_argument("latents", shape(latents), "must hold at least one sample", "pass B >= 1");
  if (!timestep.defined() || timestep.dim() != 1 || timestep.size(0) != batch) {
    throw_argument("timestep", shape(timestep), "must be one number a sample, [B]",
                   "pass [" + std::to_string(batch) + "]");
  }
  if (!text.defined() || text.dim() != 3 || text.size(0) != batch || text.size(2) != config.text_dim ||
      text.size(1) < 1) {
    throw_argument("text", shape(text), "must be [B, L, text_dim] with L >= 1",
                   "pass [" + std::to_string(batch) + ", L, " + std::to_string(config.text_dim) + "]");
  }
  if (!image.defined()) return;
  if (!config.image_dim) {
    throw_argument("image", shape(image), "is not taken by a text-to-video model (image_dim is null)",
                   "leave it out, or load an image-to-video checkpoint");
  }
  const std::int64_t images = config.pos_embed_seq_len ? 2 * batch : batch;
  if (image.dim() != 3 || image.size(0) != images || image.size(2) != *config.image_dim) {
    throw_argument("image", shape(image), "must be [B, Li, image_dim], two images a sample with pos_embed_seq_len",
                   "pass [" + std::to_string(images) + ", Li, " + std::to_string(*config.image_dim) + "]");
  }
}

// The tokens of this rank: equal shares, the last ones padded with zeros.
at::Tensor share(const at::Tensor& tokens, std::int64_t dim, const SequenceParallel& parallel) {
  const std::int64_t count = (tokens.size(dim) + parallel.size() - 1) / parallel.size();
  const std::int64_t begin = std::min(parallel.rank() * count, tokens.size(dim));
  const std::int64_t length = std::min(count, tokens.size(dim) - begin);
  const at::Tensor part = tokens.narrow(dim, begin, length);
  if (length == count) return part;
  std::vector<std::int64_t> padding(2 * (tokens.dim() - dim), 0);
  padding.back() = count - length;
  return at::constant_pad_nd(part, padding);
}

}  // namespace

at::Tensor WanModelImpl::forward(const at::Tensor& latents, const at::Tensor& timestep, const at::Tensor& text,
                                 const at::Tensor& image, const StepContext& context) {
  Parts& parts = *parts_;
  const Grid grid = token_grid(latents);
  check_inputs(config_, latents, timestep, text, image);
  const at::ScalarType exact = exact_type(parts.proj_out->weight);
  const at::DeviceType device = latents.device().type();
  const std::int64_t ranks = parts.parallel ? parts.parallel->size() : 1;

  const auto state = std::make_shared<ForwardState>();
  state->grid = grid;
  state->plan = plan_;
  state->context = context;
  state->parallel = parts.parallel;
  state->cache = parts.cache;
  state->density = parts.density;
  state->probe = parts.probe;
  const at::ScalarType attend_type = at::autocast::is_autocast_enabled(device)
                                         ? at::autocast::get_autocast_dtype(device)
                                         : parts.proj_out->weight.scalar_type();
  state->plan.dense_path =
      parts.dense_path(plan_, context, latents.size(0), grid.tokens(), config_.num_attention_heads / ranks,
                       config_.attention_head_dim, attend_type);
  if (!(parts.rope_grid == grid) || parts.rope.cos.scalar_type() != exact ||
      parts.rope.cos.device() != latents.device()) {
    parts.rope = rope_table(grid, config_.attention_head_dim, exact, latents.device());
    parts.rope_grid = grid;
  }
  state->rope = parts.rope;

  at::Tensor patches = parts.patch_embedding->patches(latents);
  if (parts.parallel) {
    patches = share(patches, 1, *parts.parallel);
    state->rope = {share(parts.rope.cos, 0, *parts.parallel).contiguous(),
                   share(parts.rope.sin, 0, *parts.parallel).contiguous()};
  }
  const auto [embedding, modulations] = parts.condition_embedder->time(timestep);
  BlockInputs inputs;
  inputs.h = parts.patch_embedding->forward(patches).to(exact);
  inputs.modulations = modulations;
  inputs.text = parts.condition_embedder->text(text);
  if (image.defined()) {
    const at::Tensor features = parts.condition_embedder->image(image);
    if (config_.added_kv_proj_dim) {
      inputs.image = features;
    } else {
      inputs.text = at::cat({features.to(inputs.text.scalar_type()), inputs.text}, 1);
    }
  }
  for (std::int64_t layer = 0; layer < config_.num_layers; ++layer) {
    if (parts.checkpointing && at::GradMode::is_enabled()) {
      inputs.h = checkpointed(parts.blocks[layer].ptr(), inputs, state, layer);
    } else {
      LayerCall call{layer};
      inputs.h = parts.blocks[layer]->forward(inputs, *state, call);
    }
  }
  if (context.use == Schedule::Use::sampling && context.step + 1 >= context.steps) {
    parts.cache->drop_branch(context.branch);
  }

  const std::vector<at::Tensor> ends = (parts.scale_shift_table.to(exact) + embedding.unsqueeze(1)).chunk(2, 1);
  at::Tensor out = parts.proj_out->forward(modulated_norm(inputs.h, ends[1], ends[0], config_.eps));
  if (parts.parallel) out = parts.parallel->gather_tokens(out).narrow(1, 0, grid.tokens());
  const auto [pt, py, px] = config_.patch_size;
  return out.reshape({latents.size(0), grid.t, grid.y, grid.x, pt, py, px, config_.out_channels})
      .permute({0, 7, 1, 4, 2, 5, 3, 6})
      .reshape({latents.size(0), config_.out_channels, grid.t * pt, grid.y * py, grid.x * px});
}

}  // namespace vmoba::dit
