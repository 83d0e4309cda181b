// SPDX-License-Identifier: Apache-2.0
// The checked header of a safetensors file, read from bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "io/safetensors.hpp"

namespace vmoba::io {

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  std::uint64_t data_begin = 0;  // bytes from the start of the file
};
// Checks everything SafetensorsFile promises. bytes [size] is the whole file. Throws vmoba::Error(kind file) naming
// name.
SafetensorsHeader parse_safetensors(const void* bytes, std::uint64_t size, const std::string& name);

}  // namespace vmoba::io
