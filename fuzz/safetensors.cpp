// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: refused with an error of kind file, or described consistently.
#include "io/safetensors_header.hpp"

#include <cstdint>
#include <cstdlib>

#include "vmoba/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto header = vmoba::io::parse_safetensors(data, size, "fuzz.safetensors");
    // Every byte of an accepted file is read through the ranges it claims: the address sanitizer sees any lie.
    std::uint64_t covered = 0;
    volatile std::uint8_t sink = 0;
    for (const auto& [name, info] : header.tensors) {
      for (std::uint64_t i = info.begin; i < info.end; ++i) sink = data[header.data_begin + i];
      covered += info.end - info.begin;
    }
    (void)sink;
    if (header.data_begin + covered != size) std::abort();
  } catch (const vmoba::Error& error) {
    if (error.kind() != vmoba::Error::Kind::file) std::abort();
  }
  return 0;
}
