// SPDX-License-Identifier: Apache-2.0
// The tier generic: plain C++ over four-lane vectors: SSE2 on x86-64, NEON on Arm.
#include "cpu/tier.hpp"

namespace vmoba::cpu {
namespace generic {
namespace {
#include "cpu/vec.hpp"

#include "cpu/product_inl.hpp"
#include "cpu/rows_inl.hpp"

#include "cpu/gate_inl.hpp"

#include "cpu/attend_backward_inl.hpp"
#include "cpu/attend_inl.hpp"
}  // namespace
}  // namespace generic

const Tier generic_tier{generic::gate_kernels, generic::pack_panels, generic::attend, generic::attend_backward};

}  // namespace vmoba::cpu
