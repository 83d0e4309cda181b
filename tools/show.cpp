// SPDX-License-Identifier: Apache-2.0
// vmoba show: a saved selection as a heat map, blocks of queries by blocks of keys, one picture a head.
#include <fmt/format.h>

#include <cmath>
#include <memory>

#include "tools/output.hpp"
#include "tools/parse.hpp"
#include "tools/picture.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"
#include "vmoba/selection.hpp"

namespace vmoba::tools {

namespace {

// Share of the rows of each query block that attend each key block: [N x N].
std::vector<double> block_map(const Selection& selection, std::int64_t sample, std::int64_t head) {
  const Partition& keys = *selection.shape(sample).keys;
  std::vector<double> out(keys.blocks() * keys.blocks(), 0);
  for (std::int64_t c = 0; c < keys.blocks(); ++c)
    for (std::int64_t row = 0; row < keys.tokens(); ++row)
      if (selection.test(sample, head, row, c))
        out[keys.own(row) * keys.blocks() + c] += 1.0 / static_cast<double>(keys.size(keys.own(row)));
  return out;
}

}  // namespace

Action setup_show(CLI::App& command) {
  struct Options {
    std::string file, out = "selection.png";
    std::int64_t sample = 0, head = -1, cell = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  command.add_option("file", options->file, "a selection saved by Selection::save or Selection.save")->required();
  command.add_option("--out", options->out, "PNG file to write")->capture_default_str();
  command.add_option("--sample", options->sample, "which sample of the batch")->capture_default_str();
  command.add_option("--head", options->head, "which head; left out: all of them");
  command.add_option("--cell", options->cell, "pixels of one block; left out: about 320 a picture");
  command.add_flag("--json", options->json, json_help);
  return [options] {
    const Selection selection = Selection::load_file(options->file).by_token();
    if (options->sample < 0 || options->sample >= selection.batch())
      throw_argument("--sample", std::to_string(options->sample), "is not in the file",
                     fmt::format("use 0..{}", selection.batch() - 1));
    if (options->head < -1 || options->head >= selection.heads())
      throw_argument("--head", std::to_string(options->head), "is not in the file",
                     fmt::format("use 0..{}, or leave it out for all", selection.heads() - 1));
    const std::int64_t blocks = selection.blocks(options->sample);
    if (options->cell < 0 || options->cell * blocks > 16384)
      throw_argument("--cell", std::to_string(options->cell), "makes a picture wider than 16384 pixels or is below 0",
                     fmt::format("use 1..{}", std::max<std::int64_t>(1, 16384 / blocks)));
    const std::int64_t cell = options->cell > 0 ? options->cell : std::max<std::int64_t>(1, 320 / blocks);
    std::vector<Picture> pictures;
    Table table({"head", "density", "fewest blocks", "mean", "most"});
    Json heads = Json::array();
    for (std::int64_t h = options->head < 0 ? 0 : options->head;
         h < (options->head < 0 ? selection.heads() : options->head + 1); ++h) {
      pictures.push_back(heat_map(block_map(selection, options->sample, h), blocks, blocks, 0, 1, cell));
      const std::vector<std::int64_t> counts = selection.counts(options->sample, h);
      const auto [fewest, most] = std::minmax_element(counts.begin(), counts.end());
      double mean = 0;
      for (const std::int64_t count : counts) mean += static_cast<double>(count) / static_cast<double>(counts.size());
      const double density = selection.density(options->sample, h);
      table.add({std::to_string(h), fmt::format("{:.4f}", density), std::to_string(*fewest),
                 fmt::format("{:.2f}", mean), std::to_string(*most)});
      heads.push_back({{"head", h}, {"density", density}, {"fewest", *fewest}, {"mean", mean}, {"most", *most}});
    }
    const auto columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(pictures.size()))));
    write(sheet(pictures, columns), options->out);
    const Partition& keys = *selection.shape(options->sample).keys;
    if (options->json) {
      print(Json{{"file", options->file},
                 {"out", options->out},
                 {"grid", to_text(keys.grid())},
                 {"block", to_text(keys.block())},
                 {"blocks", blocks},
                 {"heads", heads}});
    } else {
      print(fmt::format("grid {}, block {}, {} blocks;\nrows of a picture are query blocks, columns key blocks\n\n",
                        to_text(keys.grid()), to_text(keys.block()), blocks));
      print(table);
      print(fmt::format("\n{} written\n", options->out));
    }
    return exit_fine;
  };
}

}  // namespace vmoba::tools
