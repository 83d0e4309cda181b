// SPDX-License-Identifier: Apache-2.0
// Self-attention and cross-attention of a block. q, k and v stay views [B, S, H, D] of their projections.
#include "dit/model/attention.hpp"

#include <torch/torch.h>

#include <string>
#include <variant>

#include "dit/model/plan.hpp"
#include "torch/attention.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

// torch's attention on [B, S, H, D] views, without permuted copies: its kernels take any strides and write [B, S, H,
// D].
at::Tensor torch_dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2);
}

at::Tensor dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ForwardState& state) {
  if (state.plan.dense_path != AttentionPlan::DensePath::engine) return torch_dense(q, k, v);
  ops::Spec spec;
  spec.grids = {state.grid};
  return std::get<0>(ops::attend(q, k, v, {}, spec));
}

Linear out_projection(torch::nn::Module& module, std::int64_t width) {
  // diffusers: a list of the projection and a dropout that is never on; hence the name to_out.0.
  Linear projection(width, width);
  module.register_module("to_out", torch::nn::ModuleList(projection, std::make_shared<torch::nn::Module>()));
  return projection;
}

}  // namespace

at::Tensor SelectionCache::find(std::int64_t layer, std::int64_t branch, const at::Tensor& q, const Grid& grid) const {
  const auto found = entries_.find({branch, layer});
  if (found == entries_.end() || found->second.grid != grid || q.sizes() != found->second.shape) return {};
  return found->second.bits;
}

void SelectionCache::keep(std::int64_t layer, std::int64_t branch, const at::Tensor& q, const Grid& grid,
                          const at::Tensor& bits) {
  entries_[{branch, layer}] = {bits, q.sizes().vec(), grid};
}

void SelectionCache::drop_branch(std::int64_t branch) {
  std::erase_if(entries_, [&](const auto& entry) { return entry.first.first == branch; });
}

SelfAttentionImpl::SelfAttentionImpl(const Config& config)
    : to_q_(register_module("to_q", Linear(config.width(), config.width()))),
      to_k_(register_module("to_k", Linear(config.width(), config.width()))),
      to_v_(register_module("to_v", Linear(config.width(), config.width()))),
      to_out_(out_projection(*this, config.width())),
      norm_q_(register_module("norm_q", RmsNorm(config.width(), config.eps))),
      norm_k_(register_module("norm_k", RmsNorm(config.width(), config.eps))) {}

at::Tensor SelfAttentionImpl::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const ForwardState& state, LayerCall& call) const {
  if (state.probe && !call.again) state.probe(call.layer, q, k);
  const std::optional<ops::Spec> spec = sparse_call(state.plan, call.layer, state.grid, state.context,
                                                    {.batch = q.size(0), .heads = q.size(2), .dim = q.size(3)});
  if (!spec) {
    if (state.density && !call.again) (*state.density)[call.layer] = 1;
    return dense(q, k, v, state);
  }
  if (!call.bits.defined()) {
    const StepContext& context = state.context;
    const bool keeps = context.use == Schedule::Use::sampling && state.plan.schedule.refresh > 1;
    if (keeps && !state.plan.schedule.refreshes(context.step, context.steps)) {
      call.bits = state.cache->find(call.layer, context.branch, q, state.grid);
    }
    if (!call.bits.defined()) {
      const at::NoGradGuard no_grad;
      call.bits = ops::select(q, k, *spec);
      if (keeps) state.cache->keep(call.layer, context.branch, q, state.grid, call.bits);
    }
  }
  if (state.density && !call.again) {
    (*state.density)[call.layer] = ops::selection_of(call.bits, ops::problem_of(q, k, *spec)).density();
  }
  return std::get<0>(ops::attend(q, k, v, call.bits, *spec));
}

