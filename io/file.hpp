// SPDX-License-Identifier: Apache-2.0
// Whole small files, and writing that never loses what was there.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace vmoba::io {

// The bytes of a file of at most limit bytes. Throws vmoba::Error(kind file).
std::string read_file(const std::string& path, std::uint64_t limit = 100ull << 20);
// Temporary name, write, fsync, rename, fsync of the directory. Throws vmoba::Error(kind file) and leaves path as it
// was.
void write_file(const std::string& path, std::string_view bytes);
void make_directories(const std::string& path);
bool is_utf8(std::string_view text);
// Some editors put one before UTF-8 text; it is no part of the text.
std::string without_byte_order_mark(std::string text);

}  // namespace vmoba::io
