// SPDX-License-Identifier: Apache-2.0
// The operators on meta tensors: output shapes and strides from input shapes alone, symbolic sizes included.
#include <ATen/ATen.h>

#include "torch/operators.hpp"
#include "torch/spec.hpp"

namespace vmoba::ops::meta {
namespace {

c10::SymInt ceil_div(const c10::SymInt& n, const c10::SymInt& d) { return (n + d - 1) / d; }

void check_rank(const Tensor& tensor, const char* what) {
  if (tensor.dim() != 4) {
    throw_argument(std::string(what) + ".shape", std::to_string(tensor.dim()) + " dimensions",
                   "is not four-dimensional", "pass [batch, tokens, heads, head dim]");
  }
}

void check_pair(const Tensor& a, const Tensor& b, const char* what, const char* other) {
  check_rank(b, what);
  if (a.scalar_type() != b.scalar_type()) {
    throw_argument(std::string(what) + ".dtype", c10::toString(b.scalar_type()),
                   std::string("differs from ") + other + ".dtype = " + c10::toString(a.scalar_type()),
                   "cast one of them");
  }
  if (a.device() != b.device()) {
    throw_argument(std::string(what) + ".device", b.device().str(),
                   std::string("differs from ") + other + ".device = " + a.device().str(), "move one of them");
  }
  for (const int axis : {0, 1, 3}) {
    TORCH_SYM_CHECK(a.sym_size(axis).sym_eq(b.sym_size(axis)), "vmoba: ", what, ".shape[", axis,
                    "] = ", b.sym_size(axis), " differs from ", other, ".shape[", axis, "] = ", a.sym_size(axis));
  }
}

Tensor empty_lse(const Tensor& q) {
  const auto dtype = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty_symint({q.sym_size(0), q.sym_size(2), q.sym_size(1)}, q.options().dtype(dtype)).transpose(1, 2);
}

}  // namespace

Tensor select(const Tensor& q, const Tensor& k, c10::SymIntArrayRef grid, at::IntArrayRef block,
              std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
              std::optional<std::int64_t> max_blocks, c10::SymInt, std::string_view text_at, std::string_view) {
  return translated([&] {
    check_rank(q, "q");
    check_pair(q, k, "k", "q");
    dtype_of(q, "q");
    block_of(block);
    text_at_of(text_at);
    policy_of(policy, amount, scope, min_blocks, max_blocks);
    if (grid.empty() || grid.size() % 3 != 0) {
      throw_argument("grid", std::to_string(grid.size()) + " numbers", "is not a triple a sample",
                     "pass (t, y, x) in tokens, or a list of such triples");
    }
    for (const std::int64_t extent : block) {
      if (extent == 0) throw_argument("block", "0", "is no extent", "use 1 or more tokens, or None for the whole axis");
    }
    c10::SymInt words = 0;
    for (std::size_t i = 0; i < grid.size(); i += 3) {
      const c10::SymInt tokens = grid[i] * grid[i + 1] * grid[i + 2];
      c10::SymInt blocks = 1;
      if (block.size() == 1) {
        blocks = ceil_div(tokens, block[0]);
      } else {
        for (std::size_t axis = 0; axis < 3; ++axis) {
          if (block[axis] != full) blocks = blocks * ceil_div(grid[i + axis], block[axis]);
        }
      }
      words = words + blocks * ceil_div(tokens, 64);
    }
    const c10::SymInt batch = grid.size() == 3 ? q.sym_size(0) : c10::SymInt(1);
    return at::empty_symint({batch * q.sym_size(2) * words}, q.options().dtype(at::kLong));
  });
}

Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>&, c10::SymIntArrayRef,
            at::IntArrayRef block, std::optional<double>, c10::SymInt, std::string_view text_at,
            const std::optional<Tensor>&, std::string_view) {
  return translated([&]() -> Pair {
    check_rank(q, "q");
    check_pair(q, k, "k", "q");
    check_pair(k, v, "v", "k");
    dtype_of(q, "q");
    block_of(block);
    text_at_of(text_at);
    return {at::empty_symint(q.sym_sizes(), q.options()), empty_lse(q)};
  });
}

Triple attend_backward(const Tensor&, const std::optional<Tensor>&, const Tensor& q, const Tensor& k, const Tensor& v,
                       const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::SymIntArrayRef, at::IntArrayRef,
                       std::optional<double>, c10::SymInt, std::string_view, const std::optional<Tensor>&,
                       std::string_view) {
  return {at::empty_symint(q.sym_sizes(), q.options()), at::empty_symint(k.sym_sizes(), k.options()),
          at::empty_symint(v.sym_sizes(), v.options())};
}

}  // namespace vmoba::ops::meta
