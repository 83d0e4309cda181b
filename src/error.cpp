// SPDX-License-Identifier: Apache-2.0
// The exception type: one sentence made of argument, value, rule and way out.
#include "vmoba/error.hpp"

#include <utility>

namespace vmoba {
namespace {

std::string text_of(const std::string& argument, const std::string& value, const std::string& rule,
                    const std::string& way_out) {
  std::string text = "vmoba: " + argument;
  if (!value.empty()) text += " = " + value;
  if (!rule.empty()) text += " " + rule;
  if (!way_out.empty()) text += "; " + way_out;
  return text;
}

}  // namespace

Error::Error(Kind kind, std::string argument, std::string value, std::string rule, std::string way_out)
    : std::runtime_error(text_of(argument, value, rule, way_out)),
      kind_(kind),
      argument_(std::move(argument)),
      value_(std::move(value)),
      rule_(std::move(rule)),
      way_out_(std::move(way_out)) {}

void throw_argument(std::string argument, std::string value, std::string rule, std::string way_out) {
  throw Error(Error::Kind::argument, std::move(argument), std::move(value), std::move(rule), std::move(way_out));
}

void throw_file(std::string path, std::string rule, std::string way_out) {
  throw Error(Error::Kind::file, std::move(path), "", std::move(rule), std::move(way_out));
}

}  // namespace vmoba
