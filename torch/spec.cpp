// SPDX-License-Identifier: Apache-2.0
// Between the arguments of an operator and the engine: specs, problems, views, execution, errors.
#include "torch/spec.hpp"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "torch/parallel.hpp"

namespace vmoba::ops {
namespace {

std::string number(double value) {
  std::string text = std::to_string(value);
  if (text.find('.') != std::string::npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return text;
}

std::string grid_text(const std::vector<Grid>& grids) {
  std::string text;
  for (const Grid& grid : grids) {
    if (!text.empty()) text += ", ";
    text += "(" + std::to_string(grid.t) + ", " + std::to_string(grid.y) + ", " + std::to_string(grid.x) + ")";
  }
  return text;
}

void check_rank(const at::Tensor& tensor, const char* what) {
  if (tensor.dim() != 4) {
    throw_argument(std::string(what) + ".shape", shape_text(tensor), "is not four-dimensional",
                   "pass [batch, tokens, heads, head dim]");
  }
}

}  // namespace

std::string shape_text(const at::Tensor& tensor) {
  std::string text = "[";
  for (const std::int64_t size : tensor.sizes()) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

void rethrow(const Error& error) { C10_THROW_ERROR(ValueError, error.what()); }

DType dtype_of(const at::Tensor& tensor, const char* what) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::f32;
    case at::kBFloat16:
      return DType::bf16;
    case at::kHalf:
      return DType::f16;
    case at::kDouble:
      return DType::f64;
    default:
      throw_argument(std::string(what) + ".dtype", c10::toString(tensor.scalar_type()), "is not a dtype of attention",
                     "use float32, bfloat16, float16, or float64 for gradient checks");
  }
}

at::ScalarType scalar_type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return at::kBFloat16;
    case DType::f16:
      return at::kHalf;
    case DType::f64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

std::vector<Grid> grids_of(at::IntArrayRef grid) {
  if (grid.empty() || grid.size() % 3 != 0) {
    throw_argument("grid", std::to_string(grid.size()) + " numbers", "is not a triple a sample",
                   "pass (t, y, x) in tokens, or a list of such triples");
  }
  std::vector<Grid> grids;
  for (std::size_t i = 0; i < grid.size(); i += 3) grids.push_back({grid[i], grid[i + 1], grid[i + 2]});
  return grids;
}

Block block_of(at::IntArrayRef block) {
  if (block.size() == 3) return Block(block[0], block[1], block[2]);
  if (block.size() == 1) return Block(Run{block[0]});
  throw_argument("block", std::to_string(block.size()) + " numbers", "is neither three extents nor a run",
                 "pass (t, y, x) in tokens with None for a whole axis, or Run(tokens)");
}

std::vector<std::int64_t> numbers_of(const std::vector<Grid>& grids) {
  std::vector<std::int64_t> numbers;
  for (const Grid& grid : grids) numbers.insert(numbers.end(), {grid.t, grid.y, grid.x});
  return numbers;
}

std::vector<std::int64_t> numbers_of(const Block& block) {
  if (const Run* run = block.run()) return {run->tokens};
  const Cuboid& cuboid = *block.cuboid();
  return {cuboid.t, cuboid.y, cuboid.x};
}

Scope scope_of(std::string_view text) {
  for (const Scope scope : {Scope::head, Scope::query, Scope::block, Scope::all}) {
    if (name(scope) == text) return scope;
  }
  throw_argument("policy.scope", "\"" + std::string(text) + "\"", "is not a scope",
                 "use \"head\", \"query\", \"block\" or \"all\"");
}

Text::At text_at_of(std::string_view text) {
  if (text == "front") return Text::At::front;
  if (text == "rear") return Text::At::rear;
  throw_argument("text.at", "\"" + std::string(text) + "\"", "is not a place for text", "use \"front\" or \"rear\"");
}

std::string_view name_of(Text::At at) { return at == Text::At::front ? "front" : "rear"; }

Policy policy_of(std::string_view policy, double amount, std::string_view scope, std::int64_t min_blocks,
                 std::optional<std::int64_t> max_blocks) {
  if (policy == "dense") return Dense{};
  if (policy == "threshold") return Threshold{amount, scope_of(scope), min_blocks, max_blocks};
  if (policy == "topk") {
    if (!(amount >= 1) || amount > 9e15 || amount != std::floor(amount)) {
      throw_argument("policy.k", number(amount), "is not a whole number of blocks", "use 1 or more");
    }
    return TopK{static_cast<std::int64_t>(amount), scope_of(scope), min_blocks, max_blocks};
  }
  throw_argument("policy", "\"" + std::string(policy) + "\"", "is not a policy",
                 "use \"threshold\", \"topk\" or \"dense\"");
}

PolicyNumbers numbers_of(const Policy& policy) {
  if (const auto* rule = std::get_if<Threshold>(&policy)) {
    return {"threshold", rule->tau, std::string(name(rule->scope)), rule->min_blocks, rule->max_blocks};
  }
  if (const auto* rule = std::get_if<TopK>(&policy)) {
    return {"topk", static_cast<double>(rule->k), std::string(name(rule->scope)), rule->min_blocks, rule->max_blocks};
  }
  return {"dense", 0, std::string(name(Scope::head)), 1, std::nullopt};
}

Spec spec_of(at::IntArrayRef grid, at::IntArrayRef block, std::optional<double> scale, std::int64_t text,
             std::string_view text_at, const std::optional<at::Tensor>& valid, std::string_view backend) {
  Spec spec;
  spec.grids = grids_of(grid);
  spec.block = block_of(block);
  spec.scale = scale;
  spec.text = text;
  spec.text_at = text_at_of(text_at);
  if (valid && valid->defined()) spec.text_valid = *valid;
  spec.backend = std::string(backend);
  return spec;
}

Problem problem_of(const at::Tensor& q, const at::Tensor& k, const Spec& spec) {
  check_rank(q, "q");
  check_rank(k, "k");
  const DType dtype = dtype_of(q, "q");
  if (k.scalar_type() != q.scalar_type()) {
    throw_argument("k.dtype", c10::toString(k.scalar_type()),
                   std::string("differs from q.dtype = ") + c10::toString(q.scalar_type()), "cast one of them");
  }
  if (k.device() != q.device()) {
    throw_argument("k.device", k.device().str(), "differs from q.device = " + q.device().str(), "move one of them");
  }
  if (k.size(0) != q.size(0) || k.size(1) != q.size(1) || k.size(3) != q.size(3)) {
    throw_argument("k.shape", shape_text(k), "differs from q.shape = " + shape_text(q) + " outside the heads",
                   "pass keys of the same batch, tokens and head dim");
  }
  if (q.numel() == 0 || k.numel() == 0) {
    const bool q_empty = q.numel() == 0;
    throw_argument(q_empty ? "q.shape" : "k.shape", shape_text(q_empty ? q : k), "is empty",
                   "pass at least one sample, token and head");
  }
  if (spec.grids.empty()) throw_argument("grid", "nothing", "is missing", "pass (t, y, x) in tokens");
  const bool packed = spec.grids.size() > 1;
  if (packed && q.size(0) != 1) {
    throw_argument("q.shape[0]", std::to_string(q.size(0)),
                   "is not 1 although " + std::to_string(spec.grids.size()) + " grids are packed",
                   "pass q as [1, all tokens, heads, head dim], or one grid for every sample");
  }

  ProblemOptions options;
  if (packed) {
    options.grids = spec.grids;
  } else {
    options.grid = spec.grids[0];
    options.batch = q.size(0);
  }
  options.block = spec.block;
  options.heads = q.size(2);
  options.kv_heads = k.size(2);
  options.dim = q.size(3);
  options.dtype = dtype;
  options.policy = spec.policy;
  options.scale = spec.scale;
  options.text.count = spec.text;
  options.text.at = spec.text_at;
  if (spec.text_valid.defined()) {
    const std::int64_t samples = packed ? static_cast<std::int64_t>(spec.grids.size()) : q.size(0);
    if (!at::isIntegralType(spec.text_valid.scalar_type(), false) || spec.text_valid.dim() != 1 ||
        spec.text_valid.size(0) != samples) {
      throw_argument("text.valid", shape_text(spec.text_valid) + " of " + c10::toString(spec.text_valid.scalar_type()),
                     "is not one whole number for each of " + std::to_string(samples) + " samples",
                     "pass an int64 tensor [" + std::to_string(samples) + "]");
    }
    const at::Tensor valid = spec.text_valid.to(at::kCPU, at::kLong).contiguous();
    options.text.valid.assign(valid.const_data_ptr<std::int64_t>(),
                              valid.const_data_ptr<std::int64_t>() + valid.numel());
  }
  Problem problem(std::move(options));
  if (problem.rows() != q.size(1)) {
    const std::string text = spec.text == 0 ? "" : " and " + std::to_string(spec.text) + " text tokens a sample";
    throw_argument(
        "q.shape[1]", std::to_string(q.size(1)),
        "does not equal the " + std::to_string(problem.rows()) + " rows of grid " + grid_text(spec.grids) + text,
        "pass the token grid after patchify and the number of text tokens");
  }
  return problem;
}

Selection selection_of(const at::Tensor& bits, const Problem& problem) {
  const std::int64_t words = Selection::word_count(problem);
  if (bits.scalar_type() != at::kLong || bits.dim() != 1 || bits.size(0) != words || !bits.is_contiguous() ||
      !bits.is_cpu()) {
    throw_argument("bits", shape_text(bits) + " of " + c10::toString(bits.scalar_type()) + " on " + bits.device().str(),
                   "is not the selection of this problem, " + std::to_string(words) + " contiguous int64 on the cpu",
                   "select again for this grid, block, batch and number of heads");
  }
  Selection selection(problem, {static_cast<std::uint64_t*>(bits.data_ptr()), static_cast<std::size_t>(words)});
  // A set bit past the last row would send a kernel out of its tensors.
  for (std::int64_t b = 0; b < selection.batch(); ++b) {
    const std::int64_t used = selection.shape(b).rows() % 64;
    if (used == 0) continue;
    const std::int64_t last = selection.shape(b).words() - 1;
    for (std::int64_t h = 0; h < selection.heads(); ++h) {
      for (std::int64_t c = 0; c < selection.blocks(b); ++c) {
        if (selection.words_of(b, h, c)[last] >> used) {
          throw_argument("bits", "a set bit past row " + std::to_string(selection.shape(b).rows() - 1),
                         "names a token that the grid does not have", "pass bits as select made them");
        }
      }
    }
  }
  return selection;
}

at::Tensor readable(const at::Tensor& t) {
  const bool rows_contiguous = t.size(3) == 1 || t.stride(3) == 1;
  const bool expanded = t.numel() > t.size(3) && t.stride(0) == 0 && t.stride(1) == 0 && t.stride(2) == 0;
  return rows_contiguous && !expanded ? t : t.contiguous();
}

ConstView view_of(const at::Tensor& t) {
  return {t.const_data_ptr(), dtype_of(t, "tensor"), t.stride(0), t.stride(1), t.stride(2)};
}
View mutable_view_of(const at::Tensor& t) {
  return {t.mutable_data_ptr(), dtype_of(t, "tensor"), t.stride(0), t.stride(1), t.stride(2)};
}
ConstView lse_view_of(const at::Tensor& lse) {
  return {lse.const_data_ptr(), dtype_of(lse, "lse"), lse.stride(0), lse.stride(1), lse.stride(2)};
}
View mutable_lse_view_of(const at::Tensor& lse) {
  return {lse.mutable_data_ptr(), dtype_of(lse, "lse"), lse.stride(0), lse.stride(1), lse.stride(2)};
}

Execution execution_of(const std::string& backend, DType dtype) {
  Execution execution;
  // Double runs on the reference whatever VMOBA_BACKEND asks for: nothing else computes in it.
  execution.backend = backend.empty() && dtype == DType::f64 ? "reference" : backend;
  execution.threads = torch_threads();
  execution.parallel_for = torch_parallel_for;
  return execution;
}

void check_like(const at::Tensor& values, const at::Tensor& like, const char* what, const char* like_what) {
  if (values.sizes() != like.sizes()) {
    throw_argument(std::string(what) + ".shape", shape_text(values),
                   std::string("differs from ") + like_what + ".shape = " + shape_text(like), "pass equal shapes");
  }
  if (values.scalar_type() != like.scalar_type()) {
    throw_argument(std::string(what) + ".dtype", c10::toString(values.scalar_type()),
                   std::string("differs from ") + like_what + ".dtype = " + c10::toString(like.scalar_type()),
                   "cast one of them");
  }
  if (values.device() != like.device()) {
    throw_argument(std::string(what) + ".device", values.device().str(),
                   std::string("differs from ") + like_what + ".device = " + like.device().str(), "move one of them");
  }
}

}  // namespace vmoba::ops
