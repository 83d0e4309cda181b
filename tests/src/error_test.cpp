// SPDX-License-Identifier: Apache-2.0
// Error: one sentence from four parts.
#include "vmoba/error.hpp"

#include <gtest/gtest.h>

#include "support/errors.hpp"

namespace vmoba {
namespace {

TEST(Error, IsOneSentenceOfFourParts) {
  const Error error(Error::Kind::argument, "block.x", "70", "is larger than grid.x = 52", "use 1..52");
  EXPECT_STREQ(error.what(), "vmoba: block.x = 70 is larger than grid.x = 52; use 1..52");
  EXPECT_EQ(error.sentence(), "block.x = 70 is larger than grid.x = 52; use 1..52");
  EXPECT_EQ(error.kind(), Error::Kind::argument);
}

TEST(Error, FileErrorsNameThePathAndNoValue) {
  test::expect_error(Error::Kind::file, "a.bin", "", "ends too early", "save it again",
                     [] { throw_file("a.bin", "ends too early", "save it again"); });
  try {
    throw_file("a.bin", "ends too early", "save it again");
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "vmoba: a.bin ends too early; save it again");
  }
}

}  // namespace
}  // namespace vmoba
