// SPDX-License-Identifier: Apache-2.0
// One benchmark configuration: torch's attention, our dense attention and our sparse attention over the same tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tools/bench/measure.hpp"
#include "vmoba/policy.hpp"
#include "vmoba/types.hpp"

namespace vmoba::tools {

struct SparseCase {
  std::string label;  // "1D", "2D", "3D", or the block
  Block block;
  Policy policy;
  double density = 0;  // wanted; > 0: policy is Threshold and its tau is searched for on the data
};

// One of torch's contenders.
struct TorchCall {
  std::string dtype, direction;
  bool operator==(const TorchCall&) const = default;
};

struct BenchCase {
  std::string data;
  Grid grid;
  std::int64_t heads = 4, dim = 128;
  DType dtype = DType::f32;
  std::string backend;
  std::vector<SparseCase> sparse;
  bool forward = true, backward = true;
  Rounds rounds;
  std::uint64_t seed = 1;
  std::vector<TorchCall> torch_left_out;  // known to be hopeless: not measured
};

// Columns of a result; see bench/README.md for the JSON.
struct BenchRow {
  std::string contender;  // "torch-sdpa", "vmoba-dense", "vmoba-sparse"
  std::string direction;  // "forward", "forward+backward", "select"
  std::string dtype, layer, block, policy;
  std::int64_t blocks = 0;
  double density = 1;
  Times times;
  double bytes = 0;       // tensors read and written, each once: the least that memory has to move
  double flops = 0;       // attention products of the selected pairs (select: the gate)
  double selection = 0;   // median seconds of the selection alone, already inside times
  double over_torch = 0;  // median of the best torch contender of this direction / this median; 0: none
  double over_dense = 0;  // median of our dense / this median; 0: none
};

// tick(n, of, line) drives a progress bar. Torch's thread count must be set before.
std::vector<BenchRow> run_case(const BenchCase& the_case,
                               const std::function<void(std::int64_t of, const std::string& line)>& tick);

}  // namespace vmoba::tools
