// SPDX-License-Identifier: Apache-2.0
// Gates against a second, index-by-index computation.
#include <gtest/gtest.h>

#include <cmath>

#include "check/problems.hpp"
#include "reference/reference.hpp"

namespace vmoba {
namespace {

TEST(ReferenceGate, IsTheQueryTimesTheMeanKeyOfTheBlock) {
  test::Rng rng(5);
  for (int i = 0; i < 40; ++i) {
    ProblemOptions options = test::random_options(rng, {.axis = 4, .dim_unit = 1});
    options.scale = 7;  // must not matter
    const Problem p(options);
    SCOPED_TRACE(test::words(p));
    const test::Tensors t = test::Tensors::random(p, i, test::Layout::padded);
    for (std::int64_t b = 0; b < p.batch(); ++b) {
      const Sample& sample = p.sample(b);
      const std::int64_t at = p.packed() ? 0 : b, blocks = sample.partition->blocks();
      for (std::int64_t h = 0; h < p.heads(); ++h) {
        const std::vector<double> gates = reference::gates(p, t.q, t.k, b, h);
        ASSERT_EQ(static_cast<std::int64_t>(gates.size()), sample.tokens() * blocks);
        for (std::int64_t s = 0; s < sample.tokens(); ++s) {
          for (std::int64_t c = 0; c < blocks; ++c) {
            double dot = 0;
            for (std::int64_t d = 0; d < p.dim(); ++d) {
              double sum = 0, count = 0;
              for (std::int64_t j = 0; j < sample.tokens(); ++j) {
                if (sample.partition->own(j) != c) continue;
                sum += t.k.get(at, sample.row_begin + sample.video_begin + j, p.kv_head(h), d);
                ++count;
              }
              dot += t.q.get(at, sample.row_begin + sample.video_begin + s, h, d) * sum / count;
            }
            ASSERT_NEAR(gates[s * blocks + c], dot, 1e-12 * (1 + std::abs(dot)) * static_cast<double>(p.dim()));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace vmoba
