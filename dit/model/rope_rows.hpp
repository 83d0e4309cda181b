// SPDX-License-Identifier: Apache-2.0
// The loops of norm_rope over rows [begin, end) of B S rows; knows no torch, so that it compiles by itself at -O3.
#pragma once

#include <cstdint>

namespace vmoba::dit {

template <class Real>  // float or double
struct NormRopeRows {
  std::int64_t tokens, heads, half;  // S, H, D / 2; W = 2 heads half
  double eps;
  const Real* x;       // [B S, W]
  const Real* weight;  // [W]
  const Real* cos;     // [S, D / 2]
  const Real* sin;     // [S, D / 2]
  Real* inverse;       // [B S] 1 / sqrt(mean(x^2) + eps): written forward, read backward
};

// y [B S, W].
template <class Real>
void norm_rope_forward(const NormRopeRows<Real>& rows, Real* y, std::int64_t begin, std::int64_t end);

// dy, dx [B S, W]; dweight [W] is added to; scratch [W].
template <class Real>
void norm_rope_backward(const NormRopeRows<Real>& rows, const Real* dy, Real* dx, Real* dweight, Real* scratch,
                        std::int64_t begin, std::int64_t end);

}  // namespace vmoba::dit
