// SPDX-License-Identifier: Apache-2.0
// attend and attend_backward of the cpu backend, for any tier's kernels.
#pragma once

#include <cstdint>

#include "cpu/tier.hpp"
#include "vmoba/attention.hpp"

namespace vmoba::cpu {

// Backend::attend and Backend::attend_backward with the kernels of a tier: views resolved, f32, bf16 or f16, D a
// multiple of 8 up to 256. selection null: dense. The same bits for any number of threads and for a sample alone or in
// a batch.
void attend(const Tier& tier, const Problem& problem, const Selection* selection, const ConstView& q,
            const ConstView& k, const ConstView& v, const View& out, const View& lse, const Execution& execution);
void attend_backward(const Tier& tier, const Problem& problem, const Selection* selection,
                     const BackwardTensors& tensors, const Execution& execution);

// Whether a problem goes through matrix tiles.
inline bool in_tiles(const Tier& tier, const Problem& problem) { return tier.tiles && problem.dtype() == DType::bf16; }

// What each allocates, in bytes; the backward includes fp32 sums of gradients that cannot hold them.
std::int64_t attend_scratch_bytes(const Tier& tier, const Problem& problem, const Execution& execution);
std::int64_t attend_backward_scratch_bytes(const Tier& tier, const Problem& problem, const Execution& execution);

}  // namespace vmoba::cpu
