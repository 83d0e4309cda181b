// SPDX-License-Identifier: Apache-2.0
// A verb of the program: its name, one line for people, and how it declares its options. One file a verb.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <span>
#include <string_view>

namespace vmoba::tools {

// Exit codes of the program.
enum Exit : int {
  exit_fine = 0,
  exit_check_failed = 1,  // a comparison failed, or something nobody foresaw
  exit_usage = 2,         // wrong usage: CLI11's errors, Error of kind argument and unsupported
  exit_file = 3,          // Error of kind file
  exit_interrupted = 130,
};

// What a verb does once its options are parsed; returns an exit code. It throws vmoba::Error for everything a user can
// get wrong; main turns it into one line on stderr and the exit code.
using Action = std::function<int()>;

struct Verb {
  std::string_view name;
  std::string_view line;               // for people, in `vmoba --help`
  Action (*setup)(CLI::App& command);  // adds options to command; the options live in what the returned function holds
};

std::span<const Verb> verbs();  // the table, in the order of the help

Action setup_info(CLI::App& command);
Action setup_explain(CLI::App& command);
Action setup_check(CLI::App& command);
Action setup_bench(CLI::App& command);
Action setup_flops(CLI::App& command);
Action setup_analyze(CLI::App& command);
Action setup_show(CLI::App& command);
Action setup_train(CLI::App& command);
Action setup_sample(CLI::App& command);
Action setup_report(CLI::App& command);

}  // namespace vmoba::tools
