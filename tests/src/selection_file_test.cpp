// SPDX-License-Identifier: Apache-2.0
// Selections on disk: round trips, and every way a file can lie.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "check/problems.hpp"
#include "support/errors.hpp"
#include "vmoba/vmoba.hpp"

namespace vmoba {
namespace {

std::string saved(const Selection& s) {
  std::ostringstream stream;
  s.save(stream);
  return stream.str();
}

Selection loaded(const std::string& bytes) {
  std::istringstream stream(bytes);
  return Selection::load(stream, "file");
}

std::uint64_t checksum(const std::string& bytes) {
  std::uint64_t sum = 0xcbf29ce484222325ull;
  for (unsigned char c : bytes) sum = (sum ^ c) * 0x100000001b3ull;
  return sum;
}

// bytes with the 8-byte integer at index replaced, and a checksum that fits again.
std::string with_integer(std::string bytes, std::size_t index, std::int64_t value) {
  std::memcpy(bytes.data() + index * 8, &value, 8);
  const std::uint64_t sum = checksum(bytes.substr(0, bytes.size() - 8));
  std::memcpy(bytes.data() + bytes.size() - 8, &sum, 8);
  return bytes;
}

void expect_refused(const std::string& bytes, const std::string& rule) {
  test::expect_error(Error::Kind::file, "file", "", rule, "save the selection again", [&] { loaded(bytes); });
}

Selection small() {
  const auto keys = std::make_shared<const Partition>(Grid{1, 3, 4}, Block{1, 2, 2});
  const auto queries = std::make_shared<const Partition>(Grid{1, 3, 4}, vmoba::Run{5});
  Selection s({{keys, queries}}, 2);
  s.set(0, 1, 2, 3);
  s.set(0, 0, 0, 0);
  return s;
}

RC_GTEST_PROP(SelectionFile, RoundTrips, ()) {
  const auto pick = [](std::int64_t low, std::int64_t high) { return *rc::gen::inRange(low, high + 1); };
  const Problem p(test::random_options(pick));
  test::Rng rng(*rc::gen::arbitrary<std::uint64_t>());
  const Selection s = test::random_selection(p, rng);
  RC_ASSERT(loaded(saved(s)) == s);
}

TEST(SelectionFile, KeepsBlockRows) {
  const Selection s = small(), back = loaded(saved(s));
  EXPECT_EQ(back, s);
  EXPECT_TRUE(back.shape(0).queries);
  EXPECT_TRUE(back.test(0, 1, 2, 3));
}

TEST(SelectionFile, ReadsExactlyItsOwnBytes) {
  std::istringstream stream(saved(small()) + saved(small()) + "x");
  EXPECT_EQ(Selection::load(stream), small());
  EXPECT_EQ(Selection::load(stream), small());
  EXPECT_EQ(stream.get(), 'x');
}

TEST(SelectionFile, AFileHoldsOneSelection) {
  const std::string path = testing::TempDir() + "vmoba-selection-" + std::to_string(::getpid());
  const auto refused = [&](const std::string& bytes, const std::string& rule, const std::string& way_out) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    test::expect_error(Error::Kind::file, path, "", rule, way_out, [&] { Selection::load_file(path); });
  };
  std::ofstream(path, std::ios::binary) << saved(small());
  EXPECT_EQ(Selection::load_file(path), small());
  refused(saved(small()) + saved(small()), "goes on after the selection's end", "a file that save wrote");
  refused(saved(small()) + '\0', "goes on after the selection's end", "a file that save wrote");
  refused("", "ends too early", "save the selection again");
  std::remove(path.c_str());
  test::expect_error(Error::Kind::file, path, "", "cannot be read (No such file", "a file that save wrote",
                     [&] { Selection::load_file(path); });
  test::expect_error(Error::Kind::file, "/", "", "is a folder", "a file that save wrote",
                     [&] { Selection::load_file("/"); });
}

TEST(SelectionFile, RefusesEveryTruncation) {
  const std::string bytes = saved(small());
  for (std::size_t size = 0; size < bytes.size(); ++size) expect_refused(bytes.substr(0, size), "ends too early");
}

TEST(SelectionFile, RefusesEveryFlippedBit) {
  const std::string bytes = saved(small());
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    std::string damaged = bytes;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ (1 << i % 8));
    EXPECT_THROW(loaded(damaged), Error) << "bit " << i;
  }
}

