// SPDX-License-Identifier: Apache-2.0
// Head and foot of every suite.
#include "tools/bench/sheet.hpp"

#include <fmt/format.h>

#include <cctype>
#include <chrono>
#include <ctime>
#include <filesystem>

#include "io/file.hpp"
#include "tools/bench/output.hpp"
#include "tools/parse.hpp"
#include "tools/verb.hpp"
#include "vmoba/backend.hpp"

namespace vmoba::tools {

namespace fs = std::filesystem;

Sheet::Sheet(const BenchOptions& options, std::string what)
    : here(machine()), threads(thread_count(options.threads)), options_(options), what_(std::move(what)) {
  say(one_line(here) + "\n");
}

void Sheet::say(const std::string& text) const {
  if (!options_.json) print(text);
}

const Peak& Sheet::measure(const ProblemOptions& call) {
  peaks_ = measure_peaks(threads);
  const std::string backend(choose_backend(Problem(call), {.backend = options_.backend}).name);
  const Peak& used = peak_of(peaks_, backend);
  tier_ = used.tier;
  steadiness_ = measure_steadiness();
  say(fmt::format("backend   {}, {} threads\n", backend, threads) + line_of(peaks_, used) + line_of(steadiness_));
  return used;
}

Json Sheet::head() const {
  Json out = {{"format", "vmoba-bench-1"}, {"when", now()}, {"machine", to_json(here)}, {"threads", threads}};
  if (!peaks_.empty()) {
    out["peaks"] = to_json(peaks_);
    out["steadiness"] = to_json(steadiness_);
    out["peak_tier"] = tier_;
  }
  return out;
}

int Sheet::finish(const Json& results) const {
  if (const std::string path = file(".json"); !path.empty()) {
    io::write_file(path, results.dump(1) + "\n");
    say(fmt::format("\n{} written\n", path));
  }
  if (options_.json) print(results);
  return exit_fine;
}

std::string Sheet::file(std::string_view ending) const {
  if (options_.out.empty() || (options_.out.back() != '/' && !fs::is_directory(options_.out))) return options_.out;
  io::make_directories(options_.out);
  return (fs::path(options_.out) / fmt::format("{}-{}-{}{}", name_of(here), here.commit, what_, ending)).string();
}

std::string name_of(const Machine& machine) {
  std::string out;
  for (const char c : machine.cpu.substr(0, 40)) {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  std::uint32_t hash = 2166136261U;  // FNV-1a
  for (const char c : Json{machine.cpu, machine.features, machine.cores, machine.memory >> 30}.dump())
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  return fmt::format("{}-{}-cores-{:04x}", out, machine.cores, (hash ^ hash >> 16) & 0xFFFFU);
}

std::string now() {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[32];
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace vmoba::tools
