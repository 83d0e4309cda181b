// SPDX-License-Identifier: Apache-2.0
// vmoba report: one page about training runs, written by the package's Python module vmoba.report.
#include <filesystem>
#include <memory>

#include "tools/output.hpp"
#include "tools/process.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

Action setup_report(CLI::App& command) {
  struct Options {
    std::vector<std::string> runs, clips, analyses;
    std::string out = "report.html", title, python;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  command.add_option("runs", options->runs, "training run folders (metrics.jsonl), one or more, each NAME=DIR or DIR")
      ->required();
  command.add_option("--clip", options->clips, "a sampled clip, NAME=FILE or FILE; repeat for more");
  command.add_option("--analysis", options->analyses,
                     "a folder written by vmoba analyze, NAME=DIR or DIR; repeat for more");
  command.add_option("--out", options->out, "the page; pictures and report.json go beside it")->capture_default_str();
  command.add_option("--title", options->title, "title of the page; left out: the names of the runs");
  command.add_option(
      "--python", options->python,
      "interpreter that has vmoba, matplotlib and OpenCV; left out: python3 of .venv beside the program, or of PATH");
  command.add_flag("--json", options->json, json_help);
  return [options] {
    const auto path_of = [](const std::string& item) {
      const std::size_t equals = item.find('=');
      return equals == std::string::npos ? item : item.substr(equals + 1);
    };
    for (const std::string& run : options->runs)
      if (!std::filesystem::exists(std::filesystem::path(path_of(run)) / "metrics.jsonl"))
        throw_file(path_of(run), "holds no metrics.jsonl", "give folders that vmoba train wrote");
    for (const std::string& clip : options->clips)
      if (!std::filesystem::exists(path_of(clip)))
        throw_file(path_of(clip), "does not exist", "give clips that vmoba sample wrote");
    for (const std::string& analysis : options->analyses)
      if (!std::filesystem::exists(std::filesystem::path(path_of(analysis)) / "analysis.json"))
        throw_file(path_of(analysis), "holds no analysis.json", "give folders that vmoba analyze wrote");
    std::vector<std::string> line{find_python(options->python), "-m", "vmoba.report", "--out=" + options->out};
    // With an equals sign, so that a value may begin with a dash.
    if (!options->title.empty()) line.push_back("--title=" + options->title);
    for (const std::string& clip : options->clips) line.push_back("--clip=" + clip);
    for (const std::string& analysis : options->analyses) line.push_back("--analysis=" + analysis);
    line.push_back("--machine=" + to_json(machine()).dump());
    if (options->json) line.push_back("--json");
    line.push_back("--");
    line.insert(line.end(), options->runs.begin(), options->runs.end());
    return run_module(line, "vmoba report");
  };
}

}  // namespace vmoba::tools
