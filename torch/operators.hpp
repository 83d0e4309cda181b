// SPDX-License-Identifier: Apache-2.0
// The operators by dispatch key, and typed calls through the dispatcher. Schemas are in library.cpp.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/SymInt.h>
#include <c10/core/SymIntArrayRef.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

namespace vmoba::ops {

using at::Tensor;
using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;

// Function types: Numbers and Number are plain where values are known, symbolic where torch.compile may trace.
template <class Numbers, class Number>
struct Operators {
  using Select = Tensor(const Tensor& q, const Tensor& k, Numbers grid, at::IntArrayRef block, std::string_view policy,
                        double amount, std::string_view scope, std::int64_t min_blocks,
                        std::optional<std::int64_t> max_blocks, Number text, std::string_view text_at,
                        std::string_view backend);
  using Attend = Pair(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& bits,
                      Numbers grid, at::IntArrayRef block, std::optional<double> scale, Number text,
                      std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
  using AttendBackward = Triple(const Tensor& dout, const std::optional<Tensor>& dlse, const Tensor& q, const Tensor& k,
                                const Tensor& v, const Tensor& out, const Tensor& lse,
                                const std::optional<Tensor>& bits, Numbers grid, at::IntArrayRef block,
                                std::optional<double> scale, Number text, std::string_view text_at,
                                const std::optional<Tensor>& valid, std::string_view backend);
  // select, then attend
  using Attention = Pair(const Tensor& q, const Tensor& k, const Tensor& v, Numbers grid, at::IntArrayRef block,
                         std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
                         std::optional<std::int64_t> max_blocks, std::optional<double> scale, Number text,
                         std::string_view text_at, const std::optional<Tensor>& valid, std::string_view backend);
};
using Plain = Operators<at::IntArrayRef, std::int64_t>;
using Symbolic = Operators<c10::SymIntArrayRef, c10::SymInt>;

namespace cpu {
Plain::Select select;
Plain::Attend attend;
Plain::AttendBackward attend_backward;
}  // namespace cpu

// Shapes alone; sizes may be symbolic.
namespace meta {
Symbolic::Select select;
Symbolic::Attend attend;
Symbolic::AttendBackward attend_backward;
}  // namespace meta

// A selection has no gradient: select falls through.
namespace autograd {
Symbolic::Attend attend;
Symbolic::AttendBackward attend_backward;
}  // namespace autograd

// What torch's scaled_dot_product_attention does under autocast: q, k and v in autocast's dtype, float64 left alone.
namespace autocast {
Symbolic::Select select;
Symbolic::Attend attend;
Symbolic::Attention attention;
}  // namespace autocast

// All other keys: two operators, so that compilers see both.
Symbolic::Attention attention_operator;

// Through the dispatcher.
namespace call {
template <class Signature>
struct Operator;
template <class Result, class... Arguments>
struct Operator<Result(Arguments...)> {
  const char* name;
  Result operator()(Arguments... arguments) const {
    // One lookup a signature, and each operator has its own.
    static const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Result(Arguments...)>();
    return handle.call(std::forward<Arguments>(arguments)...);
  }
};
inline constexpr Operator<Symbolic::Select> select{"vmoba::select"};
inline constexpr Operator<Symbolic::Attend> attend{"vmoba::attend"};
inline constexpr Operator<Symbolic::AttendBackward> attend_backward{"vmoba::attend_backward"};
}  // namespace call

}  // namespace vmoba::ops
