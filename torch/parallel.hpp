// SPDX-License-Identifier: Apache-2.0
// Torch's intra-op threads in the form the engine asks for.
#pragma once

#include <cstdint>
#include <functional>

namespace vmoba::ops {

std::int64_t torch_threads();  // 1 inside a parallel region of torch
void torch_parallel_for(std::int64_t workers, const std::function<void(std::int64_t worker)>& body);

}  // namespace vmoba::ops
