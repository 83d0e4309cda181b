// SPDX-License-Identifier: Apache-2.0
// The tier skylake: AVX-512 F, BW, DQ and VL.
#include "cpu/tier.hpp"

namespace vmoba::cpu {
namespace skylake {
namespace {
#include "cpu/vec.hpp"

#include "cpu/product_inl.hpp"
#include "cpu/rows_inl.hpp"

#include "cpu/gate_inl.hpp"

#include "cpu/attend_backward_inl.hpp"
#include "cpu/attend_inl.hpp"
}  // namespace
}  // namespace skylake

const Tier skylake_tier{skylake::gate_kernels, skylake::pack_panels, skylake::attend, skylake::attend_backward};

}  // namespace vmoba::cpu
