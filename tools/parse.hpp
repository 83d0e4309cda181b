// SPDX-License-Identifier: Apache-2.0
// Grids, blocks and policies as people write them on a command line, and the options that describe one attention call.
#pragma once

#include <CLI/CLI.hpp>

#include <optional>
#include <string>
#include <vector>

#include "vmoba/cost.hpp"
#include "vmoba/preset.hpp"
#include "vmoba/problem.hpp"

namespace vmoba::tools {

// All throw vmoba::Error (kind argument) that names the option, the value, the rule and the way out.
Grid parse_grid(const std::string& text, const std::string& option);      // "21,30,52" or "21x30x52": T,Y,X
Block parse_block(const std::string& text, const std::string& option);    // "7,5,13"; f or full: the axis; "run:1024"
Policy parse_policy(const std::string& text, const std::string& option);  // see policy_help
std::vector<Block> parse_blocks(const std::string& text, const std::string& option);  // "3,f,f;f,4,5;4,4,5"
DType parse_dtype(const std::string& text, const std::string& option);
std::vector<double> parse_numbers(const std::string& text, const std::string& option);  // "0.1,0.2"
std::string to_text(const Grid& grid);                                                  // "21x30x52"
std::string to_text(const Block& block);  // "7x5x13", "3xfullxfull", "run:1024"
// What the functions above read back as the same.
std::string spelled(const Block& block);    // "7,5,13", "3,f,f", "run:1024"
std::string spelled(const Policy& policy);  // "threshold:0.25", "topk:3:head:min=2"

inline constexpr const char* policy_help =
    "dense, threshold:TAU[:SCOPE] or topk:K[:SCOPE], then [:min=N][:max=N] blocks per query; scopes head, query, "
    "block, all";
inline constexpr const char* block_help = "block extents T,Y,X in tokens (f: the whole axis), or run:TOKENS";

// Cuts block down to a smaller grid: extents larger than an axis become the axis, a longer run the whole grid.
Block clamp(const Block& block, const Grid& grid);
// A grid of about tokens tokens with the aspect of grid: every axis is scaled by the same factor, none below 1.
Grid scale_to(const Grid& grid, double tokens);

// The options of verbs that speak about one attention call.
struct CallOptions {
  std::string preset, grid, block, policy, dtype = "f32", text_at = "rear", backend;
  std::int64_t layer = 0, heads = 12, kv_heads = 0, dim = 128, batch = 1, text = 0, threads = 0;
  void declare(CLI::App& command);
  // Preset rows fill what --grid, --block and --policy leave out.
  ProblemOptions problem() const;
};
// The file that vmoba bench --fit --out writes; nothing for "". Throws Error (kind file).
std::optional<CostModel> read_costs(const std::string& path);
inline constexpr const char* threads_help = "threads; 0: one a core, under torchrun this process's share of the cores";
// threads > 0, or every core this process may use; under torchrun, whose LOCAL_WORLD_SIZE processes share the machine,
// that number divided by theirs, at least 1. Throws Error (kind argument) for what is no number of threads or of
// processes.
std::int64_t thread_count(std::int64_t threads);

}  // namespace vmoba::tools
