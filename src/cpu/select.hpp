// SPDX-License-Identifier: Apache-2.0
// select of the cpu backend, for any tier's gate kernels.
#pragma once

#include "cpu/gate_item.hpp"
#include "vmoba/execution.hpp"
#include "vmoba/problem.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::cpu {

// Backend::select with the kernels of a tier. q and k resolved, f32, bf16 or f16, D a multiple of 8; every word of the
// selection is written. Equals reference::select except for pairs whose gates lie within rounding of the cut; the same
// bits for any number of threads, on every run, and for a sample alone or in a batch.
void select(const GateKernels& kernels, const Problem& problem, const ConstView& q, const ConstView& k,
            Selection& selection, const Execution& execution);

// The most that select allocates, in bytes.
std::int64_t select_scratch_bytes(const Problem& problem, const Execution& execution);

}  // namespace vmoba::cpu
