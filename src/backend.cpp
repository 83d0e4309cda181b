// SPDX-License-Identifier: Apache-2.0
// The constant table of backends, best first, and the choice among them.
#include "vmoba/backend.hpp"

#include <cstdlib>
#include <string>
#include <vector>

#include "reference/reference.hpp"
#include "text.hpp"
#include "vmoba/error.hpp"
#if __has_include("cpu/backend.hpp")
#include "cpu/backend.hpp"
#endif

namespace vmoba {
namespace {

std::vector<Backend> table() {
  std::vector<Backend> result;
#if __has_include("cpu/backend.hpp")
  for (const Backend& backend : cpu::backends()) result.push_back(backend);
#endif
  result.push_back(reference::backend);
  return result;
}

std::string names() {
  std::string text;
  bool any_cpu = false;
  for (const Backend& backend : backends()) {
    if (!text.empty()) text += ", ";
    text += backend.name;
    any_cpu |= backend.name.starts_with("cpu:");
  }
  return any_cpu ? "cpu, " + text : text;
}

// "cpu" stands for every tier of cpu; every other name for itself; "" for all.
bool names_backend(const std::string& wanted, std::string_view name) {
  return wanted.empty() || name == wanted || (wanted == "cpu" && name.starts_with("cpu:"));
}

std::string refusal(const Backend& backend, const Problem& problem) {
  std::string reason = backend.unavailable();
  return reason.empty() ? backend.why_not(problem) : reason;
}

}  // namespace

std::span<const Backend> backends() {
  static const std::vector<Backend> all = table();  // never changes; initialised once, safely, by the language
  return all;
}

const Backend& choose_backend(const Problem& problem, const Execution& execution) {
  std::string wanted = execution.backend;
  const char* argument = "backend";
  if (wanted.empty()) {
    if (const char* forced = std::getenv("VMOBA_BACKEND"); forced && *forced) {
      wanted = forced;
      argument = "VMOBA_BACKEND";
    }
  }
  std::string refusals;
  for (const Backend& backend : backends()) {
    if (!names_backend(wanted, backend.name)) continue;
    const std::string reason = refusal(backend, problem);
    if (reason.empty()) return backend;
    if (!refusals.empty()) refusals += ", ";
    refusals += std::string(backend.name) + ": " + reason;
  }
  if (refusals.empty()) {
    throw_argument(argument, "\"" + wanted + "\"", "is no backend of this build",
                   "use one of " + names() + ", or leave it empty for the best that fits");
  }
  throw Error(Error::Kind::unsupported, argument, wanted.empty() ? "\"\"" : "\"" + wanted + "\"",
              "cannot run this problem (" + refusals + ")",
              wanted.empty() ? "change the problem" : "leave it empty for the best backend that fits");
}

}  // namespace vmoba
