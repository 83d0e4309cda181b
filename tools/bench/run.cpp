// SPDX-License-Identifier: Apache-2.0
// One benchmark configuration.
#include "tools/bench/run.hpp"

#include <torch/torch.h>

#include <algorithm>
#include <map>

#include "tools/bench/data.hpp"
#include "tools/parse.hpp"
#include "torch/attention.hpp"

namespace vmoba::tools {

namespace {

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return at::kBFloat16;
    case DType::f16:
      return at::kHalf;
    case DType::f64:
      return at::kDouble;
    case DType::f32:
      break;
  }
  return at::kFloat;
}

// q, k, v ready for gradients, and what flows back.
struct Leaves {
  at::Tensor q, k, v, dout;
  Leaves(const Inputs& inputs, at::ScalarType type, bool heads_first) {
    const auto ready = [&](const at::Tensor& x) {
      return (heads_first ? x.transpose(1, 2) : x).to(type).contiguous().clone();
    };
    q = ready(inputs.q).requires_grad_();
    k = ready(inputs.k).requires_grad_();
    v = ready(inputs.v).requires_grad_();
    dout = ready(inputs.dout);
  }
};

using Forward = std::function<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&)>;

std::function<void()> forward_only(const Leaves& x, Forward forward) {
  return [x, forward = std::move(forward)] {
    const torch::NoGradGuard no_grad;
    forward(x.q, x.k, x.v);
  };
}

std::function<void()> with_backward(const Leaves& x, Forward forward) {
  return [x, forward = std::move(forward)] {
    torch::autograd::grad({forward(x.q, x.k, x.v)}, {x.q, x.k, x.v}, {x.dout});
  };
}

ops::Spec spec_of(const BenchCase& the_case, const Block& block, const Policy& policy) {
  ops::Spec spec;
  spec.grids = {the_case.grid};
  spec.block = block;
  spec.policy = policy;
  spec.backend = the_case.backend;
  return spec;
}

double density_of(const Leaves& x, const ops::Spec& spec) {
  const torch::NoGradGuard no_grad;
  const at::Tensor bits = ops::select(x.q, x.k, spec);
  return ops::selection_of(bits, ops::problem_of(x.q, x.k, spec)).density();
}

// The tau that gives the wanted density on these tensors; density grows with tau.
Policy tuned(const Leaves& x, const BenchCase& the_case, const SparseCase& sparse) {
  Threshold policy =
      std::holds_alternative<Threshold>(sparse.policy) ? std::get<Threshold>(sparse.policy) : Threshold{};
  double low = 0.001, high = 1.1;
  for (int step = 0; step < 10; ++step) {
    policy.tau = (low + high) / 2;
    (density_of(x, spec_of(the_case, sparse.block, policy)) < sparse.density ? low : high) = policy.tau;
  }
  return policy;
}

}  // namespace

std::vector<BenchRow> run_case(const BenchCase& the_case,
                               const std::function<void(std::int64_t, const std::string&)>& tick) {
  const Inputs inputs = make_inputs(the_case.data, the_case.grid, the_case.heads, the_case.dim, the_case.seed);
  const auto tokens = static_cast<double>(the_case.grid.tokens());
  const double pairs = tokens * tokens * static_cast<double>(the_case.heads);
  const double pair_flops = 4.0 * static_cast<double>(the_case.dim);
  const std::string own_dtype(name(the_case.dtype));
  std::vector<Contender> contenders;
  std::vector<std::string> groups;
  std::vector<BenchRow> rows;
  const auto add = [&](BenchRow row, const std::string& group, std::function<void()> run) {
    contenders.push_back({row.contender + " " + row.dtype + " " + row.layer + " " + row.direction, std::move(run)});
    groups.push_back(group);
    rows.push_back(std::move(row));
  };
  const auto both = [&](BenchRow row, const Leaves& x, const std::string& group, const Forward& forward) {
    if (the_case.forward) {
      row.direction = "forward";
      row.flops = pair_flops * pairs * row.density;
      add(row, group + row.direction, forward_only(x, forward));
    }
    if (the_case.backward) {
      row.direction = "forward+backward";
      row.flops = 3.5 * pair_flops * pairs * row.density;
      add(row, group + row.direction, with_backward(x, forward));
    }
  };

  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const Forward sdpa = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return at::scaled_dot_product_attention(q, k, v);
    };
    both({.contender = "torch-sdpa", .dtype = type == at::kFloat ? "f32" : "bf16"}, Leaves(inputs, type, true),
         "dense ", sdpa);
  }
  const Leaves own(inputs, scalar_type(the_case.dtype), false);
  const ops::Spec dense = spec_of(the_case, Block{}, Dense{});
  both({.contender = "vmoba-dense", .dtype = own_dtype}, own, "dense ",
       [dense](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
         return ops::attention(q, k, v, dense);
       });
  for (const SparseCase& sparse : the_case.sparse) {
    const Policy policy = sparse.density > 0 ? tuned(own, the_case, sparse) : sparse.policy;
    const ops::Spec spec = spec_of(the_case, sparse.block, policy);
    BenchRow row{
        .contender = "vmoba-sparse", .dtype = own_dtype, .layer = sparse.label, .block = to_text(sparse.block)};
    row.policy = describe(policy);
    row.blocks = Partition(the_case.grid, sparse.block).blocks();
    row.density = density_of(own, spec);
    both(row, own, sparse.label, [spec](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return ops::attention(q, k, v, spec);
    });
    row.direction = "select";
    row.flops = 2.0 * tokens * static_cast<double>(row.blocks * the_case.heads * the_case.dim);
    add(row, sparse.label + "select", [own, spec] {
      const torch::NoGradGuard no_grad;
      ops::select(own.q, own.k, spec);
    });
  }

  const auto runs = static_cast<std::int64_t>(contenders.size()) * (the_case.rounds.most + 1);
  measure_rounds(contenders, groups, the_case.rounds, [&](const std::string& line) { tick(runs, line); });

  std::map<std::string, double> torch_best, dense_median, selection;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    BenchRow& row = rows[i];
    row.times = contenders[i].times;
    const double median = row.times.median();
    if (row.contender == "torch-sdpa") {
      const auto [place, fresh] = torch_best.emplace(row.direction, median);
      if (!fresh) place->second = std::min(place->second, median);
    }
    if (row.contender == "vmoba-dense") dense_median[row.direction] = median;
    if (row.direction == "select") selection[row.layer] = median;
  }
  for (BenchRow& row : rows) {
    const double median = row.times.median();
    if (torch_best.contains(row.direction)) row.over_torch = torch_best[row.direction] / median;
    if (dense_median.contains(row.direction) && row.contender == "vmoba-sparse")
      row.over_dense = dense_median[row.direction] / median;
    if (row.contender == "vmoba-sparse" && row.direction != "select") row.selection = selection[row.layer];
  }
  return rows;
}

}  // namespace vmoba::tools
