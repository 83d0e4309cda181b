// SPDX-License-Identifier: Apache-2.0
// The operators under autocast on the CPU.
#include <ATen/autocast_mode.h>

#include "torch/operators.hpp"

namespace vmoba::ops::autocast {
namespace {

Tensor cast(const Tensor& tensor) {
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(at::kCPU), tensor, at::kCPU);
}

// Calls below do not cast again.
struct Off {
  c10::impl::ExcludeDispatchKeyGuard guard{c10::DispatchKey::AutocastCPU};
};

}  // namespace

Tensor select(const Tensor& q, const Tensor& k, c10::SymIntArrayRef grid, at::IntArrayRef block,
              std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
              std::optional<std::int64_t> max_blocks, c10::SymInt text, std::string_view text_at,
              std::string_view backend) {
  const Off off;
  return call::select(cast(q), cast(k), grid, block, policy, amount, scope, min_blocks, max_blocks, std::move(text),
                      text_at, backend);
}

Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
            c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
            std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend) {
  const Off off;
  return call::attend(cast(q), cast(k), cast(v), bits, grid, block, scale, std::move(text), text_at, valid, backend);
}

Pair attention(const Tensor& q, const Tensor& k, const Tensor& v, c10::SymIntArrayRef grid, at::IntArrayRef block,
               std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
               std::optional<std::int64_t> max_blocks, std::optional<double> scale, c10::SymInt text,
               std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend) {
  const Off off;
  return attention_operator(cast(q), cast(k), cast(v), grid, block, policy, amount, scope, min_blocks, max_blocks,
                            scale, std::move(text), text_at, valid, backend);
}

}  // namespace vmoba::ops::autocast
