// SPDX-License-Identifier: Apache-2.0
// Operators that look at a selection or at the engine itself; none is differentiable, all run on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace vmoba::ops {

// bits int64 [words] of a selection of batch samples; grid 3 numbers, or 3 a sample (then batch is their number).
std::vector<at::Tensor> selection_mask(const at::Tensor& bits, std::int64_t batch, std::int64_t heads,
                                       at::IntArrayRef grid, at::IntArrayRef block);  // a sample: bool [H, S, N]
std::vector<at::Tensor> selection_counts(const at::Tensor& bits, std::int64_t batch, std::int64_t heads,
                                         at::IntArrayRef grid, at::IntArrayRef block);  // a sample: int64 [H, S]
at::Tensor selection_density(const at::Tensor& bits, std::int64_t batch, std::int64_t heads, at::IntArrayRef grid,
                             at::IntArrayRef block);  // double [B, H]
std::int64_t selection_words(std::int64_t batch, std::int64_t heads, at::IntArrayRef grid, at::IntArrayRef block);
// The engine's file format. Written to a temporary name and renamed.
void selection_save(const at::Tensor& bits, std::int64_t batch, std::int64_t heads, at::IntArrayRef grid,
                    at::IntArrayRef block, const std::string& path);
// bits, heads, grids (3 a sample), block. Block rows are expanded to tokens.
std::tuple<at::Tensor, std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>> selection_load(
    const std::string& path);
at::Tensor partition_labels(at::IntArrayRef grid, at::IntArrayRef block);  // int64 [S] own block of each token

std::string info();          // version, torch, threads, backends with their refusals
std::string presets_json();  // every preset: grid, cycle of blocks and policies, schedule, source
std::string explain_json(at::IntArrayRef grid, at::IntArrayRef block, const std::string& policy, double amount,
                         const std::string& scope, std::int64_t min_blocks, std::optional<std::int64_t> max_blocks,
                         std::int64_t batch, std::int64_t heads, std::int64_t kv_heads, std::int64_t dim,
                         const std::string& dtype, std::optional<double> scale, std::int64_t text,
                         const std::string& text_at, const std::string& backend);
// Schedule::dense, Schedule::refreshes and Schedule::first_sparse_step at once. use: "sampling" or "training".
// min_tokens left out: automatic.
std::tuple<bool, bool, std::int64_t> schedule(double dense_fraction, std::optional<std::int64_t> dense_steps,
                                              at::IntArrayRef dense_layers, std::optional<std::int64_t> min_tokens,
                                              std::int64_t refresh, std::int64_t step, std::int64_t steps,
                                              std::int64_t layer, std::int64_t tokens, const std::string& use);

}  // namespace vmoba::ops
