// SPDX-License-Identifier: Apache-2.0
// One benchmark configuration.
#include "tools/bench/run.hpp"

#include <algorithm>
#include <map>

#include "tools/bench/contenders.hpp"
#include "tools/parse.hpp"
#include "torch/spec.hpp"

namespace vmoba::tools {

std::vector<BenchRow> run_case(const BenchCase& the_case,
                               const std::function<void(std::int64_t, const std::string&)>& tick) {
  const Inputs inputs = make_inputs(the_case.data, the_case.grid, the_case.heads, the_case.dim, the_case.seed);
  const auto tokens = static_cast<double>(the_case.grid.tokens());
  const double pairs = tokens * tokens * static_cast<double>(the_case.heads);
  const double pair_flops = 4.0 * static_cast<double>(the_case.dim);
  // Each of q, k, v, out (backward: of q, k, v, out, dout, dq, dk, dv too) once.
  const double one_tensor = tokens * static_cast<double>(the_case.heads * the_case.dim);
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
    const double tensor_bytes = one_tensor * static_cast<double>(x.q.element_size());
    const auto& left_out = the_case.torch_left_out;
    for (const bool backward : {false, true}) {
      if (!(backward ? the_case.backward : the_case.forward)) continue;
      row.direction = backward ? "forward+backward" : "forward";
      if (row.contender == "torch-sdpa" &&
          std::find(left_out.begin(), left_out.end(), TorchCall{row.dtype, row.direction}) != left_out.end())
        continue;
      row.flops = (backward ? 3.5 : 1.0) * pair_flops * pairs * row.density;
      row.bytes = (backward ? 12 : 4) * tensor_bytes;
      add(row, group + row.direction, backward ? with_backward(x, forward) : forward_only(x, forward));
    }
  };

  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    both({.contender = "torch-sdpa", .dtype = type == at::kFloat ? "f32" : "bf16"}, Leaves(inputs, type, true),
         "dense ", torch_sdpa());
  const Leaves own(inputs, ops::scalar_type_of(the_case.dtype), false);
  both({.contender = "vmoba-dense", .dtype = own_dtype}, own, "dense ",
       vmoba_attention(spec_of(the_case.grid, Block{}, Dense{}, the_case.backend)));
  for (const SparseCase& sparse : the_case.sparse) {
    ops::Spec spec = spec_of(the_case.grid, sparse.block, sparse.policy, the_case.backend);
    if (sparse.density > 0) spec = tuned(own, spec, sparse.density);
    BenchRow row{
        .contender = "vmoba-sparse", .dtype = own_dtype, .layer = sparse.label, .block = to_text(sparse.block)};
    row.policy = describe(spec.policy);
    row.blocks = Partition(the_case.grid, sparse.block).blocks();
    row.density = density_of(own, select_once(own, spec), spec);
    both(row, own, sparse.label, vmoba_attention(spec));
    row.direction = "select";
    row.flops = 2.0 * one_tensor * static_cast<double>(row.blocks);
    row.bytes = 2 * one_tensor * static_cast<double>(own.q.element_size());
    add(row, sparse.label + "select", select_only(own, spec));
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
