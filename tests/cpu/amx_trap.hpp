// SPDX-License-Identifier: Apache-2.0
// AMX on a machine without it: while a Trap lives, SIGILL of an AMX instruction is answered by doing what the manual
// says of it, so that the machine code of tier sapphire runs, and is tested, anywhere AVX-512 does. Linux, x86-64.
#pragma once

#include <csignal>

namespace vmoba::test {

class Trap {
 public:
  Trap();
  ~Trap();
  Trap(const Trap&) = delete;
  static long instructions();  // answered so far, by all threads

 private:
  struct sigaction saved_ {};
};

}  // namespace vmoba::test
