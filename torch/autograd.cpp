// SPDX-License-Identifier: Apache-2.0
// Gradients of the operators. The selection is a constant (spec section 2); attend's backward is an operator of its
// own, so that torch.compile sees it; a second derivative is refused.
#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "torch/operators.hpp"

namespace vmoba::ops::autograd {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The arguments of attend that are not differentiated, one struct so that the node has few inputs.
struct Constants {
  std::optional<Tensor> bits;
  c10::SymIntArrayRef grid;
  at::IntArrayRef block;
  std::optional<double> scale;
  c10::SymInt text;
  std::string_view text_at;
  std::optional<Tensor> valid;
  std::string_view backend;
};

Tensor or_undefined(const std::optional<Tensor>& tensor) { return tensor ? *tensor : Tensor(); }
std::optional<Tensor> or_none(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

struct Attend : torch::autograd::Function<Attend> {
  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Constants& c) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, lse] = call::attend(q, k, v, c.bits, c.grid, c.block, c.scale, c.text, c.text_at, c.valid, c.backend);
    context->set_materialize_grads(false);
    context->save_for_backward({q, k, v, out, lse, or_undefined(c.bits), or_undefined(c.valid)});
    auto& saved = context->saved_data;
    saved["grid"] = c10::IValue(c.grid);
    saved["block"] = c10::IValue(c.block.vec());
    saved["scale"] = c10::IValue(c.scale);
    saved["text"] = c10::IValue(c.text);
    saved["text_at"] = c10::IValue(std::string(c.text_at));
    saved["backend"] = c10::IValue(std::string(c.backend));
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    if (!gradients[0].defined() && !gradients[1].defined()) return {Tensor(), Tensor(), Tensor(), Tensor()};
    const Tensor dout = gradients[0].defined() ? gradients[0] : at::zeros_like(out);
    auto& data = context->saved_data;
    const std::vector<c10::SymInt> grid = data["grid"].toSymIntVector();
    const std::vector<std::int64_t> block = data["block"].toIntVector();
    const std::string text_at = data["text_at"].toStringRef(), backend = data["backend"].toStringRef();
    auto [dq, dk, dv] = call::attend_backward(dout, or_none(gradients[1]), q, k, v, out, lse, or_none(saved[5]), grid,
                                              block, data["scale"].toOptional<double>(), data["text"].toSymInt(),
                                              text_at, or_none(saved[6]), backend);
    return {dq, dk, dv, Tensor()};
  }
};

struct AttendBackward : torch::autograd::Function<AttendBackward> {
  static variable_list forward(AutogradContext* context, const Tensor& dout, const std::optional<Tensor>& dlse,
                               const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                               const Constants& c) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->set_materialize_grads(false);
    auto [dq, dk, dv] = call::attend_backward(dout, dlse, q, k, v, out, lse, c.bits, c.grid, c.block, c.scale, c.text,
                                              c.text_at, c.valid, c.backend);
    return {dq, dk, dv};
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    C10_THROW_ERROR(
        NotImplementedError,
        "vmoba: attend_backward = a gradient of attend cannot be differentiated a second time; detach it, or "
        "use torch's dense attention where second derivatives are needed");
  }
};

}  // namespace

Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
            c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
            std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend) {
  const Constants constants{bits, grid, block, scale, std::move(text), text_at, valid, backend};
  variable_list result = Attend::apply(q, k, v, constants);
  return {result[0], result[1]};
}

Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend) {
  const Constants constants{bits, grid, block, scale, std::move(text), text_at, valid, backend};
  variable_list result = AttendBackward::apply(dout, dlse, q, k, v, out, lse, constants);
  return {result[0], result[1], result[2]};
}

}  // namespace vmoba::ops::autograd
