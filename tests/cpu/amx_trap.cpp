// SPDX-License-Identifier: Apache-2.0
// Decoding and semantics after the Intel 64 manual, volume 2: LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE,
// TDPBF16PS. Anything else, or a use the manual forbids, ends the program.
#include "cpu/amx_trap.hpp"

#include <immintrin.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace vmoba::test {
namespace {

std::atomic<long> answered{0};

struct State {
  bool configured;
  int rows[8], bytes[8];
  unsigned char tile[8][16][64];
};
thread_local State state;

[[noreturn]] void refuse(const char* why) {
  [[maybe_unused]] const auto written = write(2, why, std::strlen(why));
  std::abort();
}

std::uint64_t general_register(const ucontext_t& context, int number) {
  constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<std::uint64_t>(context.uc_mcontext.gregs[order[number]]);
}

struct Instruction {
  int opcode, prefix;    // prefix 0 none, 1 66, 2 F3, 3 F2
  int reg, rm, operand;  // ModRM.reg, ModRM.rm, VEX.vvvv
  bool memory;
  std::uint64_t base, index_bytes, displacement;  // address = base + displacement (+ index * scale)
  int length;
};

Instruction decode(const ucontext_t& context) {
  const auto* code = reinterpret_cast<const unsigned char*>(context.uc_mcontext.gregs[REG_RIP]);
  Instruction in{};
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) refuse("amx_trap: not an instruction of the map 0F38\n");
  const int r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8;
  if (code[2] & 0x84) refuse("amx_trap: VEX.W or VEX.L is set\n");
  in.operand = ~(code[2] >> 3) & 15;
  in.prefix = code[2] & 3;
  in.opcode = code[3];
  const unsigned char modrm = code[4];
  in.reg = (modrm >> 3 & 7) | r;
  in.rm = modrm & 7;
  in.length = 5;
  const int mod = modrm >> 6;
  in.memory = mod != 3;
  if (!in.memory) {
    in.rm |= b;
    return in;
  }
  if (in.rm == 4) {
    const unsigned char sib = code[in.length++];
    const int index = (sib >> 3 & 7) | x, base = (sib & 7) | b;
    if (index != 4) in.index_bytes = general_register(context, index) << (sib >> 6);
    if ((sib & 7) == 5 && mod == 0) refuse("amx_trap: an address without a base\n");
    in.base = general_register(context, base);
  } else if (in.rm == 5 && mod == 0) {
    refuse("amx_trap: an address relative to the instruction\n");
  } else {
    in.base = general_register(context, in.rm | b);
  }
  if (mod == 1) {
    in.displacement = static_cast<std::uint64_t>(static_cast<std::int64_t>(static_cast<signed char>(code[in.length])));
    in.length += 1;
  } else if (mod == 2) {
    std::int32_t displacement;
    std::memcpy(&displacement, code + in.length, 4);
    in.displacement = static_cast<std::uint64_t>(static_cast<std::int64_t>(displacement));
    in.length += 4;
  }
  return in;
}

void load_configuration(const unsigned char* config) {
  if (config[0] != 1) refuse("amx_trap: palette is not 1\n");
  state = {};
  state.configured = true;
  for (int t = 0; t < 8; ++t) {
    std::uint16_t bytes;
    std::memcpy(&bytes, config + 16 + 2 * t, 2);
    state.bytes[t] = bytes;
    state.rows[t] = config[48 + t];
    if (bytes > 64 || state.rows[t] > 16) refuse("amx_trap: a tile larger than 16 x 64\n");
  }
}

float bf16(const unsigned char* at) {
  std::uint16_t half;
  std::memcpy(&half, at, 2);
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

void dot(int c, int a, int b) {
  if (c == a || c == b || a == b) refuse("amx_trap: TDPBF16PS needs three different tiles\n");
  if (state.rows[a] != state.rows[c] || state.bytes[b] != state.bytes[c] || state.rows[b] != state.bytes[a] / 4) {
    refuse("amx_trap: TDPBF16PS of tiles that do not fit\n");
  }
  _mm_setcsr(0x9fc0);  // subnormals are 0 going in and out; gone when the handler returns
  const int pairs = state.bytes[a] / 4, columns = state.bytes[c] / 4;
  for (int m = 0; m < state.rows[c]; ++m) {
    float sums[32] = {};
    for (int k = 0; k < pairs; ++k) {
      for (int n = 0; n < columns; ++n) {
        for (int half = 0; half < 2; ++half) {  // products of bf16 are exact: fused and not are the same
          sums[2 * n + half] += bf16(state.tile[a][m] + 4 * k + 2 * half) * bf16(state.tile[b][k] + 4 * n + 2 * half);
        }
      }
    }
    for (int n = 0; n < columns; ++n) {
      float sum;
      std::memcpy(&sum, state.tile[c][m] + 4 * n, 4);
      sum += sums[2 * n] + sums[2 * n + 1];
      std::memcpy(state.tile[c][m] + 4 * n, &sum, 4);
    }
  }
}

void answer(int, siginfo_t*, void* raw) {
  ucontext_t& context = *static_cast<ucontext_t*>(raw);
  const Instruction in = decode(context);
  const int what = in.opcode << 4 | in.prefix << 1 | (in.memory ? 1 : 0);
  const bool configures = what == (0x49 << 4 | 1);
  if (!configures && !state.configured) refuse("amx_trap: tiles used before LDTILECFG\n");
  if (in.opcode != 0x5c && in.operand != 0) refuse("amx_trap: VEX.vvvv is set\n");
  switch (what) {
    case 0x49 << 4 | 1:  // LDTILECFG m512
      if (in.reg != 0) refuse("amx_trap: unknown instruction\n");
      load_configuration(reinterpret_cast<const unsigned char*>(in.base + in.index_bytes + in.displacement));
      break;
    case 0x49 << 4:  // TILERELEASE
      if (in.reg != 0 || in.rm != 0) refuse("amx_trap: unknown instruction\n");
      state = {};
      break;
    case 0x49 << 4 | 3 << 1:  // TILEZERO
      std::memset(state.tile[in.reg], 0, sizeof state.tile[0]);
      break;
    case 0x4b << 4 | 3 << 1 | 1:  // TILELOADD
    case 0x4b << 4 | 2 << 1 | 1:  // TILESTORED
      for (int m = 0; m < 16; ++m) {
        auto* memory = reinterpret_cast<unsigned char*>(in.base + in.displacement + m * in.index_bytes);
        const auto bytes = static_cast<std::size_t>(state.bytes[in.reg]);
        if (in.prefix == 3) {
          std::memset(state.tile[in.reg][m], 0, 64);
          if (m < state.rows[in.reg]) std::memcpy(state.tile[in.reg][m], memory, bytes);
        } else if (m < state.rows[in.reg]) {
          std::memcpy(memory, state.tile[in.reg][m], bytes);
        }
      }
      break;
    case 0x5c << 4 | 2 << 1:  // TDPBF16PS
      dot(in.reg, in.rm, in.operand);
      break;
    default:
      refuse("amx_trap: unknown instruction\n");
  }
  answered.fetch_add(1, std::memory_order_relaxed);
  context.uc_mcontext.gregs[REG_RIP] += in.length;
}

}  // namespace

Trap::Trap() {
  struct sigaction action {};
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &saved_);
}
Trap::~Trap() { sigaction(SIGILL, &saved_, nullptr); }
long Trap::instructions() { return answered; }

}  // namespace vmoba::test
