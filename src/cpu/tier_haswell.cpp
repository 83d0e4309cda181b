// SPDX-License-Identifier: Apache-2.0
// The tier haswell: AVX2, FMA and F16C.
#include "cpu/tier.hpp"

namespace vmoba::cpu {
namespace haswell {
namespace {
#include "cpu/vec.hpp"

#include "cpu/product_inl.hpp"
#include "cpu/rows_inl.hpp"

#include "cpu/gate_inl.hpp"

#include "cpu/attend_backward_inl.hpp"
#include "cpu/attend_inl.hpp"
}  // namespace
}  // namespace haswell

const Tier haswell_tier{haswell::gate_kernels, haswell::pack_panels, haswell::attend, haswell::attend_backward};

}  // namespace vmoba::cpu
