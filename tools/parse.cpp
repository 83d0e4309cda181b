// SPDX-License-Identifier: Apache-2.0
// Command-line spellings of grids, blocks, policies and whole attention calls.
#include "tools/parse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "io/file.hpp"
#include "tools/output.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

std::vector<std::string> split(const std::string& text, std::string_view separators) {
  std::vector<std::string> out(1);
  for (const char c : text) {
    if (separators.find(c) != std::string_view::npos)
      out.emplace_back();
    else if (c != ' ')
      out.back() += c;
  }
  return out;
}

template <class Number>
std::optional<Number> number(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> extent(const std::string& text) {
  if (text == "f" || text == "full") return full;
  return number<std::int64_t>(text);
}

constexpr std::array scopes{Scope::head, Scope::query, Scope::block, Scope::all};

}  // namespace

Grid parse_grid(const std::string& text, const std::string& option) {
  const std::vector<std::string> parts = split(text, ",x");
  std::vector<std::int64_t> axes;
  for (const std::string& part : parts)
    if (const auto value = number<std::int64_t>(part)) axes.push_back(*value);
  if (parts.size() != 3 || axes.size() != 3)
    throw_argument(option, text, "is not three whole numbers T,Y,X", "write for example 21,30,52");
  for (const std::int64_t axis : axes)
    if (axis < 1) throw_argument(option, text, "has an axis below 1", "every axis of a grid is 1 or more tokens");
  return {axes[0], axes[1], axes[2]};
}

Block parse_block(const std::string& text, const std::string& option) {
  if (text.rfind("run:", 0) == 0) {
    const auto tokens = number<std::int64_t>(text.substr(4));
    if (!tokens) throw_argument(option, text, "is not a number of tokens", "write for example run:1024");
    return Run{*tokens};
  }
  const std::vector<std::string> parts = split(text, ",x");
  std::vector<std::int64_t> axes;
  for (const std::string& part : parts)
    if (const auto value = extent(part)) axes.push_back(*value);
  if (parts.size() != 3 || axes.size() != 3)
    throw_argument(option, text, "is not three extents T,Y,X", "write for example 7,5,13 or 3,f,f or run:1024");
  for (const std::int64_t axis : axes)
    if (axis < 1 && axis != full)
      throw_argument(option, text, "has an extent below 1", "use 1 or more tokens, or f for the whole axis");
  return {axes[0], axes[1], axes[2]};
}

std::vector<Block> parse_blocks(const std::string& text, const std::string& option) {
  std::vector<Block> out;
  for (const std::string& part : split(text, ";")) out.push_back(parse_block(part, option));
  return out;
}

Policy parse_policy(const std::string& text, const std::string& option) {
  std::vector<std::string> parts = split(text, ":");
  const std::string rule = parts[0];
  if (rule == "dense") {
    if (parts.size() > 1) throw_argument(option, text, "gives dense a parameter", "write just dense");
    return Dense{};
  }
  if (rule != "threshold" && rule != "topk")
    throw_argument(option, text, "is no policy known here", std::string("write ") + policy_help);
  if (parts.size() < 2) throw_argument(option, text, "lacks its number", "write for example threshold:0.25 or topk:3");
  const auto read = [&](auto policy, auto& amount, auto value) -> Policy {
    if (!value)
      throw_argument(option, text, "does not start with a number", "write for example threshold:0.25 or topk:3");
    amount(policy) = *value;
    for (std::size_t i = 2; i < parts.size(); ++i) {
      const std::string& part = parts[i];
      const auto scope = std::find_if(scopes.begin(), scopes.end(), [&](Scope s) { return name(s) == part; });
      const bool floor = part.rfind("min=", 0) == 0, cap = part.rfind("max=", 0) == 0;
      const auto blocks = floor || cap ? number<std::int64_t>(part.substr(4)) : std::nullopt;
      if (scope != scopes.end())
        policy.scope = *scope;
      else if (floor && blocks)
        policy.min_blocks = *blocks;
      else if (cap && blocks)
        policy.max_blocks = *blocks;
      else
        throw_argument(option, text, fmt::format("has '{}', which is no scope, min=N or max=N", part),
                       std::string("write ") + policy_help);
    }
    return policy;
  };
  if (rule == "threshold") {
    const auto amount = [](Threshold& policy) -> double& { return policy.tau; };
    return read(Threshold{}, amount, number<double>(parts[1]));
  }
  const auto amount = [](TopK& policy) -> std::int64_t& { return policy.k; };
  return read(TopK{}, amount, number<std::int64_t>(parts[1]));
}

DType parse_dtype(const std::string& text, const std::string& option) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64})
    if (name(dtype) == text) return dtype;
  throw_argument(option, text, "is no dtype known here", "use f32, bf16, f16, or f64 on the reference backend");
}

std::vector<double> parse_numbers(const std::string& text, const std::string& option) {
  std::vector<double> out;
  for (const std::string& part : split(text, ",")) {
    const auto value = number<double>(part);
    if (!value || !std::isfinite(*value))
      throw_argument(option, text, fmt::format("has '{}', which is no number", part), "write numbers apart by commas");
    out.push_back(*value);
  }
  return out;
}

std::string to_text(const Grid& grid) { return fmt::format("{}x{}x{}", grid.t, grid.y, grid.x); }

std::string to_text(const Block& block) {
  if (const Run* run = block.run()) return fmt::format("run:{}", run->tokens);
  const auto axis = [](std::int64_t extent) {
    return extent == full ? std::string("full") : fmt::format("{}", extent);
  };
  const Cuboid& cuboid = *block.cuboid();
  return fmt::format("{}x{}x{}", axis(cuboid.t), axis(cuboid.y), axis(cuboid.x));
}

