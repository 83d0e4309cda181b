// SPDX-License-Identifier: Apache-2.0
// The backend table, the choice among backends, and what explain says.
#include "vmoba/backend.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

#include "support/errors.hpp"

namespace vmoba {
namespace {

using test::expect_argument_error;

Problem small(DType dtype = DType::f32, std::int64_t dim = 8) {
  return Problem({.grid = {2, 3, 4}, .block = {1, 3, 3}, .heads = 2, .dim = dim, .dtype = dtype});
}

// VMOBA_BACKEND for the length of a scope.
class Environment {
 public:
  explicit Environment(const char* value) {
    if (const char* was = std::getenv("VMOBA_BACKEND")) was_ = was;
    setenv("VMOBA_BACKEND", value, 1);
  }
  ~Environment() { was_.empty() ? unsetenv("VMOBA_BACKEND") : setenv("VMOBA_BACKEND", was_.c_str(), 1); }

 private:
  std::string was_;
};

TEST(Backend, TableEndsWithReferenceAndIsWhole) {
  ASSERT_FALSE(backends().empty());
  EXPECT_EQ(backends().back().name, "reference");
  for (const Backend& b : backends()) {
    EXPECT_FALSE(b.description.empty()) << b.name;
    EXPECT_TRUE(b.unavailable && b.why_not && b.select && b.attend && b.attend_backward && b.scratch_bytes) << b.name;
  }
}

TEST(Backend, ReferenceTakesEverything) {
  const Backend& b = choose_backend(small(DType::f64, 3), {.backend = "reference"});
  EXPECT_EQ(b.name, "reference");
}

TEST(Backend, TheFirstThatTakesTheProblemIsChosen) {
  for (const Problem& p : {small(), small(DType::f64), small(DType::f16, 3)}) {
    const Backend& chosen = choose_backend(p, {});
    for (const Backend& b : backends()) {
      if (&b == &chosen) break;
      EXPECT_FALSE(b.unavailable().empty() && b.why_not(p).empty()) << b.name;
    }
  }
}

TEST(Backend, CpuNamesTheBestTier) {
  const Backend* best = nullptr;
  for (const Backend& b : backends()) {
    if (b.name.starts_with("cpu:") && b.unavailable().empty() && b.why_not(small()).empty()) {
      best = &b;
      break;
    }
  }
  if (best == nullptr) GTEST_SKIP() << "no cpu tier in this build";
  EXPECT_EQ(&choose_backend(small(), {.backend = "cpu"}), best);
  EXPECT_EQ(&choose_backend(small(), {.backend = std::string(best->name)}), best);
}

TEST(Backend, EnvironmentDecidesWhenTheCallDoesNot) {
  const Environment environment("reference");
  EXPECT_EQ(choose_backend(small(), {}).name, "reference");
  const Environment wrong("fpga");
  expect_argument_error("VMOBA_BACKEND", "\"fpga\"", "is no backend of this build", "reference",
                        [] { choose_backend(small(), {}); });
  EXPECT_EQ(choose_backend(small(), {.backend = "reference"}).name, "reference");
}

TEST(Backend, UnknownNamesListWhatExists) {
  for (const Backend& b : backends()) {
    expect_argument_error("backend", "\"cuda\"", "is no backend of this build", std::string(b.name),
                          [] { choose_backend(small(), {.backend = "cuda"}); });
  }
}

TEST(Backend, AForcedRefusalSaysWhy) {
  if (!backends()[0].name.starts_with("cpu:")) GTEST_SKIP() << "no cpu tier in this build";
  const Problem p = small(DType::f64);
  const std::string name(backends()[0].name);
  test::expect_error(Error::Kind::unsupported, "backend", "\"" + name + "\"", name + ": ", "leave it empty",
                     [&] { choose_backend(p, {.backend = name}); });
  test::expect_error(Error::Kind::unsupported, "backend", "\"cpu\"", "cpu:generic: ", "leave it empty",
                     [&] { choose_backend(p, {.backend = "cpu"}); });
}

TEST(Explain, TellsWhatWouldHappen) {
  const Problem p({.grid = {4, 5, 6}, .block = {2, 2, 4}, .batch = 2, .heads = 3, .dim = 8, .text = {.count = 5}});
  const Explanation e = explain(p, {.backend = "reference"});
  EXPECT_EQ(e.backend, "reference");
  EXPECT_EQ(e.backends.size(), backends().size());
  EXPECT_EQ(e.backends.back().reason, "");
  EXPECT_EQ(e.tokens, 120);
  EXPECT_EQ(e.rows, 125);
  EXPECT_EQ(e.blocks, 2 * 3 * 2);
  EXPECT_EQ(e.smallest_block, 2 * 1 * 2);
  EXPECT_EQ(e.largest_block, 16);
  EXPECT_EQ(e.policy, "Threshold(0.25, scope=head)");
  EXPECT_EQ(e.dense_flops, 2 * 4.0 * 120 * 120 * 24);
  EXPECT_EQ(e.gate_flops, 2 * 2.0 * 120 * 12 * 24);
  EXPECT_EQ(e.selection_bytes, 2 * 3 * 12 * 2 * 8);
  EXPECT_GT(e.scratch_bytes, 0);
  EXPECT_EQ(e.path, "sparse");
  const std::string text = to_text(e);
  for (const char* part :
       {"reference", "120 video, 5 text", "12 of 4 to 16 tokens", "Threshold(0.25", "0.25 of the sum"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

TEST(Explain, SaysWhenEverythingIsKept) {
  const Problem p({.grid = {4, 5, 6}, .block = {2, 2, 4}, .heads = 3, .dim = 8, .policy = Dense{}});
  EXPECT_EQ(explain(p).path.substr(0, 6), "dense:");
  EXPECT_EQ(explain(p).gate_flops, 0);
}

TEST(Explain, NamesRefusalsInsteadOfThrowing) {
  if (!backends()[0].name.starts_with("cpu:")) GTEST_SKIP() << "no cpu tier in this build";
  const Explanation e = explain(small(DType::f64), {.backend = "cpu"});
  EXPECT_EQ(e.backend, "");
  EXPECT_NE(e.backends[0].reason, "");
  EXPECT_NE(to_text(e).find("none takes this problem"), std::string::npos);
  EXPECT_THROW(explain(small(), {.backend = "cuda"}), Error);
}

}  // namespace
}  // namespace vmoba
