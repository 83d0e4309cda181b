// SPDX-License-Identifier: Apache-2.0
// Policies in words.
#include "vmoba/policy.hpp"

#include "text.hpp"

namespace vmoba {
namespace {

template <class Rule>
std::string tail(const Rule& rule) {
  std::string text = ", scope=" + std::string(name(rule.scope));
  if (rule.min_blocks != 1) text += ", min_blocks=" + number(rule.min_blocks);
  if (rule.max_blocks) text += ", max_blocks=" + number(*rule.max_blocks);
  return text + ")";
}

std::string describe_rule(const Threshold& rule) { return "Threshold(" + number(rule.tau) + tail(rule); }
std::string describe_rule(const TopK& rule) { return "TopK(" + number(rule.k) + tail(rule); }
std::string describe_rule(const Dense&) { return "Dense()"; }

}  // namespace

std::string_view name(Scope scope) {
  switch (scope) {
    case Scope::head:
      return "head";
    case Scope::query:
      return "query";
    case Scope::block:
      return "block";
    case Scope::all:
      return "all";
  }
  return "unknown";
}

std::string describe(const Policy& policy) {
  return std::visit([](const auto& rule) { return describe_rule(rule); }, policy);
}

}  // namespace vmoba
