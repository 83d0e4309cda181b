// SPDX-License-Identifier: Apache-2.0
// JSON from outside. The JSON library parses any depth, but copies, compares and writes by recursion: 100,000 brackets
// in a file would end the program by a full stack. So what nests deeper than anything of ours is no JSON here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

namespace vmoba::io {

inline constexpr std::int64_t json_depth_limit = 64;

// Brackets open at once, outside strings; of text that is not JSON some number.
inline std::int64_t json_depth(std::string_view text) {
  std::int64_t depth = 0, deepest = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      quoted = !quoted;
    } else if (quoted) {
      i += c == '\\';
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// The document; discarded (is_discarded()) where text is not JSON in UTF-8 or nests deeper than the limit. A byte order
// mark before it is passed over.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text) {
  if (json_depth(text) > json_depth_limit) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace vmoba::io
