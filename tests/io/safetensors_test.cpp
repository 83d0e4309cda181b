// SPDX-License-Identifier: Apache-2.0
// safetensors: round trips, and headers that lie.
#include "io/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "full_disk.hpp"
#include "io/file.hpp"
#include "temporary.hpp"

namespace vmoba::io {
namespace {

using test::message_of;
using test::TemporaryFolder;

std::string file_of(const std::string& header, const std::string& data = "", std::uint64_t claimed = ~0ull) {
  std::string out;
  const std::uint64_t size = claimed == ~0ull ? header.size() : claimed;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(size >> (8 * i));
  return out + header + data;
}

void check(const std::string& bytes) { SafetensorsFile::check(bytes.data(), bytes.size(), "test.safetensors"); }

std::string complaint(const std::string& bytes) {
  const auto message = message_of(Error::Kind::file, [&] { check(bytes); });
  EXPECT_NE(message.find("test.safetensors"), std::string::npos) << message;
  return message;
}

TEST(Safetensors, round_trip) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  std::vector<float> a(6);
  std::iota(a.begin(), a.end(), 1.f);
  const std::vector<std::uint8_t> b{1, 2, 3};
  const double scalar = 2.5;
  write_safetensors(path,
                    {{"b", "U8", {3}, b.data()},
                     {"a.weight", "F32", {2, 3}, a.data()},
                     {"empty", "BF16", {4, 0, 9}, nullptr},
                     {"scalar", "F64", {}, &scalar}},
                    {{"format", "pt"}, {"caf\xC3\xA9", "\"quoted\"\n"}});
  SafetensorsFile file(path);
  EXPECT_EQ(file.path(), path);
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.info("a.weight").dtype, "F32");
  EXPECT_EQ(file.info("a.weight").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.data("a.weight"), a.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.data("b"), b.data(), 3), 0);
  EXPECT_EQ(std::memcmp(file.data("scalar"), &scalar, 8), 0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.data("scalar")) % 8, 0u);
  EXPECT_EQ(file.info("empty").shape, (std::vector<std::int64_t>{4, 0, 9}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("caf\xC3\xA9"), "\"quoted\"\n");
  EXPECT_NE(message_of(Error::Kind::file, [&] { file.data("c"); }).find("'c'"), std::string::npos);

  SafetensorsFile moved(std::move(file));
  SafetensorsFile other(path);
  other = std::move(moved);
  EXPECT_EQ(std::memcmp(other.data("b"), b.data(), 3), 0);

  write_safetensors(path, {});  // over the old one
  EXPECT_TRUE(SafetensorsFile(path).tensors().empty());
  EXPECT_EQ(std::memcmp(other.data("b"), b.data(), 3), 0);  // the reader keeps what it opened
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Safetensors, accepts_what_the_format_allows) {
  check(file_of("{}"));
  check(file_of("{}      "));
  check(file_of(R"({"__metadata__":{}})"));
  check(file_of(R"({"a":{"dtype":"F32","shape":[0,18446744073709551],"data_offsets":[0,0]}})"));
  check(file_of(
      R"({"a":{"shape":[2],"data_offsets":[0,2],"dtype":"I8"},"":{"dtype":"U8","shape":[],"data_offsets":[2,3]}})",
      "abc"));
  check(file_of(
      R"({"z":{"dtype":"U8","shape":[0],"data_offsets":[1,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                   "b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
      "ab"));
}

