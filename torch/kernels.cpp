// SPDX-License-Identifier: Apache-2.0
// The operators on CPU tensors: arguments to the engine's problem, outputs allocated here, the engine called once.
#include <ATen/ATen.h>

#include "torch/operators.hpp"
#include "torch/spec.hpp"
#include "vmoba/attention.hpp"

namespace vmoba::ops::cpu {
namespace {

// lse lies in memory as the kernels like it, [B, H, R], and is seen as [B, R, H].
Tensor empty_lse(const Tensor& q, DType dtype) {
  return at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(scalar_type_of(dtype))).transpose(1, 2);
}

bool given(const std::optional<Tensor>& tensor) { return tensor && tensor->defined(); }

}  // namespace

Tensor select(const Tensor& q, const Tensor& k, at::IntArrayRef grid, at::IntArrayRef block, std::string_view policy,
              double amount, std::string_view scope, std::int64_t min_blocks, std::optional<std::int64_t> max_blocks,
              std::int64_t text, std::string_view text_at, std::string_view backend) {
  return translated([&] {
    Spec spec = spec_of(grid, block, std::nullopt, text, text_at, std::nullopt, backend);
    spec.policy = policy_of(policy, amount, scope, min_blocks, max_blocks);
    const Problem problem = problem_of(q, k, spec);
    const Tensor q_rows = readable(q), k_rows = readable(k);
    const Tensor bits = at::empty({Selection::word_count(problem)}, q.options().dtype(at::kLong));
    Selection selection(problem,
                        {static_cast<std::uint64_t*>(bits.mutable_data_ptr()), static_cast<std::size_t>(bits.size(0))});
    vmoba::select_into(problem, view_of(q_rows), view_of(k_rows), selection,
                       execution_of(spec.backend, problem.dtype()));
    return bits;
  });
}

Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits, at::IntArrayRef grid,
            at::IntArrayRef block, std::optional<double> scale, std::int64_t text, std::string_view text_at,
            const std::optional<Tensor>& valid, std::string_view backend) {
  return translated([&]() -> Pair {
    const Spec spec = spec_of(grid, block, scale, text, text_at, valid, backend);
    const Problem problem = problem_of(q, k, spec);
    check_like(v, k, "v", "k");
    const Tensor q_rows = readable(q), k_rows = readable(k), v_rows = readable(v);
    const Execution execution = execution_of(spec.backend, problem.dtype());
    const Tensor out = at::empty(q.sizes(), q.options());
    const Tensor lse = empty_lse(q, problem.lse_dtype());
    if (given(bits)) {
      const Tensor words = bits->contiguous();
      vmoba::attend(problem, selection_of(words, problem), view_of(q_rows), view_of(k_rows), view_of(v_rows),
                    mutable_view_of(out), mutable_lse_view_of(lse), execution);
    } else {
      vmoba::attend(problem, view_of(q_rows), view_of(k_rows), view_of(v_rows), mutable_view_of(out),
                    mutable_lse_view_of(lse), execution);
    }
    return {out, lse};
  });
}

Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       at::IntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, std::int64_t text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend) {
  return translated([&]() -> Triple {
    const Spec spec = spec_of(grid, block, scale, text, text_at, valid, backend);
    const Problem problem = problem_of(q, k, spec);
    check_like(v, k, "v", "k");
    check_like(out, q, "out", "q");
    check_like(dout, q, "dout", "q");
    if (lse.dim() != 3 || lse.size(0) != q.size(0) || lse.size(1) != q.size(1) || lse.size(2) != q.size(2) ||
        lse.scalar_type() != scalar_type_of(problem.lse_dtype())) {
      throw_argument("lse", shape_text(lse) + " of " + c10::toString(lse.scalar_type()),
                     "is not the lse of this problem", "pass lse as attend returned it, [batch, tokens, heads]");
    }
    const Tensor q_rows = readable(q), k_rows = readable(k), v_rows = readable(v);
    const Tensor out_rows = readable(out), dout_rows = readable(dout);
    Tensor dlse_rows;
    if (given(dlse)) {
      check_like(*dlse, lse, "dlse", "lse");
      dlse_rows = dlse->contiguous();
    }
    const Tensor lse_rows = lse.numel() > 1 && lse.stride(1) == 0 ? lse.contiguous() : lse;
    const Execution execution = execution_of(spec.backend, problem.dtype());
    const Tensor dq = at::empty(q.sizes(), q.options());
    const Tensor dk = at::empty(k.sizes(), k.options());
    const Tensor dv = at::empty(v.sizes(), v.options());
    BackwardTensors tensors{.q = view_of(q_rows),
                            .k = view_of(k_rows),
                            .v = view_of(v_rows),
                            .out = view_of(out_rows),
                            .lse = lse_view_of(lse_rows),
                            .dout = view_of(dout_rows),
                            .dq = mutable_view_of(dq),
                            .dk = mutable_view_of(dk),
                            .dv = mutable_view_of(dv)};
    if (dlse_rows.defined()) tensors.dlse = lse_view_of(dlse_rows);
    if (given(bits)) {
      const Tensor words = bits->contiguous();
      vmoba::attend_backward(problem, selection_of(words, problem), tensors, execution);
    } else {
      vmoba::attend_backward(problem, tensors, execution);
    }
    return {dq, dk, dv};
  });
}

}  // namespace vmoba::ops::cpu
