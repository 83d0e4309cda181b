// SPDX-License-Identifier: Apache-2.0
// The naive computation in a dtype: masked softmax whose intermediate tensors are rounded to that dtype and whose sums
// run in fp32 (double for f64). It shares no code with the engine's backends, so it is also an independent check of
// reference.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "tensors.hpp"

namespace vmoba::test {

// mask[row * rows + key]: which keys a row attends, from first principles (labels, not lists).
inline std::vector<char> attention_mask(const Problem& p, const Selection* selection, std::int64_t b, std::int64_t h) {
  const Sample& s = p.sample(b);
  std::vector<char> mask(s.rows * s.rows, 0);
  const auto video = [&](std::int64_t r) { return r >= s.video_begin && r < s.video_begin + s.tokens(); };
  const auto valid = [&](std::int64_t r) { return video(r) || r - s.text_begin < s.text_valid; };
  for (std::int64_t i = 0; i < s.rows; ++i) {
    for (std::int64_t j = 0; j < s.rows; ++j) {
      bool on = valid(i) && valid(j);
      if (on && selection && video(i) && video(j)) {
        const Selection::Shape& shape = selection->shape(b);
        const std::int64_t query = i - s.video_begin, key = j - s.video_begin;
        on = selection->test(b, h, shape.queries ? shape.queries->own(query) : query, shape.keys->own(key));
      }
      mask[i * s.rows + j] = on;
    }
  }
  return mask;
}

template <class Element, class Sum>
Sum rounded(Sum value) {
  return static_cast<Sum>(to_double(from_double<Element>(static_cast<double>(value))));
}

// Writes out, lse, dq, dk, dv of t. Element: where intermediate tensors live; Sum: what sums run in.
template <class Element, class Sum>
void naive_in(const Problem& p, const Selection* selection, Tensors& t, bool with_dlse) {
  using std::exp, std::log;  // of numbers; other types bring theirs
  const std::int64_t dim = p.dim();
  const Sum lowest = static_cast<Sum>(-std::numeric_limits<double>::infinity());
  const auto round = [](Sum x) { return rounded<Element>(x); };
  for (std::int64_t b = 0; b < p.batch(); ++b) {
    const Sample& s = p.sample(b);
    const std::int64_t rows = s.rows, at = p.packed() ? 0 : b;
    const auto load = [&](const Tensor& tensor, std::int64_t head) {
      std::vector<Sum> x;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t d = 0; d < tensor.width(); ++d) {
          x.push_back(static_cast<Sum>(tensor.get(at, s.row_begin + r, head, d)));
        }
      }
      return x;
    };
    const auto store = [&](Tensor& tensor, std::int64_t head, const std::vector<Sum>& x) {
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t d = 0; d < tensor.width(); ++d) {
          tensor.set(at, s.row_begin + r, head, d, static_cast<double>(x[r * tensor.width() + d]));
        }
      }
    };
    for (std::int64_t g = 0; g < p.kv_heads(); ++g) {
      const std::vector<Sum> k = load(t.k, g), v = load(t.v, g);
      std::vector<Sum> dk(rows * dim, 0), dv(rows * dim, 0);
      for (std::int64_t h = 0; h < p.heads(); ++h) {
        if (p.kv_head(h) != g) continue;
        const std::vector<char> mask = attention_mask(p, selection, b, h);
        const std::vector<Sum> q = load(t.q, h), dout = load(t.dout, h), dlse = load(t.dlse, h);
        std::vector<Sum> out(rows * dim, 0), dq(rows * dim, 0), lse(rows, lowest);
        for (std::int64_t i = 0; i < rows; ++i) {
          std::vector<Sum> logits(rows, 0), probability(rows, 0), dp(rows, 0);
          Sum max = lowest, sum = 0;
          bool any = false;
          for (std::int64_t j = 0; j < rows; ++j) {
            if (!mask[i * rows + j]) continue;
            any = true;
            Sum dot = 0, dot_v = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
              dot += q[i * dim + d] * k[j * dim + d];
              dot_v += dout[i * dim + d] * v[j * dim + d];
            }
            logits[j] = round(round(dot) * static_cast<Sum>(p.scale()));
            dp[j] = round(dot_v);
            max = std::max(max, logits[j]);
          }
          if (!any) continue;
          for (std::int64_t j = 0; j < rows; ++j) {
            if (!mask[i * rows + j]) continue;
            probability[j] = exp(logits[j] - max);
            sum += probability[j];
          }
          lse[i] = max + log(sum);
          for (std::int64_t j = 0; j < rows; ++j) {
            if (!mask[i * rows + j]) continue;
            const Sum weight = round(probability[j] / sum);
            for (std::int64_t d = 0; d < dim; ++d) out[i * dim + d] += weight * v[j * dim + d];
          }
          Sum delta = 0;
          for (std::int64_t d = 0; d < dim; ++d) delta += dout[i * dim + d] * round(out[i * dim + d]);
          for (std::int64_t j = 0; j < rows; ++j) {
            if (mask[i * rows + j]) probability[j] = round(exp(logits[j] - lse[i]));
          }
          const Sum through_lse = with_dlse ? dlse[i] : Sum{0};
          for (std::int64_t j = 0; j < rows; ++j) {
            if (!mask[i * rows + j]) continue;
            const Sum ds = round(round(probability[j] * (dp[j] - (delta - through_lse))) * static_cast<Sum>(p.scale()));
            for (std::int64_t d = 0; d < dim; ++d) {
              dq[i * dim + d] += ds * k[j * dim + d];
              dk[j * dim + d] += ds * q[i * dim + d];
              dv[j * dim + d] += probability[j] * dout[i * dim + d];
            }
          }
        }
        store(t.out, h, out);
        store(t.lse, h, lse);
        store(t.dq, h, dq);
      }
      store(t.dk, g, dk);
      store(t.dv, g, dv);
    }
  }
}

// The naive forward and backward in the problem's own dtype.
inline Tensors naive(const Problem& p, const Selection* selection, const Tensors& inputs, bool with_dlse = true) {
  Tensors t = inputs;
  t.poison_outputs();
  dispatch_dtype(p.dtype(), [&](auto* type) {
    using Element = std::remove_pointer_t<decltype(type)>;
    using Sum = std::conditional_t<std::is_same_v<Element, double>, double, float>;
    naive_in<Element, Sum>(p, selection, t, with_dlse);
  });
  return t;
}

}  // namespace vmoba::test