TEST(Safetensors, refuses_headers_that_lie) {
  const auto tensor = [](const std::string& fields) { return R"({"a":{)" + fields + "}}"; };
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "fewer than"},
      {std::string(7, '\0'), "fewer than"},
      {std::string(8, '\0'), "begin its header"},
      {file_of("{}", "", 10'000'000'000ull), "claims a header of 10000000000 bytes, more than the format"},
      {file_of("{}", "", ~0ull - 1), "claims a header"},
      {file_of("{}", "", 3), "only 2"},
      {file_of("{}", "", 1), "not valid JSON"},
      {file_of("{}", "x"), "1 bytes after"},
      {file_of(" {}"), "begin its header"},
      {file_of("\xEF\xBB\xBF{}"), "begin its header"},
      {file_of("[]"), "begin its header"},
      {file_of("{}{}"), "not valid JSON"},
      {file_of(R"({"a":1})"), "a number"},
      {file_of(R"({"a":null})"), "null"},
      {file_of(R"({"a":"F32"})"), "a string"},
      {file_of(R"({"a":{}})"), "lacks 'dtype'"},
      {file_of(R"({"__metadata__":{"a":1}})"), "a number"},
      {file_of(R"({"__metadata__":{"a":{}}})"), "an object"},
      {file_of(R"({"__metadata__":{"a":"1","a":"2"}})"), "twice"},
      {file_of(R"({"__metadata__":{},"__metadata__":{}})"), "two '__metadata__'"},
      {file_of("{\"__metadata__\":{\"a\":\"\xFF\"}}"), "UTF-8"},
      {file_of("{\"\xC0\x80\":{}}"), "UTF-8"},
      {file_of(tensor(R"("dtype":"F32","shape":[1])"), "1234"), "lacks 'data_offsets'"},
      {file_of(tensor(R"("dtype":"F32","data_offsets":[0,4])"), "1234"), "lacks 'shape'"},
      {file_of(tensor(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), "1234"), "unknown dtype 'F33'"},
      {file_of(tensor(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), "1234"), "twice"},
      {file_of(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), "1234"), "unknown field 'x'"},
      {file_of(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "1234"), "negative"},
      {file_of(tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), "1234"), "fractional"},
      {file_of(tensor(R"("dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4])"), "1234"), "too large"},
      {file_of(tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4])"), "1234"), "absurd shape"},
      {file_of(tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), "1234"), "an array"},
      {file_of(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), "1234"), "two data_offsets"},
      {file_of(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), "1234"), "more than two"},
      {file_of(tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "1234"), "[4, 0)"},
      {file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), "1234"), "of 4 data bytes"},
      {file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), "1234"), "needs 8"},
      // 2^62 elements of 4 bytes are 2^64: the product wraps to 0 in careless code.
      {file_of(tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])")), "beyond 64 bits"},
      {file_of(tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])")), "beyond 64 bits"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
           "123"),
       "overlapping"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
           "123"),
       "hole"},
      {file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "12"), "hole"},
      {file_of(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
           "12"),
       "two tensors named 'a'"},
  };
  for (const auto& [bytes, words] : cases) {
    const auto message = complaint(bytes);
    EXPECT_NE(message.find(words), std::string::npos) << "expected '" << words << "' in: " << message;
  }
}

TEST(Safetensors, deep_nesting_and_long_names_are_cheap) {
  complaint(file_of("{\"a\":" + std::string(1'000'000, '[')));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  complaint(file_of(objects));
  const auto message = complaint(file_of("{\"" + std::string(1'000'000, 'x') + "\":1}"));
  EXPECT_LT(message.size(), 400u);
  std::string dimensions = "1";
  for (int i = 0; i < 1000; ++i) dimensions += ",1";
  complaint(file_of(R"({"a":{"dtype":"U8","shape":[)" + dimensions + R"(],"data_offsets":[0,1]}})", "x"));
}

// Every truncation and every flipped bit of a good file either is refused or still describes the file exactly; never a
// crash.
TEST(Safetensors, damaged_files) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const std::vector<float> a{1, 2, 3};
  write_safetensors(path, {{"a", "F32", {3}, a.data()}, {"b", "F32", {3, 1}, a.data()}}, {{"k", "v"}});
  const std::string good = read_file(path);
  for (std::size_t n = 0; n < good.size(); ++n) complaint(good.substr(0, n));
  std::size_t refused = 0;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    try {
      check(bad);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::file);
      ++refused;
    }
  }
  EXPECT_GT(refused, good.size());  // bits of names, of the metadata and of the data may flip unseen
  message_of(Error::Kind::file, [&] { SafetensorsFile(folder / "missing"); });
  message_of(Error::Kind::file, [&] { SafetensorsFile{folder.path()}; });
  write_file(folder / "empty", "");
  message_of(Error::Kind::file, [&] { SafetensorsFile(folder / "empty"); });
}

TEST(Safetensors, writer_refuses_nonsense_and_keeps_the_old_file) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const std::vector<float> a(100'000);
  write_safetensors(path, {{"a", "F32", {1}, a.data()}});
  const auto refused = [&](const std::vector<TensorData>& tensors,
                           const std::map<std::string, std::string>& metadata = {}) {
    message_of(Error::Kind::argument, [&] { write_safetensors(path, tensors, metadata); });
  };
  refused({{"a", "F32", {1}, a.data()}, {"a", "F32", {1}, a.data()}});
  refused({{"__metadata__", "F32", {1}, a.data()}});
  refused({{"\xFF", "F32", {1}, a.data()}});
  refused({{"a", "float", {1}, a.data()}});
  refused({{"a", "F32", {-1}, a.data()}});
  refused({{"a", "F32", {1ll << 62}, a.data()}});
  refused({{"a", "F32", {1}, nullptr}});
  refused({}, {{"a", "\xFF"}});

  {
    const test::FullDisk disk(4096);
    message_of(Error::Kind::file, [&] { write_safetensors(path, {{"b", "F32", {100'000}, a.data()}}); });
  }
  EXPECT_EQ(SafetensorsFile(path).tensors().count("a"), 1u);
  EXPECT_EQ(folder.entries(), 1u);
}

}  // namespace
}  // namespace vmoba::io
