// SPDX-License-Identifier: Apache-2.0
// The cpu tiers as backends.
#pragma once

#include <span>

#include "vmoba/backend.hpp"

namespace vmoba::cpu {

std::span<const Backend> backends();  // cpu:skylake, cpu:haswell, cpu:generic: best first

}  // namespace vmoba::cpu
