// SPDX-License-Identifier: Apache-2.0
// Golden results: what reference computed when the files were written. A change here is a change of the specification.
// To write them anew: VMOBA_WRITE_GOLDEN=1 vmoba_engine_tests --gtest_filter='Golden*'
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

#include "check/compare.hpp"
#include "check/problems.hpp"

namespace vmoba {
namespace {

using test::Tensors;

struct Case {
  const char* name;
  ProblemOptions options;
};

std::vector<Case> cases() {
  return {
      {"threshold-head", {.grid = {3, 4, 5}, .block = {2, 3, 2}, .heads = 2, .dim = 4}},
      {"threshold-query",
       {.grid = {3, 4, 5}, .block = {1, full, full}, .heads = 2, .dim = 4, .policy = Threshold{.scope = Scope::query}}},
      {"threshold-block",
       {.grid = {3, 4, 5}, .block = {full, 2, 2}, .heads = 2, .dim = 4, .policy = Threshold{.scope = Scope::block}}},
      {"threshold-all-floor",
       {.grid = {3, 4, 5},
        .block = vmoba::Run{7},
        .heads = 2,
        .dim = 4,
        .policy = Threshold{.scope = Scope::all, .min_blocks = 3, .max_blocks = 4}}},
      {"topk-query-text",
       {.grid = {3, 4, 5},
        .block = {2, 2, 2},
        .heads = 2,
        .kv_heads = 1,
        .dim = 4,
        .policy = TopK{.k = 3},
        .text = {.count = 3, .at = Text::At::front, .valid = {2}}}},
      {"topk-head-packed",
       {.grids = {{2, 3, 4}, {3, 3, 2}},
        .block = {1, 2, 2},
        .heads = 2,
        .dim = 4,
        .policy = TopK{.k = 2, .scope = Scope::head},
        .scale = 0.7}},
  };
}

// Inputs are multiples of 1/64, so that every machine makes the same ones; numbers are written in hexadecimal floats.
std::string computed(const ProblemOptions& options) {
  const Problem p(options);
  Tensors t = Tensors::zeros_of(p);
  test::Rng rng(42);
  for (test::Tensor* x : {&t.q, &t.k, &t.v, &t.dout, &t.dlse}) {
    x->fill([&](auto...) { return static_cast<double>(rng.integer(-96, 96)) / 64; });
  }
  const Selection s = select(p, t.q, t.k, {.backend = "reference"});
  test::run(p, &s, t, {.backend = "reference"});
  std::ostringstream text;
  text << test::words(p) << "\nselection" << std::hex;
  for (std::uint64_t word : s.words()) text << " " << word;
  text << std::hexfloat;
  for (auto [name, x] : {std::pair{"out", &t.out}, {"lse", &t.lse}, {"dq", &t.dq}, {"dk", &t.dk}, {"dv", &t.dv}}) {
    double sum = 0, weighted = 0;
    const std::vector<double> values = x->doubles();
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!std::isfinite(values[i])) continue;  // the lse of padding
      sum += values[i];
      weighted += values[i] * static_cast<double>(i % 97);
    }
    text << "\n" << name << " " << sum << " " << weighted;
    for (std::size_t i = 0; i < values.size(); i += values.size() / 8 + 1) text << " " << values[i];
  }
  text << "\n";
  return text.str();
}

// Words equal, numbers within 1e-6 of each other (exp and log differ by a bit between C libraries).
bool same(const std::string& actual, const std::string& golden) {
  std::istringstream a(actual), g(golden);
  std::string x, y;
  while (true) {
    const bool more_a = static_cast<bool>(a >> x), more_g = static_cast<bool>(g >> y);
    if (more_a != more_g) return false;
    if (!more_a) return true;
    if (x == y) continue;
    if (x.find("0x") == std::string::npos || y.find("0x") == std::string::npos) return false;
    const double u = std::strtod(x.c_str(), nullptr), v = std::strtod(y.c_str(), nullptr);
    if (!(std::abs(u - v) <= 1e-6 * std::max(1.0, std::abs(v)))) return false;
  }
}

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, ReferenceHasNotMoved) {
  const std::string path = std::string(VMOBA_GOLDEN_DIR) + "/" + GetParam().name + ".txt";
  const std::string actual = computed(GetParam().options);
  if (std::getenv("VMOBA_WRITE_GOLDEN")) {
    std::ofstream(path) << actual;
    return;
  }
  std::ifstream file(path);
  ASSERT_TRUE(file) << path;
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_TRUE(same(actual, golden.str())) << "expected\n" << golden.str() << "computed\n" << actual;
}

INSTANTIATE_TEST_SUITE_P(All, Golden, testing::ValuesIn(cases()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace vmoba
