// SPDX-License-Identifier: Apache-2.0
// Resident memory of one forward and backward, measured in a child process.
#include "tools/bench/memory.hpp"

#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "vmoba/attention.hpp"
#include "vmoba/backend.hpp"
#include "vmoba/error.hpp"

namespace vmoba::tools {

namespace {

double status_bytes(const char* key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key, 0) == 0) return std::strtod(line.c_str() + std::strlen(key) + 1, nullptr) * 1024;
  return 0;
}

// Bytes that hold plausible values of the dtype: a cheap hash of the index, about -1..1.
std::vector<char> tensor(std::int64_t elements, DType dtype, std::uint32_t seed) {
  std::vector<char> out(static_cast<std::size_t>(elements * bytes_of(dtype)));
  std::uint32_t state = seed * 2654435761U + 1;
  for (std::int64_t i = 0; i < elements; ++i) {
    state = state * 1664525U + 1013904223U;
    const float value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if (dtype == DType::f32) {
      std::memcpy(out.data() + i * 4, &value, 4);
    } else {
      // Upper halves: a bf16; the same bits read as f16 are small finite numbers too.
      const auto half = static_cast<std::uint16_t>(dtype == DType::bf16 ? bits >> 16 : (bits >> 16 & 0xB7FFU));
      std::memcpy(out.data() + i * 2, &half, 2);
    }
  }
  return out;
}

nlohmann::json measure_here(const ProblemOptions& options, std::int64_t threads, const std::string& backend) {
  const Problem problem(options);
  ThreadPool pool(threads);
  const Execution execution = pool.execution(backend);
  const std::int64_t rows = problem.batch() * problem.rows();
  const std::int64_t wide = rows * problem.heads() * problem.dim(), narrow = rows * problem.kv_heads() * problem.dim();
  const DType dtype = problem.dtype();
  std::vector<char> q = tensor(wide, dtype, 1), k = tensor(narrow, dtype, 2), v = tensor(narrow, dtype, 3);
  std::vector<char> out = tensor(wide, dtype, 4), dout = tensor(wide, dtype, 5), dq = tensor(wide, dtype, 6);
  std::vector<char> dk = tensor(narrow, dtype, 7), dv = tensor(narrow, dtype, 8);
  std::vector<float> lse(static_cast<std::size_t>(rows * problem.heads()), 1.0F);
  Selection selection(problem);
  selection.fill(true);
  const auto in = [&](const std::vector<char>& data) { return ConstView(data.data(), dtype); };
  const auto at = [&](std::vector<char>& data) { return View(data.data(), dtype); };
  nlohmann::json told;
  told["backend"] = choose_backend(problem, execution).name;
  told["claimed"] = scratch_bytes(problem, execution);
  double before = 0;
  const auto start = std::chrono::steady_clock::now();
  const auto rise = [&](const char* step, auto&& call) {
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << "5";  // the high-water mark falls back to what is resident now
    before = status_bytes("VmRSS:");
    if (!told.contains("tensors")) told["tensors"] = before;
    call();
    told[step] = std::max(0.0, status_bytes("VmHWM:") - before);
  };
  rise("select", [&] { select_into(problem, in(q), in(k), selection, execution); });
  rise("forward", [&] { attend(problem, selection, in(q), in(k), in(v), at(out), lse, execution); });
  rise("backward", [&] {
    BackwardTensors tensors{in(q), in(k), in(v), in(out), lse, in(dout), {}, at(dq), at(dk), at(dv)};
    attend_backward(problem, selection, tensors, execution);
  });
  told["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  told["density"] = selection.density();
  return told;
}

}  // namespace

MemoryUse measure_memory(const ProblemOptions& options, std::int64_t threads, const std::string& backend) {
  MemoryUse out;
  int ends[2];
  if (pipe(ends) != 0) {
    out.problem_with_it = "no pipe to a child process";
    return out;
  }
  const pid_t child = fork();
  if (child == 0) {
    std::string text;
    try {
      text = measure_here(options, threads, backend).dump();
    } catch (const std::exception& error) {
      text = nlohmann::json{{"error", error.what()}}.dump();
    }
    const ssize_t written = write(ends[1], text.data(), text.size());
    _exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  if (child > 0) waitpid(child, &status, 0);
  const nlohmann::json told = nlohmann::json::parse(text, nullptr, false);
  if (child < 0 || !told.is_object()) {
    out.problem_with_it = "the child process ended early: not enough memory?";
    return out;
  }
  if (told.contains("error")) {
    out.problem_with_it = told["error"];
    return out;
  }
  out.tensors = told["tensors"];
  out.select = told["select"];
  out.forward = told["forward"];
  out.backward = told["backward"];
  out.density = told["density"];
  out.seconds = told["seconds"];
  out.claimed = told["claimed"];
  out.backend = told["backend"];
  return out;
}

}  // namespace vmoba::tools
