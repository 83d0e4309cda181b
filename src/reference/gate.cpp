// SPDX-License-Identifier: Apache-2.0
// Gates (spec section 2): g[h,s,c] = q[h,s,:] . mean of k over the tokens of block c. Not scaled, no softmax.
#include "reference/reference.hpp"

namespace vmoba::reference {

std::vector<double> block_means(const Problem& problem, const ConstView& k, std::int64_t b, std::int64_t kv_head) {
  const Sample& sample = problem.sample(b);
  const Partition& partition = *sample.partition;
  const std::int64_t dim = problem.dim();
  std::vector<double> means(partition.blocks() * dim, 0);
  for (std::int64_t c = 0; c < partition.blocks(); ++c) {
    for (std::int32_t s : partition.tokens_of(c)) {
      const std::vector<double> row = read_row(problem, k, b, sample.video_begin + s, kv_head, dim);
      for (std::int64_t d = 0; d < dim; ++d) means[c * dim + d] += row[d];
    }
    for (std::int64_t d = 0; d < dim; ++d) means[c * dim + d] /= static_cast<double>(partition.size(c));
  }
  return means;
}

std::vector<double> gates(const Problem& problem, const ConstView& q, const ConstView& k, std::int64_t b,
                          std::int64_t head) {
  const Sample& sample = problem.sample(b);
  const std::int64_t blocks = sample.partition->blocks(), dim = problem.dim();
  const std::vector<double> means = block_means(problem, k, b, problem.kv_head(head));
  std::vector<double> result(sample.tokens() * blocks);
  for (std::int64_t s = 0; s < sample.tokens(); ++s) {
    const std::vector<double> row = read_row(problem, q, b, sample.video_begin + s, head, dim);
    for (std::int64_t c = 0; c < blocks; ++c) {
      double sum = 0;
      for (std::int64_t d = 0; d < dim; ++d) sum += row[d] * means[c * dim + d];
      result[s * blocks + c] = sum;
    }
  }
  return result;
}

}  // namespace vmoba::reference
