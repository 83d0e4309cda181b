// SPDX-License-Identifier: Apache-2.0
// What the program runs on, and what it was built from.
#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>

#include <array>
#include <fstream>
#include <sstream>
#include <string>

#include "tools/commit.hpp"
#include "tools/output.hpp"
#include "vmoba/version.hpp"

namespace vmoba::tools {

namespace {

// Value of the first "key : value" line of a /proc file.
std::string proc_value(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::int64_t proc_kilobytes(const std::string& key) {
  const std::string value = proc_value("/proc/meminfo", key);
  return value.empty() ? 0 : std::strtoll(value.c_str(), nullptr, 10) * 1024;
}

// Only what a kernel of ours could use.
constexpr std::array interesting{"avx2",     "fma",         "f16c",        "avx512f",     "avx512bw",
                                 "avx512vl", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile",
                                 "amx_bf16", "asimd",       "sve"};

}  // namespace

Machine machine() {
  Machine out;
  out.version = std::string(version);
  out.commit = commit();
#ifdef VMOBA_TORCH_VERSION
  out.torch = VMOBA_TORCH_VERSION;
#endif
  out.compiler = fmt::format("{}", __VERSION__);
  out.cpu = proc_value("/proc/cpuinfo", "model name");
  if (out.cpu.empty()) out.cpu = "unknown processor";
  std::string flags = proc_value("/proc/cpuinfo", "flags");
  if (flags.empty()) flags = proc_value("/proc/cpuinfo", "Features");
  std::istringstream words(flags);
  for (std::string word; words >> word;)
    for (const char* name : interesting)
      if (word == name) out.features.push_back(word);
  cpu_set_t set;
  CPU_ZERO(&set);
  out.cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  out.memory = proc_kilobytes("MemTotal");
  out.memory_available = proc_kilobytes("MemAvailable");
  if (utsname name{}; uname(&name) == 0) out.system = fmt::format("{} {} {}", name.sysname, name.release, name.machine);
  return out;
}

Json to_json(const Machine& machine) {
  return {{"cpu", machine.cpu},
          {"features", machine.features},
          {"cores", machine.cores},
          {"memory_bytes", machine.memory},
          {"memory_available_bytes", machine.memory_available},
          {"system", machine.system},
          {"version", machine.version},
          {"commit", machine.commit},
          {"torch", machine.torch},
          {"compiler", machine.compiler}};
}

std::string one_line(const Machine& machine) {
  return fmt::format("{}, {} cores, {} of memory; vmoba {} ({}){}", machine.cpu, machine.cores,
                     bytes_text(static_cast<double>(machine.memory)), machine.version, machine.commit,
                     machine.torch.empty() ? "" : ", torch " + machine.torch);
}

}  // namespace vmoba::tools
