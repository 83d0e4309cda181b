// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding and the norm before it.
#include "dit/model/rope.hpp"

#include <torch/torch.h>

#include <array>
#include <cmath>
#include <vector>

#include "dit/model/rope_rows.hpp"
#include "torch/parallel.hpp"

namespace vmoba::dit {
namespace {

// cos and sin of position times frequency for one axis: [positions, dim / 2] in double.
struct AxisTable {
  std::vector<double> cos, sin;
};

AxisTable axis_table(std::int64_t positions, std::int64_t dim) {
  AxisTable table;
  for (std::int64_t position = 0; position < positions; ++position) {
    for (std::int64_t i = 0; i < dim; i += 2) {
      const double angle = static_cast<double>(position) / std::pow(10000.0, static_cast<double>(i) / dim);
      table.cos.push_back(std::cos(angle));
      table.sin.push_back(std::sin(angle));
    }
  }
  return table;
}

}  // namespace

RopeTable rope_table(const Grid& grid, std::int64_t dim, at::ScalarType type, at::Device device) {
  const std::int64_t space = dim / 6 * 2, time = dim - 2 * space, half = dim / 2;
  const std::array axes{axis_table(grid.t, time), axis_table(grid.y, space), axis_table(grid.x, space)};
  const std::array widths{time / 2, space / 2, space / 2};
  const at::Tensor cos = torch::empty({grid.tokens(), half}, at::kDouble);
  const at::Tensor sin = torch::empty({grid.tokens(), half}, at::kDouble);
  double* cosines = cos.mutable_data_ptr<double>();
  double* sines = sin.mutable_data_ptr<double>();
  for (std::int64_t token = 0; token < grid.tokens(); ++token) {
    const std::array positions{token / (grid.x * grid.y), token / grid.x % grid.y, token % grid.x};
    for (std::size_t axis = 0; axis < 3; ++axis) {
      for (std::int64_t i = 0; i < widths[axis]; ++i) {
        *cosines++ = axes[axis].cos[positions[axis] * widths[axis] + i];
        *sines++ = axes[axis].sin[positions[axis] * widths[axis] + i];
      }
    }
  }
  return {cos.to(device, type), sin.to(device, type)};
}

at::Tensor norm_rope_composed(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTable& table) {
  const std::int64_t half = table.cos.size(1), heads = x.size(2) / (2 * half);
  const at::Tensor pairs = at::rms_norm(x, weight.sizes(), weight, eps).view({x.size(0), x.size(1), heads, half, 2});
  const at::Tensor turn = at::complex(table.cos, table.sin).unsqueeze(1);  // [S, 1, D / 2]
  return at::view_as_real(at::view_as_complex(pairs) * turn).flatten(3);
}

namespace {

template <class Real>
NormRopeRows<Real> rows_of(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTable& table,
                           const at::Tensor& inverse) {
  const std::int64_t half = table.cos.size(1);
  return {table.cos.size(0),
          x.size(2) / (2 * half),
          half,
          eps,
          x.const_data_ptr<Real>(),
          weight.const_data_ptr<Real>(),
          table.cos.const_data_ptr<Real>(),
          table.sin.const_data_ptr<Real>(),
          inverse.mutable_data_ptr<Real>()};
}

// Rows in shares that depend on their number alone, so that the sums of dweight do not depend on the threads.
constexpr std::int64_t shares = 16;
std::int64_t share_begin(std::int64_t rows, std::int64_t share) { return rows * share / shares; }

void call_by_type(at::ScalarType type, const auto& body) { type == at::kDouble ? body(double{}) : body(float{}); }

// x [B, S, W], weight [W] of the table's type and contiguous.
class NormRope : public torch::autograd::Function<NormRope> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double eps, const at::Tensor& cos, const at::Tensor& sin) {
    const std::int64_t rows = x.size(0) * x.size(1), half = cos.size(1);
    const at::Tensor inverse = at::empty({rows}, x.options());
    const at::Tensor y = at::empty({x.size(0), x.size(1), x.size(2) / (2 * half), 2 * half}, x.options());
    call_by_type(x.scalar_type(), [&]<class Real>(Real) {
      const auto all = rows_of<Real>(x, weight, eps, {cos, sin}, inverse);
      Real* out = y.mutable_data_ptr<Real>();
      ops::torch_parallel_for(shares, [&](std::int64_t share) {
        norm_rope_forward(all, out, share_begin(rows, share), share_begin(rows, share + 1));
      });
    });
    context->save_for_backward({x, weight, cos, sin, inverse});
    context->saved_data["eps"] = eps;
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "vmoba: create_graph = true is not supported by the model; use false");
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor dy = grads[0].contiguous();
    const at::Tensor dx = at::empty_like(x), partial = at::zeros({shares, weight.size(0)}, x.options());
    const at::Tensor scratch = at::empty_like(partial);
    const std::int64_t rows = x.size(0) * x.size(1);
    call_by_type(x.scalar_type(), [&]<class Real>(Real) {
      const auto all = rows_of<Real>(x, weight, context->saved_data["eps"].toDouble(), {saved[2], saved[3]}, saved[4]);
      const Real* in = dy.const_data_ptr<Real>();
      Real* out = dx.mutable_data_ptr<Real>();
      Real* sums = partial.mutable_data_ptr<Real>();
      Real* spare = scratch.mutable_data_ptr<Real>();
      ops::torch_parallel_for(shares, [&](std::int64_t share) {
        const std::int64_t row = share * weight.size(0);
        norm_rope_backward(all, in, out, sums + row, spare + row, share_begin(rows, share),
                           share_begin(rows, share + 1));
      });
    });
    return {dx, partial.sum(0), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor norm_rope(const at::Tensor& x, const at::Tensor& weight, double eps, const RopeTable& table) {
  const at::ScalarType exact = table.cos.scalar_type();
  const at::Tensor wide = x.to(exact), wide_weight = weight.to(exact);
  const at::Tensor y = x.is_cpu()
                           ? NormRope::apply(wide.contiguous(), wide_weight.contiguous(), eps, table.cos, table.sin)
                           : norm_rope_composed(wide, wide_weight, eps, table);
  return y.to(x.scalar_type());
}

}  // namespace vmoba::dit
