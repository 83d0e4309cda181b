// SPDX-License-Identifier: Apache-2.0
// What verbs print: tables for people, JSON for machines, a progress bar for a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace vmoba::tools {

// Keys keep the order they were written in.
using Json = nlohmann::ordered_json;

// A table of text: columns as wide as their widest cell, numbers right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }  // shorter rows end early
  std::string text() const;                                                    // lines, each ended by a newline

 private:
  std::vector<std::string> head_;
  std::vector<std::vector<std::string>> rows_;
};

inline constexpr const char* json_help = "print JSON instead of text";

// Prints to stdout; main checks at the end that stdout took everything.
void print(const std::string& text);
void print(const char* text);
void print(const Table& table);
void print(const Json& json);  // indented, one trailing newline

Json finite_or_null(double value);  // JSON knows no NaN and no infinity

std::string bytes_text(double bytes);    // "3.5 MB" (powers of 10)
std::string flops_text(double flops);    // "67.73 T"
std::string seconds_text(double value);  // "1.23 s", "45.6 ms"

// A bar on stderr when that is a terminal, with the time left; nothing otherwise.
class Progress {
 public:
  Progress(std::string label, std::int64_t total);
  ~Progress();  // wipes the bar
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void advance(std::int64_t by = 1, const std::string& note = "");
  static bool terminal();  // whether stderr is one

 private:
  void draw(const std::string& note);
  std::string label_;
  std::int64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
};

// The machine and the build, for headers of tables and result files.
struct Machine {
  std::string cpu, commit, version, torch, system, compiler;
  std::vector<std::string> features;              // of those that the kernels ask about
  std::int64_t cores = 0;                         // that this process may use
  std::int64_t memory = 0, memory_available = 0;  // bytes
};
Machine machine();
Json to_json(const Machine& machine);
std::string one_line(const Machine& machine);

}  // namespace vmoba::tools
