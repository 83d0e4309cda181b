// SPDX-License-Identifier: Apache-2.0
// Between the arguments of an operator and the engine: specs, problems, views, execution, errors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>
#include <c10/util/Exception.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "torch/attention.hpp"
#include "vmoba/error.hpp"
#include "vmoba/execution.hpp"

namespace vmoba::ops {

// The engine's dtype of a tensor; throws Error naming what when there is none.
DType dtype_of(const at::Tensor& tensor, const char* what);
at::ScalarType scalar_type_of(DType dtype);

// How schemas carry things: a grid is 3 numbers a sample one after another; a block is 3 extents (-1: the whole axis)
// or 1 number, the tokens of a run; a policy is its name and its one number.
std::vector<Grid> grids_of(at::IntArrayRef grid);
Block block_of(at::IntArrayRef block);
std::vector<std::int64_t> numbers_of(const std::vector<Grid>& grids);
std::vector<std::int64_t> numbers_of(const Block& block);
Scope scope_of(std::string_view name);
Text::At text_at_of(std::string_view name);
std::string_view name_of(Text::At at);
Policy policy_of(std::string_view name, double amount, std::string_view scope, std::int64_t min_blocks,
                 std::optional<std::int64_t> max_blocks);
struct PolicyNumbers {  // the inverse of policy_of
  std::string name;
  double amount = 0;
  std::string scope;
  std::int64_t min_blocks = 1;
  std::optional<std::int64_t> max_blocks{};
};
PolicyNumbers numbers_of(const Policy& policy);

Spec spec_of(at::IntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, std::int64_t text,
             std::string_view text_at, const std::optional<at::Tensor>& valid, std::string_view backend);

// t itself, or a copy whose rows the engine can read: D contiguous, not expanded in all other dimensions.
at::Tensor readable(const at::Tensor& t);
ConstView view_of(const at::Tensor& t);        // [B, R, H, D]; t is readable
View mutable_view_of(const at::Tensor& t);     // [B, R, H, D]
ConstView lse_view_of(const at::Tensor& lse);  // [B, R, H]
View mutable_lse_view_of(const at::Tensor& lse);

// Runs on torch's intra-op pool, or in the calling thread when it already is one of that pool's.
Execution execution_of(const std::string& backend, DType dtype);

// Throws Error unless values, if given, has the shape and dtype of like.
void check_like(const at::Tensor& values, const at::Tensor& like, const char* what, const char* like_what);
std::string shape_text(const at::Tensor& tensor);  // "[1, 120, 2, 64]"

// The engine's errors leave the operators as c10::ValueError (Python's ValueError) with the same sentence.
[[noreturn]] void rethrow(const Error& error);
template <class Body>
decltype(auto) translated(Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Error& error) {
    rethrow(error);
  }
}

}  // namespace vmoba::ops
