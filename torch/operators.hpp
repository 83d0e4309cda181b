// SPDX-License-Identifier: Apache-2.0
// The operators by dispatch key, and typed calls through the dispatcher. Schemas are in library.cpp.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>

namespace vmoba::ops {

using at::Tensor;
using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

namespace cpu {
Tensor select(const Tensor& q, const Tensor& k, at::IntArrayRef grid, at::IntArrayRef block, std::string_view policy,
              double amount, std::string_view scope, std::int64_t min_blocks, std::optional<std::int64_t> max_blocks,
              std::int64_t text, std::string_view text_at, std::string_view backend);
Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits, at::IntArrayRef grid,
            at::IntArrayRef block, std::optional<double> scale, std::int64_t text, std::string_view text_at,
            const std::optional<Tensor>& valid, std::string_view backend);
Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       at::IntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, std::int64_t text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
}  // namespace cpu

// Shapes alone; sizes may be symbolic.
namespace meta {
Tensor select(const Tensor& q, const Tensor& k, c10::SymIntArrayRef grid, at::IntArrayRef block,
              std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
              std::optional<std::int64_t> max_blocks, c10::SymInt text, std::string_view text_at,
              std::string_view backend);
Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
            c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
            std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
}  // namespace meta

namespace autograd {
Tensor select(const Tensor& q, const Tensor& k, c10::SymIntArrayRef grid, at::IntArrayRef block,
              std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
              std::optional<std::int64_t> max_blocks, c10::SymInt text, std::string_view text_at,
              std::string_view backend);
Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
            c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
            std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
}  // namespace autograd

// Through the dispatcher.
namespace call {
Tensor select(const Tensor& q, const Tensor& k, c10::SymIntArrayRef grid, at::IntArrayRef block,
              std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
              std::optional<std::int64_t> max_blocks, c10::SymInt text, std::string_view text_at,
              std::string_view backend);
Pair attend(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
            c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
            std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
Triple attend_backward(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out, const Tensor& lse, const std::optional<Tensor>& bits,
                       c10::SymIntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, c10::SymInt text,
                       std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
}  // namespace call

// select, then attend; kept apart so that compilers see both.
Pair attention_operator(const Tensor& q, const Tensor& k, const Tensor& v, c10::SymIntArrayRef grid,
                        at::IntArrayRef block, std::string_view policy, double amount, std::string_view scope,
                        std::int64_t min_blocks, std::optional<std::int64_t> max_blocks, std::optional<double> scale,
                        c10::SymInt text, std::string_view text_at, const std::optional<Tensor>& valid,
                        std::string_view backend);

}  // namespace vmoba::ops
