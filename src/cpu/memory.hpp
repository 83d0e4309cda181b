// SPDX-License-Identifier: Apache-2.0
// Uninitialised scratch memory, 64-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace vmoba::cpu {

// Allocated by the aligned operator new, so that a test can count every byte. Throws std::bad_alloc.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::int64_t bytes)
      : data_(bytes ? static_cast<char*>(::operator new[](static_cast<std::size_t>(bytes), std::align_val_t{64}))
                    : nullptr) {}
  char* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(char* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  std::unique_ptr<char, Free> data_;
};

}  // namespace vmoba::cpu