std::string spelled(const Block& block) {
  const Cuboid* const cuboid = block.cuboid();
  if (cuboid == nullptr) return to_text(block);
  const auto axis = [](std::int64_t extent) { return extent == full ? std::string("f") : fmt::format("{}", extent); };
  return axis(cuboid->t) + "," + axis(cuboid->y) + "," + axis(cuboid->x);
}

std::string spelled(const Policy& policy) {
  const auto rest = [](std::string text, const auto& rule) {
    const auto usual = std::decay_t<decltype(rule)>{};
    if (rule.scope != usual.scope) text += fmt::format(":{}", name(rule.scope));
    if (rule.min_blocks != usual.min_blocks) text += fmt::format(":min={}", rule.min_blocks);
    return rule.max_blocks ? text + fmt::format(":max={}", *rule.max_blocks) : text;
  };
  if (const auto* rule = std::get_if<Threshold>(&policy)) return rest(fmt::format("threshold:{}", rule->tau), *rule);
  if (const auto* rule = std::get_if<TopK>(&policy)) return rest(fmt::format("topk:{}", rule->k), *rule);
  return "dense";
}

Block clamp(const Block& block, const Grid& grid) {
  if (const Run* run = block.run()) return Run{std::min(run->tokens, grid.tokens())};
  const Cuboid& cuboid = *block.cuboid();
  return {std::min(cuboid.t, grid.t), std::min(cuboid.y, grid.y), std::min(cuboid.x, grid.x)};
}

Grid scale_to(const Grid& grid, double tokens) {
  const double factor = std::cbrt(tokens / static_cast<double>(grid.tokens()));
  const auto axis = [&](std::int64_t extent) {
    return std::max<std::int64_t>(1, std::llround(static_cast<double>(extent) * factor));
  };
  return {axis(grid.t), axis(grid.y), axis(grid.x)};
}

void CallOptions::declare(CLI::App& command) {
  command.add_option("--preset", preset, "named configuration: fills grid, block and policy (see vmoba info)");
  command.add_option("--layer", layer, "layer of the preset's cycle of 1D, 2D, 3D blocks")->capture_default_str();
  command.add_option("--grid", grid, "token grid T,Y,X, after the patch");
  command.add_option("--block", block, std::string(block_help) + "; left out: one block");
  command.add_option("--policy", policy, std::string(policy_help) + "; left out: threshold:0.25");
  command.add_option("--heads", heads, "query heads H")->capture_default_str();
  command.add_option("--kv-heads", kv_heads, "key and value heads G, dividing H; 0: as many as query heads")
      ->capture_default_str();
  command.add_option("--dim", dim, "head dim D")->capture_default_str();
  command.add_option("--batch", batch, "samples B")->capture_default_str();
  command.add_option("--text", text, "text tokens L of joint attention")->capture_default_str();
  command.add_option("--text-at", text_at, "where the text tokens stand: front or rear")->capture_default_str();
  command.add_option("--dtype", dtype, "f32, bf16, f16, f64")->capture_default_str();
  command.add_option("--backend", backend, "one backend by name; left out: the best that takes the call");
  command.add_option("--threads", threads, threads_help)->capture_default_str();
}

ProblemOptions CallOptions::problem() const {
  ProblemOptions out;
  if (layer < 0)
    throw_argument("--layer", std::to_string(layer), "is below 0", "use 0 for 1D, 1 for 2D, 2 for 3D blocks");
  if (!preset.empty()) {
    const Preset& row = vmoba::preset(preset);
    out.grid = row.grid;
    out.block = row.layer(layer).block;
    out.policy = row.layer(layer).policy;
  } else if (grid.empty()) {
    throw_argument("--grid", "nothing", "is needed when no preset is named",
                   "give --grid T,Y,X --block T,Y,X or --preset NAME");
  }
  if (!grid.empty()) {
    out.grid = parse_grid(grid, "--grid");
    out.block = clamp(out.block, out.grid);
  }
  if (!block.empty()) out.block = parse_block(block, "--block");
  if (!policy.empty()) out.policy = parse_policy(policy, "--policy");
  out.batch = batch;
  out.heads = heads;
  out.kv_heads = kv_heads;
  out.dim = dim;
  out.dtype = parse_dtype(dtype, "--dtype");
  out.text.count = text;
  if (text_at != "front" && text_at != "rear")
    throw_argument("--text-at", text_at, "is neither front nor rear", "use front or rear");
  out.text.at = text_at == "front" ? Text::At::front : Text::At::rear;
  return out;
}

std::optional<CostModel> read_costs(const std::string& path) {
  if (path.empty()) return {};
  return parse_costs(io::read_file(path, 65536), path);
}

std::int64_t thread_count(std::int64_t threads) {
  if (threads < 0)
    throw_argument("--threads", std::to_string(threads), "is below 0", "use 1 or more, or 0 for one a core");
  if (threads > 4096)
    throw_argument("--threads", std::to_string(threads), "is more than 4096", "use the number of cores, or 0");
  if (threads > 0) return threads;
  const char* const beside = std::getenv("LOCAL_WORLD_SIZE");
  const std::int64_t processes = beside == nullptr ? 1 : number<std::int64_t>(beside).value_or(0);
  if (processes < 1)
    throw_argument("LOCAL_WORLD_SIZE", beside, "is not a number of processes", "leave it unset, or use torchrun");
  return std::max<std::int64_t>(1, machine().cores / processes);
}

}  // namespace vmoba::tools
