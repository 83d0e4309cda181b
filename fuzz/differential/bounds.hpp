// SPDX-License-Identifier: Apache-2.0
// How far a backend may be from the truth, element by element: worst-case rounding bounds of the attention formulas,
// from the values themselves. A multiple of the naive computation's error is the contract for a whole tensor, but the
// error of a single row is luck, and rows 1e20 times as large as the others would hide the others.
//
// Sums are fp32 in any order: n u sum |a b|. Softmax weights and ds may be rounded to the dtype once, as the naive
// computation rounds them; logits may not. What fp32 cannot hold is free: beyond 1e37 anything may follow. Where
// rounding moves logits, or an fp32 lse, by more than `loose` nats (gradients: from an lse of 6e7 on; else from logits
// of 5e8 / (D + 8) on), the weight of every key that may be the greatest is between 0 and 1, and no more is known of
// it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "check/tensors.hpp"
#include "reference/reference.hpp"

namespace vmoba::fuzz {

using test::Tensor;
using test::Tensors;

// Of one tensor, in the order of Tensor::doubles(). free: overflow is possible on the way, nothing is demanded.
struct Bound {
  std::vector<double> error;
  std::vector<char> free;
  explicit Bound(const Tensor& t)
      : error(static_cast<std::size_t>(t.batch() * t.rows() * t.heads() * t.width()), 0), free(error.size(), 0) {}
};

class Bounds {
 public:
  Bound out, lse, dq, dk, dv;

  Bounds(const Problem& problem, const Selection* selection, const Tensors& inputs, const Tensors& truth,
         bool with_dlse)
      : out(truth.out),
        lse(truth.lse),
        dq(truth.dq),
        dk(truth.dk),
        dv(truth.dv),
        p_(problem),
        selection_(selection),
        in_(inputs),
        truth_(truth),
        with_dlse_(with_dlse),
        dim_(problem.dim()),
        scale_(std::abs(problem.scale())) {
    const DType dtype = problem.dtype();
    half_ = dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
    least_ = dtype == DType::f16 ? 0x1p-22 : 0x1p-123;
    most_ = dtype == DType::f16 ? 65000 : overflow;
    for (std::int64_t b = 0; b < p_.batch(); ++b) {
      for (std::int64_t g = 0; g < p_.kv_heads(); ++g) group(b, g);
    }
  }

 private:
  static constexpr double u = 0x1p-24, tiny = 0x1p-125;             // below tiny fp32 may flush to 0
  static constexpr double overflow = 1e37, loose = 30, none = 100;  // e^-100: no weight

  // What has been added to the gradients of a key/value head.
  struct KeySums {
    std::vector<double> dk_error, dk_size, dv_error, dv_size, uses;
    std::vector<char> dk_free, dv_free;
    KeySums(std::int64_t rows, std::int64_t dim)
        : dk_error(rows * dim, 0),
          dk_size(dk_error),
          dv_error(dk_error),
          dv_size(dk_error),
          uses(rows, 0),
          dk_free(rows, 0),
          dv_free(rows, 0) {}
  };
  struct Row {  // one query row: pointers to D values, and what it attends
    std::int64_t b, row, head;
    const double *q, *dout, *out;
    double lse, dlse;
    std::vector<std::int64_t> keys;
    std::vector<double> weight, logit, logit_error;
    double lse_error = 0;
    double highest = 0;                   // the greatest logit is at least this
    bool over = false, out_over = false;  // logits, or weights times v, may overflow
    double n() const { return static_cast<double>(keys.size()); }
  };

  // [rows, width] of a head of a sample, as doubles.
  std::vector<double> rows_of(const Tensor& t, std::int64_t b, std::int64_t head) const {
    const Sample& s = p_.sample(b);
    std::vector<double> values;
    for (std::int64_t r = 0; r < s.rows; ++r) {
      for (std::int64_t d = 0; d < t.width(); ++d)
        values.push_back(t.get(p_.packed() ? 0 : b, s.row_begin + r, head, d));
    }
    return values;
  }
  std::int64_t place(std::int64_t b, std::int64_t row, std::int64_t head, std::int64_t heads,
                     std::int64_t width) const {
    return (((p_.packed() ? 0 : b * p_.rows()) + p_.sample(b).row_begin + row) * heads + head) * width;
  }
  static bool too_large(double size) { return std::isfinite(size) && size > overflow; }
  static double relative(double logit_error) {  // of a weight
    return std::expm1(logit_error < 60 ? logit_error : 60.0) + 16 * u;
  }
  // Rounded to the dtype at last.
  void finish(Bound& bound, std::int64_t at, double error, double value, bool free) const {
    bound.error[at] = error + half_ * std::abs(value) + least_;
    bound.free[at] = free || (std::isfinite(value) && !(std::abs(value) + error < most_));
  }

