// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any bytes as an attention problem, through every tier of this machine against reference.
#include <cstdint>
#include <cstdlib>
#include <iostream>

#include "differential/check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<std::string> names = vmoba::fuzz::tiers();
  const vmoba::fuzz::Finding finding = vmoba::fuzz::check({data, size}, names);
  if (!finding.what.empty()) {
    std::cerr << describe(finding, {data, size});
    std::abort();
  }
  return 0;
}
