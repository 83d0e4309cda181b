// SPDX-License-Identifier: Apache-2.0
// One pass over a row each way. With n = x r, r = 1 / sqrt(mean(x^2) + eps), and R the turn of each pair:
//   y = R (n w)        g = R^T dy,  dw = sum of g n,  dx = r (g w - n mean(g w n))
#include "dit/model/rope_rows.hpp"

#include <array>
#include <cmath>

namespace vmoba::dit {
namespace {

// Eight running sums, so that the compiler may use vectors without reordering what is written here.
template <class Real, class Term>
Real sum(std::int64_t count, const Term& term) {
  std::array<Real, 8> sums{};
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::int64_t lane = 0; lane < 8; ++lane) sums[lane] += term(i + lane);
  }
  for (; i < count; ++i) sums[0] += term(i);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

}  // namespace

template <class Real>
void norm_rope_forward(const NormRopeRows<Real>& rows, Real* y, std::int64_t begin, std::int64_t end) {
  const std::int64_t half = rows.half, width = 2 * rows.heads * half;
  for (std::int64_t row = begin; row < end; ++row) {
    const Real* x = rows.x + row * width;
    const Real squares = sum<Real>(width, [&](std::int64_t i) { return x[i] * x[i]; });
    const Real inverse = 1 / std::sqrt(squares / static_cast<Real>(width) + static_cast<Real>(rows.eps));
    rows.inverse[row] = inverse;
    const Real* cos = rows.cos + row % rows.tokens * half;
    const Real* sin = rows.sin + row % rows.tokens * half;
    Real* out = y + row * width;
    for (std::int64_t head = 0; head < rows.heads; ++head) {
      const Real* in = x + head * 2 * half;
      const Real* w = rows.weight + head * 2 * half;
      Real* to = out + head * 2 * half;
      for (std::int64_t i = 0; i < half; ++i) {
        const Real a = in[2 * i] * inverse * w[2 * i], b = in[2 * i + 1] * inverse * w[2 * i + 1];
        to[2 * i] = a * cos[i] - b * sin[i];
        to[2 * i + 1] = a * sin[i] + b * cos[i];
      }
    }
  }
}

template <class Real>
void norm_rope_backward(const NormRopeRows<Real>& rows, const Real* dy, Real* dx, Real* dweight, Real* scratch,
                        std::int64_t begin, std::int64_t end) {
  const std::int64_t half = rows.half, width = 2 * rows.heads * half;
  for (std::int64_t row = begin; row < end; ++row) {
    const Real* x = rows.x + row * width;
    const Real* cos = rows.cos + row % rows.tokens * half;
    const Real* sin = rows.sin + row % rows.tokens * half;
    const Real inverse = rows.inverse[row];
    for (std::int64_t head = 0; head < rows.heads; ++head) {
      const Real* in = dy + row * width + head * 2 * half;
      Real* g = scratch + head * 2 * half;
      for (std::int64_t i = 0; i < half; ++i) {
        g[2 * i] = in[2 * i] * cos[i] + in[2 * i + 1] * sin[i];
        g[2 * i + 1] = in[2 * i + 1] * cos[i] - in[2 * i] * sin[i];
      }
    }
    for (std::int64_t i = 0; i < width; ++i) {
      dweight[i] += scratch[i] * x[i] * inverse;
      scratch[i] *= rows.weight[i];
    }
    const Real along = sum<Real>(width, [&](std::int64_t i) { return scratch[i] * x[i]; }) * inverse * inverse /
                       static_cast<Real>(width);
    Real* to = dx + row * width;
    for (std::int64_t i = 0; i < width; ++i) to[i] = inverse * (scratch[i] - x[i] * along);
  }
}

template void norm_rope_forward(const NormRopeRows<float>&, float*, std::int64_t, std::int64_t);
template void norm_rope_forward(const NormRopeRows<double>&, double*, std::int64_t, std::int64_t);
template void norm_rope_backward(const NormRopeRows<float>&, const float*, float*, float*, float*, std::int64_t,
                                 std::int64_t);
template void norm_rope_backward(const NormRopeRows<double>&, const double*, double*, double*, double*, std::int64_t,
                                 std::int64_t);

}  // namespace vmoba::dit
