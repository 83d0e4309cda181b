// SPDX-License-Identifier: Apache-2.0
// Whole files, atomic writing and UTF-8.
#include "io/file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "full_disk.hpp"
#include "io/json.hpp"
#include "temporary.hpp"

namespace vmoba::io {
namespace {

using test::message_of;
using test::TemporaryFolder;

TEST(File, round_trip_and_replacement) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_file(path, std::string("\0x\n", 3));
  EXPECT_EQ(read_file(path), std::string("\0x\n", 3));
  write_file(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(folder.entries(), 1u) << "temporary files stay behind";
}

TEST(File, refuses_what_cannot_be_read) {
  const TemporaryFolder folder;
  write_file(folder / "eleven", "hello world");
  EXPECT_EQ(read_file(folder / "eleven", 11), "hello world");
  const auto large = message_of(Error::Kind::file, [&] { read_file(folder / "eleven", 10); });
  EXPECT_NE(large.find("eleven"), std::string::npos);
  EXPECT_NE(large.find("11 bytes"), std::string::npos);
  message_of(Error::Kind::file, [&] { read_file(folder / "missing"); });
  message_of(Error::Kind::file, [&] { read_file(folder.path()); });
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  message_of(Error::Kind::file, [&] { read_file(folder / "pipe"); });  // and does not wait for a writer
  message_of(Error::Kind::file, [&] { read_file("/dev/zero"); });
}

TEST(File, refuses_what_cannot_be_written) {
  const TemporaryFolder folder;
  message_of(Error::Kind::file, [&] { write_file(folder / "no/such/folder", "x"); });
  message_of(Error::Kind::file, [&] { write_file(folder.path(), "x"); });
  message_of(Error::Kind::file, [&] { write_file("", "x"); });
  message_of(Error::Kind::file, [&] { write_file("/dev/full", "x"); });
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));            // not replaced by a file
  message_of(Error::Kind::file, [&] { write_file("/proc/vmoba", "x"); });  // read-only even for root
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(File, full_disk_keeps_the_old_file) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_file(path, "old");
  std::string message;
  {
    const test::FullDisk disk(4096);
    message = message_of(Error::Kind::file, [&] { write_file(path, std::string(100000, 'x')); });
  }
  EXPECT_NE(message.find(path), std::string::npos);
  EXPECT_NE(message.find("space"), std::string::npos);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(folder.entries(), 1u) << "the temporary file stays behind";
}

TEST(File, symbolic_links_are_followed) {
  const TemporaryFolder folder;
  write_file(folder / "target", "old");
  std::filesystem::create_symlink("target", folder / "link");
  write_file(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "target"), "new");
}

TEST(File, directories) {
  const TemporaryFolder folder;
  make_directories(folder / "a/b/c/");
  make_directories(folder / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
  write_file(folder / "file", "");
  message_of(Error::Kind::file, [&] { make_directories(folder / "file"); });
  message_of(Error::Kind::file, [&] { make_directories(folder / "file/below"); });
}

TEST(File, byte_order_mark) {
  EXPECT_EQ(without_byte_order_mark("\xEF\xBB\xBF"
                                    "a"),
            "a");
  EXPECT_EQ(without_byte_order_mark("\xEF\xBB"), "\xEF\xBB");
  EXPECT_EQ(without_byte_order_mark("a\xEF\xBB\xBF"), "a\xEF\xBB\xBF");
}

TEST(Json, depth_is_bounded) {
  EXPECT_EQ(json_depth("[[{\"[[[\": \"]\\\"[[[[\"}]]"), 3);
  EXPECT_EQ(json_depth("]["), 0);
  EXPECT_EQ(json_depth(""), 0);
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_FALSE(parse_json(nested(json_depth_limit)).is_discarded());
  EXPECT_TRUE(parse_json(nested(json_depth_limit + 1)).is_discarded());
  EXPECT_TRUE(parse_json(nested(1'000'000)).is_discarded());
  EXPECT_FALSE(parse_json("\xEF\xBB\xBF{\"a\": 1}\r\n").is_discarded());
  for (const char* bad : {"", "{", "NaN", "[Infinity]", "[1e999]", "\"\xFF\"", "{} {}", "[1,]", "\xEF\xBB"})
    EXPECT_TRUE(parse_json(bad).is_discarded()) << bad;
}

TEST(File, utf8) {
  for (const std::string good :
       {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x90\xB8", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"}) {
    EXPECT_TRUE(is_utf8(good)) << good;
  }
  // Cut short, stray continuation, overlong 1 to 3, surrogate, beyond U+10FFFF, Latin-1.
  for (const std::string bad : {"\xC3", "\xE2\x82", "\xF0\x9F\x90", "\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\x80",
                                "\xF0\x80\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "caf\xE9 au lait"}) {
    EXPECT_FALSE(is_utf8(bad)) << bad;
  }
}

}  // namespace
}  // namespace vmoba::io
