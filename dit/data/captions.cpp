// SPDX-License-Identifier: Apache-2.0
// Captions from text, JSON and CSV files, and captions as token ids.
#include "dit/data/captions.hpp"

#include <ATen/ATen.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "dit/data/dataset.hpp"
#include "io/file.hpp"
#include "io/json.hpp"
#include "vmoba/error.hpp"

namespace vmoba::dit {
namespace {

namespace fs = std::filesystem;

std::string trimmed(const std::string& text) {
  const char* const blanks = " \t\r\n";
  const auto begin = text.find_first_not_of(blanks);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

void complain(const Captions::Log& log, const std::string& path, const std::string& why) {
  if (log) log("caption passed over: " + path + " " + why);
}

// Rows of cells; quotes as in RFC 4180.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> rows{{""}};
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '"' && i + 1 < text.size() && text[i + 1] == '"') {
      rows.back().back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      rows.back().emplace_back();
    } else if (c == '\n' && !quoted) {
      rows.push_back({""});
    } else {
      rows.back().back() += c;
    }
  }
  return rows;
}

// What is wrong with the document, or "".
std::string add_json(const std::string& text, std::map<std::string, std::string>& to) {
  const auto document = io::parse_json(text);
  if (document.is_discarded()) return "is not valid JSON in UTF-8";
  if (document.is_object()) {
    for (const auto& [file, caption] : document.items()) {
      if (caption.is_string()) to.emplace(file, caption.get<std::string>());
    }
    return "";
  }
  if (!document.is_array()) return "is neither an object of captions nor a list of {file, caption}";
  for (const auto& entry : document) {
    if (!entry.is_object()) continue;
    const auto file = entry.find("file"), caption = entry.find("caption");
    if (file != entry.end() && caption != entry.end() && file->is_string() && caption->is_string()) {
      to.emplace(file->get<std::string>(), caption->get<std::string>());
    }
  }
  return "";
}

}  // namespace

Captions::Captions(const std::string& directory, const Log& log) {
  for (const char* name : {"captions.json", "captions.csv"}) {
    const std::string path = (fs::path(directory) / name).string();
    std::error_code missing;
    if (!fs::exists(path, missing)) continue;
    try {
      const std::string text = io::without_byte_order_mark(io::read_file(path, 64 << 20));
      if (std::string(name) == "captions.json") {
        if (const std::string wrong = add_json(text, listed_); !wrong.empty()) complain(log, path, wrong);
        continue;
      }
      for (const auto& row : parse_csv(text)) {
        if (row.size() < 2 || trimmed(row[0]) == "file") continue;
        if (!io::is_utf8(row[0]) || !io::is_utf8(row[1])) {
          complain(log, path, "has a line that is not UTF-8");
          continue;
        }
        listed_.emplace(trimmed(row[0]), row[1]);
      }
    } catch (const Error& error) {
      complain(log, path, error.rule());
    }
  }
}

std::string Captions::of(const std::string& video, const Log& log) const {
  const fs::path path(video);
  const std::string text_file = fs::path(path).replace_extension(".txt").string();
  std::error_code missing;
  if (fs::exists(text_file, missing)) {
    try {
      const std::string text = io::without_byte_order_mark(io::read_file(text_file, 1 << 20));
      if (io::is_utf8(text)) return trimmed(text);
      complain(log, text_file, "is not UTF-8");
    } catch (const Error& error) {
      complain(log, text_file, error.rule());
    }
  }
  for (const std::string& key : {path.filename().string(), path.stem().string()}) {
    if (const auto found = listed_.find(key); found != listed_.end()) return trimmed(found->second);
  }
  std::string words = path.stem().string();
  if (!io::is_utf8(words)) return "";
  for (char& c : words) {
    if (c == '_' || c == '-' || c == '.') c = ' ';
  }
  return trimmed(words);
}

at::Tensor caption_ids(const std::string& caption, std::int64_t length) {
  if (length < 1) throw_argument("length", std::to_string(length), "is not a number of tokens", "use at least 1");
  auto n = static_cast<std::int64_t>(caption.size());
  if (n > length) {
    n = length;
    // Not in the middle of a character: back to a byte that does not continue one.
    while (n > 0 && (static_cast<unsigned char>(caption[static_cast<std::size_t>(n)]) & 0xC0) == 0x80) --n;
  }
  at::Tensor ids = at::full({length}, 256, at::kLong);
  auto* const to = ids.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<unsigned char>(caption[static_cast<std::size_t>(i)]);
  return ids;
}

}  // namespace vmoba::dit
