// SPDX-License-Identifier: Apache-2.0
// Self-attention (dense or sparse, as the plan says) and cross-attention of a block.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "dit/model/layers.hpp"
#include "dit/model/model.hpp"
#include "dit/model/rope.hpp"

namespace vmoba::dit {

// Selections kept for later steps, by layer and branch. A selection is used again only for the same problem.
class SelectionCache {
 public:
  // Undefined when there is none for this shape and grid.
  at::Tensor find(std::int64_t layer, std::int64_t branch, const at::Tensor& q, const Grid& grid) const;
  void keep(std::int64_t layer, std::int64_t branch, const at::Tensor& q, const Grid& grid, const at::Tensor& bits);
  void drop_branch(std::int64_t branch);
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    at::Tensor bits;
    std::vector<std::int64_t> shape;  // of q
    Grid grid;
  };
  std::map<std::pair<std::int64_t, std::int64_t>, Entry> entries_;
};

// What all layers of one forward share. Lives as long as the graph when blocks are recomputed, so it owns what it
// names.
struct ForwardState {
  Grid grid;
  AttentionPlan plan;  // its dense_path is never automatic
  StepContext context;
  RopeTable rope;                              // of the tokens of this rank
  std::shared_ptr<SequenceParallel> parallel;  // null: one rank
  std::shared_ptr<SelectionCache> cache;
  std::shared_ptr<std::vector<double>> density;  // [layers]; null: not recorded
  std::function<void(std::int64_t layer, const at::Tensor& q, const at::Tensor& k)> probe;
};

// The part of a layer's call that a recomputation repeats instead of choosing again.
struct LayerCall {
  std::int64_t layer = 0;
  bool again = false;  // recomputing: selection as below, nothing is recorded
  at::Tensor bits;     // the selection used; undefined: dense
};

class SelfAttentionImpl : public torch::nn::Module {
 public:
  explicit SelfAttentionImpl(const Config& config);
  // x [B, S of this rank, W] -> the same.
  at::Tensor forward(const at::Tensor& x, const ForwardState& state, LayerCall& call) const;

 private:
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ForwardState& state,
                    LayerCall& call) const;
  Linear to_q_, to_k_, to_v_, to_out_;
  RmsNorm norm_q_, norm_k_;
};
TORCH_MODULE(SelfAttention);

class CrossAttentionImpl : public torch::nn::Module {
 public:
  explicit CrossAttentionImpl(const Config& config);
  // x [B, S, W]; text [B, L, W]; image [B, Li, W] or undefined, only with added_kv_proj_dim.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& text, const at::Tensor& image) const;

 private:
  std::int64_t heads_;
  Linear to_q_, to_k_, to_v_, to_out_;
  RmsNorm norm_q_, norm_k_;
  Linear add_k_{nullptr}, add_v_{nullptr};
  RmsNorm norm_added_k_{nullptr};
};
TORCH_MODULE(CrossAttention);

// Head h of H is kept whole on one rank, tokens are cut evenly: the sizes that fit. Throws vmoba::Error(kind argument).
void check_sequence_parallel(const SequenceParallel& parallel, const Config& config, const AttentionPlan& plan);

}  // namespace vmoba::dit
