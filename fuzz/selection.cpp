// SPDX-License-Identifier: Apache-2.0
// Fuzz target: a selection file. Whatever the bytes, load gives a selection that saves to the same bytes, or refuses
// the file.
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "vmoba/error.hpp"
#include "vmoba/selection.hpp"

namespace {

std::string with_checksum(std::string bytes) {
  std::uint64_t sum = 0xcbf29ce484222325ull;
  for (unsigned char c : bytes) sum = (sum ^ c) * 0x100000001b3ull;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(sum >> 8 * i);
  return bytes;
}

void check(const std::string& bytes) {
  std::istringstream in(bytes);
  try {
    const vmoba::Selection selection = vmoba::Selection::load(in, "input");
    std::ostringstream out;
    selection.save(out, "output");
    if (bytes.compare(0, out.str().size(), out.str()) != 0) std::abort();
    if (in.tellg() != static_cast<std::streamoff>(out.str().size())) std::abort();  // not a byte more is read
    const double density = selection.density();
    if (!(density >= 0 && density <= 1)) std::abort();
  } catch (const vmoba::Error& error) {
    if (error.kind() != vmoba::Error::Kind::file) std::abort();
  }
}

}  // namespace

// Seeds lack the checksum, which no mutation would guess: the bytes are tried as they are and with the right one added.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  check(bytes);
  check(with_checksum(bytes));
  return 0;
}
