// SPDX-License-Identifier: Apache-2.0
// The program vmoba: a constant table of verbs, one way of reporting what went wrong, exit codes that mean something.
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "io/file.hpp"
#include "tools/help.hpp"
#include "tools/output.hpp"
#include "tools/verb.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

constexpr std::array table{
    Verb{"info", "what runs here: version, machine, backends and why not", setup_info},
    Verb{"explain", "what one attention call would do, without doing it", setup_explain},
    Verb{"check", "compare a backend with the reference: error table", setup_check},
    Verb{"bench", "measure this build beside torch SDPA and FlexAttention", setup_bench},
    Verb{"flops", "the FLOPs model of the paper, dense and sparse", setup_flops},
    Verb{"analyze", "where a checkpoint's attention goes, with pictures", setup_analyze},
    Verb{"show", "draw a saved selection as a heat map", setup_show},
    Verb{"train", "train a video diffusion transformer", setup_train},
    Verb{"sample", "sample clips from a checkpoint", setup_sample},
    Verb{"report", "one page about training runs: losses, clips, selections", setup_report},
};

// One line, whatever the message was.
std::string flat(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

int fail(const std::string& message, int code) {
  std::fflush(stdout);
  fmt::print(stderr, "{}{}\n", message.rfind("vmoba: ", 0) == 0 ? "" : "vmoba: ", flat(message));
  return code;
}

constexpr const char* no_memory = "there is not enough memory for this; ask for fewer tokens, samples or threads";

int exit_of(const Error& error) { return error.kind() == Error::Kind::file ? exit_file : exit_usage; }

int run(int argc, char** argv) {
  // Prompts and paths go into records, which are UTF-8.
  for (int i = 1; i < argc; ++i)
    if (!io::is_utf8(argv[i]))
      return fail(fmt::format("argument {} is not UTF-8 text; write it as UTF-8, or rename the file", i), exit_usage);
  CLI::App app{"vmoba: sparse attention for video diffusion transformers"};
  app.name("vmoba");
  app.formatter(std::make_shared<HelpFormatter>());   // the verbs inherit it
  app.set_help_flag("-h,--help", "print this help");  // so do the verbs
  app.set_version_flag("--version", fmt::format("vmoba {} ({})", machine().version, machine().commit),
                       "print version and commit");
  app.require_subcommand(0, 1);
  app.footer(
      "Each verb explains itself: vmoba VERB --help.\n"
      "Exit codes: 0 fine, 1 a check failed, 2 wrong usage, 3 bad file, 130 interrupted.");
  std::vector<std::pair<CLI::App*, Action>> runs;
  for (const Verb& verb : verbs()) {
    CLI::App* command = app.add_subcommand(std::string(verb.name), std::string(verb.line));
    runs.emplace_back(command, verb.setup(*command));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::string verb = "vmoba";
    for (const CLI::App* command : app.get_subcommands()) verb += " " + command->get_name();
    return fail(fmt::format("{}; see {} --help", flat(error.what()), verb), exit_usage);
  }
  for (const auto& [command, go] : runs)
    if (command->parsed()) return go();
  print(app.help());
  return exit_fine;
}

}  // namespace

std::span<const Verb> verbs() { return table; }

}  // namespace vmoba::tools

int main(int argc, char** argv) {
  using namespace vmoba::tools;
  // The default for every verb; one that has something to save puts its own handler in place.
  std::signal(SIGINT, [](int) { _exit(exit_interrupted); });
  try {
    const int code = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail("standard output cannot be written; free the disk or send it elsewhere", exit_file);
    return code;
  } catch (const vmoba::Error& error) {
    return fail(error.what(), exit_of(error));
  } catch (const std::bad_alloc&) {
    return fail(no_memory, exit_check_failed);
  } catch (const c10::Error& error) {
    // The operators carry the engine's sentence inside torch's exception.
    const std::string text = error.what_without_backtrace();
    if (text.find("can't allocate memory") != std::string::npos) return fail(no_memory, exit_check_failed);
    const bool ours = text.find("vmoba: ") != std::string::npos;
    return fail(ours ? text.substr(text.find("vmoba: ")) : text, ours ? exit_usage : exit_check_failed);
  } catch (const std::filesystem::filesystem_error& error) {
    return fail(error.what(), exit_file);
  } catch (const std::exception& error) {
    return fail(error.what(), exit_check_failed);
  }
}
