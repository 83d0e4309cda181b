// SPDX-License-Identifier: Apache-2.0
// Tiers that exist for tests only: the matrix tile kernels with tiles emulated in plain C++.
#pragma once

#include "cpu/tier.hpp"

namespace vmoba::cpu {

extern const Tier emulated_generic_tier;
#if defined(__x86_64__)
extern const Tier emulated_haswell_tier;
extern const Tier emulated_skylake_tier;
#endif

}  // namespace vmoba::cpu