  void group(std::int64_t b, std::int64_t g) {
    const std::int64_t rows = p_.sample(b).rows, heads = p_.heads() / p_.kv_heads();
    const std::vector<double> k = rows_of(in_.k, b, g), v = rows_of(in_.v, b, g);
    KeySums sums(rows, dim_);
    for (std::int64_t h = g * heads; h < (g + 1) * heads; ++h) {
      const std::vector<double> q = rows_of(in_.q, b, h), dout = rows_of(in_.dout, b, h),
                                out = rows_of(truth_.out, b, h);
      const std::vector<double> lse = rows_of(truth_.lse, b, h), dlse = rows_of(in_.dlse, b, h);
      for (std::int64_t i = 0; i < rows; ++i) {
        Row row{b,
                i,
                h,
                &q[i * dim_],
                &dout[i * dim_],
                &out[i * dim_],
                lse[i],
                with_dlse_ ? dlse[i] : 0,
                reference::attended_rows(p_, selection_, b, h, i),
                {},
                {},
                {}};
        if (row.keys.empty()) continue;
        forward(row, k, v);
        backward(row, k, v, sums);
      }
    }
    for (std::int64_t j = 0; j < rows; ++j) {
      if (sums.uses[j] == 0) continue;
      for (std::int64_t d = 0; d < dim_; ++d) {
        const std::int64_t from = j * dim_ + d, to = place(b, j, g, p_.kv_heads(), dim_) + d;
        const auto error = [&](double e, double size) {
          return e + (sums.uses[j] + 8) * u * size + sums.uses[j] * tiny;
        };
        // Sizes stand for values: what a sum may round or overflow to.
        const double dk_size = sums.dk_size[from], dv_size = sums.dv_size[from];
        finish(dk, to, error(sums.dk_error[from], dk_size), dk_size, sums.dk_free[j] || too_large(unscaled(dk_size)));
        finish(dv, to, error(sums.dv_error[from], dv_size), dv_size, sums.dv_free[j] || too_large(dv_size));
      }
    }
  }
  double unscaled(double size) const { return scale_ > 0 && scale_ < 1 ? size / scale_ : size; }

  // Whether key j may have a weight when the logits are moved by rounding and the greatest by `more`.
  static bool may_count(const Row& row, std::size_t j, double more) {
    return row.logit[j] + row.logit_error[j] + more > row.highest - none;
  }

  void forward(Row& row, const std::vector<double>& k, const std::vector<double>& v) {
    const std::size_t count = row.keys.size();
    const double channels = static_cast<double>(dim_), n = row.n();
    row.weight.resize(count), row.logit.resize(count), row.logit_error.resize(count);
    double highest = -std::numeric_limits<double>::infinity(), q_size = 0, v_most = 0;
    row.highest = highest;
    for (std::int64_t d = 0; d < dim_; ++d) q_size += std::abs(row.q[d]);
    for (std::size_t j = 0; j < count; ++j) {
      const double *key = &k[row.keys[j] * dim_], *value = &v[row.keys[j] * dim_];
      double dot = 0, size = 0, k_size = 0;
      for (std::int64_t d = 0; d < dim_; ++d) {
        dot += row.q[d] * key[d];
        size += std::abs(row.q[d] * key[d]);
        k_size += std::abs(key[d]);
        if (std::isfinite(value[d])) v_most = std::max(v_most, std::abs(value[d]));
      }
      row.over |= too_large(size) || too_large(size * scale_);
      row.logit[j] = p_.scale() * dot;
      row.logit_error[j] = (channels + 8) * u * size * scale_ + (q_size + k_size + channels) * tiny * scale_;
      if (row.logit[j] > highest) highest = row.logit[j];
      if (row.logit[j] - row.logit_error[j] > row.highest) row.highest = row.logit[j] - row.logit_error[j];
    }
    double moved = 0;  // by so much, of those that may be the greatest
    for (std::size_t j = 0; j < count; ++j) {
      if (may_count(row, j, 0) && row.logit_error[j] > moved) moved = row.logit_error[j];
    }
    // Weights are made from a reference that moves towards the highest logit.
    double weight_error = 0;
    std::vector<double> each(count);
    for (std::size_t j = 0; j < count; ++j) {
      const double error = relative(row.logit_error[j] + 8 * u * std::abs(row.logit[j] - highest));
      row.weight[j] = std::exp(row.logit[j] - row.lse);
      row.lse_error += row.weight[j] * error + 4 * tiny;
      each[j] = row.weight[j] * (error + half_ + 2 * (n + 8) * u) + least_;
      if (moved > loose) each[j] = may_count(row, j, 0) ? 1 + half_ : least_;
      weight_error += each[j];
    }
    if (moved > loose) row.lse_error = moved + std::log(n);
    row.lse_error += (n + 8) * u + 2 * u * std::abs(row.lse);
    const std::int64_t at = place(row.b, row.row, row.head, p_.heads(), 1);
    lse.error[at] = row.lse_error;
    lse.free[at] = row.over;

    // A weight may be 256 before the reference moves.
    row.out_over = row.over || 256 * n * v_most > overflow;
    for (std::int64_t d = 0; d < dim_; ++d) {
      double error = weight_error * std::abs(row.out[d]) + n * tiny;
      for (std::size_t j = 0; j < count; ++j) error += each[j] * std::abs(v[row.keys[j] * dim_ + d]);
      finish(out, at * dim_ + d, error, row.out[d], row.out_over);
    }
  }

