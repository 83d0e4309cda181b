// SPDX-License-Identifier: Apache-2.0
// Tables, JSON and the progress bar.
#include "tools/output.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tools/help.hpp"

namespace vmoba::tools {

namespace {

bool numeric(const std::string& cell) {
  return !cell.empty() && (std::isdigit(static_cast<unsigned char>(cell[0])) ||
                           ((cell[0] == '-' || cell[0] == '+' || cell[0] == '.') && cell.size() > 1 &&
                            std::isdigit(static_cast<unsigned char>(cell[1]))));
}

std::size_t terminal_columns() {
  winsize size{};
  return ::ioctl(2, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

std::string scaled(double value, const char* unit) {
  static constexpr const char* prefixes[] = {"", "k", "M", "G", "T", "P", "E"};
  int prefix = 0;
  while (std::abs(value) >= 999.5 && prefix < 6) value /= 1000, ++prefix;
  const int digits = prefix == 0 ? 0 : std::abs(value) < 10 ? 2 : std::abs(value) < 100 ? 1 : 0;
  return fmt::format("{:.{}f} {}{}", value, digits, prefixes[prefix], unit);
}

}  // namespace

std::string Table::text() const {
  std::vector<std::size_t> width(head_.size(), 0);
  std::vector<bool> right(head_.size(), true);
  for (std::size_t c = 0; c < head_.size(); ++c) width[c] = head_[c].size();
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < std::min(row.size(), head_.size()); ++c) {
      width[c] = std::max(width[c], row[c].size());
      if (!row[c].empty() && row[c] != "-" && !numeric(row[c])) right[c] = false;
    }
  const auto line = [&](const std::vector<std::string>& row) {
    std::string out;
    for (std::size_t c = 0; c < std::min(row.size(), head_.size()); ++c) {
      if (c > 0) out += "  ";
      out += right[c] ? fmt::format("{:>{}}", row[c], width[c]) : fmt::format("{:<{}}", row[c], width[c]);
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    return out + "\n";
  };
  // A last column of sentences is broken at spaces where the line is longer than a terminal.
  std::size_t before_last = 0;
  for (std::size_t c = 0; c + 1 < width.size(); ++c) before_last += width[c] + 2;
  const auto broken = [&](const std::string& text) {
    if (text.size() <= text_columns + 1 || right.back() || before_last + 20 > text_columns) return text;
    return text.substr(0, before_last) + hanging(text.substr(before_last), before_last) + "\n";
  };
  std::string out = line(head_);
  for (const auto& row : rows_) out += broken(line(row));
  return out;
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }
void print(const char* text) { print(std::string(text)); }
void print(const Table& table) { print(table.text()); }
void print(const Json& json) { print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"); }

Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

std::string bytes_text(double bytes) { return scaled(bytes, "B"); }
std::string flops_text(double flops) { return scaled(flops, "FLOP"); }
std::string seconds_text(double value) {
  if (value >= 1) return fmt::format("{:.2f} s", value);
  if (value >= 1e-3) return fmt::format("{:.2f} ms", value * 1e3);
  return fmt::format("{:.1f} us", value * 1e6);
}

bool Progress::terminal() { return isatty(2) != 0; }

Progress::Progress(std::string label, std::int64_t total)
    : label_(std::move(label)), total_(std::max<std::int64_t>(total, 1)), start_(std::chrono::steady_clock::now()) {
  draw("");
}

Progress::~Progress() {
  if (terminal()) std::fputs("\r\033[K", stderr);
}

void Progress::advance(std::int64_t by, const std::string& note) {
  done_ = std::min(total_, done_ + by);
  // Ten redraws a second are enough for the eye.
  if (done_ < total_ && std::chrono::steady_clock::now() - drawn_ < std::chrono::milliseconds(100)) return;
  draw(note);
}

void Progress::draw(const std::string& note) {
  if (!terminal()) return;
  drawn_ = std::chrono::steady_clock::now();
  const double passed = std::chrono::duration<double>(drawn_ - start_).count();
  const double share = static_cast<double>(done_) / static_cast<double>(total_);
  std::string left = "";
  if (done_ > 0) {
    const auto seconds = static_cast<std::int64_t>(std::lround(passed / share - passed));
    left = fmt::format(" {}:{:02} left", seconds / 60, seconds % 60);
  }
  // A line that wraps could not be wiped again: the bar gives way first, then the note.
  const std::size_t columns = terminal_columns() - 1;
  const std::string before = label_ + " ", after = fmt::format(" {}/{}{} {}", done_, total_, left, note);
  const std::size_t taken = before.size() + after.size() + 2;
  const std::size_t bar = columns > taken ? std::min<std::size_t>(30, columns - taken) : 0;
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(bar));
  const std::string line =
      bar < 5 ? label_ + after : before + "[" + std::string(filled, '#') + std::string(bar - filled, '.') + "]" + after;
  fmt::print(stderr, "\r\033[K{}", line.substr(0, columns));
  std::fflush(stderr);
}

}  // namespace vmoba::tools