// Integers: 0 magic, 1 version, 2 heads, 3 batch, 4..6 grid, 7 kind, 8..10 extents, 11 block rows, 12 kind, 13..15,
// words.
TEST(SelectionFile, RefusesHeadersThatLie) {
  const std::string bytes = saved(small());
  ASSERT_EQ(bytes.size(), (16 + 2 * 4 * 1 + 1) * 8u);
  expect_refused("vmobasex" + bytes.substr(8), "is not a selection");
  expect_refused(with_integer(bytes, 1, 2), "is a selection of version 2, not 1");
  expect_refused(with_integer(bytes, 2, 0), "claims 0 heads");
  expect_refused(with_integer(bytes, 2, -1), "claims -1 heads");
  expect_refused(with_integer(bytes, 2, std::int64_t{1} << 40), "heads");
  expect_refused(with_integer(bytes, 2, 65536), "ends too early");
  expect_refused(with_integer(bytes, 3, 0), "claims 0 samples");
  expect_refused(with_integer(bytes, 3, std::int64_t{1} << 60), "samples");
  expect_refused(with_integer(bytes, 4, 0), "claims the grid {0, 3, 4}");
  expect_refused(with_integer(bytes, 5, -7), "claims the grid {1, -7, 4}");
  expect_refused(with_integer(bytes, 6, std::int64_t{1} << 62), "claims the grid");
  expect_refused(with_integer(bytes, 6, 1 << 24), "claims more than 16777216 tokens");
  expect_refused(with_integer(bytes, 7, 2), "block of unknown kind 2");
  expect_refused(with_integer(bytes, 8, 2), "which does not fit its grid");
  expect_refused(with_integer(bytes, 9, 0), "which does not fit its grid");
  expect_refused(with_integer(bytes, 10, -2), "which does not fit its grid");
  expect_refused(with_integer(bytes, 11, 2), "rows of unknown kind 2");
  expect_refused(with_integer(bytes, 13, 13), "which does not fit its grid");
  expect_refused(with_integer(bytes, 14, 1), "block of unknown kind 1");
  expect_refused(with_integer(bytes, 16, 8), "bits beyond its rows");  // 3 rows: bits 0..2
  expect_refused(with_integer(bytes, 20, -1), "bits beyond its rows");
  std::string damaged = bytes;
  damaged[16 * 8] ^= 2;
  expect_refused(damaged, "checksum does not match");
}

TEST(SelectionFile, ALyingHeaderCostsNoMemory) {
  // One sample of 2^24 tokens in blocks of one: 2^24 x 2^18 words are claimed, none is there.
  std::string bytes = saved(small()).substr(0, 16 * 8);
  for (auto [index, value] :
       {std::pair<std::size_t, std::int64_t>{4, 1}, {5, 1}, {6, 1 << 24}, {8, 1}, {9, 1}, {10, 1}, {11, 0}}) {
    std::memcpy(bytes.data() + index * 8, &value, 8);
  }
  expect_refused(bytes, "ends too early");
}

TEST(SelectionFile, SaysWhenItCannotBeWritten) {
  std::ofstream full("/dev/full", std::ios::binary);
  if (!full) GTEST_SKIP() << "no /dev/full here";
  test::expect_error(Error::Kind::file, "out.sel", "", "could not be written", "free space",
                     [&] { small().save(full, "out.sel"); });
}

TEST(SelectionFile, RefusesToWriteWhatCannotBeReadBack) {
  const auto huge = std::make_shared<const Partition>(Grid{1, 4097, 4096}, Block{});
  std::ostringstream stream;
  test::expect_argument_error("selection", "16781312 tokens in 1 samples of 1 heads", "is more than a file holds",
                              "fewer samples", [&] { Selection({{huge}}, 1).save(stream); });
  EXPECT_TRUE(stream.str().empty());
}

}  // namespace
}  // namespace vmoba
