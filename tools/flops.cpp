// SPDX-License-Identifier: Apache-2.0
// vmoba flops: the FLOPs model of the paper (its table of dense and sparse forwards), for its model or the user's.
#include <fmt/format.h>

#include <array>
#include <memory>

#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"
#include "vmoba/preset.hpp"

namespace vmoba::tools {

namespace {

struct Row {
  std::string label, preset;
  Grid grid;
  double blocks = 0, density = 0, paper_dense = 0, paper_sparse = 0;  // TFLOPs as printed; 0: the paper has none
};

// The paper's table. Densities are those it reports; presets carry the blocks.
struct PaperRow {
  const char* preset;
  double density, dense, sparse;
};
constexpr std::array paper{
    PaperRow{"paper-81x320x512", 0.182, 67.73, 40.48},    PaperRow{"paper-81x480x832", 0, 281.64, 0},
    PaperRow{"paper-93x576x1024", 0.190, 705.02, 248.68}, PaperRow{"paper-141x480x832", 0.180, 724.97, 248.39},
    PaperRow{"paper-81x720x1280", 0, 1246.78, 0},
};

double mean_blocks(const Preset& preset, const Grid& grid) {
  double sum = 0;
  for (const LayerPolicy& layer : preset.cycle)
    sum += static_cast<double>(Partition(grid, clamp(layer.block, grid)).blocks());
  return sum / 3;
}

}  // namespace

Action setup_flops(CLI::App& command) {
  struct Options {
    FlopsModel model;
    std::string preset, grid;
    double blocks = 0, density = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  command.add_option("--layers", options->model.layers, "transformer layers")->capture_default_str();
  command.add_option("--heads", options->model.heads, "heads H")->capture_default_str();
  command.add_option("--dim", options->model.dim, "head dim D")->capture_default_str();
  command.add_option("--ffn", options->model.ffn, "width of the feed-forward layer")->capture_default_str();
  command.add_option("--text", options->model.text, "text tokens L of the cross-attention")->capture_default_str();
  command.add_option("--preset", options->preset,
                     "one configuration by name instead of the paper's table (see vmoba info)");
  command.add_option("--grid", options->grid, "one token grid T,Y,X instead of the paper's table");
  command.add_option("--blocks", options->blocks, "blocks N, mean over layers; left out: those of the preset");
  command.add_option("--density", options->density,
                     "share of pairs kept, own block included, 0..1; left out: dense alone");
  command.add_flag("--json", options->json, json_help);
  return [options] {
    const FlopsModel& model = options->model;
    for (const auto& [option, value] :
         {std::pair{"--layers", model.layers}, {"--heads", model.heads}, {"--dim", model.dim}, {"--ffn", model.ffn}})
      if (value < 1) throw_argument(option, std::to_string(value), "is below 1", "use 1 or more");
    if (model.text < 0) throw_argument("--text", std::to_string(model.text), "is below 0", "use 0 or more");
    if (!(options->density >= 0 && options->density <= 1))
      throw_argument("--density", fmt::format("{}", options->density), "is outside 0..1",
                     "use a share, for example 0.2");
    if (options->blocks < 0)
      throw_argument("--blocks", fmt::format("{}", options->blocks), "is below 0", "use the mean number of blocks");
    std::vector<Row> rows;
    if (options->preset.empty() && options->grid.empty()) {
      if (options->blocks > 0 || options->density > 0)
        throw_argument(options->blocks > 0 ? "--blocks" : "--density", "a number", "needs one grid",
                       "add --grid T,Y,X or --preset NAME, or leave it out for the paper's table");
      const bool papers =
          model.layers == 30 && model.heads == 12 && model.dim == 128 && model.ffn == 8960 && model.text == 300;
      for (const PaperRow& row : paper) {
        const Preset& found = preset(row.preset);
        rows.push_back({row.preset, row.preset, found.grid, mean_blocks(found, found.grid), row.density,
                        papers ? row.dense : 0, papers ? row.sparse : 0});
      }
    } else {
      Row row;
      if (!options->preset.empty()) {
        const Preset& found = preset(options->preset);
        row = {options->preset, options->preset, found.grid, 0, 0, 0, 0};
        if (!options->grid.empty()) row.grid = parse_grid(options->grid, "--grid");
        row.blocks = mean_blocks(found, row.grid);
      } else {
        row.grid = parse_grid(options->grid, "--grid");
        row.label = to_text(row.grid);
        if (options->density > 0 && options->blocks == 0)
          throw_argument("--blocks", "nothing", "is needed for a sparse figure", "add --blocks N or name a --preset");
      }
      if (options->blocks > 0) row.blocks = options->blocks;
      row.density = options->density;
      rows.push_back(row);
    }
    Json out = {{"model",
                 {{"layers", model.layers},
                  {"heads", model.heads},
                  {"dim", model.dim},
                  {"ffn", model.ffn},
                  {"text", model.text}}},
                {"rows", Json::array()}};
    Table table({"configuration", "tokens", "blocks", "density", "dense T", "paper", "sparse T", "paper"});
    Table shares({"configuration", "saved", "attention's share", "attention's speed-up", "implied"});
    const auto cell = [](double value, int digits) { return value > 0 ? fmt::format("{:.{}f}", value, digits) : "-"; };
    // The paper prints densities to three digits; its totals imply them to more.
    const auto implied = [&](const Row& row, std::int64_t tokens) {
      return (row.paper_sparse * 1e12 - model.sparse(tokens, row.blocks, 0)) / model.attention_dense(tokens);
    };
    for (const Row& row : rows) {
      const std::int64_t tokens = row.grid.tokens();
      const double dense = model.dense(tokens);
      const double attention = model.attention_dense(tokens);
      const bool sparse = row.density > 0;
      const double reduced = sparse ? model.sparse(tokens, row.blocks, row.density) : 0;
      const double reduced_attention = sparse ? model.attention_sparse(tokens, row.blocks, row.density) : 0;
      table.add({row.label, std::to_string(tokens), cell(row.blocks, 1), cell(row.density, 3), cell(dense / 1e12, 3),
                 cell(row.paper_dense, 2), cell(reduced / 1e12, 3), cell(row.paper_sparse, 2)});
      shares.add({row.label, sparse ? fmt::format("{:.1f} %", 100 * (1 - reduced / dense)) : "-",
                  fmt::format("{:.1f} %", 100 * attention / dense),
                  sparse ? fmt::format("{:.2f}x", attention / reduced_attention) : "-",
                  row.paper_sparse > 0 ? fmt::format("{:.4f}", implied(row, tokens)) : "-"});
      Json one = {{"configuration", row.label},
                  {"grid", {row.grid.t, row.grid.y, row.grid.x}},
                  {"tokens", tokens},
                  {"dense_flops", dense},
                  {"attention_dense_flops", attention}};
      if (row.blocks > 0) one["mean_blocks"] = row.blocks;
      if (sparse) {
        one["density"] = row.density;
        one["sparse_flops"] = reduced;
        one["attention_sparse_flops"] = reduced_attention;
      }
      if (row.paper_dense > 0) one["paper_dense_tflops"] = row.paper_dense;
      if (row.paper_sparse > 0) {
        one["paper_sparse_tflops"] = row.paper_sparse;
        one["paper_implied_density"] = implied(row, tokens);
      }
      out["rows"].push_back(one);
    }
    if (options->json)
      print(out);
    else {
      print(
          fmt::format("One forward of {} layers, {} heads of {}, FFN {}, {} text tokens;\n"
                      "products and sums counted apart. T: 10^12; paper: what it prints;\n"
                      "implied: the density its total stands for.\n\n",
                      model.layers, model.heads, model.dim, model.ffn, model.text));
      print(table);
      print("\n");
      print(shares);
    }
    return exit_fine;
  };
}

}  // namespace vmoba::tools
