// SPDX-License-Identifier: Apache-2.0
// Problem: one attention call, checked once; afterwards plain numbers that kernels read without asking again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "vmoba/partition.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/types.hpp"

namespace vmoba {

struct ProblemOptions {
  Grid grid{};                  // one grid for every sample ...
  std::vector<Grid> grids{};    // ... or one a sample, rows packed one after another without padding (then leave grid)
  Block block{};
  std::int64_t batch = 1;       // B; with grids it follows from their number and must be left at 1
  std::int64_t heads = 1;       // H
  std::int64_t kv_heads = 0;    // G, divides H; 0 means H
  std::int64_t dim = 0;         // D: a multiple of 8 up to 256 (reference: any from 1)
  DType dtype = DType::f32;     // of q, k, v, out and their gradients
  Policy policy = Threshold{};
  std::optional<double> scale{};  // of the logits; 1/sqrt(D) unless given
  Text text{};
};

// One sample of a problem. Rows are sequence positions within the sample (text and video), tokens are video only.
struct Sample {
  std::shared_ptr<const Partition> partition;  // samples of equal grids share one
  std::int64_t row_begin;    // first row of the sample: in its batch entry (uniform: 0) or in the packed rows
  std::int64_t rows;         // S + L
  std::int64_t video_begin;  // row of token 0 within the sample: L when text is in front, else 0
  std::int64_t text_begin;   // row of the first text token within the sample
  std::int64_t text_valid;   // text tokens that take part, 0..L
  std::int64_t tokens() const { return partition->tokens(); }
};

// Immutable, cheap to copy, safe to share between threads.
// Layouts it stands for: uniform batch [B, R, H, D]; packed (grids given) [1, sum of rows, H, D]; k and v with G for H.
class Problem {
 public:
  // Throws Error naming the field that is wrong. Checks everything that does not depend on a backend.
  explicit Problem(ProblemOptions options);

  const ProblemOptions& options() const { return *options_; }
  std::int64_t batch() const { return static_cast<std::int64_t>(samples_->size()); }
  std::int64_t heads() const { return options_->heads; }
  std::int64_t kv_heads() const { return options_->kv_heads; }  // never 0
  std::int64_t kv_head(std::int64_t head) const { return head / (heads() / kv_heads()); }
  std::int64_t dim() const { return options_->dim; }
  DType dtype() const { return options_->dtype; }
  DType lse_dtype() const { return dtype() == DType::f64 ? DType::f64 : DType::f32; }
  double scale() const { return *options_->scale; }             // never empty
  const Policy& policy() const { return options_->policy; }
  const Text& text() const { return options_->text; }
  bool packed() const { return packed_; }
  std::int64_t rows() const { return rows_; }  // R: rows of a batch entry (uniform) or of the whole packed batch
  const Sample& sample(std::int64_t b) const { return (*samples_)[b]; }
  std::int64_t tokens() const;                 // video tokens of all samples together

  // Fills in the strides of a view that left them 0: layout [B, R, heads, width].
  ConstView resolve(ConstView view, std::int64_t heads, std::int64_t width) const;
  View resolve(View view, std::int64_t heads, std::int64_t width) const;
  // The same for an lse: [B, H, R].
  ConstView resolve_lse(ConstView view) const;
  View resolve_lse(View view) const;

  // Element offset of (sample b, row r within the sample, head h) in a resolved view.
  std::int64_t offset(const ConstView& view, std::int64_t b, std::int64_t row, std::int64_t head) const {
    return (packed_ ? 0 : b * view.batch_stride) + (sample(b).row_begin + row) * view.token_stride +
           head * view.head_stride;
  }

 private:
  std::shared_ptr<const ProblemOptions> options_;
  std::shared_ptr<const std::vector<Sample>> samples_;
  std::int64_t rows_ = 0;
  bool packed_ = false;
};

}  // namespace vmoba
