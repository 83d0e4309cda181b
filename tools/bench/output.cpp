// SPDX-License-Identifier: Apache-2.0
// Rows, lines and memory as tables and JSON.
#include "tools/bench/output.hpp"

#include <fmt/format.h>

#include <map>

#include "tools/parse.hpp"

namespace vmoba::tools {

namespace {

// The quicker dtype of torch's attention by direction.
std::map<std::string, std::string> torch_best(const std::vector<BenchRow>& rows) {
  std::map<std::string, std::pair<double, std::string>> best;
  for (const BenchRow& row : rows) {
    if (row.contender != "torch-sdpa") continue;
    const double median = row.times.median();
    const auto [place, fresh] = best.try_emplace(row.direction, median, row.dtype);
    if (!fresh && median < place->second.first) place->second = {median, row.dtype};
  }
  std::map<std::string, std::string> out;
  for (const auto& [direction, entry] : best) out[direction] = entry.second;
  return out;
}

Json to_json(const BenchRow& row, double peak) {
  const double median = row.times.median();
  Json out = {{"contender", row.contender}, {"direction", row.direction}, {"dtype", row.dtype}};
  if (!row.layer.empty()) {
    out["layer"] = row.layer;
    out["block"] = row.block;
    out["blocks"] = row.blocks;
    out["policy"] = row.policy;
  }
  out["density"] = row.density;
  out["seconds"] = {{"median", median},
                    {"fastest", row.times.fastest()},
                    {"slowest", row.times.slowest()},
                    {"spread", row.times.spread()},
                    {"rounds", row.times.seconds.size()}};
  out["flops"] = row.flops;
  out["bytes"] = row.bytes;
  out["gflops_per_second"] = row.flops / median / 1e9;
  out["share_of_peak"] = row.flops / median / peak;
  if (row.selection > 0) out["selection_seconds"] = row.selection;
  if (row.over_torch > 0) out["over_torch"] = row.over_torch;
  if (row.over_dense > 0) out["over_dense"] = row.over_dense;
  return out;
}

}  // namespace

Json to_json(const std::vector<Line>& lines) {
  Json out = Json::array();
  for (const Line& line : lines) {
    Json one = {{"what", line.what}, {"value", line.value}};
    if (line.target) {
      one["rule"] = line.rule == '>' ? ">=" : "<=";
      one["target"] = *line.target;
      one["reached"] = line.reached();
    }
    if (line.spread > 0) one["spread"] = line.spread;
    if (!line.note.empty()) one["note"] = line.note;
    out.push_back(one);
  }
  return out;
}

Table table_of(const std::vector<Line>& lines) {
  Table table({"what", "measured", "spread", "", "target", "reached", "behind it"});
  for (const Line& line : lines)
    table.add({line.what, fmt::format("{:.3f}", line.value),
               line.spread > 0 ? fmt::format("{:.1f} %", 100 * line.spread) : "",
               line.target ? (line.rule == '>' ? ">=" : "<=") : "",
               line.target ? fmt::format("{:g}", *line.target) : "", line.target ? (line.reached() ? "yes" : "no") : "",
               line.note});
  return table;
}

Json to_json(const NamedCase& named, const std::vector<BenchRow>& rows, double peak) {
  const BenchCase& one = named.bench;
  Json list = Json::array();
  for (const BenchRow& row : rows) list.push_back(to_json(row, peak));
  Json out = {{"preset", named.preset},
              {"data", one.data},
              {"grid", {one.grid.t, one.grid.y, one.grid.x}},
              {"tokens", one.grid.tokens()},
              {"heads", one.heads},
              {"dim", one.dim},
              {"dtype", name(one.dtype)},
              {"torch_best", torch_best(rows)},
              {"rows", list}};
  if (!named.sweep.empty()) out["sweep"] = named.sweep;
  return out;
}

std::string title_of(const NamedCase& named) {
  const BenchCase& one = named.bench;
  return fmt::format("{} scaled to {} = {} tokens, {} heads of {}, {}, data {}\n", named.preset, to_text(one.grid),
                     one.grid.tokens(), one.heads, one.dim, name(one.dtype), one.data);
}

std::vector<std::string> row_head() {
  return {"contender", "dtype",  "layer",   "block",   "N",        "direction", "density",
          "median",    "spread", "GFLOP/s", "of peak", "vs torch", "vs dense",  "selection"};
}

std::vector<std::string> cells_of(const BenchRow& row, double peak) {
  const auto ratio = [](double value) { return value > 0 ? fmt::format("{:.2f}x", value) : std::string("-"); };
  const double median = row.times.median();
  return {row.contender,
          row.dtype,
          row.layer,
          row.block,
          row.blocks > 0 ? std::to_string(row.blocks) : "",
          row.direction,
          fmt::format("{:.3f}", row.density),
          seconds_text(median),
          fmt::format("{:.1f} %", 100 * row.times.spread()),
          fmt::format("{:.1f}", row.flops / median / 1e9),
          fmt::format("{:.1f} %", 100 * row.flops / median / peak),
          ratio(row.over_torch),
          ratio(row.over_dense),
          row.selection > 0 ? fmt::format("{:.1f} %", 100 * row.selection / median) : ""};
}

Table table_of(const std::vector<BenchRow>& rows, double peak) {
  Table table(row_head());
  for (const BenchRow& row : rows) table.add(cells_of(row, peak));
  return table;
}

std::string torch_line(const std::vector<BenchRow>& rows) {
  std::string text;
  for (const auto& [direction, dtype] : torch_best(rows))
    text += fmt::format("{}{} in {}", text.empty() ? "" : ", ", direction, dtype);
  return text.empty() ? "" : "vs torch: over the better of f32 and bf16, " + text + "\n";
}

Json to_json(const MemoryUse& use, const ProblemOptions& options) {
  Json out = {{"grid", {options.grid.t, options.grid.y, options.grid.x}},
              {"block", to_text(options.block)},
              {"policy", describe(options.policy)},
              {"heads", options.heads},
              {"dim", options.dim},
              {"dtype", name(options.dtype)},
              {"how",
               "rise of the resident high-water mark (VmHWM) over what was resident with every tensor touched, each "
               "call in a forked child"}};
  if (!use.problem_with_it.empty()) {
    out["skipped"] = use.problem_with_it;
    return out;
  }
  out["backend"] = use.backend;
  out["tensors_bytes"] = use.tensors;
  out["select_bytes"] = use.select;
  out["forward_bytes"] = use.forward;
  out["backward_bytes"] = use.backward;
  out["scratch_bytes_claimed"] = use.claimed;
  out["density"] = use.density;
  out["seconds"] = use.seconds;
  return out;
}

std::string line_of(const MemoryUse& use, const ProblemOptions& options) {
  const std::string what = fmt::format("memory    {} tokens, {} heads of {}, {}, block {}: ", options.grid.tokens(),
                                       options.heads, options.dim, name(options.dtype), to_text(options.block));
  if (!use.problem_with_it.empty()) return what + "not measured, " + use.problem_with_it + "\n";
  return what + fmt::format(
                    "select +{}, forward +{}, backward +{} beyond {} of tensors (scratch_bytes says {}; {}, density "
                    "{:.3f}, {})\n",
                    bytes_text(use.select), bytes_text(use.forward), bytes_text(use.backward), bytes_text(use.tensors),
                    bytes_text(use.claimed), use.backend, use.density, seconds_text(use.seconds));
}

Json to_json(const std::vector<Peak>& peaks) {
  Json out = Json::array();
  for (const Peak& one : peaks) out.push_back({{"tier", one.tier}, {"flops_per_second", one.flops}});
  return out;
}

std::string line_of(const std::vector<Peak>& peaks, const Peak& used) {
  std::string text = "peak      ";
  for (const Peak& one : peaks) text += fmt::format("{} {:.0f}  ", one.tier, one.flops / 1e9);
  return text + fmt::format("GFLOP/s of fp32 multiply-adds; shares below are of {}\n", used.tier);
}

Json to_json(const Steadiness& steadiness) {
  return {{"multiply_adds", steadiness.multiply_adds},
          {"loads", steadiness.loads},
          {"how", "median over best of pieces of some 50 us on one thread: in registers, and from the first cache"}};
}

std::string line_of(const Steadiness& steadiness) {
  return fmt::format("steady    multiply-adds at {:.0f} % of their best, reads of the first cache at {:.0f} %\n",
                     100 * steadiness.multiply_adds, 100 * steadiness.loads);
}

Json to_json(const Bandwidth& bandwidth) {
  return {
      {"bytes_per_second", bandwidth.bytes},
      {"buffer_bytes", bandwidth.buffer},
      {"how", "a buffer far larger than the caches, read from end to end by all threads at once; best of a few runs"}};
}

std::string line_of(const Bandwidth& bandwidth) {
  return fmt::format("memory    {:.1f} GB/s, read from {}\n", bandwidth.bytes / 1e9,
                     bytes_text(static_cast<double>(bandwidth.buffer)));
}

}  // namespace vmoba::tools
