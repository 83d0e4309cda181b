// SPDX-License-Identifier: Apache-2.0
// Help texts in 80 columns.
#include "tools/help.hpp"

#include <sstream>

namespace vmoba::tools {

std::string wrapped(const std::string& text, std::size_t width) {
  std::string out;
  std::size_t at = 0;  // characters in the last line
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!out.empty()) out += '\n';
    at = 0;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (at > 0 && at + 1 + word.size() > width) {
        out += '\n';
        at = 0;
      } else if (at > 0) {
        out += ' ';
        ++at;
      }
      out += word;
      at += word.size();
    }
  }
  return out;
}

std::string hanging(const std::string& text, std::size_t indent) {
  std::string out;
  for (const char c : wrapped(text, text_columns - indent)) {
    out += c;
    if (c == '\n') out.append(indent, ' ');
  }
  return out;
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  return wrapped(CLI::Formatter::make_option_desc(option), text_columns - get_column_width());
}

std::string HelpFormatter::make_subcommand(const CLI::App* command) const {
  std::ostringstream out;
  CLI::detail::format_help(out, command->get_display_name(true),
                           wrapped(command->get_description(), text_columns - get_column_width()), get_column_width());
  return out.str();
}

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  const std::string footer = CLI::Formatter::make_footer(app);
  return footer.empty() ? footer : wrapped(footer, text_columns) + "\n";
}

}  // namespace vmoba::tools
