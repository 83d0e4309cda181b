// SPDX-License-Identifier: Apache-2.0
// The matrix tile kernels over the vectors of tier generic, tiles emulated.
#include "cpu/amx_emulated.hpp"
#include "cpu/tile_item.hpp"

namespace vmoba::cpu {
namespace emulated_generic {
namespace {
#include "cpu/vec.hpp"

#include "cpu/product_inl.hpp"
#include "cpu/rows_inl.hpp"

#include "cpu/gate_inl.hpp"

#include "cpu/attend_backward_inl.hpp"
#include "cpu/attend_inl.hpp"

#include "cpu/tile.hpp"

#include "cpu/tile_emulated_inl.hpp"
#include "cpu/tile_pack_inl.hpp"

#include "cpu/tile_attend_inl.hpp"

#include "cpu/tile_attend_backward_inl.hpp"

void attend_any(const AttendItem& item) { item.shape.dtype == DType::bf16 ? attend_with_tiles(item) : attend(item); }
void attend_backward_any(const BackwardItem& item) {
  item.shape.dtype == DType::bf16 ? attend_backward_with_tiles(item) : attend_backward(item);
}
}  // namespace
}  // namespace emulated_generic

const Tier emulated_generic_tier{emulated_generic::gate_kernels, emulated_generic::pack_panels,
                                 emulated_generic::attend_any, emulated_generic::attend_backward_any, true};

}  // namespace vmoba::cpu
