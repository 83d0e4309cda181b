// SPDX-License-Identifier: Apache-2.0
// Help that fits a terminal of 80 columns.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace vmoba::tools {

inline constexpr std::size_t text_columns = 80;  // of help, tables and sentences: those of a terminal

// text broken at spaces into lines of at most width characters; line ends in it stay, words that are longer stay whole.
std::string wrapped(const std::string& text, std::size_t width);
// The same for text that begins at column `indent` and stays right of it.
std::string hanging(const std::string& text, std::size_t indent);

class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_desc(const CLI::Option* option) const override;
  std::string make_subcommand(const CLI::App* command) const override;
  std::string make_footer(const CLI::App* app) const override;
};

}  // namespace vmoba::tools
