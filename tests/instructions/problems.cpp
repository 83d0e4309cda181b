// SPDX-License-Identifier: Apache-2.0
// Runs one fixed problem once: vmoba_instructions BACKEND PROBLEM. Its instructions are those inside measured(), which
// check.py has counted by valgrind. Without arguments: what the counts depend on, then the problems.
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "float16.hpp"
#include "vmoba/vmoba.hpp"

namespace {

using namespace vmoba;

// Counting starts and stops here; not inlined, so that valgrind finds it by name.
extern "C" __attribute__((noinline)) void measured(const std::function<void()>& body) {
  body();
  asm volatile("" ::: "memory");
}

struct Fixed {
  ProblemOptions options;
  enum class Step { select, forward, backward } step = Step::forward;
  std::uint64_t keep = 100;  // percent of a random selection; 100: dense
};

std::map<std::string, Fixed> problems() {
  std::map<std::string, Fixed> list;
  const auto select = [&](const char* name, Policy policy, Block block = {1, 4, 8}) {
    list[std::string("select-") + name] = {
        {.grid = {5, 16, 16}, .block = block, .heads = 2, .dim = 32, .policy = policy}, Fixed::Step::select};
  };
  select("threshold-head", Threshold{0.25, Scope::head});
  select("threshold-query", Threshold{0.25, Scope::query});
  select("threshold-block", Threshold{0.25, Scope::block});
  select("threshold-all", Threshold{0.25, Scope::all});
  select("topk-head", TopK{6, Scope::head});
  select("topk-query", TopK{6, Scope::query});
  select("floors-and-caps", Threshold{0.25, Scope::head, 3, 8});
  select("blocks-of-12", Threshold{0.25, Scope::head}, {1, 3, 4});
  const auto attend = [&](const std::string& name, DType dtype, std::int64_t dim, std::uint64_t keep, Block block) {
    const ProblemOptions o{.grid = {keep == 100 ? 2 : 3, 12, 16}, .block = block, .dim = dim, .dtype = dtype};
    list["forward-" + name] = {o, Fixed::Step::forward, keep};
    list["backward-" + name] = {o, Fixed::Step::backward, keep};
  };
  attend("f32-d64-sparse", DType::f32, 64, 25, {1, 8, 8});
  attend("f32-d128-sparse", DType::f32, 128, 25, {1, 8, 8});
  attend("bf16-d128-sparse", DType::bf16, 128, 25, {1, 8, 8});
  attend("f16-d64-sparse", DType::f16, 64, 25, {1, 8, 8});
  attend("f32-d64-dense", DType::f32, 64, 100, {1, 8, 8});
  attend("f32-d128-dense", DType::f32, 128, 100, {1, 8, 8});
  attend("f32-d64-blocks-of-12", DType::f32, 64, 25, {1, 3, 4});
  attend("f32-d24-ragged", DType::f32, 24, 40, {2, 5, 7});
  return list;
}

std::uint64_t state = 1;
std::uint64_t next() {
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return state >> 33;
}

// Filled cheaply: what is not counted runs under valgrind too.
std::vector<unsigned char> numbers(std::int64_t count, DType dtype) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(count * bytes_of(dtype)));
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(next() % 1024) / 256 - 2;
    if (dtype == DType::f32) {
      reinterpret_cast<float*>(bytes.data())[i] = value;
    } else {
      reinterpret_cast<std::uint16_t*>(bytes.data())[i] =
          dtype == DType::bf16 ? from_double<bf16>(value).bits : from_double<f16>(value).bits;
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, Fixed> list = problems();
  if (argc == 1) {
    std::cout << "compiler " << __VERSION__ << ", build " << VMOBA_FLAGS << "\n";
    for (const auto& [name, fixed] : list) std::cout << name << "\n";
    return 0;
  }
  const auto found = argc == 3 ? list.find(argv[2]) : list.end();
  if (found == list.end()) {
    std::cerr << "usage: vmoba_instructions [BACKEND PROBLEM]; without them, the problems\n";
    return 2;
  }
  const Fixed& fixed = found->second;
  const Problem p(fixed.options);
  const Execution execution{.backend = argv[1]};
  const std::int64_t count = p.rows() * p.heads() * p.dim();
  auto q = numbers(count, p.dtype()), k = numbers(count, p.dtype()), v = numbers(count, p.dtype());
  auto dout = numbers(count, p.dtype()), out = v, dq = q, dk = q, dv = q;
  std::vector<float> lse(static_cast<std::size_t>(p.rows() * p.heads()));
  const auto in = [&](const auto& bytes) { return ConstView(bytes.data(), p.dtype()); };
  const auto to = [&](auto& bytes) { return View(bytes.data(), p.dtype()); };
  Selection chosen(p), selection(p);
  for (std::int64_t row = 0; row < p.rows(); ++row) {
    for (std::int64_t c = 0; c < selection.blocks(0); ++c) {
      if (next() % 100 < fixed.keep) selection.set(0, 0, row, c);
    }
  }
  const bool dense = fixed.keep == 100;
  const BackwardTensors b{in(q), in(k), in(v), in(out), lse, in(dout), {}, to(dq), to(dk), to(dv)};
  const auto forward = [&] {
    dense ? attend(p, in(q), in(k), in(v), to(out), lse, execution)
          : attend(p, selection, in(q), in(k), in(v), to(out), lse, execution);
  };
  switch (fixed.step) {
    case Fixed::Step::select:
      measured([&] { select_into(p, in(q), in(k), chosen, execution); });
      break;
    case Fixed::Step::forward:
      measured(forward);
      break;
    case Fixed::Step::backward:
      forward();
      measured([&] { dense ? attend_backward(p, b, execution) : attend_backward(p, selection, b, execution); });
  }
  return 0;
}
