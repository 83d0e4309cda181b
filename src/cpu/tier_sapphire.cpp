// SPDX-License-Identifier: Apache-2.0
// The tier sapphire: AMX tiles for bf16 problems; what tier skylake runs for the others, and for selection.
#include "cpu/tier.hpp"
#include "cpu/tile_item.hpp"

namespace vmoba::cpu {
namespace sapphire {
namespace {
#include "cpu/vec.hpp"

#include "cpu/product_inl.hpp"
#include "cpu/rows_inl.hpp"

#include "cpu/gate_inl.hpp"

#include "cpu/attend_backward_inl.hpp"
#include "cpu/attend_inl.hpp"

#include "cpu/tile.hpp"

#include "cpu/tile_amx_inl.hpp"
#include "cpu/tile_pack_inl.hpp"

#include "cpu/tile_attend_inl.hpp"

#include "cpu/tile_attend_backward_inl.hpp"

void attend_any(const AttendItem& item) { item.shape.dtype == DType::bf16 ? attend_with_tiles(item) : attend(item); }
void attend_backward_any(const BackwardItem& item) {
  item.shape.dtype == DType::bf16 ? attend_backward_with_tiles(item) : attend_backward(item);
}
}  // namespace
}  // namespace sapphire

const Tier sapphire_tier{sapphire::gate_kernels, sapphire::pack_panels, sapphire::attend_any,
                         sapphire::attend_backward_any, true};

}  // namespace vmoba::cpu
