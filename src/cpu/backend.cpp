// SPDX-License-Identifier: Apache-2.0
// The cpu tiers as backends: which instructions this machine has, what is refused, and the table.
#include "cpu/backend.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include "cpu/attend.hpp"
#include "cpu/select.hpp"
#include "cpu/tier.hpp"

namespace vmoba::cpu {
namespace {

#if defined(__x86_64__)
struct Feature {
  const char* name;
  unsigned leaf, word, bit;  // cpuid leaf; word 0..3: eax, ebx, ecx, edx
  unsigned subleaf = 0;
};
constexpr std::array haswell_features{Feature{"AVX2", 7, 1, 5}, Feature{"FMA", 1, 2, 12}, Feature{"F16C", 1, 2, 29},
                                      Feature{"BMI1", 7, 1, 3}, Feature{"BMI2", 7, 1, 8}};
constexpr std::array skylake_features{Feature{"AVX512F", 7, 1, 16}, Feature{"AVX512BW", 7, 1, 30},
                                      Feature{"AVX512DQ", 7, 1, 17}, Feature{"AVX512VL", 7, 1, 31}};
constexpr std::array genoa_features{Feature{"AVX512_BF16", 7, 0, 5, 1}};
constexpr std::array sapphire_features{Feature{"AMX-TILE", 7, 3, 24}, Feature{"AMX-BF16", 7, 3, 22}};

bool has(const Feature& feature) {
  std::array<unsigned, 4> words{};
  return __get_cpuid_count(feature.leaf, feature.subleaf, &words[0], &words[1], &words[2], &words[3]) &&
         (words[feature.word] >> feature.bit & 1);
}

// Whether the operating system saves these parts of the vector registers (XCR0).
bool saves(unsigned parts) {
  if (!has({"OSXSAVE", 1, 2, 27})) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & parts) == parts;
}

template <std::size_t Count>
std::string missing(const std::array<Feature, Count>& features, unsigned parts) {
  std::string names;
  for (const Feature& feature : features) {
    if (!has(feature)) names += (names.empty() ? "" : ", ") + std::string(feature.name);
  }
  if (!names.empty()) return "this CPU lacks " + names;
  return saves(parts) ? "" : "the operating system does not save the vector registers it needs";
}

std::string haswell_unavailable() { return missing(haswell_features, 0x06); }
std::string skylake_unavailable() {
  const std::string below = haswell_unavailable();
  return below.empty() ? missing(skylake_features, 0xe6) : below;
}

#if defined(VMOBA_HAS_GENOA)
bool is_intel() {
  unsigned most, name[3];
  return __get_cpuid(0, &most, &name[0], &name[1], &name[2]) && name[0] == 0x756e6547;  // "Genu"
}
std::string genoa_unavailable() {
  std::string reason = skylake_unavailable();
  if (reason.empty()) reason = missing(genoa_features, 0xe6);
  if (reason.empty() && is_intel()) reason = "the bf16 dot product of Intel CPUs is slower than their multiply-add";
  return reason;
}
#endif

#if defined(VMOBA_HAS_SAPPHIRE)
// Linux lets a process use the tile registers after it has asked once (the answer holds for all of its threads).
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return true;
#endif
}
std::string sapphire_unavailable() {
  std::string reason = skylake_unavailable();
  if (reason.empty()) reason = missing(genoa_features, 0xe6);
  if (reason.empty()) reason = missing(sapphire_features, 0x600e6);
  if (reason.empty() && !may_use_tiles()) reason = "the operating system does not let this process use AMX tiles";
  return reason;
}
#endif
#endif
std::string never_unavailable() { return ""; }

// The answer of this machine and process, which never changes, found once: a virtual machine traps every cpuid, and the
// 52 that all tiers ask took 0.4 ms of each call.
template <std::string (*find_out)()>
std::string once() {
  static const std::string answer = find_out();
  return answer;
}

std::string why_not(const Problem& problem) {
  if (problem.dtype() == DType::f64) return "dtype f64 is taken by backend reference only; use f32, bf16 or f16";
  if (problem.dim() % 8 != 0 || problem.dim() > 256) {
    return "dim = " + std::to_string(problem.dim()) + " is not a multiple of 8 up to 256; backend reference takes any";
  }
  return "";
}

template <const Tier& tier>
void select_with(const Problem& problem, const ConstView& q, const ConstView& k, Selection& selection,
                 const Execution& execution) {
  select(tier.gate, problem, q, k, selection, execution);
}
template <const Tier& tier>
void attend_with(const Problem& problem, const Selection* selection, const ConstView& q, const ConstView& k,
                 const ConstView& v, const View& out, const View& lse, const Execution& execution) {
  attend(tier, problem, selection, q, k, v, out, lse, execution);
}
template <const Tier& tier>
void attend_backward_with(const Problem& problem, const Selection* selection, const BackwardTensors& tensors,
                          const Execution& execution) {
  attend_backward(tier, problem, selection, tensors, execution);
}
template <const Tier& tier>
std::int64_t scratch_bytes_with(const Problem& problem, const Execution& execution) {
  return std::max({select_scratch_bytes(problem, execution), attend_scratch_bytes(tier, problem, execution),
                   attend_backward_scratch_bytes(tier, problem, execution)});
}

template <const Tier& tier>
constexpr Backend backend(std::string_view name, std::string_view description, std::string (*unavailable)()) {
  return {name,
          description,
          unavailable,
          why_not,
          select_with<tier>,
          attend_with<tier>,
          attend_backward_with<tier>,
          scratch_bytes_with<tier>};
}

constexpr std::array table {
#if defined(VMOBA_HAS_SAPPHIRE)
  backend<sapphire_tier>("cpu:sapphire", "AMX tiles for bf16, AVX-512 for the rest", once<sapphire_unavailable>),
#endif
#if defined(VMOBA_HAS_GENOA)
      backend<genoa_tier>("cpu:genoa", "AVX-512 with bf16 dot products", once<genoa_unavailable>),
#endif
#if defined(__x86_64__)
      backend<skylake_tier>("cpu:skylake", "AVX-512 (F, BW, DQ, VL)", once<skylake_unavailable>),
      backend<haswell_tier>("cpu:haswell", "AVX2, FMA, F16C", once<haswell_unavailable>),
#endif
      backend<generic_tier>("cpu:generic", "plain C++ in vectors of four", never_unavailable),
};

}  // namespace

std::span<const Backend> backends() { return table; }

}  // namespace vmoba::cpu
