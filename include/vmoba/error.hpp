// SPDX-License-Identifier: Apache-2.0
// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace vmoba {

// Thrown for every refused argument, file or request. what() is one sentence,
//   "vmoba: block.x = 70 is larger than grid.x = 52; use 1..52, or full for the whole axis",
// built from four parts: the argument, its value, the rule it breaks, and the way out.
// Nothing has been written to any output when it is thrown.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    argument,     // the caller passed something wrong (program exit code 2)
    file,         // a file is missing, unreadable, corrupt or cannot be written (exit code 3)
    unsupported,  // correct, but no backend here can do it (exit code 2)
  };

  Error(Kind kind, std::string argument, std::string value, std::string rule, std::string way_out);

  Kind kind() const noexcept { return kind_; }
  // what() without "vmoba: ", for messages that quote it.
  std::string_view sentence() const noexcept { return std::string_view(what()).substr(7); }
  const std::string& argument() const noexcept { return argument_; }
  const std::string& value() const noexcept { return value_; }
  const std::string& rule() const noexcept { return rule_; }
  const std::string& way_out() const noexcept { return way_out_; }

 private:
  Kind kind_;
  std::string argument_, value_, rule_, way_out_;
};

// Shorthands: Error of kind argument / file / unsupported. file_error's argument is the path.
[[noreturn]] void throw_argument(std::string argument, std::string value, std::string rule, std::string way_out);
[[noreturn]] void throw_file(std::string path, std::string rule, std::string way_out);

}  // namespace vmoba
