// SPDX-License-Identifier: Apache-2.0
// Attend (spec sections 4 and 7): one softmax over the keys of the selected blocks and the valid text.
#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/reference.hpp"

namespace vmoba::reference {

std::vector<std::int64_t> attended_rows(const Problem& problem, const Selection* selection, std::int64_t b,
                                        std::int64_t head, std::int64_t row) {
  const Sample& sample = problem.sample(b);
  const std::int64_t token = row - sample.video_begin;
  const bool video = token >= 0 && token < sample.tokens();
  if (!video && row - sample.text_begin >= sample.text_valid) return {};  // padding attends nothing

  std::vector<std::int64_t> keys;
  if (video && selection) {
    const Selection::Shape& shape = selection->shape(b);
    const std::int64_t query_row = shape.queries ? shape.queries->own(token) : token;
    for (std::int64_t c = 0; c < shape.keys->blocks(); ++c) {
      if (!selection->test(b, head, query_row, c)) continue;
      for (std::int32_t j : shape.keys->tokens_of(c)) keys.push_back(sample.video_begin + j);
    }
  } else {
    for (std::int64_t j = 0; j < sample.tokens(); ++j) keys.push_back(sample.video_begin + j);
  }
  for (std::int64_t j = 0; j < sample.text_valid; ++j) keys.push_back(sample.text_begin + j);
  std::sort(keys.begin(), keys.end());
  return keys;
}

void attend(const Problem& problem, const Selection* selection, const ConstView& q, const ConstView& k,
            const ConstView& v, const View& out, const View& lse, const Execution&) {
  const std::int64_t dim = problem.dim();
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    for (std::int64_t h = 0; h < problem.heads(); ++h) {
      const std::vector<double> queries = read_rows(problem, q, b, h);
      const std::vector<double> keys = read_rows(problem, k, b, problem.kv_head(h));
      const std::vector<double> values = read_rows(problem, v, b, problem.kv_head(h));
      for (std::int64_t row = 0; row < problem.sample(b).rows; ++row) {
        const std::vector<std::int64_t> attended = attended_rows(problem, selection, b, h, row);
        std::vector<double> logits(attended.size(), 0);
        double max = -std::numeric_limits<double>::infinity();
        for (std::size_t i = 0; i < attended.size(); ++i) {
          for (std::int64_t d = 0; d < dim; ++d) logits[i] += queries[row * dim + d] * keys[attended[i] * dim + d];
          logits[i] *= problem.scale();
          max = std::max(max, logits[i]);
        }
        double sum = 0;
        std::vector<double> result(dim, 0);
        for (std::size_t i = 0; i < attended.size(); ++i) {
          const double weight = std::exp(logits[i] - max);
          sum += weight;
          for (std::int64_t d = 0; d < dim; ++d) result[d] += weight * values[attended[i] * dim + d];
        }
        if (!attended.empty()) {
          for (double& x : result) x /= sum;
        }
        const double log_sum = max + std::log(sum);  // an empty row: -inf + log(0) = -inf
        write_row(problem, out, b, row, h, result.data(), dim);
        if (lse) write_row(problem, lse, b, row, h, &log_sum, 1);
      }
    }
  }
}

}  // namespace vmoba::reference