at::Tensor SelfAttentionImpl::forward(const at::Tensor& x, const ForwardState& state, LayerCall& call) const {
  at::Tensor q = norm_rope(to_q_->forward(x), norm_q_->weight, norm_q_->eps, state.rope);
  at::Tensor k = norm_rope(to_k_->forward(x), norm_k_->weight, norm_k_->eps, state.rope);
  at::Tensor v = to_v_->forward(x).view(q.sizes());
  if (!state.parallel) return to_out_->forward(attend(q, k, v, state, call).flatten(2));

  // Tokens were padded to a multiple of the ranks; the padding is cut off while all tokens are together.
  const std::int64_t tokens = state.grid.tokens();
  q = state.parallel->tokens_to_heads(q);
  k = state.parallel->tokens_to_heads(k);
  v = state.parallel->tokens_to_heads(v);
  const std::int64_t padding = q.size(1) - tokens;
  at::Tensor out = attend(q.narrow(1, 0, tokens), k.narrow(1, 0, tokens), v.narrow(1, 0, tokens), state, call);
  if (padding > 0) out = at::constant_pad_nd(out, {0, 0, 0, 0, 0, padding});
  return to_out_->forward(state.parallel->heads_to_tokens(out).flatten(2));
}

CrossAttentionImpl::CrossAttentionImpl(const Config& config)
    : heads_(config.num_attention_heads),
      to_q_(register_module("to_q", Linear(config.width(), config.width()))),
      to_k_(register_module("to_k", Linear(config.width(), config.width()))),
      to_v_(register_module("to_v", Linear(config.width(), config.width()))),
      to_out_(out_projection(*this, config.width())),
      norm_q_(register_module("norm_q", RmsNorm(config.width(), config.eps))),
      norm_k_(register_module("norm_k", RmsNorm(config.width(), config.eps))) {
  if (!config.added_kv_proj_dim) return;
  add_k_ = register_module("add_k_proj", Linear(*config.added_kv_proj_dim, config.width()));
  add_v_ = register_module("add_v_proj", Linear(*config.added_kv_proj_dim, config.width()));
  norm_added_k_ = register_module("norm_added_k", RmsNorm(config.width(), config.eps));
}

at::Tensor CrossAttentionImpl::forward(const at::Tensor& x, const at::Tensor& text, const at::Tensor& image) const {
  const auto heads = [&](const at::Tensor& y) { return y.unflatten(2, {heads_, -1}); };
  const at::Tensor q = heads(norm_q_->forward(to_q_->forward(x)));
  at::Tensor out =
      torch_dense(q, heads(norm_k_->forward(to_k_->forward(text))), heads(to_v_->forward(text))).flatten(2);
  if (image.defined()) {
    out =
        out +
        torch_dense(q, heads(norm_added_k_->forward(add_k_->forward(image))), heads(add_v_->forward(image))).flatten(2);
  }
  return to_out_->forward(out);
}

void check_sequence_parallel(const SequenceParallel& parallel, const Config& config, const AttentionPlan& plan) {
  const std::int64_t heads = config.num_attention_heads, ranks = parallel.size();
  if (heads % ranks != 0) {
    std::string fitting;
    for (std::int64_t size = 1; size <= heads; ++size) {
      if (heads % size == 0) fitting += (fitting.empty() ? "" : ", ") + std::to_string(size);
    }
    throw_argument("sequence parallel size", std::to_string(ranks),
                   "must divide the " + std::to_string(heads) + " heads, each of which is attended on one rank",
                   "use " + fitting);
  }
  if (plan.dense || ranks == 1) return;
  for (const LayerPolicy& layer : plan.cycle) {
    const Scope scope = std::visit(
        [](const auto& policy) {
          if constexpr (requires { policy.scope; }) {
            return policy.scope;
          } else {
            return Scope::head;
          }
        },
        layer.policy);
    if (scope == Scope::block || scope == Scope::all) {
      throw_argument("policy.scope", std::string(name(scope)),
                     "shares one budget between heads, and sequence parallelism keeps the heads on different ranks",
                     "use head or query");
    }
  }
}

}  // namespace vmoba::dit
