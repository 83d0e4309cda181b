// SPDX-License-Identifier: Apache-2.0
// One transformer block. The residual stream h, norms and modulations are in the exact type throughout.
#include "dit/model/block.hpp"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

namespace vmoba::dit {

TransformerBlockImpl::TransformerBlockImpl(const Config& config)
    : eps_(config.eps),
      scale_shift_table_(register_parameter("scale_shift_table", torch::empty({1, 6, config.width()}))),
      attn1_(register_module("attn1", SelfAttention(config))),
      attn2_(register_module("attn2", CrossAttention(config))) {
  if (config.cross_attn_norm) norm2_ = register_module("norm2", LayerNorm(config.width(), config.eps));
  ffn_ = register_module("ffn", FeedForward(config.width(), config.ffn_dim, config.width(), "tanh"));
}

at::Tensor TransformerBlockImpl::forward(const BlockInputs& inputs, const ForwardState& state, LayerCall& call) const {
  const at::ScalarType exact = inputs.h.scalar_type();
  const std::vector<at::Tensor> modulation = (scale_shift_table_.to(exact) + inputs.modulations).chunk(6, 1);
  const auto &shift = modulation[0], &scale = modulation[1], &gate = modulation[2];
  const auto &ffn_shift = modulation[3], &ffn_scale = modulation[4], &ffn_gate = modulation[5];

  // Nodes of this block's own, where the gradients of its keys and values meet before they join the other blocks': the
  // same order of additions whether the block is recomputed or not, so the same bits.
  const at::Tensor text = inputs.text.view_as(inputs.text);
  const at::Tensor image = inputs.image.defined() ? inputs.image.view_as(inputs.image) : at::Tensor();
  at::Tensor h = inputs.h;
  h = at::addcmul(h, attn1_->forward(modulated_norm(h, scale, shift, eps_), state, call).to(exact), gate);
  h = h + attn2_->forward(norm2_ ? norm2_->forward(h) : h, text, image).to(exact);
  return at::addcmul(h, ffn_->forward(modulated_norm(h, ffn_scale, ffn_shift, eps_)).to(exact), ffn_gate);
}

namespace {

// Autocast as it was found, with its weight cache off: casts made without grad must not serve a pass with grad.
class AutocastScope {
 public:
  AutocastScope(at::DeviceType device, bool enabled, at::ScalarType type)
      : device_(device),
        enabled_(at::autocast::is_autocast_enabled(device)),
        cached_(at::autocast::is_autocast_cache_enabled()),
        type_(at::autocast::get_autocast_dtype(device)) {
    set(enabled, false, type);
  }
  ~AutocastScope() { set(enabled_, cached_, type_); }
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  void set(bool enabled, bool cached, at::ScalarType type) {
    at::autocast::set_autocast_enabled(device_, enabled);
    at::autocast::set_autocast_cache_enabled(cached);
    at::autocast::set_autocast_dtype(device_, type);
  }
  at::DeviceType device_;
  bool enabled_, cached_;
  at::ScalarType type_;
};

// What the backward pass needs besides tensors; travels through the graph as an opaque value.
struct Recipe : torch::CustomClassHolder {
  std::shared_ptr<TransformerBlockImpl> block;
  std::shared_ptr<const ForwardState> state;
  std::int64_t layer = 0;
  std::size_t activations = 0;  // 3, or 4 with an image
  at::Tensor bits;
  bool autocast = false;
  at::ScalarType autocast_type = at::kBFloat16;
};

BlockInputs inputs_of(at::TensorList tensors, const Recipe& recipe) {
  return {tensors[0], tensors[1], recipe.activations == 4 ? tensors[3] : at::Tensor(), tensors[2]};
}

// Inputs: h, text, modulations, the image if there is one, then the block's parameters, so that autograd sees
// everything that gets a gradient.
class Checkpoint : public torch::autograd::Function<Checkpoint> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, at::TensorList tensors,
                            const c10::intrusive_ptr<Recipe>& recipe) {
    const at::DeviceType device = tensors[0].device().type();
    recipe->autocast = at::autocast::is_autocast_enabled(device);
    recipe->autocast_type = at::autocast::get_autocast_dtype(device);
    const AutocastScope scope(device, recipe->autocast, recipe->autocast_type);
    LayerCall call{recipe->layer};
    const at::Tensor out = recipe->block->forward(inputs_of(tensors, *recipe), *recipe->state, call);
    recipe->bits = call.bits;
    context->save_for_backward(tensors.vec());
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "vmoba: create_graph = true is not supported by the model; use false");
    torch::autograd::variable_list tensors = context->get_saved_variables(), wanted;
    const auto recipe = c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      // The block reads its parameters by itself; activations are cut off from the graph they came from.
      const bool needed = tensors[i].requires_grad();
      if (i < recipe->activations) tensors[i] = tensors[i].detach().requires_grad_(needed);
      if (!needed) continue;
      wanted.push_back(tensors[i]);
      places.push_back(i);
    }
    at::Tensor out;
    {
      const c10::AutoGradMode with_grad(true);
      const AutocastScope scope(tensors[0].device().type(), recipe->autocast, recipe->autocast_type);
      LayerCall call{recipe->layer, true, recipe->bits};
      out = recipe->block->forward(inputs_of(tensors, *recipe), *recipe->state, call);
    }
    const torch::autograd::variable_list found =
        torch::autograd::grad({out}, wanted, {grads[0]}, /*retain_graph=*/false, /*create_graph=*/false,
                              /*allow_unused=*/true);
    torch::autograd::variable_list result(tensors.size() + 1);  // and none for the recipe
    for (std::size_t i = 0; i < places.size(); ++i) result[places[i]] = found[i];
    return result;
  }
};

}  // namespace

at::Tensor checkpointed(const std::shared_ptr<TransformerBlockImpl>& block, const BlockInputs& inputs,
                        const std::shared_ptr<const ForwardState>& state, std::int64_t layer) {
  torch::autograd::variable_list tensors{inputs.h, inputs.text, inputs.modulations};
  if (inputs.image.defined()) tensors.push_back(inputs.image);
  auto recipe = c10::make_intrusive<Recipe>();
  recipe->block = block;
  recipe->state = state;
  recipe->layer = layer;
  recipe->activations = tensors.size();
  for (const at::Tensor& parameter : block->parameters()) tensors.push_back(parameter);
  return Checkpoint::apply(at::TensorList(tensors), recipe);  // as a vector, apply would take it for no tensors
}

}  // namespace vmoba::dit
