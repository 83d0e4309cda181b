// SPDX-License-Identifier: Apache-2.0
// The exact gradient of attend for a fixed selection (spec section 5).
#include <cmath>

#include "reference/reference.hpp"

namespace vmoba::reference {

void attend_backward(const Problem& problem, const Selection* selection, const BackwardTensors& t, const Execution&) {
  const std::int64_t dim = problem.dim(), heads_per_group = problem.heads() / problem.kv_heads();
  for (std::int64_t b = 0; b < problem.batch(); ++b) {
    const std::int64_t rows = problem.sample(b).rows;
    for (std::int64_t g = 0; g < problem.kv_heads(); ++g) {
      const std::vector<double> k = read_rows(problem, t.k, b, g), v = read_rows(problem, t.v, b, g);
      std::vector<double> dk(rows * dim, 0), dv(rows * dim, 0);
      for (std::int64_t h = g * heads_per_group; h < (g + 1) * heads_per_group; ++h) {
        const std::vector<double> q = read_rows(problem, t.q, b, h), out = read_rows(problem, t.out, b, h);
        const std::vector<double> dout = read_rows(problem, t.dout, b, h), lse = read_lse(problem, t.lse, b, h);
        const std::vector<double> dlse = t.dlse ? read_lse(problem, t.dlse, b, h) : std::vector<double>(rows, 0);
        for (std::int64_t i = 0; i < rows; ++i) {
          double delta = 0;
          for (std::int64_t d = 0; d < dim; ++d) delta += dout[i * dim + d] * out[i * dim + d];
          std::vector<double> dq(dim, 0);
          for (std::int64_t j : attended_rows(problem, selection, b, h, i)) {
            double logit = 0, dp = 0;
            for (std::int64_t d = 0; d < dim; ++d) {
              logit += q[i * dim + d] * k[j * dim + d];
              dp += dout[i * dim + d] * v[j * dim + d];
            }
            const double p = std::exp(problem.scale() * logit - lse[i]);
            const double ds = problem.scale() * p * (dp - (delta - dlse[i]));
            for (std::int64_t d = 0; d < dim; ++d) {
              dv[j * dim + d] += p * dout[i * dim + d];
              dq[d] += ds * k[j * dim + d];
              dk[j * dim + d] += ds * q[i * dim + d];
            }
          }
          write_row(problem, t.dq, b, i, h, dq.data(), dim);
        }
      }
      for (std::int64_t j = 0; j < rows; ++j) {
        write_row(problem, t.dk, b, j, g, dk.data() + j * dim, dim);
        write_row(problem, t.dv, b, j, g, dv.data() + j * dim, dim);
      }
    }
  }
}

}  // namespace vmoba::reference