  void backward(const Row& row, const std::vector<double>& k, const std::vector<double>& v, KeySums& sums) {
    const double channels = static_cast<double>(dim_), n = row.n();
    const std::int64_t at = place(row.b, row.row, row.head, p_.heads(), dim_);
    double delta = 0, delta_size = 0, delta_error = channels * tiny, dout_size = 0;
    bool free = row.out_over;
    for (std::int64_t d = 0; d < dim_; ++d) {
      delta += row.dout[d] * row.out[d];
      delta_size += std::abs(row.dout[d] * row.out[d]);
      delta_error += std::abs(row.dout[d]) * out.error[at + d];
      dout_size += std::abs(row.dout[d]);
      free |= out.free[at + d] != 0;
    }
    free |= too_large(delta_size);
    delta_error += (channels + 4) * u * delta_size;

    std::vector<double> value(dim_, 0), size(dim_, 0), error(dim_, n * tiny);
    bool any_free = free;
    for (std::size_t j = 0; j < row.keys.size(); ++j) {
      const std::int64_t from = row.keys[j] * dim_;
      double dp = 0, dp_size = 0, v_size = 0;
      for (std::int64_t d = 0; d < dim_; ++d) {
        dp += row.dout[d] * v[from + d];
        dp_size += std::abs(row.dout[d] * v[from + d]);
        v_size += std::abs(v[from + d]);
      }
      const double p = row.weight[j];
      const double lse_moved = 8 * u * std::abs(row.lse) + row.lse_error;
      double p_error = p * (relative(row.logit_error[j] + lse_moved) + half_) + least_;
      if (lse_moved > loose) p_error = may_count(row, j, lse_moved) ? 1 + half_ : least_;
      const double inner = dp - (delta - row.dlse);
      const double inner_error = (channels + 4) * u * dp_size + delta_error + (v_size + dout_size + channels) * tiny +
                                 4 * u * (std::abs(dp) + std::abs(delta) + std::abs(row.dlse));
      const double ds = p_.scale() * p * inner;
      const double ds_error = scale_ * (p_error * std::abs(inner) + (p + p_error) * inner_error + least_) +
                              (half_ + 8 * u) * std::abs(ds) + least_;
      const bool key_free = free || too_large(dp_size) || too_large(inner) || too_large(inner * scale_);
      any_free |= key_free;
      for (std::int64_t d = 0; d < dim_; ++d) {
        value[d] += ds * k[from + d];
        size[d] += std::abs(ds * k[from + d]);
        error[d] += ds_error * std::abs(k[from + d]);
        sums.dk_size[from + d] += std::abs(ds * row.q[d]);
        sums.dk_error[from + d] += ds_error * std::abs(row.q[d]);
        sums.dv_size[from + d] += p * std::abs(row.dout[d]);
        sums.dv_error[from + d] += p_error * std::abs(row.dout[d]);
      }
      sums.uses[row.keys[j]] += 1;
      sums.dk_free[row.keys[j]] |= key_free;
      sums.dv_free[row.keys[j]] |= row.over;
    }
    for (std::int64_t d = 0; d < dim_; ++d) {
      finish(dq, at + d, error[d] + (n + 8) * u * size[d], value[d], any_free || too_large(unscaled(size[d])));
    }
  }

  const Problem& p_;
  const Selection* selection_;
  const Tensors &in_, &truth_;
  bool with_dlse_;
  std::int64_t dim_;
  double scale_, half_, least_, most_;
};

}  // namespace vmoba::fuzz
