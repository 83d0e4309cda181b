// SPDX-License-Identifier: Apache-2.0
// Any bytes as a config.json: refused with an error of kind file, or written and read back as the same configuration.
#include "dit/model/config.hpp"

#include <cstdint>
#include <cstdlib>
#include <string>

#include "vmoba/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const auto config = vmoba::dit::parse_config(text, "config.json");
    if (!(vmoba::dit::parse_config(vmoba::dit::to_json(config), "again") == config)) std::abort();
  } catch (const vmoba::Error& error) {
    if (error.kind() != vmoba::Error::Kind::file) std::abort();
  }
  return 0;
}
