// SPDX-License-Identifier: Apache-2.0
// One transformer block, and a way to run it that keeps only its inputs for the backward pass.
#pragma once

#include <memory>

#include "dit/model/attention.hpp"
#include "dit/model/layers.hpp"

namespace vmoba::dit {

// What a block reads besides the tokens; all differentiable.
struct BlockInputs {
  at::Tensor h;            // [B, S of this rank, W], exact type
  at::Tensor text;         // [B, L, W]
  at::Tensor image;        // [B, Li, W] or undefined
  at::Tensor modulations;  // [B, 6, W], exact type
};

class TransformerBlockImpl : public torch::nn::Module {
 public:
  explicit TransformerBlockImpl(const Config& config);
  at::Tensor forward(const BlockInputs& inputs, const ForwardState& state, LayerCall& call) const;

 private:
  double eps_;
  at::Tensor scale_shift_table_;  // [1, 6, W]
  SelfAttention attn1_;
  CrossAttention attn2_;
  LayerNorm norm2_{nullptr};
  FeedForward ffn_{nullptr};
};
TORCH_MODULE(TransformerBlock);

// block(inputs), keeping only the inputs and the selection; backward computes the block again, in the same autocast
// mode and with the same selection, so that gradients have the same bits as without. No double backward.
at::Tensor checkpointed(const std::shared_ptr<TransformerBlockImpl>& block, const BlockInputs& inputs,
                        const std::shared_ptr<const ForwardState>& state, std::int64_t layer);

}  // namespace vmoba::dit
