// SPDX-License-Identifier: Apache-2.0
// Expecting a refusal: every part of its sentence, argument, value, rule and way out.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "vmoba/error.hpp"

namespace vmoba::test {

// Runs body, which must throw an Error of this kind, argument and value, whose rule and way out hold these words.
template <class Body>
void expect_error(Error::Kind kind, const std::string& argument, const std::string& value, const std::string& rule,
                  const std::string& way_out, Body&& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_EQ(error.argument(), argument) << error.what();
    EXPECT_EQ(error.value(), value) << error.what();
    EXPECT_NE(error.rule().find(rule), std::string::npos) << error.what() << "\n  lacks: " << rule;
    EXPECT_NE(error.way_out().find(way_out), std::string::npos) << error.what() << "\n  lacks: " << way_out;
    EXPECT_FALSE(error.rule().empty()) << error.what();
    EXPECT_FALSE(error.way_out().empty()) << error.what();
    return;
  }
  ADD_FAILURE() << "no error for " << argument << " = " << value;
}

template <class Body>
void expect_argument_error(const std::string& argument, const std::string& value, const std::string& rule,
                           const std::string& way_out, Body&& body) {
  expect_error(Error::Kind::argument, argument, value, rule, way_out, std::forward<Body>(body));
}

}  // namespace vmoba::test
