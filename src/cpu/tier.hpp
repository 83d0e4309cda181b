// SPDX-License-Identifier: Apache-2.0
// What a tier is: one table of plain functions compiled from one kernel source for one instruction set.
//
// The files tier_*.cpp include the same vec.hpp and *_inl.hpp with their own compiler flags. An inline std template
// instantiated there could be merged by the linker with the copy that older machines run, so tier files use nothing but
// raw pointers, plain structs and functions in their anonymous namespace.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "cpu/attend_item.hpp"
#include "cpu/gate_item.hpp"

namespace vmoba::cpu {

// Element tags, so that a load or store knows what it widens or rounds (to nearest even).
struct F32 {};
struct Bf16 {};
struct F16 {};

struct Tier {
  GateKernels gate;
  void (*pack)(const PackItem&);
  void (*attend)(const AttendItem&);
  void (*attend_backward)(const BackwardItem&);
  bool tiles = false;  // bf16 goes through matrix tiles (tile_item.hpp)
};

extern const Tier generic_tier;
extern const Tier haswell_tier;
extern const Tier skylake_tier;
extern const Tier genoa_tier;     // where the compiler knows its instructions
extern const Tier sapphire_tier;  // likewise

}  // namespace vmoba::cpu
