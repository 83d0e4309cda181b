// SPDX-License-Identifier: Apache-2.0
// Names and sizes of the element types.
#include "vmoba/types.hpp"

namespace vmoba {

std::string_view name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "f16";
    case DType::f64:
      return "f64";
  }
  return "unknown";
}

std::int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::f64:
      return 8;
  }
  return 0;
}

}  // namespace vmoba
