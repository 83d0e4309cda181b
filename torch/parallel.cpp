// SPDX-License-Identifier: Apache-2.0
// The engine's threads are torch's: its parallel_for on at::parallel_for. Compiled with -fopenmp, which that header
// needs; the runtime is the one torch has already loaded, so this library links none of its own.
#include "torch/parallel.hpp"

#include <ATen/Parallel.h>

namespace vmoba::ops {

std::int64_t torch_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

void torch_parallel_for(std::int64_t workers, const std::function<void(std::int64_t worker)>& body) {
  at::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) body(worker);
  });
}

}  // namespace vmoba::ops
